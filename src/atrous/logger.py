"""The logger named "atrous", which receives the messages of commands and calls, for programs that keep a log.

Its only handler does nothing, so no message is printed twice. A program adds its own handler.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

#: The logger. Messages of commands and of the server have the level INFO; notes and warnings have WARNING.
LOGGER = logging.getLogger("atrous")
#: Categories of warnings that are currently suppressed.
_suppressed: list[type[Warning]] = []


def warn(sentence: str, category: type[Warning], stacklevel: int = 1) -> None:
    """Issues a Python warning, and writes its message to the logger.

    Args:
        sentence: message of the warning.
        category: category of the warning.
        stacklevel: stack level of the reported line, 1 for the caller's line; see `warnings.warn`.
    """
    warnings.warn(sentence, category, stacklevel=stacklevel + 1)
    if not issubclass(category, tuple(_suppressed)):
        log(logging.WARNING, sentence)


def log(level: int, sentence: str) -> None:
    """Writes a sentence to the logger; undecodable bytes are written as escapes, which every log file can store.

    Args:
        level: level of `logging`.
        sentence: the message, as shown to users.
    """
    LOGGER.log(level, "%s", sentence.encode("utf-8", "backslashreplace").decode("utf-8"))


@contextmanager
def suppressed(category: type[Warning]) -> Iterator[None]:
    """Suppresses warnings of a category and of its subclasses, in every thread, during the context.

    Args:
        category: category of the warnings.
    """
    _suppressed.append(category)
    try:
        with warnings.catch_warnings(action="ignore", category=category):
            yield
    finally:
        _suppressed.remove(category)
