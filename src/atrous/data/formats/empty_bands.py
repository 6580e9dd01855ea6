"""Finds bands without data in a whole file, such as the water absorption bands of hyperspectral products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from atrous.data.pixels import UNDECLARED_MISSING

#: Height and width in pixels of the parts in which a file is searched.
PART = 512


def bands_without_data(stored: np.ndarray, missing: np.ndarray | None) -> np.ndarray | None:
    """Returns, for each band, whether all of its values are missing, NaN or infinite; None if no band is without data.

    The numbers that mean "no data" without being declared, `UNDECLARED_MISSING`, count as missing: a band that has only
    them contains no information in any case.

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


def empty_bands(
    without_data: Callable[[tuple[int, int, int, int]], np.ndarray | None], height: int, width: int
) -> frozenset[int]:
    """Returns the bands without data in a whole file; none if no band has data.

    The file is read in parts until each band has data, so a file without empty bands costs little.

    Args:
        without_data: function that returns the result of `bands_without_data` for a window (top, left, height, width).
        height: height of the file in pixels.
        width: width of the file in pixels.
    """
    empty: np.ndarray | None = None
    for top in range(0, height, PART):
        for left in range(0, width, PART):
            gone = without_data((top, left, min(PART, height - top), min(PART, width - left)))
            if gone is None:
                return frozenset()
            empty = gone if empty is None else empty & gone
            if not empty.any():
                return frozenset()
    return frozenset() if empty is None or empty.all() else frozenset(np.flatnonzero(empty).tolist())
