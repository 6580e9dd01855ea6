"""Finds bands without data in a whole file, such as the water absorption bands of hyperspectral products."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple

import numpy as np

from atrous.data.file_version import MOST_FILES
from atrous.data.pixels import UNDECLARED_MISSING
from atrous.fork_safety import ForkLock

#: Largest size in bytes of a part of a file that is read at once, if one row of its blocks is not larger.
PART_BYTES = 2**25

Window = tuple[int, int, int, int]

_found: dict[Hashable, frozenset[int]] = {}
_searching: dict[Hashable, ForkLock] = {}
_found_lock = ForkLock()


class SearchedFile(NamedTuple):
    """An open file in which bands without data are searched.

    Attributes:
        version: path and `file_version` of the file when it was opened; None if it has no path, and its result is
            not kept.
        shape: (H, W, C) of the stored values.
        dtype: data type of the stored values.
        block: (height, width) in pixels of the blocks that are decoded as a whole.
        reading: further values on which the result depends, besides the content of the file, such as the nodata value
            and the pages.
        read: function that returns the stored values of a window (top, left, height, width), H×W×C.
        missing: function that returns for stored values H×W×C booleans, True for the nodata value; None if there is no
            such value.
    """

    version: Hashable | None
    shape: tuple[int, int, int]
    dtype: np.dtype
    block: tuple[int, int]
    reading: Hashable
    read: Callable[[Window], np.ndarray]
    missing: Callable[[np.ndarray], np.ndarray | None]


def empty_bands(stored: np.ndarray, missing: np.ndarray | None, file: SearchedFile) -> tuple[int, ...]:
    """Returns the bands of a window that have no data in the whole file; () if no band of the window has data.

    The file is searched only if a band has no data in the window. The search ends as soon as data of each band were
    found. The result is kept for each version of a file, also for forked processes.

    Args:
        stored: H×W×C stored values of the window.
        missing: H×W×C booleans, True for the nodata value; None if no value is missing.
        file: the file of the window.
    """
    gone = bands_without_data(stored, missing)
    if gone is None or stored.shape[2] < 2 or not gone.any() or gone.all():
        return ()
    bands = np.flatnonzero(gone).tolist()
    if stored.size == np.prod(file.shape):
        return tuple(bands)
    empty = _in_file(file)
    return tuple(band for band in bands if band in empty)


def _in_file(file: SearchedFile) -> frozenset[int]:
    if file.version is None:
        return _search(file)
    key = file.version, file.reading
    with _found_lock:
        if (known := _found.get(key)) is not None:
            return known
        searching = _searching.setdefault(key, ForkLock())
    with searching:  # other threads that need the result for this file wait for it instead of searching, too
        with _found_lock:
            known = _found.get(key)
        if known is None:
            known = _search(file)
            _keep(key, known)
    return known


def _keep(key: Hashable, bands: frozenset[int]) -> None:
    with _found_lock:
        _found[key] = bands
        _searching.pop(key, None)
        if len(_found) > MOST_FILES:
            del _found[next(iter(_found))]


def _search(file: SearchedFile) -> frozenset[int]:
    """Returns the bands without data in the whole file; none if no band has data."""
    empty: np.ndarray | None = None
    for window in _parts(file):
        stored = file.read(window)
        gone = bands_without_data(stored, file.missing(stored))
        if gone is None:
            return frozenset()
        empty = gone if empty is None else empty & gone
        if not empty.any():
            return frozenset()
    return frozenset() if empty is None or empty.all() else frozenset(np.flatnonzero(empty).tolist())


def _parts(file: SearchedFile) -> Iterator[Window]:
    """Yields parts of whole blocks, so that each block is decoded once; parts have the full width if possible."""
    (height, width, bands), (tall, wide) = file.shape, file.block
    most = max(1, PART_BYTES // (bands * file.dtype.itemsize))  # pixels
    columns = min(width, max(1, most // (tall * wide)) * wide)
    rows = min(height, max(1, most // (tall * columns)) * tall)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield top, left, min(rows, height - top), min(columns, width - left)


def bands_without_data(stored: np.ndarray, missing: np.ndarray | None) -> np.ndarray | None:
    """Returns, for each band, whether all its values are missing, NaN or infinite; None if each band has data.

    The numbers in `UNDECLARED_MISSING` count as missing, too: a band that contains no other numbers has no information
    in any case.

    Args:
        stored: H×W×C stored values.
        missing: H×W×C booleans, True for the nodata value; None if no value is missing.
    """
    # few bands are without data, so the first pixel excludes most of them
    first = np.flatnonzero(_lost(stored[:1, :1], None if missing is None else missing[:1, :1]))
    if not len(first):
        return None
    gone = np.zeros(stored.shape[2], bool)
    lost = _lost(stored[:, :, first], None if missing is None else missing[:, :, first])
    gone[first] = lost.all(axis=(0, 1))
    return gone if gone.any() else None


def _lost(stored: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    lost = np.zeros(stored.shape, bool) if missing is None else missing
    if stored.dtype.kind == "f":
        lost = lost | ~np.isfinite(stored)
    if stored.dtype.kind in "if":
        for value in UNDECLARED_MISSING:
            lost = lost | (stored == value)
    return lost
