"""Output of the commands: sentences and a progress bar on standard output, and messages to the logger."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from rich.segment import Segments
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from atrous.logger import log
from atrous.overwrite_checks import save_json

#: The notes that `print_notes` has printed in each `notes_once` context that is active.
_printed: list[set[str]] = []


class _Stream:
    """The current standard output or error stream; characters that its encoding lacks are written as escapes.

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
        return getattr(stream, "rich_proxied_file", stream)  # present while a progress bar is shown

    def write(self, text: str) -> None:
        """Writes text; does nothing if the process has no such stream."""
        stream = self._stream
        if stream is None:
            return
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def flush(self) -> None:
        """Flushes the stream."""
        if self._stream is not None:
            self._stream.flush()


#: The console for standard output; it neither highlights nor wraps text, so that users can copy it.
console = Console(file=cast(IO[str], _Stream("stdout")), highlight=False, soft_wrap=True)
#: The console for messages that must appear even if `console` is quiet. In a distributed run, `console` is quiet in all
#: processes except the first.
error_console = Console(file=cast(IO[str], _Stream("stderr")), highlight=False, soft_wrap=True, style="yellow")


class _ToLogger(RenderHook):
    """Copies each sentence that a console prints to the logger; tables and progress bars are not copied.

    Args:
        source: the console; nothing is logged while it is quiet.
        level: log level of the sentences; sentences that begin in yellow or red are warnings.
    """

    def __init__(self, source: Console, level: int) -> None:
        self._source, self._level = source, level

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Logs the sentences, and returns the renderables unchanged."""
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
    """Adds a report on finished and unfinished work to a KeyboardInterrupt (Ctrl-C).

    Args:
        words: function that returns the report; it is called after the work in this context has ended.

    Raises:
        KeyboardInterrupt: with the report, which the command line prints.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(words()) from interrupt


def progress_bar() -> Progress:
    """Returns a progress bar with count, elapsed time and ETA; disabled if the output is not a terminal."""
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


def print_table(table: Table) -> None:
    """Prints a table as wide as its cells, because a number that is broken over two lines can be misread.

    Args:
        table: the table.
    """
    for column in table.columns:
        column.no_wrap = True
    wide = console.options.update(max_width=10_000)
    needed = max(console.width, console.measure(table, options=wide).maximum)
    # Console.print takes no larger width than that of the terminal
    rendered = console.render(table, wide.update(width=needed, max_width=needed))
    console.print(Segments(rendered), crop=False, end="")


def note(sentence: str) -> None:
    """Prints a note for the user.

    Args:
        sentence: the note, without markup.
    """
    console.print(f"[yellow]note[/] {escape(sentence)}")


def print_notes(notes: Iterable[str]) -> None:
    """Prints the notes on a dataset, each on its own line; in a `notes_once` context, each note once.

    Args:
        notes: the notes, without markup.
    """
    for sentence in notes:
        if not any(sentence in printed for printed in _printed):
            console.print(escape(sentence))
        for printed in _printed:
            printed.add(sentence)


@contextmanager
def notes_once() -> Iterator[None]:
    """Makes `print_notes` print each note once, for a command that opens the same dataset several times."""
    _printed.append(set())
    try:
        yield
    finally:
        _printed.pop()


def each_once(say: Callable[[str], object]) -> Callable[[str], None]:
    """Returns a function that passes each sentence on once, and does nothing when a sentence is repeated.

    Args:
        say: called with each new sentence.
    """
    said: set[str] = set()

    def say_if_new(sentence: str) -> None:
        if sentence not in said:
            said.add(sentence)
            say(sentence)

    return say_if_new


def warn_if_fresh(provenance: Mapping[str, Any]) -> None:
    """Warns if the head of a model is untrained, which happens if only weights of the backbone were converted.

    Args:
        provenance: the provenance in the model's info.
    """
    fresh = [name for name in provenance.get("fresh", []) if not name.startswith("auxiliary.")]
    if fresh:
        console.print(
            f"[yellow]untrained[/]: {len(fresh)} of this model's weights are random, including its head, so its masks "
            "are meaningless. Train the model first: atrous train RECIPE --init MODEL"
        )


def say_tiles_of_training(tile: int | None) -> None:
    """Says that larger scenes are segmented in tiles of the size on which the model was measured.

    Args:
        tile: `AnySize.usual` of the segmenter; None says nothing.
    """
    if tile is not None:
        note(
            f"scenes of more than {tile}×{tile} px are segmented in tiles of this size, because the model was trained "
            "and measured on windows; --tile chooses another size"
        )


def write_json(results: dict[str, Any], path: Path) -> None:
    """Writes results as a JSON file with the mark of this program, atomically, and prints its path.

    Args:
        results: plain dicts, lists, strings and numbers.
        path: the file; its folder is created if missing.
    """
    save_json(results, path)
    console.print(f"written: {escape(str(path))}")
