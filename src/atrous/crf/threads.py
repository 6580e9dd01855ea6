"""Threads of compiled loops: as many as torch has, for one picture at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch

from atrous.fork_safety import ForkLock, numba_lost

#: Of numba's layers of threads not all may be called by two threads at once.
_running = ForkLock()


@contextmanager
def like_torch() -> Iterator[None]:
    """Numba's loops get as many threads as torch's, and leave torch its own: both may share OpenMP's count of them."""
    threads = torch.get_num_threads()
    if numba_lost():  # loops run without threads then; loading them still sets OpenMP's count
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
