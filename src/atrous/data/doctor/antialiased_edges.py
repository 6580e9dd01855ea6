"""Finding in-between values that smoothing leaves at the edges of masks (antialiasing, resizing by interpolation)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from atrous.data.label_map import Raw

_SQUARE = np.ones((3, 3), np.uint8)
_INSIDE = 0.02  # share of a value's pixels with a neighbourhood of that value alone, from which it is no edge
_BETWEEN = 0.5  # share of a blend's pixels that lie between their neighbours' values; thin lines have fewer than edges
_RARE = 0.05  # share of all pixels that one blend has at most
_AREAS = 0.3  # share of a mask's pixels inside of areas, from which its edges are told from noise
_MOST = 0.4  # share that all of them have together at most, else the values are noise


@dataclass(frozen=True)
class EdgeCounts:
    """How the pixels of a mask's values lie.

    Attributes:
        inside: per value the pixels whose 3×3 neighbours all hold the same value.
        between: per value the pixels that lie strictly between the smallest and the largest of their neighbours.
        places: first (x, y) of the values that lie between most often.
    """

    inside: np.ndarray
    between: np.ndarray
    places: Mapping[int, tuple[int, int]]


def count_edges(pixels: np.ndarray, indices: np.ndarray, count: int, examples: int) -> EdgeCounts:
    """Count how the pixels of each value lie.

    Args:
        pixels: H×W, or H×W×3 colours, ``uint8`` or ``uint16``.
        indices: H×W, the index of each pixel's value.
        count: the number of values.
        examples: values to remember a place of.
    """
    smallest, largest = cv2.erode(pixels, _SQUARE), cv2.dilate(pixels, _SQUARE)
    same, inner = smallest == largest, (smallest < pixels) & (pixels < largest)
    if pixels.ndim == 3:
        same, inner = same.all(axis=2), inner.any(axis=2)
    inside = np.bincount(indices[same], minlength=count)
    between = np.bincount(indices[inner], minlength=count)
    if same.mean() < _AREAS:
        between[:] = 0  # numbers that change everywhere, not areas with edges
    places = {}
    for index in np.argsort(-between, kind="stable")[:examples].tolist():
        if between[index]:
            y, x = divmod(int(np.argmax(inner & (indices == index))), pixels.shape[1])
            places[index] = (x, y)
    return EdgeCounts(inside, between, places)


def blended_values(
    pixels: Mapping[Raw, int], inside: Mapping[Raw, int], between: Mapping[Raw, int], known: Iterable[Raw]
) -> set[Raw]:
    """The values that are blends of their neighbours: rare, only at edges, and between the values on both sides.

    One such value alone is no blend, but a class that is drawn as a line.

    Args:
        pixels: how many pixels hold each value.
        inside: how many of them have equal neighbours only.
        between: how many of them lie between their neighbours.
        known: values that the class table lists, which are none.
    """
    total, known = sum(pixels.values()), set(known)
    edges = {value for value, count in pixels.items() if value not in known and inside[value] <= _INSIDE * count}
    found = {value for value in edges if between[value] >= _BETWEEN * pixels[value] and pixels[value] <= _RARE * total}
    shares = Counter({value: pixels[value] for value in found})
    # colours blend into so many that some lie at a corner; where others are sure, rare edges are blends, too
    if len(found) >= 2:
        found |= {value for value in edges if between[value] and pixels[value] <= _RARE * total / 10}
    if len(found) < 2 or len(pixels) - len(found) < 2 or shares.total() > _MOST * total:
        return set()
    return found
