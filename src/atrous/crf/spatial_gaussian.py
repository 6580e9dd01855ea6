"""The CRF's spatial kernel: an exact Gaussian over the pixel grid, one axis at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: Beyond so many standard deviations the kernel, 3e-4 of its height there, counts as zero.
REACH = 4.0
#: The smallest probability, and the smallest sum of a kernel, that counts, so that its logarithm is finite.
LEAST = 1e-20


def taps_of(length: int, sigma: float) -> np.ndarray:
    """A Gaussian of `sigma` > 0 pixels and height 1 as 2R+1 float64, no longer than `length` ≥ 1 pixels need."""
    reach = min(math.ceil(REACH * sigma), length - 1)
    return np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)


@dataclass(frozen=True)
class Axis:
    """A Gaussian along one axis of n pixels, symmetrically normalised, as sparse rows.

    Attributes:
        starts: n+1 int64; pixel i is summed over entries starts[i]:starts[i+1].
        indices: int32, the pixels it sees.
        weights: float32.
        taps: 2R+1 float32, the weights far from both ends.
        edge: n float32; entry (i, j) is edge[i] · taps[R + j − i] · edge[j], and edge is 1 far from both ends.
    """

    starts: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    taps: np.ndarray
    edge: np.ndarray

    @classmethod
    def of(cls, length: int, sigma: float) -> Axis:
        """The kernel of `sigma` pixels over `length` pixels.

        Args:
            length: ≥ 1.
            sigma: > 0.
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
        inside = edge.min()  # where most neighbours are
        return cls(
            starts.astype(np.int64),
            indices.astype(np.int32),
            weights.astype(np.float32),
            (taps * inside**2).astype(np.float32),
            (edge / inside).astype(np.float32),
        )
