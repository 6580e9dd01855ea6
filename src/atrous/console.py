"""How commands talk to people: plain sentences and one progress bar, on standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from atrous.outputs import save_json

#: Sentences go to standard output; nothing is highlighted or cut that a person may want to copy.
console = Console(highlight=False, soft_wrap=True)
#: What must be seen even where a process is told to be silent, as all but the first of several are.
warnings = Console(highlight=False, soft_wrap=True, stderr=True, style="yellow")


@contextmanager
def told_if_interrupted(words: Callable[[], str]) -> Iterator[None]:
    """Says on Ctrl-C what is done and what is not.

    Args:
        words: gives the sentence, once the work in this context has ended.

    Raises:
        KeyboardInterrupt: with that sentence, which the command line prints.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(words()) from interrupt


def progress_bar() -> Progress:
    """A bar with count, elapsed time and ETA; silent where the output is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def warn_if_fresh(provenance: Mapping[str, Any]) -> None:
    """Says so where a model was made of a backbone alone and nobody has trained its head since.

    Args:
        provenance: of the model's info.
    """
    fresh = [name for name in provenance.get("fresh", []) if not name.startswith("auxiliary.")]
    if fresh:
        console.print(
            f"[yellow]untrained[/]: {len(fresh)} of this model's weights, its head among them, are random; the masks "
            "mean nothing before training: atrous train RECIPE --init MODEL"
        )


def write_json(results: dict[str, Any], path: Path) -> None:
    """Writes results for machines to read, atomically and with our mark, and says where.

    Args:
        results: plain dicts, lists, strings and numbers.
        path: the file; its folder is made.
    """
    save_json(results, path)
    console.print(f"written: {escape(str(path))}")
