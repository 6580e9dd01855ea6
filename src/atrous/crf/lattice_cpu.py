"""The permutohedral lattice on the CPU: built once per picture, then applied to any number of values.

Adams, Baek & Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (2010). Results do not depend on
the number of threads: vertices are shared out among threads by their hash, and each sums its pixels in their order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from numba import njit, prange

from atrous.crf.rows import add_rows, blur_chains, compiled, empty, padded, panels, prefetch

#: The smallest hash table.
LEAST_SLOTS = 1024
#: Pieces into which loops are cut that keep something of their own.
CHUNKS = 64
#: Pixels along a side of a picture's tiles.
TILE = 64
#: How many hashes ahead a thread asks for the memory that it will need.
AHEAD = 16
#: Hashes of which a thread first finds its own.
BATCH = 4096
#: What an empty place of a hash table holds; no vertex hashes to it but by a chance of 2^-64.
EMPTY = np.int64(-(2**63))


@dataclass(frozen=True)
class CpuLattice:
    """A lattice over N points in d dimensions with M vertices.

    Attributes:
        vertices: N·(d+1) int32, the corners of each point's simplex.
        weights: N·(d+1) float32, its barycentric coordinates.
        starts: M+1 int64; of vertex v the points are points[starts[v]:starts[v+1]].
        points: N·(d+1) int32.
        point_weights: N·(d+1) float32.
        chains: for each of the d+1 directions int32, the vertices that have neighbours along it, one after the other;
            ~v, which is negative, is the last one of a chain.
    """

    vertices: np.ndarray
    weights: np.ndarray
    starts: np.ndarray
    points: np.ndarray
    point_weights: np.ndarray
    chains: tuple[np.ndarray, ...]

    @classmethod
    def over(cls, features: np.ndarray, order: np.ndarray | None = None) -> CpuLattice:
        """Builds the lattice of N×d float32 features, in units of the filter's standard deviation.

        Args:
            features: N×d.
            order: N int32, the points in an order in which near ones follow each other; vertices are numbered so, and
                near ones then lie near in memory. It changes no result. As given where there is none.
        """
        if order is None:
            order = np.arange(len(features), dtype=np.int32)
        count, dims = features.shape
        corners = dims + 1
        place = np.arange(1, corners)
        scale = (math.sqrt(2 / 3) * corners / np.sqrt(place * (place + 1))).astype(np.float32)
        # A point's vertices are told apart by a linear hash of 64 bits, so that a neighbour's hash is a sum away.
        factors = np.random.default_rng(0).integers(-(2**62), 2**62, corners, dtype=np.int64) | 1
        factors[dims] = 0  # coordinates sum to zero: the last says nothing
        with np.errstate(over="ignore"):
            steps = corners * factors - factors.sum()
        hashes = np.empty((count, corners), np.int64)
        weights = np.empty((count, corners), np.float32)
        _embed(features, scale, factors, steps, hashes, weights)
        hashes, weights = hashes.ravel(), weights.ravel()
        vertices, tables, found, counts = _number_all(hashes, order)
        total = int(counts.max()) * len(counts)
        chains, lengths = _chain(_follow(tables, found, counts, steps, total))
        chains = tuple(chain[:length] for chain, length in zip(chains, lengths, strict=True))
        starts, points, point_weights = _transpose(vertices, weights, total, corners, len(counts))
        return cls(vertices, weights, starts, points, point_weights, chains)

    @property
    def count(self) -> int:
        """N."""
        return len(self.vertices) // len(self.chains)

    @property
    def rows(self) -> int:
        """M."""
        return len(self.starts) - 1

    @property
    def gain(self) -> float:
        """What the blur, whose kernels sum to 2, leaves to divide by (Krähenbühl & Koltun's implementation)."""
        return 1 / (1 + 2.0 ** -(len(self.chains) - 1))

    def buffer(self, layout: np.ndarray) -> np.ndarray:
        """Room for `blurred`, M rows in the panels of a layout."""
        return empty(self.rows, padded(layout))

    def blurred(
        self, values: np.ndarray, layout: np.ndarray, buffer: np.ndarray, *, reverse: bool = False
    ) -> np.ndarray:
        """Splats N rows of values onto the vertices and blurs them there, along all directions.

        Args:
            values: float32, in the panels of `layout`; see `rows`.
            layout: from `rows.panels`.
            buffer: from `buffer(layout)`, which is returned.
            reverse: the directions backwards, which is the transposed filter.
        """
        total, count = self.rows, self.count
        for begin, width in layout:  # a panel at a time, for its vertices to stay in the cache
            panel = buffer[total * begin : total * (begin + width)]
            source = values[count * begin : count * (begin + width)]
            _splat(source, width, self.starts, self.points, self.point_weights, panel)
            for chain in self.chains[::-1] if reverse else self.chains:
                _blur(panel, width, chain)
        return buffer

    def filter(self, values: np.ndarray, layout: np.ndarray, *, reverse: bool = False) -> np.ndarray:
        """N rows of values in panels → the same, filtered."""
        result = np.empty_like(values)
        blurred = self.blurred(values, layout, self.buffer(layout), reverse=reverse)
        _slice(blurred, layout, self.vertices, self.weights, len(self.chains), result)
        result *= np.float32(self.gain)
        return result

    def normalise(self) -> None:
        """Becomes the lattice of D^−½ · F · D^−½, where D are the sums of F's rows: a symmetric normalisation."""
        layout = panels(1)
        sums = self.filter(np.ones(self.count * padded(layout), np.float32), layout)[:: padded(layout)]
        _rescale(self.weights, self.point_weights, self.points, sums**-0.5)


def in_tiles(height: int, width: int) -> np.ndarray:
    """The pixels of a picture tile by tile, H·W int32, for `CpuLattice.over`."""
    pixels = np.arange(height * width, dtype=np.int32).reshape(height, width)
    tiles = [
        pixels[top : top + TILE, left : left + TILE].ravel()
        for top in range(0, height, TILE)
        for left in range(0, width, TILE)
    ]
    return np.concatenate(tiles)


@compiled
def _embed(features, scale, factors, steps, hashes, weights):
    """The simplex around each point: hashes of its d+1 vertices, and barycentric coordinates (Adams et al. §3.1)."""
    count, dims = features.shape
    for chunk in prange(CHUNKS):
        elevated = np.empty(dims + 1, np.float32)
        nearest = np.empty(dims + 1, np.int64)
        rank = np.empty(dims + 1, np.int64)
        ranked = np.empty(dims + 1, np.int64)
        barycentric = np.empty(dims + 2, np.float32)
        for point in range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS):
            _locate(features, point, scale, elevated, nearest, rank)
            _weigh(elevated, nearest, rank, barycentric)
            here = np.int64(0)
            for j in range(dims + 1):
                here += nearest[j] * factors[j]
                ranked[rank[j]] = j
            for corner in range(dims + 1):  # from each corner to the next is a step along one direction
                hashes[point, corner] = here
                weights[point, corner] = barycentric[corner]
                here -= steps[ranked[dims - corner]]


