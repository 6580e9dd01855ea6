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

from atrous.crf.rows import blur_row, sum_rows

#: log2 of the hash table's first size; it grows where vertices are many.
FIRST_BITS = 16
#: Pieces into which loops over points are cut that need some memory of their own.
CHUNKS = 64


@dataclass(frozen=True)
class CpuLattice:
    """A lattice over N points in d dimensions with M vertices.

    Attributes:
        vertices: N·(d+1) int32, the corners of each point's simplex.
        weights: N·(d+1) float32, its barycentric coordinates.
        starts: M+1 int64; of vertex v the points are points[starts[v]:starts[v+1]].
        points: N·(d+1) int32.
        point_weights: N·(d+1) float32.
        neighbours: (d+1)×M×2 int32, before and after along each direction; M where there is none.
    """

    vertices: np.ndarray
    weights: np.ndarray
    starts: np.ndarray
    points: np.ndarray
    point_weights: np.ndarray
    neighbours: np.ndarray

    @classmethod
    def over(cls, features: np.ndarray) -> CpuLattice:
        """Builds the lattice of N×d float32 features, in units of the filter's standard deviation."""
        count, dims = features.shape
        corners = dims + 1
        place = np.arange(1, corners)
        scale = (math.sqrt(2 / 3) * corners / np.sqrt(place * (place + 1))).astype(np.float32)
        # A point's vertices are told apart by a linear hash of 64 bits, so that a neighbour's hash is a sum away.
        factors = np.random.default_rng(0).integers(-(2**62), 2**62, dims, dtype=np.int64) | 1
        with np.errstate(over="ignore"):
            steps = np.append(corners * factors, 0) - factors.sum()
        hashes = np.empty((count, corners), np.int64)
        weights = np.empty((count, corners), np.float32)
        _embed(features, scale, factors, hashes, weights)
        hashes, weights = hashes.ravel(), weights.ravel()
        parts = numba.get_num_threads()
        bits = FIRST_BITS
        while True:
            keys, slots, found, counts, vertices = _number(hashes, parts, bits)
            if counts.min() >= 0:
                break
            bits += 1
        first = np.concatenate([[0], np.cumsum(counts)])
        neighbours = _connect(hashes, vertices, steps, keys, slots, found, first)
        starts, points, point_weights = _transpose(vertices, weights, first[-1], corners, parts)
        return cls(vertices, weights, starts, points, point_weights, neighbours)

    def scaled(self, scale: np.ndarray) -> CpuLattice:
        """The lattice of the filter diag(scale) · F · diag(scale), for N float32 scales."""
        weights, point_weights = np.empty_like(self.weights), np.empty_like(self.point_weights)
        _scale(self.weights, self.point_weights, self.points, scale, weights, point_weights)
        return CpuLattice(self.vertices, weights, self.starts, self.points, point_weights, self.neighbours)

    def buffers(self, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Two matrices for `blurred`, with a row of zeros that stands for missing neighbours."""
        shape = (self.neighbours.shape[1] + 1, columns)
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def blurred(
        self, values: np.ndarray, buffers: tuple[np.ndarray, np.ndarray], *, reverse: bool = False
    ) -> np.ndarray:
        """Splats N×L values onto the vertices and blurs them there, along all directions.

        Args:
            values: float32, C-contiguous, L a multiple of `rows.STEP`.
            buffers: from `buffers(L)`; one of them is returned.
            reverse: the directions backwards, which is the transposed filter.
        """
        source, target = buffers
        _splat(values, self.starts, self.points, self.point_weights, source)
        for direction in range(len(self.neighbours))[:: -1 if reverse else 1]:
            _blur(source, target, self.neighbours[direction])
            source, target = target, source
        return source

    def filter(self, values: np.ndarray, *, reverse: bool = False) -> np.ndarray:
        """N×L values → N×L, L a multiple of `rows.STEP`."""
        result = np.empty_like(values)
        blurred = self.blurred(values, self.buffers(values.shape[1]), reverse=reverse)
        _slice(blurred, self.vertices, self.weights, len(self.neighbours), result)
        result *= self.gain
        return result

    @property
    def gain(self) -> float:
        """What the blur, whose kernels sum to 2, leaves to divide by (Krähenbühl & Koltun's implementation)."""
        return 1 / (1 + 2.0 ** -(len(self.neighbours) - 1))


@njit(parallel=True, cache=True)
def _embed(features, scale, factors, hashes, weights):
    """The simplex around each point: hashes of its d+1 vertices, and barycentric coordinates (Adams et al. §3.1)."""
    count, dims = features.shape
    for chunk in prange(CHUNKS):
        elevated = np.empty(dims + 1, np.float32)
        nearest = np.empty(dims + 1, np.int64)
        rank = np.empty(dims + 1, np.int64)
        barycentric = np.empty(dims + 2, np.float32)
        for point in range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS):
            _locate(features[point], scale, elevated, nearest, rank)
            _weigh(elevated, nearest, rank, barycentric)
            base = np.int64(0)
            for j in range(dims):
                base += nearest[j] * factors[j]
            for corner in range(dims + 1):
                here = base
                for j in range(dims):
                    here += (corner if rank[j] <= dims - corner else corner - dims - 1) * factors[j]
                hashes[point, corner] = here
                weights[point, corner] = barycentric[corner]


@njit(inline="always")
def _locate(features, scale, elevated, nearest, rank):
    """A point on the plane of coordinates that sum to zero, the lattice point of remainder 0 next to it, and the ranks
    of its distances from there.
    """
    dims = features.size
    corners = dims + 1
    total = np.float32(0)
    for j in range(dims, 0, -1):
        value = features[j - 1] * scale[j - 1]
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
            if elevated[a] - np.float32(nearest[a]) < elevated[b] - np.float32(nearest[b]):
                rank[a] += 1
            else:
                rank[b] += 1
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
    return np.int64((mixed >> np.uint64(40)) % np.uint64(parts))


@njit(inline="always")
def _slot(here, mixed, keys, slots):
    """Where a hash is in a part's table, or the empty place where it would be."""
    mask = np.uint64(keys.size - 1)
    place = mixed & mask
    while slots[place] >= 0 and keys[place] != here:
        place = (place + np.uint64(1)) & mask
    return place


@njit(parallel=True, cache=True)
def _number(hashes, parts, bits):
    """Numbers the vertices, each part its own from 0, in the order in which points first touch them.

    A count of −1 says that a table was too small.
    """
    size = 1 << bits
    keys = np.empty((parts, size), np.int64)
    slots = np.full((parts, size), -1, np.int32)
    found = np.empty((parts, size), np.int64)
    counts = np.zeros(parts, np.int64)
    vertices = np.empty(hashes.size, np.int32)
    for part in prange(parts):
        count = 0
        for place in range(hashes.size):
            here = hashes[place]
            mixed = _mixed(here)
            if _part(mixed, parts) != part:
                continue
            slot = _slot(here, mixed, keys[part], slots[part])
            if slots[part, slot] < 0:
                if 2 * count >= size:
                    count = -1
                    break
                keys[part, slot], slots[part, slot], found[part, count] = here, count, here
                count += 1
            vertices[place] = slots[part, slot]
        counts[part] = count
    return keys, slots, found, counts, vertices


@njit(parallel=True, cache=True)
def _connect(hashes, vertices, steps, keys, slots, found, first):
    """Numbers the vertices through, and finds each one's neighbours."""
    parts = len(first) - 1
    total = first[parts]
    for place in prange(hashes.size):
        vertices[place] += np.int32(first[_part(_mixed(hashes[place]), parts)])
    neighbours = np.empty((steps.size, total, 2), np.int32)
    for vertex in prange(total):
        part = 0
        while vertex >= first[part + 1]:
            part += 1
        here = found[part, vertex - first[part]]
        for direction in range(steps.size):
            for side in range(2):
                there = here - steps[direction] if side == 0 else here + steps[direction]
                mixed = _mixed(there)
                other = _part(mixed, parts)
                number = slots[other, _slot(there, mixed, keys[other], slots[other])]
                neighbours[direction, vertex, side] = total if number < 0 else first[other] + number
    return neighbours


@njit(parallel=True, cache=True)
def _transpose(vertices, weights, total, corners, parts):
    """The points of each vertex, in their order."""
    starts = np.zeros(total + 1, np.int64)
    for place in range(vertices.size):
        starts[vertices[place] + 1] += 1
    for vertex in range(total):
        starts[vertex + 1] += starts[vertex]
    points = np.empty(vertices.size, np.int32)
    point_weights = np.empty(vertices.size, np.float32)
    for part in prange(parts):
        low, high = part * total // parts, (part + 1) * total // parts
        filled = starts[low:high].copy()
        for place in range(vertices.size):
            vertex = vertices[place]
            if low <= vertex < high:
                target = filled[vertex - low]
                filled[vertex - low] = target + 1
                points[target] = place // corners
                point_weights[target] = weights[place]
    return starts, points, point_weights


@njit(parallel=True, cache=True)
def _scale(weights, point_weights, points, scale, new_weights, new_point_weights):
    corners = weights.size // scale.size
    for point in prange(scale.size):
        for place in range(point * corners, (point + 1) * corners):
            new_weights[place] = weights[place] * scale[point]
    for place in prange(points.size):
        new_point_weights[place] = point_weights[place] * scale[points[place]]


@njit(parallel=True, cache=True)
def _splat(values, starts, points, weights, out):
    for vertex in prange(starts.size - 1):
        sum_rows(out, vertex, values, points, weights, starts[vertex], starts[vertex + 1])


@njit(parallel=True, cache=True)
def _blur(source, target, neighbours):
    for vertex in prange(neighbours.shape[0]):
        blur_row(target, vertex, source, np.int64(neighbours[vertex, 0]), np.int64(neighbours[vertex, 1]))


@njit(parallel=True, cache=True)
def _slice(blurred, vertices, weights, corners, out):
    for point in prange(out.shape[0]):
        sum_rows(out, point, blurred, vertices, weights, point * corners, (point + 1) * corners)
