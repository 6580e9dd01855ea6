"""Builds a permutohedral lattice: finds the vertices around points, numbers them, and joins neighbours to chains.

A linear hash of 64 bits identifies each vertex, so the hash of a neighbour is the vertex's hash plus a constant. The
hash also determines the thread that numbers the vertex.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import njit, prange

from atrous.crf.row_sums import CHUNKS, compiled, prefetch

#: Smallest number of slots of a hash table.
LEAST_SLOTS = 1024
#: Prefetch distance of a thread, in hashes.
AHEAD = 16
#: Number of hashes that a thread reads at a time, to select the hashes of its own vertices.
BATCH = 4096
#: Value of an empty slot of a hash table; a vertex has this hash with a probability of 2^-64.
EMPTY = np.int64(-(2**63))


@compiled
def embed(features, scale, factors, steps, hashes, weights):
    """Writes each point's barycentric coordinates and the hashes of its simplex's d+1 vertices (Adams et al. §3.1)."""
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
            for corner in range(dims + 1):  # consecutive corners differ by one step along one direction
                hashes[point, corner] = here
                weights[point, corner] = barycentric[corner]
                here -= steps[ranked[dims - corner]]


@njit(inline="always")
def _locate(features, point, scale, elevated, nearest, rank):
    """Computes the position of a point in the lattice.

    `elevated` is the point on the plane of coordinates with sum zero. `nearest` is the nearest lattice point whose
    coordinates are multiples of d+1 (remainder 0). `rank` contains the ranks of the differences between the coordinates
    of `elevated` and of `nearest`.
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
            rank[a] += less  # a sum instead of a branch, because the CPU could not predict the branch
            rank[b] += 1 - less
    for j in range(corners):  # after rounding the coordinates sum to `excess` · corners
        rank[j] += excess
        if rank[j] < 0:
            rank[j] += corners
            nearest[j] += corners
        elif rank[j] > dims:
            rank[j] -= corners
            nearest[j] -= corners


@njit(inline="always")
def _weigh(elevated, nearest, rank, barycentric):
    """Computes the barycentric coordinates of a point in its simplex."""
    dims = elevated.size - 1
    barycentric[:] = np.float32(0)
    for j in range(dims + 1):
        distance = (elevated[j] - np.float32(nearest[j])) / np.float32(dims + 1)
        barycentric[dims - rank[j]] += distance
        barycentric[dims + 1 - rank[j]] -= distance
    barycentric[0] += np.float32(1) + barycentric[dims + 1]


@njit(inline="always")
def _mixed(here):
    """Mixes the bits of a hash, so that tables and threads are filled evenly."""
    here = np.uint64(here)
    here = (here ^ (here >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return here ^ (here >> np.uint64(29))


@njit(inline="always")
def _part(mixed, parts):
    """Returns the index of the thread that numbers a vertex."""
    return np.int64(((mixed >> np.uint64(40)) * np.uint64(parts)) >> np.uint64(24))


def number_vertices(hashes: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Numbers the vertices in parallel.

    The hash of a vertex determines its thread. Each thread numbers its vertices in the order of the points.

    Args:
        hashes: N·(d+1) int64, the hashes of each point's vertices.
        order: N int32, the points in the order of numbering.

    Returns:
        Four arrays. First, the vertex of each hash: n·P + p for the n-th vertex of thread p of P threads. The others
        are, for each thread, its hash table with pairs (hash, n), the hashes of its vertices by n, and the number of
        its vertices.
    """
    parts = numba.get_num_threads()
    # Number of slots of each table; when one table is half full, all tables are doubled.
    slots = max(1 << (order.size // parts).bit_length(), LEAST_SLOTS)
    tables = np.full(parts * slots * 2, EMPTY)
    found = np.empty((parts, slots // 2), np.int64)
    counts, done = np.zeros(parts, np.int64), np.zeros(parts, np.int64)
    vertices = np.empty(hashes.size, np.int32)
    while True:
        _go_on(hashes, order, tables, found, counts, done, vertices)
        if (done == order.size).all():
            return vertices, tables, found, counts
        tables = np.full(2 * tables.size, EMPTY)
        found = np.concatenate([found, np.empty_like(found)], axis=1)
        _fill(tables, found, counts)


@njit(inline="always")
def _slot(here, mixed, tables, base, mask):
    """Returns the slot of a hash in the table that begins at `base`; for an absent hash, an empty slot for it."""
    place = mixed & mask
    slot = base + 2 * np.int64(place)
    while tables[slot] != here and tables[slot] != EMPTY:
        place = (place + np.uint64(1)) & mask
        slot = base + 2 * np.int64(place)
    return slot


@compiled
def _go_on(hashes, order, tables, found, counts, done, vertices):
    """Continues the numbering of each thread until all hashes are done or the thread's table is half full."""
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
                        place, full = begun, True  # vertices numbered since `begun` keep their numbers
                        break
                    tables[slot], tables[slot + 1], found[part, count] = here, count, here
                    count += 1
                vertices[one] = tables[slot + 1] * parts + part
        counts[part], done[part] = count, place


@compiled
def _fill(tables, found, counts):
    """Writes the vertices numbered so far into empty tables."""
    base, mask = tables.size // counts.size, np.uint64(tables.size // counts.size // 2 - 1)
    for part in prange(counts.size):
        for number in range(counts[part]):
            here = found[part, number]
            slot = _slot(here, _mixed(here), tables, base * part, mask)
            tables[slot], tables[slot + 1] = here, number


@compiled
def follow(tables, found, counts, steps, total):
    """Returns the next vertex of each vertex along each direction; −1 if there is none."""
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
def chain_up(following):
    """Returns, for each direction, its chains of at least two vertices, one after another, and their total length."""
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
def transpose(vertices, weights, total, corners, parts):
    """Returns the points of each vertex in ascending order: `starts`, `points` and `point_weights` of `CpuLattice`."""
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
