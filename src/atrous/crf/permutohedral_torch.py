"""The permutohedral lattice in plain torch, on any device, in float32 or float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TorchLattice:
    """A lattice over N points in d dimensions with M vertices; for the source see `permutohedral_cpu`.

    Attributes:
        vertices: N×(d+1) int64, indices of the vertices of each point's simplex.
        weights: N×(d+1), barycentric coordinates of each point in its simplex.
        neighbours: (d+1)×M×2 int64, the previous and the next vertex along each direction; M for no neighbour.
    """

    vertices: Tensor
    weights: Tensor
    neighbours: Tensor

    @classmethod
    def over(cls, features: Tensor) -> TorchLattice:
        """Builds the lattice for N×d features, in units of the filter's standard deviation."""
        _, dims = features.shape
        corners = dims + 1
        nearest, rank, weights = _embed(features)
        generator = torch.Generator().manual_seed(0)
        factors = torch.randint(-(2**62), 2**62, (dims,), generator=generator).to(features.device) | 1
        corner = torch.arange(corners, device=features.device)[:, None]
        offsets = torch.where(rank[:, None, :dims] <= dims - corner, corner, corner - corners)
        hashes = ((nearest[:, None, :dims] + offsets) * factors).sum(-1)  # linear modulo 2^64
        keys, vertices = torch.unique(hashes, return_inverse=True)
        steps = torch.cat([corners * factors, factors.new_zeros(1)]) - factors.sum()
        neighbours = torch.stack([torch.stack([_find(keys, keys - s), _find(keys, keys + s)], -1) for s in steps])
        return cls(vertices, weights, neighbours)

    def filter(self, values: Tensor, *, reverse: bool = False) -> Tensor:
        """Returns N×L filtered values for N×L values; `reverse` applies the transposed filter."""
        count, columns = values.shape
        corners = self.weights.shape[1]
        spread = (values[:, None] * self.weights[..., None]).reshape(count * corners, columns)
        total = self.neighbours.shape[1]
        blurred = values.new_zeros(total + 1, columns).index_add_(0, self.vertices.flatten(), spread)
        for direction in self.neighbours.flip(0) if reverse else self.neighbours:
            blurred[:total] = blurred[:total] + (blurred[direction[:, 0]] + blurred[direction[:, 1]]) / 2
        result = (blurred[self.vertices] * self.weights[..., None]).sum(1)
        return result / (1 + 2.0 ** -(corners - 1))


def _embed(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the position of each point in the lattice.

    The result is the nearest lattice point whose coordinates are multiples of d+1 (remainder 0), the ranks of the
    differences of the coordinates, and the barycentric coordinates.
    """
    count, dims = features.shape
    corners = dims + 1
    place = torch.arange(1, corners, device=features.device, dtype=features.dtype)
    scaled = features * (math.sqrt(2 / 3) * corners) / (place * (place + 1)).sqrt()
    later = scaled.flip(1).cumsum(1).flip(1)  # sum of each coordinate and all later coordinates
    zero = features.new_zeros(count, 1)
    elevated = torch.cat([later[:, :1], torch.cat([later[:, 1:], zero], 1) - place * scaled], 1)
    nearest = ((elevated / corners).round() * corners).long()
    excess = nearest.sum(1, keepdim=True) // corners
    order = (elevated - nearest).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(corners, device=order.device).expand_as(order))
    rank = rank + excess
    nearest = nearest + corners * ((rank < 0).long() - (rank > dims).long())
    rank = rank % corners
    distance = (elevated - nearest) / corners
    barycentric = features.new_zeros(count, corners + 1)
    barycentric.scatter_add_(1, dims - rank, distance).scatter_add_(1, corners - rank, -distance)
    barycentric[:, 0] += 1 + barycentric[:, corners]
    return nearest, rank, barycentric[:, :corners].contiguous()


def _find(keys: Tensor, wanted: Tensor) -> Tensor:
    """Returns the indices of `wanted` in sorted `keys`; len(keys) for absent values."""
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, place, len(keys))
