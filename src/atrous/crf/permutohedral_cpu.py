"""The permutohedral lattice on the CPU. It is built once per picture, and then filters any number of values.

Source: Adams, Baek & Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (2010). Results do not
depend on the number of threads: hashes assign vertices to threads, and each vertex sums its pixels in a fixed order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from atrous.crf.permutohedral_build import chain_up, embed, follow, number_vertices, transpose
from atrous.crf.row_sums import AHEAD, CHUNKS, WIDTHS, add_rows, blur_chains, compiled, empty, padded, panels, prefetch

#: Side of a tile in pixels.
TILE = 64


@dataclass(frozen=True)
class CpuLattice:
    """A lattice over N points in d dimensions with M vertices.

    Attributes:
        vertices: N·(d+1) int32, the vertices of each point's simplex.
        weights: N·(d+1) float32, the barycentric coordinates of each point.
        starts: M+1 int64; vertex v has the points points[starts[v]:starts[v+1]].
        points: N·(d+1) int32, the points of each vertex, vertex by vertex.
        point_weights: N·(d+1) float32, the weight of each entry of `points`.
        chains: one int32 array for each of the d+1 directions, with the vertices that have neighbours along it. A
            negative entry ~v marks v as the last vertex of a chain.
    """

    vertices: np.ndarray
    weights: np.ndarray
    starts: np.ndarray
    points: np.ndarray
    point_weights: np.ndarray
    chains: tuple[np.ndarray, ...]

    @classmethod
    def over(cls, features: np.ndarray, order: np.ndarray | None = None) -> CpuLattice:
        """Builds the lattice for N×d float32 features.

        Args:
            features: N×d float32, in units of the filter's standard deviation.
            order: N int32, the points in an order in which near points follow each other. Vertices are numbered in this
                order, so near vertices are near in memory. Results do not depend on the order. None keeps the order of
                `features`.
        """
        if order is None:
            order = np.arange(len(features), dtype=np.int32)
        count, dims = features.shape
        corners = dims + 1
        place = np.arange(1, corners)
        scale = (math.sqrt(2 / 3) * corners / np.sqrt(place * (place + 1))).astype(np.float32)
        # A linear hash of 64 bits identifies each vertex, so the hash of a neighbour differs by a constant.
        factors = np.random.default_rng(0).integers(-(2**62), 2**62, corners, dtype=np.int64) | 1
        factors[dims] = 0  # the coordinates sum to zero, so the last coordinate is redundant
        with np.errstate(over="ignore"):
            steps = corners * factors - factors.sum()
        hashes = np.empty((count, corners), np.int64)
        weights = np.empty((count, corners), np.float32)
        embed(features, scale, factors, steps, hashes, weights)
        hashes, weights = hashes.ravel(), weights.ravel()
        vertices, tables, found, counts = number_vertices(hashes, order)
        total = int(counts.max()) * len(counts)
        chains, lengths = chain_up(follow(tables, found, counts, steps, total))
        chains = tuple(chain[:length] for chain, length in zip(chains, lengths, strict=True))
        starts, points, point_weights = transpose(vertices, weights, total, corners, len(counts))
        return cls(vertices, weights, starts, points, point_weights, chains)

    @property
    def count(self) -> int:
        """The number of points N."""
        return len(self.vertices) // len(self.chains)

    @property
    def rows(self) -> int:
        """The number of vertices M."""
        return len(self.starts) - 1

    @property
    def gain(self) -> float:
        """The factor 1 / (1 + 2^−d) of blurred values, as in Krähenbühl & Koltun's code, for the kernel ½, 1, ½."""
        return 1 / (1 + 2.0 ** -(len(self.chains) - 1))

    def blurred(
        self, values: np.ndarray, layout: np.ndarray, buffer: np.ndarray, *, reverse: bool = False
    ) -> np.ndarray:
        """Splats N rows of values onto the vertices and blurs them along all directions.

        Args:
            values: N rows of float32, in the panels of `layout`; see `row_sums`.
            layout: P×2 int64, the panels from `row_sums.panels`.
            buffer: float32 array for M rows in these panels; it receives the result.
            reverse: whether to reverse the order of the directions, for the transposed filter.

        Returns:
            `buffer`.
        """
        total, count = self.rows, self.count
        for begin, width in layout:  # one panel at a time, so that its vertices stay in the cache
            panel = buffer[total * begin : total * (begin + width)]
            source = values[count * begin : count * (begin + width)]
            _splat(source, width, self.starts, self.points, self.point_weights, panel)
            for chain in self.chains[::-1] if reverse else self.chains:
                _blur(panel, width, chain)
        return buffer

    def filter(self, values: np.ndarray, layout: np.ndarray, *, reverse: bool = False) -> np.ndarray:
        """Returns N filtered rows for N rows of values, both in the panels of `layout`."""
        result = np.empty_like(values)
        blurred = self.blurred(values, layout, empty(self.rows * padded(layout)), reverse=reverse)
        _slice(blurred, layout, self.vertices, self.weights, len(self.chains), result)
        result *= np.float32(self.gain)
        return result

    def normalise(self) -> None:
        """Replaces the filter F by D^−½ · F · D^−½, in place; D is the diagonal matrix of the row sums of F."""
        layout = panels(1)
        sums = self.filter(np.ones(self.count * padded(layout), np.float32), layout)[:: padded(layout)]
        _rescale(self.weights, self.point_weights, self.points, sums**-0.5)


