"""Sums of rows of a matrix, in vector registers.

Everything that the CRF does on a CPU is a weighted sum of rows: a vertex gathers its pixels, a pixel its vertices, a
blur its neighbours. The inner loops are those of `row_sums_vector`, or of `row_sums_plain` where that does not fit.

A matrix of N×L floats is kept as panels of up to 16 columns, one after the other in a flat array, so that a row of a
panel is one line of the cache: column c of row n, in a panel that begins at column b and is w wide, is at
N·b + n·w + (c − b).
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

#: What a panel may have for columns.
WIDTHS = (16, 8, 4)

#: Pieces into which loops are cut that keep something of their own.
CHUNKS = 64

#: How many rows ahead loops over scattered rows ask for the memory that they will need.
AHEAD = 64


def compiled(function: Any) -> Any:
    """A loop as machine code, over all threads, made at its first call and kept on disk where that may be written.

    In a forked process, the same loop on one thread (see `fork_safety.numba_lost`); results are equal.
    """
    threaded = _machine_code(function, parallel=True)

    @lru_cache(maxsize=1)
    def alone() -> Any:
        copied = FunctionType(function.__code__, function.__globals__, function.__name__)
        # Kept on disk under another name than the threaded one.
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
    except RuntimeError:  # neither beside this file nor in the user's own cache
        return njit(**options)(function)


def panels(columns: int) -> np.ndarray:
    """Where panels begin and how wide they are, for at least so many columns.

    Args:
        columns: ≥ 1.

    Returns:
        P×2 int64.

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
    """All columns of `panels`, with those that only fill up the last."""
    return int(layout[-1].sum())


def to_panels(matrix: np.ndarray, layout: np.ndarray) -> np.ndarray:
    """An N×L float32 matrix as panels, filled up with zeros."""
    flat = empty(len(matrix) * padded(layout))
    flat[:] = 0
    for (begin, width), panel in zip(layout, _views(flat, len(matrix), layout), strict=True):
        columns = matrix[:, begin : begin + width]
        panel[:, : columns.shape[1]] = columns
    return flat


def from_panels(flat: np.ndarray, layout: np.ndarray, columns: int) -> np.ndarray:
    """The N×L matrix that `to_panels` took."""
    views = _views(flat, flat.size // padded(layout), layout)
    return np.concatenate(views, axis=1)[:, :columns]


def _views(flat: np.ndarray, rows: int, layout: np.ndarray) -> list[np.ndarray]:
    return [flat[rows * begin : rows * (begin + width)].reshape(rows, width) for begin, width in layout]


def empty(size: int) -> np.ndarray:
    """A flat array of so many floats that begins at a line of the cache."""
    room = np.empty(size + 16, np.float32)
    skip = -room.ctypes.data % 64 // 4
    return room[skip : skip + size]


def inner_loops() -> Any:
    """The module with the inner loops: `row_sums_vector`; `row_sums_plain` if this numba or llvmlite does not fit it.

    Warns:
        RuntimeWarning: the plain loops are taken.
    """
    try:
        from atrous.crf import row_sums_vector

        if row_sums_vector.works():
            return row_sums_vector
    except Exception:  # parts of numba or llvmlite that are gone
        pass
    warn(
        f"the CRF's vector instructions do not fit numba {numba.__version__}: it computes with plain loops, which are "
        "slower. Install the numba that atrous asks for.",
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
    """out[place:+width] = Σ weights[p] · source[base + indices[p]·stride : +width] for first ≤ p < last."""
    if width == 16:
        _add16(out, place, source, base, stride, indices, weights, first, last)
    elif width == 8:
        _add8(out, place, source, base, stride, indices, weights, first, last)
    else:
        _add4(out, place, source, base, stride, indices, weights, first, last)


@njit(inline="always")
def blur_chains(width, values, chains, first, last):
    """v[i] += (v[i − 1] + v[i + 1]) / 2 for the rows chains[first:last] of a panel; ~row is the last of a chain."""
    if width == 16:
        _blur16(values, chains, first, last)
    elif width == 8:
        _blur8(values, chains, first, last)
    else:
        _blur4(values, chains, first, last)


@njit(inline="always")
def add_flat(out, place, source, base, stride, indices, weights, first, last, length):
    """The same for any length of a row that is a multiple of 4."""
    here = 0
    while here + 16 <= length:
        _add16(out, place + here, source, base + here, stride, indices, weights, first, last)
        here += 16
    while here < length:
        _add4(out, place + here, source, base + here, stride, indices, weights, first, last)
        here += 4


@njit(inline="always")
def add_messages(width, near, place, alike, column, near_weight, alike_weight):
    """near[place] = near_weight · near[place] + alike_weight · alike[column] for a panel."""
    if width == 16:
        _messages16(near, place, alike, column, near_weight, alike_weight)
    elif width == 8:
        _messages8(near, place, alike, column, near_weight, alike_weight)
    else:
        _messages4(near, place, alike, column, near_weight, alike_weight)


@njit(inline="always")
def weigh(width, out, place, unary, messages, there):
    """out[place] = unary[place] · e^messages[there] for a panel; returns their sum."""
    if width == 16:
        return _weigh16(out, place, unary, messages, there)
    if width == 8:
        return _weigh8(out, place, unary, messages, there)
    return _weigh4(out, place, unary, messages, there)


@njit(inline="always")
def share_out(width, out, place, share, messages, there, peaks, column):
    """out[place] *= share for a panel; peaks keeps the largest out · messages of each column."""
    if width == 16:
        _share16(out, place, share, messages, there, peaks, column)
    elif width == 8:
        _share8(out, place, share, messages, there, peaks, column)
    else:
        _share4(out, place, share, messages, there, peaks, column)
