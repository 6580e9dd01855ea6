"""The CRF's spatial kernel: an exact Gaussian on the pixel grid, computed along one axis at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: Radius at which the kernel is cut off, in standard deviations. At this radius, the kernel is 3e-4 of its maximum.
REACH = 4.0
#: Lower bound of probabilities and of kernel sums. With this bound, the logarithms of probabilities and the inverse
#: roots of kernel sums are finite.
LEAST = 1e-20


def taps_of(length: int, sigma: float) -> np.ndarray:
    """Returns a Gaussian with maximum 1 as 2R+1 float64 values. R is ⌈4·sigma⌉, but at most length − 1.

    Args:
        length: number of pixels along the axis, ≥ 1.
        sigma: standard deviation in pixels, > 0.
    """
    reach = min(math.ceil(REACH * sigma), length - 1)
    return np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)


@dataclass(frozen=True)
class Axis:
    """A symmetrically normalised Gaussian along one axis of n pixels, as sparse rows.

    Attributes:
        starts: n+1 int64; the row of pixel i has the entries starts[i]:starts[i+1].
        indices: int32, the pixel of each entry.
        weights: float32, the weight of each entry.
        taps: 2R+1 float32, the weights far from both ends of the axis.
        edge: n float32, a factor for each pixel, which is 1 far from both ends of the axis. The weight of entry (i, j)
            is edge[i] · taps[R + j − i] · edge[j].
    """

    starts: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    taps: np.ndarray
    edge: np.ndarray

    @classmethod
    def of(cls, length: int, sigma: float) -> Axis:
        """Builds the kernel.

        Args:
            length: number of pixels along the axis, ≥ 1.
            sigma: standard deviation in pixels, > 0.
        """
        place = np.arange(length)
        taps = taps_of(length, sigma)
        reach = len(taps) // 2
        low, high = np.maximum(place - reach, 0), np.minimum(place + reach, length - 1)
        counts = high - low + 1
        starts = np.concatenate([[0], np.cumsum(counts)])
        rows = np.repeat(place, counts)
        indices = np.arange(starts[-1]) - np.repeat(starts[:-1] - low, counts)
        weights = taps[reach + indices - rows]
        edge = np.add.reduceat(weights, starts[:-1]) ** -0.5
        weights *= edge[rows] * edge[indices]
        inside = edge.min()  # pixels far from both ends have the most neighbours, so their factor is the smallest
        return cls(
            starts.astype(np.int64),
            indices.astype(np.int32),
            weights.astype(np.float32),
            (taps * inside**2).astype(np.float32),
            (edge / inside).astype(np.float32),
        )
