"""Weighted sums of the rows of a matrix, in vector registers.

All steps of the CRF on a CPU are weighted sums of rows: over the pixels of a vertex, the vertices of a pixel, or the
neighbours in a blur. The inner loops are in `row_sums_vector`. If the installed numba cannot compile these loops,
`row_sums_plain` is used instead.

A matrix of N×L floats is stored as panels of up to 16 columns, so that a row of a panel fits one cache line. The panels
follow each other in a flat array. In a panel of width w that begins at column b, the entry of row n and column c has
the index N·b + n·w + (c − b).
"""

from __future__ import annotations

from functools import lru_cache, wraps
from types import FunctionType
from typing import Any

import numba
import numpy as np
from numba import njit

from atrous.crf import row_sums_plain
from atrous.fork_safety import numba_lost
from atrous.logger import warn

#: Allowed numbers of columns of a panel.
WIDTHS = (16, 8, 4)

#: Number of pieces into which a parallel loop divides its work; each piece may have its own working arrays.
CHUNKS = 64

#: Prefetch distance of loops over scattered rows, in rows.
AHEAD = 64


def compiled(function: Any) -> Any:
    """Compiles a loop for all threads at its first call, and caches the machine code on disk if possible.

    A forked process runs the same loop on one thread (see `fork_safety.numba_lost`), with equal results.

    Args:
        function: the loop, written for numba.
    """
    threaded = _machine_code(function, parallel=True)

    @lru_cache(maxsize=1)
    def alone() -> Any:
        copied = FunctionType(function.__code__, function.__globals__, function.__name__)
        # On disk, the machine code must not have the name of the threaded version.
        copied.__qualname__, copied.__module__ = f"{function.__qualname__}_alone", function.__module__
        return _machine_code(copied, parallel=False)

    @wraps(function)
    def run(*given: Any) -> Any:
        return alone()(*given) if numba_lost() else threaded(*given)

    return run