@njit(inline="always")
def _locate(features, point, scale, elevated, nearest, rank):
    """A point on the plane of coordinates that sum to zero, the lattice point of remainder 0 next to it, and the ranks
    of its distances from there.
    """
    dims = scale.size
    corners = dims + 1
    total = np.float32(0)
    for j in range(dims, 0, -1):
        value = features[point, j - 1] * scale[j - 1]
        elevated[j] = total - np.float32(j) * value
        total += value
    elevated[0] = total
    excess = np.int64(0)
    for j in range(corners):
        rank[j] = 0
        nearest[j] = np.int64(np.rint(elevated[j] / np.float32(corners))) * corners
        excess += nearest[j]
    excess //= corners
    for a in range(dims):
        for b in range(a + 1, corners):
            less = np.int64(elevated[a] - np.float32(nearest[a]) < elevated[b] - np.float32(nearest[b]))
            rank[a] += less  # without a branch, which could not be predicted
            rank[b] += 1 - less
    for j in range(corners):  # rounding may have left the plane by `excess`
        rank[j] += excess
        if rank[j] < 0:
            rank[j] += corners
            nearest[j] += corners
        elif rank[j] > dims:
            rank[j] -= corners
            nearest[j] -= corners


@njit(inline="always")
def _weigh(elevated, nearest, rank, barycentric):
    """Barycentric coordinates of a point in its simplex."""
    dims = elevated.size - 1
    barycentric[:] = np.float32(0)
    for j in range(dims + 1):
        distance = (elevated[j] - np.float32(nearest[j])) / np.float32(dims + 1)
        barycentric[dims - rank[j]] += distance
        barycentric[dims + 1 - rank[j]] -= distance
    barycentric[0] += np.float32(1) + barycentric[dims + 1]


