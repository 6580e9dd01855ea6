"""Runs compiled loops with torch's number of threads, for one picture at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch

from atrous.fork_safety import ForkLock, numba_lost

#: Some of numba's threading layers do not allow calls from two threads at once.
_running = ForkLock()


@contextmanager
def like_torch() -> Iterator[None]:
    """Sets numba's number of threads to torch's number, and restores both numbers afterwards.

    numba and torch may share OpenMP's setting, so a change of one number may change the other.
    """
    threads = torch.get_num_threads()
    if numba_lost():  # compiled loops then run on one thread, but loading them still changes OpenMP's setting
        try:
            yield
        finally:
            torch.set_num_threads(threads)
        return
    with _running:
        compiled = numba.get_num_threads()
        most: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]
        numba.set_num_threads(min(threads, most))
        try:
            yield
        finally:
            numba.set_num_threads(compiled)
            torch.set_num_threads(threads)