def in_tiles(height: int, width: int) -> np.ndarray:
    """Returns the pixel indices of an H×W picture tile by tile, as H·W int32, for `CpuLattice.over`."""
    pixels = np.arange(height * width, dtype=np.int32).reshape(height, width)
    tiles = [
        pixels[top : top + TILE, left : left + TILE].ravel()
        for top in range(0, height, TILE)
        for left in range(0, width, TILE)
    ]
    return np.concatenate(tiles)


@compiled
def _rescale(weights, point_weights, points, scale):
    """Multiplies the weights of each point by the point's scale, in place."""
    corners = weights.size // scale.size
    for point in prange(scale.size):
        for place in range(point * corners, (point + 1) * corners):
            weights[place] *= scale[point]
    for place in prange(points.size):
        point_weights[place] *= scale[points[place]]


@compiled
def _splat(values, width, starts, points, weights, out):
    """Writes to each vertex the weighted sum of the values of its points, for one panel."""
    total = starts.size - 1
    for chunk in prange(CHUNKS):
        for vertex in range(chunk * total // CHUNKS, (chunk + 1) * total // CHUNKS):
            first, last = starts[vertex], starts[vertex + 1]
            if width > WIDTHS[-1]:  # shorter rows stay in the cache and are not prefetched
                for place in range(min(first + AHEAD, points.size), min(last + AHEAD, points.size)):
                    prefetch(values, points[place] * width)
            add_rows(width, out, vertex * width, values, 0, width, points, weights, first, last)


@compiled
def _blur(values, width, chain):
    """Blurs the vertices along the chains of one direction, for one panel in place."""
    for chunk in prange(CHUNKS):
        first = _next_chain(chain, chunk * chain.size // CHUNKS)
        last = _next_chain(chain, (chunk + 1) * chain.size // CHUNKS)
        blur_chains(width, values, chain, first, last)


@njit(inline="always")
def _next_chain(chain, place):
    """Returns the index of the first chain that begins at or after `place`."""
    while 0 < place < chain.size and chain[place - 1] >= 0:
        place += 1
    return place


@compiled
def _slice(blurred, layout, vertices, weights, corners, out):
    """Writes to each point the weighted sum of the values of its vertices."""
    count = vertices.size // corners
    total = blurred.size // (layout[-1, 0] + layout[-1, 1])
    for chunk in prange(CHUNKS):
        for panel in range(len(layout)):
            begin, width = layout[panel]
            for point in range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS):
                place, first = count * begin + point * width, point * corners
                last = first + corners
                add_rows(width, out, place, blurred, total * begin, width, vertices, weights, first, last)
