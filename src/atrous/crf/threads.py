"""The number of threads of compiled loops: torch's number, for one picture at a time."""

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
    """Sets numba's number of threads to torch's, and restores both afterwards: they may share OpenMP's setting."""
    threads = torch.get_num_threads()
    if numba_lost():  # loops then run without threads, but loading them still changes OpenMP's setting
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
