"""Finds in-between values that smoothing leaves at the edges of masks (antialiasing, resizing by interpolation)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from atrous.data.mask_value_map import Raw

_SQUARE = np.ones((3, 3), np.uint8)
_INSIDE = 0.02  # largest share of an edge value's pixels whose whole neighbourhood has that value
_BETWEEN = 0.5  # smallest share of a blended value's pixels that lie between their neighbours; thin lines have less
_RARE = 0.05  # largest share of all pixels that have one blended value
_AREAS = 0.3  # smallest share of a mask's pixels inside uniform areas; below it, the values are noise
_MOST = 0.4  # largest share of all blended values together; above it, the values are noise


@dataclass(frozen=True)
class EdgeCounts:
    """How many pixels of each value are inside areas and how many are at edges.

    Attributes:
        inside: per value, the number of pixels whose 3×3 neighbours all have the same value.
        between: per value, the number of pixels strictly between the smallest and the largest of their neighbours.
        places: first (x, y) of the values that most often lie between their neighbours.
    """

    inside: np.ndarray
    between: np.ndarray
    places: Mapping[int, tuple[int, int]]


def count_edges(pixels: np.ndarray, indices: np.ndarray, count: int, examples: int) -> EdgeCounts:
    """Count the pixels of each value inside areas and at edges.

    Args:
        pixels: H×W, or H×W×3 colours, ``uint8`` or ``uint16``.
        indices: H×W, the index of each pixel's value.
        count: the number of values.
        examples: number of values to store a place of.
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

    A single such value is not a blend, but a class drawn as a line.

    Args:
        pixels: how many pixels hold each value.
        inside: how many of them have only equal neighbours.
        between: how many of them are between their neighbours' values.
        known: values that the class table lists, which are never blends.
    """
    total, known = sum(pixels.values()), set(known)
    edges = {value for value, count in pixels.items() if value not in known and inside[value] <= _INSIDE * count}
    found = {value for value in edges if between[value] >= _BETWEEN * pixels[value] and pixels[value] <= _RARE * total}
    shares = Counter({value: pixels[value] for value in found})
    # many colours result from blending, some only at corners; if others are certain, rare edge values are blends too
    if len(found) >= 2:
        found |= {value for value in edges if between[value] and pixels[value] <= _RARE * total / 10}
    if len(found) < 2 or len(pixels) - len(found) < 2 or shares.total() > _MOST * total:
        return set()
    return found
