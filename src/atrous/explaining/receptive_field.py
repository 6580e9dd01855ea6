"""Computes the effective receptive field (arXiv:1701.04128): how strongly one score depends on each pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atrous.explaining.activations import WatchedNetwork, gradients_of


def effective_field(watched: WatchedNetwork, row: int, column: int) -> Tensor:
    """Returns how strongly each pixel changes the highest score at one position (arXiv:1701.04128).

    Args:
        watched: the forward pass.
        row: row in the low-resolution scores, 0 to h − 1.
        column: column in the low-resolution scores, 0 to w − 1.

    Returns:
        H'×W', ≥ 0: absolute gradient with respect to the network's input, summed over channels. The input is larger
        than the picture if the model enlarges pictures.
    """
    (gradient,) = gradients_of(watched.best_score(row, column), [watched.picture])
    return gradient[0].abs().sum(0)


def field_radii(field: Tensor, row: float, column: float, shares: Sequence[float] = (0.5, 0.95)) -> list[float]:
    """Returns the radii around a point within which given shares of a receptive field lie.

    Args:
        field: H×W, ≥ 0, from `effective_field`.
        row: row of the point, in pixels.
        column: column of the point, in pixels.
        shares: shares of the field's sum, each 0–1.

    Returns:
        A radius in pixels for each share; 0 if the whole field is zero.
    """
    rows = torch.arange(field.shape[0]).unsqueeze(1) - row
    columns = torch.arange(field.shape[1]).unsqueeze(0) - column
    distances, order = (rows.square() + columns.square()).sqrt().flatten().sort()
    sums = field.flatten()[order].double().cumsum(0)
    if sums[-1] == 0:
        return [0.0 for _ in shares]
    indices = [int(torch.searchsorted(sums, share * sums[-1])) for share in shares]
    return [float(distances[min(index, len(distances) - 1)]) for index in indices]
