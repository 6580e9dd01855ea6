"""Finds rasters that are on one grid of pixels, and the windows of these rasters that share an edge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from atrous.data.rasters.open_raster import open_raster
from atrous.data.rasters.raster_grid import coordinates
from atrous.data.sources.source import Window
from atrous.errors import AtrousError

#: A raster is on a grid if its corners are at most this distance, in pixels, from corners of pixels of the grid.
#: Coordinates in files are rounded, so the distance is not 0.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Raster:
    """The position on Earth of a raster or of its mask.

    Args:
        path: the file.
        name: file name of the raster that polygons have as their source.
        height: number of rows of pixels.
        width: number of columns of pixels.
        crs: coordinate reference system, as a rasterio object.
        transform: affine map from (column, row) to coordinates, as a rasterio object.
    """

    path: Path
    name: str
    height: int
    width: int
    crs: Any
    transform: Any


class GridRaster(NamedTuple):
    """A raster of a grid.

    Attributes:
        raster: the raster.
        top: row of the raster's first pixel in the grid; it may be negative.
        left: column of the raster's first pixel in the grid; it may be negative.
    """

    raster: Raster
    top: int
    left: int

    @property
    def window(self) -> Window:
        """The rectangle of the raster in the grid."""
        return Window(self.top, self.left, self.raster.height, self.raster.width)


class Seam(NamedTuple):
    """The common edge of a window and one of its neighbours.

    Attributes:
        other: index of the neighbour.
        side: side of the window at which the neighbour is: "top", "bottom", "left" or "right".
        begin: first column (top, bottom) or row (left, right) of the common edge, relative to the window.
        end: column or row after the end of the common edge, relative to the window.
    """

    other: int
    side: str
    begin: int
    end: int


def read_raster(path: Path, name: str) -> Raster:
    """Reads the position of a raster.

    Args:
        path: a file that rasterio reads.
        name: file name of the raster in messages.

    Raises:
        AtrousError: rasterio is not installed, the file cannot be read, or it has no coordinate system or no transform.
    """
    with open_raster(path) as file:
        raster = Raster(path, name, file.height, file.width, file.crs, file.transform)
        has_points = bool(file.gcps[0])
    if not raster.crs or raster.transform.is_identity:
        cure = "warp it to a grid first, such as with gdalwarp" if has_points else "give rasters with coordinates"
        lack = "only ground control points" if has_points else "no coordinates on Earth"
        raise AtrousError(f"{name} has {lack}, so its mask has no polygons: {cure}, or leave --polygons out.")
    return raster


def check_one_crs(rasters: Sequence[Raster]) -> None:
    """Checks that all rasters have the same coordinate reference system, because a file of polygons has only one.

    Raises:
        AtrousError: two rasters have different coordinate reference systems.
    """
    for raster in rasters[1:]:
        if raster.crs != rasters[0].crs:
            first, other = (one.crs.to_string() if one.crs.to_epsg() else "another one" for one in (rasters[0], raster))
            raise AtrousError(
                f"the rasters have different coordinate reference systems: {rasters[0].name} has {first}, and "
                f"{raster.name} has {other}. Call predict --polygons once for each of these systems."
            )


def grids_of(rasters: Sequence[Raster]) -> list[list[GridRaster]]:
    """Returns the rasters of each grid; rasters are on one grid if the corners of their pixels coincide.

    Args:
        rasters: rasters in one coordinate reference system.
    """
    grids: list[list[GridRaster]] = []
    for raster in rasters:
        for grid in grids:
            if (place := _on_grid(raster, grid[0].raster)) is not None:
                grid.append(place)
                break
        else:
            grids.append([GridRaster(raster, 0, 0)])
    return grids


def windows_of(grid: Sequence[GridRaster], side: int) -> list[tuple[int, Window]]:
    """Returns the windows of all rasters, as pairs (index of the raster, rectangle in the grid).

    Args:
        grid: rasters of one grid.
        side: largest height and width of a window, in pixels.
    """
    return [
        (
            index,
            Window(top, left, min(side, whole.top + whole.height - top), min(side, whole.left + whole.width - left)),
        )
        for index, whole in enumerate(one.window for one in grid)
        for top in range(whole.top, whole.top + whole.height, side)
        for left in range(whole.left, whole.left + whole.width, side)
    ]


def seams_of(grid: Sequence[GridRaster], windows: Sequence[tuple[int, Window]]) -> list[list[Seam]]:
    """Returns for each window its common edges with other windows.

    If two rasters overlap, their windows have no common edges, and each of the two rasters has its own polygons.

    Args:
        grid: rasters of one grid.
        windows: windows from `windows_of`.
    """
    seams: list[list[Seam]] = [[] for _ in windows]
    spans = [(raster, (one.top, one.height), (one.left, one.width)) for raster, one in windows]
    _add_seams(seams, grid, spans, ("bottom", "top"))
    _add_seams(seams, grid, [(raster, across, down) for raster, down, across in spans], ("right", "left"))
    return seams


def _add_seams(
    seams: list[list[Seam]],
    grid: Sequence[GridRaster],
    windows: Sequence[tuple[int, tuple[int, int], tuple[int, int]]],
    sides: tuple[str, str],
) -> None:
    """Adds the common edges of windows that follow each other in one direction, down or across.

    Args:
        seams: the edges of each window so far.
        grid: rasters of one grid.
        windows: for each window, the index of its raster, its (begin, length) in this direction, and its (begin,
            length) in the other direction.
        sides: side of a window at which the next window is, and side of the next window at which this window is.
    """
    at = defaultdict(list)
    for index, (_, (begin, _), _) in enumerate(windows):
        at[begin].append(index)
    for index, (raster, (first, length), (start, size)) in enumerate(windows):
        for other in at[first + length]:
            other_raster, _, (other_start, other_size) = windows[other]
            begin, end = _common(start, size, other_start, other_size)
            if begin < end and _apart(grid, raster, other_raster):
                seams[index].append(Seam(other, sides[0], begin - start, end - start))
                seams[other].append(Seam(index, sides[1], begin - other_start, end - other_start))


def _on_grid(raster: Raster, first: Raster) -> GridRaster | None:
    """Returns the place of a raster in the grid of the first raster; None if it is on another grid."""
    corners = list(_corners(raster, first))
    left, top = round(corners[0][0]), round(corners[0][1])
    expected = ((left, top), (left + raster.width, top), (left, top + raster.height))
    near = all(
        abs(given - wanted) <= TOLERANCE
        for corner, pixel in zip(corners, expected, strict=True)
        for given, wanted in zip(corner, pixel, strict=True)
    )
    return GridRaster(raster, top, left) if near else None


def _corners(raster: Raster, first: Raster) -> Iterator[tuple[float, float]]:
    """Yields the upper left, upper right and lower left corner of a raster as (column, row) of the first raster."""
    inverse = ~first.transform
    for column, row in ((0, 0), (raster.width, 0), (0, raster.height)):
        yield coordinates(inverse, *coordinates(raster.transform, column, row))


def _common(begin: int, length: int, other_begin: int, other_length: int) -> tuple[int, int]:
    return max(begin, other_begin), min(begin + length, other_begin + other_length)


def _apart(grid: Sequence[GridRaster], one: int, other: int) -> bool:
    """Returns whether two rasters are the same raster, or have no common pixel."""
    a, b = grid[one].window, grid[other].window
    rows, columns = _common(a.top, a.height, b.top, b.height), _common(a.left, a.width, b.left, b.width)
    return one == other or rows[0] >= rows[1] or columns[0] >= columns[1]
