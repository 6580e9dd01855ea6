"""How commands talk to people: plain sentences and one progress bar, on standard output; and to the logger."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console, ConsoleRenderable, RenderHook
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.styled import Styled
from rich.text import Text

from atrous.logger import log
from atrous.overwrite_checks import save_json


class _Stream:
    """Standard output or error, as it is at the time; letters that its encoding does not have are written as escapes.

    Args:
        name: "stdout" or "stderr".
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def _stream(self) -> Any:
        stream = getattr(sys, self._name)
        return getattr(stream, "rich_proxied_file", stream)  # while a bar is shown

    def write(self, text: str) -> None:
        """Writes text; nothing where the process has no such stream."""
        stream = self._stream
        if stream is None:
            return
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def flush(self) -> None:
        """Writes what is kept back."""
        if self._stream is not None:
            self._stream.flush()


#: Sentences go to standard output; nothing is highlighted or cut that a person may want to copy.
console = Console(file=cast(IO[str], _Stream("stdout")), highlight=False, soft_wrap=True)
#: What must be seen even where a process is told to be silent, as all but the first of several are.
error_console = Console(file=cast(IO[str], _Stream("stderr")), highlight=False, soft_wrap=True, style="yellow")


class _ToLogger(RenderHook):
    """Writes each sentence that a console prints to the logger, too; tables and progress are for people alone.

    Args:
        source: the console, which writes nothing while it is quiet.
        level: of the sentences; those that begin in yellow or red are warnings.
    """

    def __init__(self, source: Console, level: int) -> None:
        self._source, self._level = source, level

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Returns what is printed, as it is."""
        for one in renderables if not self._source.quiet else ():
            text = one.renderable if isinstance(one, Styled) else one
            if isinstance(text, Text) and (sentence := text.plain.strip()):
                coloured = any(span.start == 0 and str(span.style) in ("yellow", "red") for span in text.spans)
                log(logging.WARNING if coloured else self._level, sentence)
        return renderables


console.push_render_hook(_ToLogger(console, logging.INFO))
error_console.push_render_hook(_ToLogger(error_console, logging.WARNING))


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


def note(sentence: str) -> None:
    """Says what a person may want to know about the work, and what to do about it.

    Args:
        sentence: with no markup.
    """
    console.print(f"[yellow]note[/] {escape(sentence)}")


def warn_if_fresh(provenance: Mapping[str, Any]) -> None:
    """Warns if a model was made from a backbone alone and its head is untrained.

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
