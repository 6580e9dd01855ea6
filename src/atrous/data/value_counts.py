"""Counts the values of masks part by part, because NumPy converts the values that it counts to 64-bit numbers."""

from __future__ import annotations

import numpy as np

#: Approximate number of values that are counted at once.
_AT_ONCE = 2**22


def value_counts(values: np.ndarray) -> np.ndarray:
    """Returns how often each of the values 0–255 occurs, as 256 int64 numbers.

    Args:
        values: uint8 array of one or more dimensions.
    """
    counts = np.zeros(256, np.int64)
    rows = max(1, _AT_ONCE * len(values) // max(1, values.size))
    for first in range(0, len(values), rows):
        counts += np.bincount(values[first : first + rows].ravel(), minlength=256)
    return counts
