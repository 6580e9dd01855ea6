"""Threads of compiled loops: as many as torch has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch


@contextmanager
def like_torch() -> Iterator[None]:
    """Numba's loops get as many threads as torch's, and leave torch its own: both may share OpenMP's count of them."""
    threads, compiled = torch.get_num_threads(), numba.get_num_threads()
    most: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]
    numba.set_num_threads(min(threads, most))
    try:
        yield
    finally:
        numba.set_num_threads(compiled)
        torch.set_num_threads(threads)
