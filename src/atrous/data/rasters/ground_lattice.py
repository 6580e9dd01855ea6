"""Divides scenes that show the same ground along common lines, so that each place on the ground is one part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from atrous.data.rasters.raster_grid import RasterGrid, same_crs
from atrous.data.sources.source import Window

#: If an edge of a scene is nearer to a line than this fraction of the distance between lines, the line is moved to the
#: edge. Otherwise there would be a strip of a few pixels between the line and the edge.
SNAP = 0.25
#: A line at the middle of a pixel counts as behind the pixel's centre. The same holds for a line that is before the
#: centre by at most this fraction of a pixel, because coordinates are rounded.
ROUNDED = 1e-6


class Lattice(NamedTuple):
    """Lines on the ground, in coordinates of the scenes.

    Attributes:
        x: coordinates of the lines along y, ascending.
        y: coordinates of the lines along x, ascending.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]


def overlapping(grids: Sequence[RasterGrid | None]) -> list[list[int]]:
    """Returns groups of scenes that show the same ground: their rectangles overlap, directly or through other scenes.

    Scenes are compared if they have the same coordinate reference system and are not rotated. Scenes that only touch do
    not overlap.

    Args:
        grids: grid of each scene; None if it is unknown.

    Returns:
        Indices of the scenes of each group of two or more scenes.
    """
    group = [*range(len(grids))]
    unknown = [[math.nan, math.nan]] * 2  # is near no other rectangle
    bounds = np.array([unknown if grid is None else _bounds(grid) for grid in grids]).reshape(-1, 2, 2)
    for first, one in enumerate(grids):
        before = bounds[:first]
        near = (before[:, :, 0] < bounds[first, :, 1]) & (bounds[first, :, 0] < before[:, :, 1])
        for second in np.flatnonzero(near.all(axis=1)).tolist():
            other = grids[second]
            if one is not None and other is not None and group[first] != group[second] and _overlap(one, other):
                old, new = group[first], group[second]
                group = [new if number == old else number for number in group]
    found = [[index for index, number in enumerate(group) if number == own] for own in dict.fromkeys(group)]
    return [members for members in found if len(members) > 1]


def lattice_of(grids: Sequence[RasterGrid], side: int) -> Lattice:
    """Returns the lines that divide the ground of overlapping scenes.

    Args:
        grids: grids of the scenes of one group of `overlapping`.
        side: largest distance of lines in pixels of the coarsest scene, ≥ 1. If a line is moved to the edge of a scene,
            the distance to the next line may be larger by up to half of it.
    """
    bounds = np.array([_bounds(grid) for grid in grids])
    pixel = np.max([(abs(grid.transform.a), abs(grid.transform.e)) for grid in grids], axis=0)
    return Lattice(*(_lines(bounds[:, axis, :], side * float(pixel[axis])) for axis in (0, 1)))


def parts_on(lattice: Lattice, grid: RasterGrid) -> dict[tuple[int, int], Window]:
    """Divides a scene along lines.

    Args:
        lattice: the lines.
        grid: grid of the scene.

    Returns:
        The parts of the scene by their row and column on the ground, in pixels of the scene. Parts of two scenes with
        the same row and column show the same ground, except for a pixel at their edges if the pixels do not coincide.
    """
    move = grid.transform
    columns = _intervals(lattice.x, move.c, move.a, grid.width)
    rows = _intervals(lattice.y, move.f, move.e, grid.height)
    return {
        (row, column): Window(top, left, bottom - top, right - left)
        for row, (top, bottom) in rows.items()
        for column, (left, right) in columns.items()
    }


def _overlap(one: RasterGrid, other: RasterGrid) -> bool:
    if not (_is_upright(one) and _is_upright(other)):
        return False
    known = one.crs is not None and other.crs is not None
    if not (same_crs(one.crs, other.crs) if known else one.crs is None and other.crs is None):
        return False
    first, second = np.array(_bounds(one)), np.array(_bounds(other))
    shared = np.minimum(first[:, 1], second[:, 1]) - np.maximum(first[:, 0], second[:, 0])
    pixel = np.minimum(_pixel(one), _pixel(other))
    return bool((shared > pixel / 2).all())


def _is_upright(grid: RasterGrid) -> bool:
    move = grid.transform
    return grid.has_place and not (move.b or move.d) and bool(move.a and move.e)


def _pixel(grid: RasterGrid) -> np.ndarray:
    return np.abs([grid.transform.a, grid.transform.e])


def _bounds(grid: RasterGrid) -> list[list[float]]:
    """Returns [[lowest x, highest x], [lowest y, highest y]]."""
    move = grid.transform
    return [sorted((move.c, move.c + move.a * grid.width)), sorted((move.f, move.f + move.e * grid.height))]


def _lines(edges: np.ndarray, step: float) -> tuple[float, ...]:
    """Returns lines that divide the whole length into equal parts of at most ``step``, moved to near edges."""
    low, high = float(edges.min()), float(edges.max())
    count = max(1, int(np.ceil((high - low) / step - 1e-9)))
    distance = (high - low) / count
    found = []
    for index in range(1, count):
        line = low + distance * index
        nearest = float(edges.ravel()[np.abs(edges.ravel() - line).argmin()])
        found.append(nearest if abs(nearest - line) < SNAP * distance else line)
    return tuple(found)


def _intervals(lines: Sequence[float], start: float, pixel: float, count: int) -> dict[int, tuple[int, int]]:
    """Returns the first pixel and the end of each interval between lines that has pixels, by its number."""
    # halves are rounded in one direction, so that scenes on common pixels have the same pixels in each part
    at = [math.floor((line - start) / pixel + 0.5 + ROUNDED) for line in lines]
    ends = [0 if pixel > 0 else count, *at, count if pixel > 0 else 0]
    limits = np.clip(ends, 0, count).tolist()
    found = {number: (min(pair), max(pair)) for number, pair in enumerate(pairwise(limits))}
    return {number: (first, end) for number, (first, end) in found.items() if end > first}
