"""The logger named "atrous": what commands and calls say to people, for programs that keep a log.

It has no handler but one that does nothing, so nothing is printed twice; a program adds its own.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

#: Sentences of commands and of the server have the level INFO; warnings, wherever they come from, WARNING.
LOGGER = logging.getLogger("atrous")
#: Kinds of warnings that are left out at present.
_suppressed: list[type[Warning]] = []


def warn(sentence: str, category: type[Warning], stacklevel: int = 1) -> None:
    """Warns in Python's way, and writes the sentence to the logger.

    Args:
        sentence: of the warning.
        category: of the warning.
        stacklevel: whose line is named, 1 for the caller's; see `warnings.warn`.
    """
    warnings.warn(sentence, category, stacklevel=stacklevel + 1)
    if not issubclass(category, tuple(_suppressed)):
        log(logging.WARNING, sentence)


def log(level: int, sentence: str) -> None:
    """Writes a sentence to the logger; bytes in it that are no text are escapes, which every log file takes.

    Args:
        level: of `logging`.
        sentence: as it is said to people.
    """
    LOGGER.log(level, "%s", sentence.encode("utf-8", "backslashreplace").decode("utf-8"))


@contextmanager
def suppressed(category: type[Warning]) -> Iterator[None]:
    """Leaves out warnings of a kind, in every thread, as long as the context lasts.

    Args:
        category: of the warnings, and what is derived from it.
    """
    _suppressed.append(category)
    try:
        with warnings.catch_warnings(action="ignore", category=category):
            yield
    finally:
        _suppressed.remove(category)
