"""The CRF's spatial kernel: an exact Gaussian over the pixel grid, one axis at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from atrous.crf.rows import sum_rows

#: Beyond so many standard deviations the kernel, 3e-4 of its height there, counts as zero.
REACH = 4.0


@dataclass(frozen=True)
class Axis:
    """A Gaussian along one axis of n pixels, symmetrically normalised, as sparse rows.

    Attributes:
        starts: n+1 int64; pixel i is summed over entries starts[i]:starts[i+1].
        indices: int32, the pixels it sees.
        weights: float32.
    """

    starts: np.ndarray
    indices: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, length: int, sigma: float, *, normalised: bool = True) -> Axis:
        """The kernel of `sigma` pixels over `length` pixels.

        Args:
            length: ≥ 1.
            sigma: > 0.
            normalised: scaled on both sides so that weights sum to about one; where pixels are masked out, the
                scaling depends on the mask and is done elsewhere.
        """
        place = np.arange(length)
        reach = min(math.ceil(REACH * sigma), length - 1)
        low, high = np.maximum(place - reach, 0), np.minimum(place + reach, length - 1)
        counts = high - low + 1
        starts = np.concatenate([[0], np.cumsum(counts)])
        rows = np.repeat(place, counts)
        indices = np.arange(starts[-1]) - np.repeat(starts[:-1] - low, counts)
        weights = np.exp(-0.5 * ((rows - indices) / sigma) ** 2)
        if normalised:
            scale = np.add.reduceat(weights, starts[:-1]) ** -0.5
            weights *= scale[rows] * scale[indices]
        return cls(starts.astype(np.int64), indices.astype(np.int32), weights.astype(np.float32))


@njit(parallel=True, cache=True)
def filter_columns(values, starts, indices, weights, out):
    """Along the vertical axis: H×(W·L) → H×(W·L), each picture row a sum of rows."""
    for row in prange(values.shape[0]):
        sum_rows(out, row, values, indices, weights, starts[row], starts[row + 1])


@njit(parallel=True, cache=True)
def filter_rows(values, starts, indices, weights, out):
    """Along the horizontal axis: (H·W)×L → (H·W)×L."""
    width = starts.size - 1
    for row in prange(values.shape[0] // width):
        source, target = values[row * width : (row + 1) * width], out[row * width : (row + 1) * width]
        for column in range(width):
            sum_rows(target, column, source, indices, weights, starts[column], starts[column + 1])
