"""The sums of `row_sums` as plain loops. They are slower, and are used if numba cannot compile `row_sums_vector`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


def add_rows_of(width: int) -> Any:
    """Returns a function that computes one weighted sum of rows of a panel."""

    @njit(error_model="numpy")
    def add_rows(out, place, source, base, stride, indices, weights, first, last):
        """Sets out[place:+width] = Σ weights[p] · source[base + indices[p]·stride : +width] over first ≤ p < last."""
        for column in range(width):
            total = np.float32(0)
            for entry in range(first, last):
                total += weights[entry] * source[base + indices[entry] * stride + column]
            out[place + column] = total

    return add_rows


def blur_chains_of(width: int) -> Any:
    """Returns a function that blurs rows along chains of neighbours, in place."""

    @njit(error_model="numpy")
    def blur_chains(values, chains, first, last):
        """Adds (v[i − 1] + v[i + 1]) / 2 to v[i] for the rows chains[first:last]; an entry ~row ends a chain."""
        half = np.float32(0.5)
        for column in range(width):
            before = np.float32(0)
            for entry in range(first, last):
                ends = chains[entry] < 0
                place = (~chains[entry] if ends else chains[entry]) * width + column
                after, value = np.float32(0), values[place]
                if not ends and entry + 1 < last:
                    following = chains[entry + 1]
                    after = values[(~following if following < 0 else following) * width + column]
                values[place] = value + (before + after) * half
                before = np.float32(0) if ends else value

    return blur_chains


def add_messages_of(width: int) -> Any:
    """Returns a function that adds the messages of both kernels to one pixel."""

    @njit(error_model="numpy")
    def add_messages(near, place, alike, column, near_weight, alike_weight):
        """Sets near[place] = near_weight · near[place] + alike_weight · alike[column]."""
        for lane in range(width):
            near[place + lane] = near_weight * near[place + lane] + alike_weight * alike[column + lane]

    return add_messages


def weigh_of(width: int) -> Any:
    """Returns a function that computes one pixel's beliefs before their normalisation."""

    @njit(error_model="numpy")
    def weigh(out, place, unary, messages, there):
        """Sets out[place] = unary[place] · e^messages[there]; returns the sum over the columns."""
        total = np.float32(0)
        for lane in range(width):
            belief = unary[place + lane] * np.exp(messages[there + lane])
            out[place + lane] = belief
            total += belief
        return total

    return weigh


def share_out_of(width: int) -> Any:
    """Returns a function that scales one pixel's beliefs to a sum of 1."""

    @njit(error_model="numpy")
    def share_out(out, place, share, messages, there, peaks, column):
        """Sets out[place] *= share and peaks[column] = max(peaks[column], out[place] · messages[there])."""
        for lane in range(width):
            belief = out[place + lane] * share
            out[place + lane] = belief
            peaks[column + lane] = max(peaks[column + lane], belief * messages[there + lane])

    return share_out


def prefetch_of() -> Any:
    """Returns a function that does nothing, because plain loops do not prefetch."""

    @njit
    def ask(array, place):
        """Does nothing."""

    return ask