@njit(inline="always")
def _mixed(here):
    """A hash whose bits are well mixed."""
    here = np.uint64(here)
    here = (here ^ (here >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return here ^ (here >> np.uint64(29))


@njit(inline="always")
def _part(mixed, parts):
    """Which thread a vertex belongs to."""
    return np.int64(((mixed >> np.uint64(40)) * np.uint64(parts)) >> np.uint64(24))


def _number_all(hashes: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Numbers the vertices: each thread those whose hash is its own, in the order in which points first touch them.

    Returns:
        The vertex of each hash: n·P + p for the n-th of P threads' p. For each thread its hash table, of pairs of hash
        and n; the hashes of its vertices by n; and how many there are.
    """
    parts = numba.get_num_threads()
    slots = max(1 << (order.size // parts).bit_length(), LEAST_SLOTS)  # of each table; it doubles when half full
    tables = np.full(parts * slots * 2, EMPTY)
    found = np.empty((parts, slots // 2), np.int64)
    counts, done = np.zeros(parts, np.int64), np.zeros(parts, np.int64)
    vertices = np.empty(hashes.size, np.int32)
    while True:
        _number(hashes, order, tables, found, counts, done, vertices)
        if (done == order.size).all():
            return vertices, tables, found, counts
        tables = np.full(2 * tables.size, EMPTY)
        found = np.concatenate([found, np.empty_like(found)], axis=1)
        _fill(tables, found, counts)


@njit(inline="always")
def _slot(here, mixed, tables, base, mask):
    """Where a hash is in the table that begins at `base`, or the empty place where it would be."""
    place = mixed & mask
    slot = base + 2 * np.int64(place)
    while tables[slot] != here and tables[slot] != EMPTY:
        place = (place + np.uint64(1)) & mask
        slot = base + 2 * np.int64(place)
    return slot


@compiled
def _number(hashes, order, tables, found, counts, done, vertices):
    """Goes on numbering from where each part is until all is done, or its table is half full."""
    parts, corners = counts.size, hashes.size // order.size
    base, mask = tables.size // parts, np.uint64(tables.size // parts // 2 - 1)
    for part in prange(parts):
        count, place = counts[part], done[part]
        own = np.empty(BATCH + corners, np.int64)
        full = False
        while place < order.size and not full:
            end, length = min(place + max(BATCH // corners, 1), order.size), 0
            for index in range(place, end):
                for one in range(order[index] * corners, (order[index] + 1) * corners):
                    own[length] = one
                    length += np.int64(_part(_mixed(hashes[one]), parts) == part)
            begun, place = place, end
            for index in range(length):
                ahead = _mixed(hashes[own[min(index + AHEAD, length - 1)]]) & mask
                prefetch(tables, base * part + 2 * np.int64(ahead))
                one = own[index]
                here = hashes[one]
                slot = _slot(here, _mixed(here), tables, base * part, mask)
                if tables[slot] == EMPTY:
                    if count == found.shape[1]:
                        place, full = begun, True  # what was numbered since stays so
                        break
                    tables[slot], tables[slot + 1], found[part, count] = here, count, here
                    count += 1
                vertices[one] = tables[slot + 1] * parts + part
        counts[part], done[part] = count, place


@compiled
def _fill(tables, found, counts):
    """Puts the vertices that are numbered already into empty tables."""
    base, mask = tables.size // counts.size, np.uint64(tables.size // counts.size // 2 - 1)
    for part in prange(counts.size):
        for number in range(counts[part]):
            here = found[part, number]
            slot = _slot(here, _mixed(here), tables, base * part, mask)
            tables[slot], tables[slot + 1] = here, number


@compiled
def _follow(tables, found, counts, steps, total):
    """The vertex that follows each one along each direction; −1 where there is none."""
    parts = counts.size
    following = np.full((steps.size, total), -1, np.int32)
    base, mask = tables.size // parts, np.uint64(tables.size // parts // 2 - 1)
    for chunk in prange(CHUNKS):
        for vertex in range(chunk * total // CHUNKS, (chunk + 1) * total // CHUNKS):
            number, part = vertex // parts, vertex % parts
            if number >= counts[part]:
                continue
            ahead = found[part, min(number + AHEAD // 4, counts[part] - 1)]
            for direction in range(steps.size):
                mixed = _mixed(ahead + steps[direction])
                prefetch(tables, _part(mixed, parts) * base + 2 * np.int64(mixed & mask))
            here = found[part, number]
            for direction in range(steps.size):
                there = here + steps[direction]
                mixed = _mixed(there)
                other = _part(mixed, parts)
                slot = _slot(there, mixed, tables, other * base, mask)
                if tables[slot] == there:
                    following[direction, vertex] = tables[slot + 1] * parts + other
    return following


@compiled
def _chain(following):
    """The chains of two vertices and more along each direction, and how many vertices are in them."""
    directions, total = following.shape
    chains = np.empty((directions, total), np.int32)
    lengths = np.zeros(directions, np.int64)
    for direction in prange(directions):
        leads = np.ones(total, np.bool_)
        for vertex in range(total):
            if following[direction, vertex] >= 0:
                leads[following[direction, vertex]] = False
        length = 0
        for head in range(total):
            if leads[head] and following[direction, head] >= 0:
                vertex = np.int32(head)
                while following[direction, vertex] >= 0:
                    chains[direction, length] = vertex
                    length += 1
                    vertex = following[direction, vertex]
                chains[direction, length] = ~vertex
                length += 1
        lengths[direction] = length
    return chains, lengths


@compiled
def _transpose(vertices, weights, total, corners, parts):
    """The points of each vertex, in their order."""
    count = vertices.size // corners
    ends = np.zeros((parts, total), np.int64)
    for part in prange(parts):
        for place in range(part * count // parts * corners, (part + 1) * count // parts * corners):
            ends[part, vertices[place]] += 1
    starts = np.zeros(total + 1, np.int64)
    filled = np.int64(0)
    for vertex in range(total):
        for part in range(parts):
            here = ends[part, vertex]
            ends[part, vertex] = filled
            filled += here
        starts[vertex + 1] = filled
    points = np.empty(vertices.size, np.int32)
    point_weights = np.empty(vertices.size, np.float32)
    for part in prange(parts):
        for point in range(part * count // parts, (part + 1) * count // parts):
            for place in range(point * corners, (point + 1) * corners):
                target = ends[part, vertices[place]]
                ends[part, vertices[place]] = target + 1
                points[target] = point
                point_weights[target] = weights[place]
    return starts, points, point_weights


@compiled
def _rescale(weights, point_weights, points, scale):
    corners = weights.size // scale.size
    for point in prange(scale.size):
        for place in range(point * corners, (point + 1) * corners):
            weights[place] *= scale[point]
    for place in prange(points.size):
        point_weights[place] *= scale[points[place]]


@compiled
def _splat(values, width, starts, points, weights, out):
    total = starts.size - 1
    for chunk in prange(CHUNKS):
        for vertex in range(chunk * total // CHUNKS, (chunk + 1) * total // CHUNKS):
            first, last = starts[vertex], starts[vertex + 1]
            add_rows(width, out, vertex * width, values, 0, width, points, weights, first, last)


@compiled
def _blur(values, width, chain):
    for chunk in prange(CHUNKS):
        first = _next_chain(chain, chunk * chain.size // CHUNKS)
        last = _next_chain(chain, (chunk + 1) * chain.size // CHUNKS)
        blur_chains(width, values, chain, first, last)


@njit(inline="always")
def _next_chain(chain, place):
    """The first beginning of a chain from `place` on."""
    while 0 < place < chain.size and chain[place - 1] >= 0:
        place += 1
    return place


@compiled
def _slice(blurred, layout, vertices, weights, corners, out):
    count = vertices.size // corners
    total = blurred.size // (layout[-1, 0] + layout[-1, 1])
    for chunk in prange(CHUNKS):
        for panel in range(len(layout)):
            begin, width = layout[panel]
            for point in range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS):
                place, first = count * begin + point * width, point * corners
                last = first + corners
                add_rows(width, out, place, blurred, total * begin, width, vertices, weights, first, last)
