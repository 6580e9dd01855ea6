"""Keeps decoded strips and tiles of TIFFs for overlapping windows, with one limit of memory for all files."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import numpy as np

from atrous.fork_safety import ForkLock

#: Largest number of bytes of all strips and tiles that a process keeps. A single strip or tile may be larger.
MOST_BYTES = 128e6

_blocks: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()  # blocks in the order of their last use
_bytes = 0
_lock = ForkLock()
_numbers = itertools.count()


def new_page() -> int:
    """Returns a number for the strips or tiles of a page; no other page of this process has the same number."""
    return next(_numbers)


def kept_block(page: int, index: int) -> np.ndarray | None:
    """Returns the values of a strip or tile; None if they are not kept.

    Args:
        page: the number of the page.
        index: index of the strip or tile in the page.
    """
    with _lock:
        values = _blocks.get((page, index))
        if values is not None:
            _blocks.move_to_end((page, index))
        return values


def keep_block(page: int, index: int, values: np.ndarray) -> None:
    """Keeps the values of a strip or tile, and drops those that were not used for the longest time if needed.

    Args:
        page: the number of the page.
        index: index of the strip or tile in the page.
        values: its values.
    """
    global _bytes
    with _lock:
        _remove((page, index))
        _blocks[page, index] = values
        _bytes += values.nbytes
        while len(_blocks) > 1 and _bytes > MOST_BYTES:
            _remove(next(iter(_blocks)))


def drop_blocks(page: int) -> None:
    """Removes the strips or tiles of a page that is closed.

    Args:
        page: the number of the page.
    """
    with _lock:
        for key in [key for key in _blocks if key[0] == page]:
            _remove(key)


def _remove(key: tuple[int, int]) -> None:
    global _bytes
    values = _blocks.pop(key, None)
    if values is not None:
        _bytes -= values.nbytes
