"""Finds in-between values at the edges of masks, which antialiasing or resizing with interpolation creates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from atrous.data.mask_value_map import Raw

_SQUARE = np.ones((3, 3), np.uint8)
_INSIDE = 0.02  # largest share of a blended value's pixels whose 3×3 neighbours all have that value
# smallest share of a blended value's pixels between lower and higher neighbours; thin lines have a smaller share
_BETWEEN = 0.5
_RARE = 0.05  # largest share of all pixels that have one blended value
_AREAS = 0.3  # smallest share of a mask's pixels inside uniform areas; below it, the values are noise
_MOST = 0.4  # largest share of all pixels that have blended values; above it, the values are noise


@dataclass(frozen=True)
class EdgeCounts:
    """The number of pixels of each value inside uniform areas and at edges.

    Attributes:
        inside: per value, the number of pixels whose 3×3 neighbours all have the same value.
        between: per value, the number of pixels strictly between the smallest and the largest of their 3×3 neighbours;
            for colours, in at least one channel.
        places: for each of the values with the largest numbers in ``between``, (x, y) of the first pixel counted there;
            the key is the index of the value.
    """

    inside: np.ndarray
    between: np.ndarray
    places: Mapping[int, tuple[int, int]]


def count_edges(pixels: np.ndarray, indices: np.ndarray, count: int, examples: int) -> EdgeCounts:
    """Counts the pixels of each value inside uniform areas and at edges.

    Args:
        pixels: H×W, or H×W×3 colours, ``uint8`` or ``uint16``.
        indices: H×W, the index of each pixel's value.
        count: the number of values.
        examples: largest number of values whose place is stored, ≥ 0.
    """
    smallest, largest = cv2.erode(pixels, _SQUARE), cv2.dilate(pixels, _SQUARE)
    same, inner = smallest == largest, (smallest < pixels) & (pixels < largest)
    if pixels.ndim == 3:
        same, inner = same.all(axis=2), inner.any(axis=2)
    inside = np.bincount(indices[same], minlength=count)
    between = np.bincount(indices[inner], minlength=count)
    if same.mean() < _AREAS:
        between[:] = 0  # the values change everywhere, so the mask has no uniform areas with edges
    places = {}
    for index in np.argsort(-between, kind="stable")[:examples].tolist():
        if between[index]:
            y, x = divmod(int(np.argmax(inner & (indices == index))), pixels.shape[1])
            places[index] = (x, y)
    return EdgeCounts(inside, between, places)


def blended_values(
    pixels: Mapping[Raw, int], inside: Mapping[Raw, int], between: Mapping[Raw, int], known: Iterable[Raw]
) -> set[Raw]:
    """Returns the values that are blends: they are rare, only at edges, and between the values on both sides.

    The result is empty if only one value looks like a blend, because a class drawn as a line looks like one, too.

    Args:
        pixels: the number of pixels of each value.
        inside: per value, the number of pixels whose neighbours are all equal, as in `EdgeCounts`.
        between: per value, the number of pixels between their neighbours' values, as in `EdgeCounts`.
        known: values that the class table lists; they are never blends.
    """
    total, known = sum(pixels.values()), set(known)
    edges = {value for value, count in pixels.items() if value not in known and inside[value] <= _INSIDE * count}
    found = {value for value in edges if between[value] >= _BETWEEN * pixels[value] and pixels[value] <= _RARE * total}
    shares = Counter({value: pixels[value] for value in found})
    # Blending creates many values; some of them occur only at corners. If two values are certain blends, rarer values
    # at edges are blends, too.
    if len(found) >= 2:
        found |= {value for value in edges if between[value] and pixels[value] <= _RARE * total / 10}
    if len(found) < 2 or len(pixels) - len(found) < 2 or shares.total() > _MOST * total:
        return set()
    return found
