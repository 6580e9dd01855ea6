"""Computes a mask from low-resolution scores; interpolates the scores only where this can change the result.

Bilinear interpolation is a convex combination. Therefore, a class that is the best at all four corners of a
low-resolution cell is the best everywhere in the cell. If the best corner score of a class A is below the worst corner
score of a class B, class A is not the best anywhere in the cell. So most pixels are filled without interpolation. At
boundaries, usually only two or three classes are compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit


def resize_argmax(scores: np.ndarray, size: Sequence[int], align_corners: bool = False) -> np.ndarray:
    """Returns the best class of each pixel of the bilinearly resized scores, without storing the resized scores.

    Args:
        scores: h×w×K float32 logits; for K = 1, a pixel gets class 1 if its logit is above 0.
        size: (H, W) of the mask in pixels, each ≥ 1.
        align_corners: see `models.layers.resize`.

    Returns:
        H×W uint8 class indices. They equal the argmax of the resized scores, except at pixels where the two best scores
        are equal up to rounding.
    """
    rows = np.ascontiguousarray(scores, dtype=np.float32)
    if rows.shape[2] == 1:  # one logit is equivalent to two logits of which the first is 0
        rows = np.concatenate([np.zeros_like(rows), rows], 2)
    height, width = size
    mask = np.empty((height, width), np.uint8)
    vertical, horizontal = (
        _sources(low, full, align_corners) for low, full in zip(rows.shape[:2], (height, width), strict=True)
    )
    _fill(rows, best_of(rows), *vertical, *horizontal, mask)
    return mask


def _sources(low: int, full: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes, for one axis, the positions of target pixels between source pixels.

    Returns:
        The index of the source before each of F targets (F int32); the weight of the source after each target (F
        float32); and the first target of each run of targets between the same two sources, with F appended (≤ F + 1
        int32).
    """
    targets = np.arange(full, dtype=np.float32)
    if align_corners:
        sources = targets * np.float32((low - 1) / max(full - 1, 1))
    else:
        sources = np.maximum((targets + np.float32(0.5)) * np.float32(low / full) - np.float32(0.5), np.float32(0))
    before = np.minimum(sources.astype(np.int32), low - 1)
    share = np.clip(sources - before.astype(np.float32), 0, 1).astype(np.float32)
    starts = np.flatnonzero(np.diff(before, prepend=-1)).astype(np.int32)
    return before, share, np.append(starts, np.int32(full))


@njit(cache=True, nogil=True, error_model="numpy")
def best_of(rows):
    """Returns, for each position of an h×w×K array, the index of the largest value; the first index if values tie."""
    height, width, classes = rows.shape
    best = np.empty((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            highest, index = rows[y, x, 0], 0
            for one in range(1, classes):
                value = rows[y, x, one]
                better = value > highest
                highest = value if better else highest
                index = one if better else index
            best[y, x] = index
    return best


@njit(cache=True, nogil=True, error_model="numpy")
def _fill(rows, best, above, down, tops, before, right, lefts, mask):
    """Fills the mask cell by cell."""
    height, width, classes = rows.shape
    candidates = np.empty(classes, np.int64)
    for band in range(tops.size - 1):
        top, bottom = tops[band], tops[band + 1]
        y = above[top]
        below = min(y + 1, height - 1)
        for strip in range(lefts.size - 1):
            left, end = lefts[strip], lefts[strip + 1]
            x = before[left]
            beside = min(x + 1, width - 1)
            label = best[y, x]
            if best[y, beside] == label and best[below, x] == label and best[below, beside] == label:
                for row in range(top, bottom):
                    for column in range(left, end):
                        mask[row, column] = label
                continue
            count = _candidates(rows, y, below, x, beside, candidates)
            for row in range(top, bottom):
                for column in range(left, end):
                    mask[row, column] = _best_between(
                        rows, y, below, x, beside, down[row], right[column], candidates, count
                    )


@njit(cache=True, nogil=True, error_model="numpy")
def _candidates(rows, y, below, x, beside, found):
    """Writes the classes that can be the best somewhere in a cell to `found`, and returns their number."""
    classes = rows.shape[2]
    bar = -np.inf
    for one in range(classes):
        low = min(min(rows[y, x, one], rows[y, beside, one]), min(rows[below, x, one], rows[below, beside, one]))
        bar = max(bar, low)
    count = 0
    for one in range(classes):
        high = max(max(rows[y, x, one], rows[y, beside, one]), max(rows[below, x, one], rows[below, beside, one]))
        found[count] = one
        count += high >= bar
    return count


@njit(inline="always")
def _best_between(rows, y, below, x, beside, down, right, candidates, count):
    """Returns the best candidate at one point of a cell; the first one if candidates tie."""
    up, left = np.float32(1) - down, np.float32(1) - right
    highest, label = np.float32(-np.inf), candidates[0]
    for place in range(count):
        one = candidates[place]
        value = up * (left * rows[y, x, one] + right * rows[y, beside, one]) + down * (
            left * rows[below, x, one] + right * rows[below, beside, one]
        )
        if value > highest:
            highest, label = value, one
    return label
