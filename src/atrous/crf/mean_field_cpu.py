"""Mean-field inference on the CPU.

Each step updates all classes in one pass over the pixels. The current probabilities of a pixel are its *beliefs*. A
class becomes *inactive* once its messages change no probability by more than the bound `prune`. An inactive class sends
no messages, and its probability changes only through the normalisation of each pixel.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from atrous.crf import spatial_gaussian
from atrous.crf.buffers import Buffers
from atrous.crf.permutohedral_cpu import CpuLattice
from atrous.crf.row_sums import (
    WIDTHS,
    add_flat,
    add_messages,
    add_rows,
    compiled,
    padded,
    panels,
    prefetch,
    share_out,
    weigh,
)
from atrous.crf.spatial_gaussian import Axis

#: Lower bound of probabilities, as float32 for the compiled loops.
LEAST = np.float32(spatial_gaussian.LEAST)
#: Number of pieces into which a loop divides the pixels. A piece is so small that it stays in the cache between reading
#: (class by class) and writing (pixel by pixel).
PIECES = 512
#: Number of bands of rows that the update runs in parallel, and number of pixels of a row that it updates at a time.
#: The input of the vertical kernel then stays in the cache.
BANDS, STRIP = 32, 128
#: Number of pixels whose vertices the update prefetches at a time. Rows of at most four classes stay in the cache
#: and are not prefetched.
AHEAD = 8
#: Upper bound of the row sums of each normalised kernel, if the kernel is written as a matrix over pairs of pixels.
#: With this number, messages can be bounded before they are computed.
MOST = 1.5


def infer(
    planes: np.ndarray,
    lattice: CpuLattice,
    axes: tuple[Axis, Axis],
    *,
    bilateral_weight: float,
    gaussian_weight: float,
    iterations: int,
    prune: float,
    scratch: Buffers,
) -> np.ndarray:
    """Returns the probabilities after mean-field steps with Potts compatibility (arXiv:1210.5644, Algorithm 1).

    Args:
        planes: K×(H·W) float32 probabilities, C-contiguous.
        lattice: normalised lattice of the bilateral kernel.
        axes: kernels of the vertical and of the horizontal axis.
        bilateral_weight: weight w1 of the bilateral kernel, ≥ 0.
        gaussian_weight: weight w2 of the Gaussian kernel, ≥ 0.
        iterations: number of mean-field steps, ≥ 0.
        prune: bound on the change of a probability, ≥ 0. A class becomes inactive once its messages change no pixel's
            probability by more than this bound, to first order. 0 keeps all classes active.
        scratch: buffers for intermediate results.

    Returns:
        K×(H·W) float32.
    """
    classes, count = planes.shape
    active = np.arange(classes)
    if prune:  # before the first step, only an upper bound of the messages is known
        largest = planes.max(1)
        active = _worthy((bilateral_weight + gaussian_weight) * MOST * largest**2, prune)
    layout = panels(len(active))
    size, rows = count * padded(layout), lattice.rows
    unary, buffer = scratch.floats("unary", size), scratch.floats("vertices", rows * padded(layout))
    rest, scale, share = (np.ones(count, np.float32) for _ in range(3))
    _gather(planes, active, layout, unary, rest, scale)
    beliefs, updated, spare = unary, scratch.floats("updated", size), scratch.floats("spare", size)
    vertical, horizontal = axes
    for step in range(iterations):
        peaks = np.zeros((BANDS, padded(layout)), np.float32)
        _update(
            unary,
            rest,
            layout,
            lattice.blurred(beliefs, layout, buffer),
            lattice.vertices,
            lattice.weights,
            (vertical.starts, vertical.indices, vertical.weights),
            (horizontal.taps, horizontal.edge),
            (np.float32(bilateral_weight * lattice.gain), np.float32(gaussian_weight)),
            beliefs,
            updated,
            share,
            peaks,
        )
        # `spare` holds the old beliefs; they are needed until the next step
        beliefs, updated, spare = updated, spare, updated
        if not prune or step == iterations - 1:
            continue
        kept = _worthy(peaks.max(0)[: len(active)], prune)
        fewer = panels(len(kept))
        if padded(fewer) < padded(layout):
            room = count * padded(fewer)
            _select(beliefs, layout, kept, fewer, updated[:room])
            _select(unary, layout, kept, fewer, spare[:room])
            _retire(unary, layout, np.setdiff1d(np.arange(len(active)), kept), rest)
            beliefs, unary, updated, spare = updated[:room], spare[:room], unary[:room], updated[:room]
            active, layout, buffer = active[kept], fewer, buffer[: rows * padded(fewer)]
    result = np.empty_like(planes)
    _scatter(planes, active, layout, beliefs, share * scale, result)
    return result


def _worthy(changes: np.ndarray, prune: float) -> np.ndarray:
    """Returns the indices of the changes above the bound; they always include the index of the largest change."""
    kept = changes > prune
    kept[changes.argmax()] = True
    return np.flatnonzero(kept)


@compiled
def _gather(planes, active, layout, unary, rest, scale):
    """Writes the active classes to the rows of `unary`, the sum of the other classes to `rest`, and factors to `scale`.

    The factor of a pixel is 1 / (sum over all classes). Probabilities are multiplied by it, so that they sum to 1.
    """
    classes, count = planes.shape
    rests = np.ones(classes, np.bool_)
    rests[active] = False
    for piece in prange(PIECES):
        first, last = piece * count // PIECES, (piece + 1) * count // PIECES
        scale[first:last] = np.float32(0)
        rest[first:last] = np.float32(0)
        for one in range(classes):
            for point in range(first, last):
                scale[point] += max(planes[one, point], LEAST)
            if rests[one]:
                for point in range(first, last):
                    rest[point] += max(planes[one, point], LEAST)
        for point in range(first, last):
            scale[point] = np.float32(1) / scale[point]
            rest[point] *= scale[point]
        for panel in range(len(layout)):
            begin, width = layout[panel]
            for column in range(begin, begin + width):
                base = count * begin + column - begin
                if column < active.size:
                    one = active[column]
                    for point in range(first, last):
                        unary[base + point * width] = max(planes[one, point], LEAST) * scale[point]
                else:
                    for point in range(first, last):
                        unary[base + point * width] = np.float32(0)


@compiled
def _update(unary, rest, layout, blurred, vertices, weights, vertical, horizontal, kernels, beliefs, out, share, peaks):
    """Computes the messages of both kernels to each pixel, and the new beliefs of the pixel."""
    count, columns = rest.size, peaks.shape[1]
    starts, indices, row_weights = vertical
    taps, edge = horizontal
    bilateral, gaussian = kernels
    height, width, reach = starts.size - 1, edge.size, taps.size // 2
    corners, total = vertices.size // count, blurred.size // columns
    steps = np.arange(taps.size).astype(np.int32)
    for band in prange(BANDS):
        row = np.empty((STRIP + 2 * reach) * 16, np.float32)  # one panel, with the kernel's radius on both sides
        near, alike = np.empty(STRIP * columns, np.float32), np.empty(columns, np.float32)
        highest = peaks[band]
        for left in range(0, width, STRIP):
            right = min(left + STRIP, width)
            low, high = max(left - reach, 0), min(right + reach, width)
            for y in range(band * height // BANDS, (band + 1) * height // BANDS):
                for panel in range(len(layout)):
                    begin, wide = layout[panel]
                    row[: (STRIP + 2 * reach) * wide] = np.float32(0)
                    place, base, length = (low - left + reach) * wide, count * begin + low * wide, (high - low) * wide
                    first, last = starts[y], starts[y + 1]
                    add_flat(row, place, beliefs, base, width * wide, indices, row_weights, first, last, length)
                    _scale_edges(row, place, wide, edge, low, high)
                    add_flat(near, STRIP * begin, row, 0, wide, steps, taps, 0, taps.size, (right - left) * wide)
                for begun in range(left, right, AHEAD):
                    if columns > WIDTHS[-1]:
                        _ask_for(blurred, layout, vertices, (y * width + begun + AHEAD) * corners, AHEAD * corners)
                    for x in range(begun, min(begun + AHEAD, right)):
                        point = y * width + x
                        first = point * corners
                        sum_ = rest[point]
                        for panel in range(len(layout)):
                            begin, wide = layout[panel]
                            here, there = count * begin + point * wide, STRIP * begin + (x - left) * wide
                            base = total * begin
                            add_rows(wide, alike, begin, blurred, base, wide, vertices, weights, first, first + corners)
                            add_messages(wide, near, there, alike, begin, gaussian * edge[x], bilateral)
                            sum_ += weigh(wide, out, here, unary, near, there)
                        share[point] = np.float32(1) / sum_
                        for panel in range(len(layout)):
                            begin, wide = layout[panel]
                            here, there = count * begin + point * wide, STRIP * begin + (x - left) * wide
                            share_out(wide, out, here, share[point], near, there, highest, begin)


@njit(inline="always")
def _ask_for(blurred, layout, vertices, first, length):
    """Prefetches the rows of vertices[first : first + length]."""
    total = blurred.size // (layout[-1, 0] + layout[-1, 1])
    for panel in range(len(layout)):
        begin, wide = layout[panel]
        for place in range(first, min(first + length, vertices.size)):
            prefetch(blurred, total * begin + vertices[place] * wide)


@njit(inline="always")
def _scale_edges(row, place, wide, edge, low, high):
    """Multiplies pixels low…high of a row by their edge factors, which are 1 except near the ends of the picture."""
    for x in range(low, high):
        if edge[x] != np.float32(1):
            for column in range(wide):
                row[place + (x - low) * wide + column] *= edge[x]


@compiled
def _select(values, layout, kept, fewer, out):
    """Copies the columns `kept` of a matrix to a matrix with the panels `fewer`; for panels see `row_sums`."""
    count = values.size // (layout[-1, 0] + layout[-1, 1])
    for piece in prange(PIECES):
        first, last = piece * count // PIECES, (piece + 1) * count // PIECES
        for panel in range(len(fewer)):
            begin, width = fewer[panel]
            for column in range(begin, begin + width):
                base = count * begin + column - begin
                if column < kept.size:
                    there, wide = _place_of(kept[column], layout, count)
                    for point in range(first, last):
                        out[base + point * width] = values[there + point * wide]
                else:
                    for point in range(first, last):
                        out[base + point * width] = np.float32(0)


@compiled
def _retire(unary, layout, columns, rest):
    """Adds columns of a matrix in panels to `rest`."""
    count = rest.size
    for piece in prange(PIECES):
        for column in columns:
            there, wide = _place_of(column, layout, count)
            for point in range(piece * count // PIECES, (piece + 1) * count // PIECES):
                rest[point] += unary[there + point * wide]


@compiled
def _scatter(planes, active, layout, beliefs, share, out):
    """Writes beliefs as K planes; an inactive class gets its given probability times the pixel's factor in `share`."""
    classes, count = planes.shape
    columns = np.full(classes, -1)
    columns[active] = np.arange(active.size)
    for piece in prange(PIECES):
        first, last = piece * count // PIECES, (piece + 1) * count // PIECES
        for one in range(classes):
            if columns[one] >= 0:
                base, width = _place_of(columns[one], layout, count)
                for point in range(first, last):
                    out[one, point] = beliefs[base + point * width]
            else:
                for point in range(first, last):
                    out[one, point] = max(planes[one, point], LEAST) * share[point]


@njit(inline="always")
def _place_of(column, layout, count):
    """Returns the index of a column's first entry, and the distance between its entries."""
    panel = 0
    while column >= layout[panel, 0] + layout[panel, 1]:
        panel += 1
    return count * layout[panel, 0] + column - layout[panel, 0], layout[panel, 1]
