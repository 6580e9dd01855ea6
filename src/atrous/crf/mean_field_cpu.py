"""Mean-field inference on the CPU, with the update of all classes of a pixel in one go."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from atrous.crf.gaussian import Axis, filter_columns
from atrous.crf.lattice_cpu import CpuLattice
from atrous.crf.rows import STEP, exp_row, logit_row, sum_rows

#: The logarithm of a probability of zero.
NEVER = np.float32(-1e4)


def infer(
    log_unary: np.ndarray,
    lattice: CpuLattice,
    axes: tuple[Axis, Axis],
    *,
    bilateral_weight: float,
    gaussian_weight: float,
    iterations: int,
) -> np.ndarray:
    """Probabilities after mean-field steps with Potts compatibility (arXiv:1210.5644, Algorithm 1).

    Args:
        log_unary: (H·W)×K float32.
        lattice: of the bilateral kernel, normalised.
        axes: vertical and horizontal.
        bilateral_weight: w1 ≥ 0.
        gaussian_weight: w2 ≥ 0.
        iterations: ≥ 0.

    Returns:
        (H·W)×K float32.
    """
    count, classes = log_unary.shape
    columns = -(-classes // STEP) * STEP
    unary = np.full((count, columns), NEVER, np.float32)
    unary[:, :classes] = log_unary
    vertical, horizontal = axes
    beliefs, smoothed = np.empty_like(unary), np.empty_like(unary)
    _softmax(unary, beliefs)
    buffers = lattice.buffers(columns)
    height = len(vertical.starts) - 1
    for _ in range(iterations):
        blurred = lattice.blurred(beliefs, buffers)
        filter_columns(
            beliefs.reshape(height, -1),
            vertical.starts,
            vertical.indices,
            vertical.weights,
            smoothed.reshape(height, -1),
        )
        _update(
            unary,
            blurred,
            lattice.vertices,
            lattice.weights,
            smoothed,
            horizontal.starts,
            horizontal.indices,
            horizontal.weights,
            np.float32(bilateral_weight * lattice.gain),
            np.float32(gaussian_weight),
            beliefs,
        )
    return beliefs[:, :classes]


@njit(parallel=True, cache=True)
def _softmax(unary, out):
    chunks = 64
    for chunk in prange(chunks):
        logits, nothing = np.empty((1, unary.shape[1]), np.float32), np.zeros((1, unary.shape[1]), np.float32)
        none = np.float32(0)
        for point in range(chunk * unary.shape[0] // chunks, (chunk + 1) * unary.shape[0] // chunks):
            largest = logit_row(logits, unary, point, nothing, nothing, none, none)
            share = np.float32(1) / exp_row(logits, largest)
            for column in range(unary.shape[1]):
                out[point, column] = logits[0, column] * share


@njit(parallel=True, cache=True)
def _update(unary, blurred, vertices, weights, smoothed, starts, indices, axis_weights, bilateral, gaussian, beliefs):
    """Messages of both kernels to each pixel, and its new beliefs."""
    width, columns = starts.size - 1, unary.shape[1]
    corners = vertices.size // unary.shape[0]
    for row in prange(unary.shape[0] // width):
        source = smoothed[row * width : (row + 1) * width]
        logits, near = np.empty((1, columns), np.float32), np.empty((1, columns), np.float32)
        alike = np.empty((1, columns), np.float32)
        for x in range(width):
            point = row * width + x
            sum_rows(alike, 0, blurred, vertices, weights, point * corners, (point + 1) * corners)
            sum_rows(near, 0, source, indices, axis_weights, starts[x], starts[x + 1])
            largest = logit_row(logits, unary, point, near, alike, gaussian, bilateral)
            share = np.float32(1) / exp_row(logits, largest)
            for column in range(columns):
                beliefs[point, column] = logits[0, column] * share