def _machine_code(function: Any, *, parallel: bool) -> Any:
    options = {"parallel": parallel, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no cache folder is writable
        return njit(**options)(function)


def panels(columns: int) -> np.ndarray:
    """Returns the first column and the width of each panel; together, the panels have at least `columns` columns.

    Args:
        columns: number of columns, ≥ 1.

    Returns:
        P×2 int64 for P panels.

    Examples:
        >>> panels(21).tolist(), panels(3).tolist()
        ([[0, 16], [16, 8]], [[0, 4]])
    """
    found = []
    begin = 0
    while begin < columns:
        width = next((width for width in (4, 8) if width >= columns - begin), 16)
        found.append((begin, width))
        begin += width
    return np.array(found, np.int64)


def padded(layout: np.ndarray) -> int:
    """Returns the number of columns of all panels, including the padding of the last panel."""
    return int(layout[-1].sum())


def to_panels(matrix: np.ndarray, layout: np.ndarray) -> np.ndarray:
    """Converts an N×L float32 matrix to panels; the padding is zero."""
    flat = empty(len(matrix) * padded(layout))
    flat[:] = 0
    for (begin, width), panel in zip(layout, _views(flat, len(matrix), layout), strict=True):
        columns = matrix[:, begin : begin + width]
        panel[:, : columns.shape[1]] = columns
    return flat


def from_panels(flat: np.ndarray, layout: np.ndarray, columns: int) -> np.ndarray:
    """Converts a matrix in panels to an N×L matrix with L = `columns`; the inverse of `to_panels`."""
    views = _views(flat, flat.size // padded(layout), layout)
    return np.concatenate(views, axis=1)[:, :columns]


def _views(flat: np.ndarray, rows: int, layout: np.ndarray) -> list[np.ndarray]:
    return [flat[rows * begin : rows * (begin + width)].reshape(rows, width) for begin, width in layout]


def empty(size: int) -> np.ndarray:
    """Returns an uninitialised flat array of `size` float32 that begins at a cache line."""
    room = np.empty(size + 16, np.float32)
    skip = -room.ctypes.data % 64 // 4
    return room[skip : skip + size]


def inner_loops() -> Any:
    """Returns the module of the inner loops: `row_sums_vector`, or `row_sums_plain` if numba cannot compile it.

    Warns:
        RuntimeWarning: the plain loops are used.
    """
    try:
        from atrous.crf import row_sums_vector

        if row_sums_vector.works():
            return row_sums_vector
    except Exception:  # this version of numba or llvmlite lacks a part that `row_sums_vector` uses
        pass
    warn(
        f"the CRF's vector instructions do not work with numba {numba.__version__}: the CRF computes with plain loops, "
        "which are slower. Install the numba version that atrous requires.",
        RuntimeWarning,
        stacklevel=2,
    )
    return row_sums_plain


_loops = inner_loops()
prefetch = _loops.prefetch_of()
_add16, _add8, _add4 = (_loops.add_rows_of(width) for width in WIDTHS)
_blur16, _blur8, _blur4 = (_loops.blur_chains_of(width) for width in WIDTHS)
_messages16, _messages8, _messages4 = (_loops.add_messages_of(width) for width in WIDTHS)
_weigh16, _weigh8, _weigh4 = (_loops.weigh_of(width) for width in WIDTHS)
_share16, _share8, _share4 = (_loops.share_out_of(width) for width in WIDTHS)


@njit(inline="always")
def add_rows(width, out, place, source, base, stride, indices, weights, first, last):
    """Sets out[place:+width] = Σ weights[p] · source[base + indices[p]·stride : +width] over first ≤ p < last."""
    if width == 16:
        _add16(out, place, source, base, stride, indices, weights, first, last)
    elif width == 8:
        _add8(out, place, source, base, stride, indices, weights, first, last)
    else:
        _add4(out, place, source, base, stride, indices, weights, first, last)


@njit(inline="always")
def blur_chains(width, values, chains, first, last):
    """Adds half the sum of its two neighbours in the chain to each row of chains[first:last] of a panel.

    The last row of a chain is stored as ~row (bitwise NOT).
    """
    if width == 16:
        _blur16(values, chains, first, last)
    elif width == 8:
        _blur8(values, chains, first, last)
    else:
        _blur4(values, chains, first, last)


@njit(inline="always")
def add_flat(out, place, source, base, stride, indices, weights, first, last, length):
    """Computes the sum of `add_rows` for rows of any length that is a multiple of 4."""
    here = 0
    while here + 16 <= length:
        _add16(out, place + here, source, base + here, stride, indices, weights, first, last)
        here += 16
    while here < length:
        _add4(out, place + here, source, base + here, stride, indices, weights, first, last)
        here += 4


@njit(inline="always")
def add_messages(width, near, place, alike, column, near_weight, alike_weight):
    """Sets near[place] = near_weight · near[place] + alike_weight · alike[column] for a panel."""
    if width == 16:
        _messages16(near, place, alike, column, near_weight, alike_weight)
    elif width == 8:
        _messages8(near, place, alike, column, near_weight, alike_weight)
    else:
        _messages4(near, place, alike, column, near_weight, alike_weight)


@njit(inline="always")
def weigh(width, out, place, unary, messages, there):
    """Sets out[place] = unary[place] · e^messages[there] for a panel; returns the sum over its columns."""
    if width == 16:
        return _weigh16(out, place, unary, messages, there)
    if width == 8:
        return _weigh8(out, place, unary, messages, there)
    return _weigh4(out, place, unary, messages, there)


@njit(inline="always")
def share_out(width, out, place, share, messages, there, peaks, column):
    """Multiplies out[place] by share for a panel; updates peaks, the maximum of out · messages of each column."""
    if width == 16:
        _share16(out, place, share, messages, there, peaks, column)
    elif width == 8:
        _share8(out, place, share, messages, there, peaks, column)
    else:
        _share4(out, place, share, messages, there, peaks, column)
