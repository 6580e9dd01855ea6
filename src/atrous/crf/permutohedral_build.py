"""The vertices of a permutohedral lattice: found around points, numbered, and chained to their neighbours.

They are told apart by a linear hash of 64 bits, so that a neighbour's hash is a sum away. Which thread numbers a vertex
is up to its hash.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import njit, prange

from atrous.crf.row_sums import CHUNKS, compiled, prefetch

#: The smallest hash table.
LEAST_SLOTS = 1024
#: How many hashes ahead a thread asks for the memory that it will need.
AHEAD = 16
#: Hashes of which a thread first finds its own.
BATCH = 4096
#: What an empty place of a hash table holds; no vertex hashes to it but by a chance of 2^-64.
EMPTY = np.int64(-(2**63))


@compiled
def embed(features, scale, factors, steps, hashes, weights):
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


def number_vertices(hashes: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
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
        _go_on(hashes, order, tables, found, counts, done, vertices)
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
def _go_on(hashes, order, tables, found, counts, done, vertices):
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
        for number_vertices in range(counts[part]):
            here = found[part, number_vertices]
            slot = _slot(here, _mixed(here), tables, base * part, mask)
            tables[slot], tables[slot + 1] = here, number_vertices


@compiled
def follow(tables, found, counts, steps, total):
    """The vertex that follows each one along each direction; −1 where there is none."""
    parts = counts.size
    following = np.full((steps.size, total), -1, np.int32)
    base, mask = tables.size // parts, np.uint64(tables.size // parts // 2 - 1)
    for chunk in prange(CHUNKS):
        for vertex in range(chunk * total // CHUNKS, (chunk + 1) * total // CHUNKS):
            number_vertices, part = vertex // parts, vertex % parts
            if number_vertices >= counts[part]:
                continue
            ahead = found[part, min(number_vertices + AHEAD // 4, counts[part] - 1)]
            for direction in range(steps.size):
                mixed = _mixed(ahead + steps[direction])
                prefetch(tables, _part(mixed, parts) * base + 2 * np.int64(mixed & mask))
            here = found[part, number_vertices]
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
def transpose(vertices, weights, total, corners, parts):
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
