"""How commands talk to people: plain sentences and one progress bar, both on standard error's side of things."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

#: Sentences go to standard output; nothing is highlighted or cut that a person may want to copy.
console = Console(highlight=False, soft_wrap=True)


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
    )
