"""Signal handlers for Ctrl-C and SIGTERM, and a request from another thread, that stop the training between steps."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_requested = threading.Event()


class Interrupted(KeyboardInterrupt):
    """Error for a run that a signal stopped; the state of the run was saved before."""


def request_stop() -> None:
    """Asks the training in this process, or the next one that starts, to stop after its current step.

    Any thread may call this function. It is for programs whose training does not run in the main thread, where signal
    handlers are not possible.
    """
    _requested.set()


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether a loop should stop after its current step.

    It returns True after Ctrl-C, SIGTERM or `request_stop`. A further Ctrl-C raises KeyboardInterrupt at once. Only the
    main thread can handle signals.
    """
    asked = []

    def ask(number: int, _: Any) -> None:
        # a scheduler sends SIGTERM to all processes, and torchrun passes it on to its processes once more
        if asked and number == signal.SIGTERM:
            return
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("\nstopping after this step; press Ctrl-C once more to stop at once", file=sys.stderr)

    before: dict[int, Any] = {}
    with suppress(ValueError):  # only the main thread may set signal handlers
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked) or _requested.is_set()
    finally:
        _requested.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
