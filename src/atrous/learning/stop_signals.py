"""Signal handlers for Ctrl-C and SIGTERM that stop the training between two steps."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Error for a run that a signal stopped; the state of the run was saved before."""


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether Ctrl-C or SIGTERM was received, so that a loop can stop after a step.

    A second signal raises KeyboardInterrupt at once. In threads other than the main thread, no handlers are installed,
    and the function returns False.
    """
    asked = []

    def ask(number: int, _: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("\nstopping after this step; press Ctrl-C once more to stop at once", file=sys.stderr)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread may set signal handlers
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
