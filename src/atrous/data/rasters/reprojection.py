"""Positions in another coordinate reference system (CRS), computed with PROJ."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from atrous.data.formats.tiff_page import Window
from atrous.data.rasters.date_line import full_turn, middle_of, moved_near
from atrous.data.rasters.raster_grid import RasterGrid, coordinates, same_crs
from atrous.errors import AtrousError, missing_extra

#: Side in pixels of the squares in which positions are interpolated between their exactly computed corners.
SQUARE = 16
#: Largest error of an interpolated position in pixels; GDAL allows 0.125. Squares with larger errors are computed
#: exactly.
LARGEST_ERROR = 0.01
#: Number of steps along each side of the lattice of points from which bounds are computed.
_STEPS = 20

#: Bounds as (left, bottom, right, top).
Bounds: TypeAlias = tuple[float, float, float, float]
Points: TypeAlias = tuple[np.ndarray, np.ndarray]


def positions_in(grid: RasterGrid, window: Window, other: RasterGrid) -> Points:
    """Returns where the pixel centres of a window lie in another raster.

    Squares of the grid are computed as a whole, so that overlapping windows agree. Longitudes that differ by 360° are
    the same: the position nearest to the middle of the other raster counts.

    Args:
        grid: grid of the window; both rasters have a CRS.
        window: (top, left, height, width) in pixels.
        other: grid of the other raster.

    Returns:
        H×W columns and H×W rows in pixels of the other raster, (0, 0) for the outer corner of its first pixel; inf or
        NaN for positions that its CRS cannot represent.
    """
    change = _no_change if same_crs(grid.crs, other.crs) else transformer(grid.crs_text, other.crs_text)
    inverse, turn = ~other.transform, full_turn(other.crs_text)
    middle, _ = coordinates(other.transform, other.width / 2, other.height / 2)

    def exact(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            x, y = change(*coordinates(grid.transform, columns, rows))
            return np.stack(coordinates(inverse, moved_near(x, middle, turn), y))

    top, left, height, width = window
    first, second = (np.arange(start // SQUARE, (start + size - 1) // SQUARE + 2) for start, size in
                     ((top, height), (left, width)))  # fmt: skip
    corners = exact(*np.meshgrid(second * float(SQUARE), first * float(SQUARE)))
    centres = exact(*np.meshgrid((second[:-1] + 0.5) * SQUARE, (first[:-1] + 0.5) * SQUARE))
    with np.errstate(invalid="ignore"):
        between = (corners[:, 1:, 1:] + corners[:, 1:, :-1] + corners[:, :-1, 1:] + corners[:, :-1, :-1]) / 4
        wrong = ~(np.abs(between - centres).max(axis=0) <= LARGEST_ERROR)
        rows, columns = np.arange(top, top + height) + 0.5, np.arange(left, left + width) + 0.5
        row, column = (rows // SQUARE).astype(int) - first[0], (columns // SQUARE).astype(int) - second[0]
        down, across = (rows % SQUARE / SQUARE)[:, None], columns % SQUARE / SQUARE
        lines = corners[:, row] * (1 - down) + corners[:, row + 1] * down
        found = lines[:, :, column] * (1 - across) + lines[:, :, column + 1] * across
    if wrong.any():
        places = np.nonzero(wrong[row][:, column])
        found[:, *places] = exact(columns[places[1]], rows[places[0]])
    return found[0], found[1]


def bounds_in(grid: RasterGrid, window: Window, crs: str) -> Bounds | None:
    """Returns bounds in another CRS that contain a window.

    They are the bounds of a lattice of points, extended by two steps, because straight sides are curved in another CRS.
    Across the date line, they reach beyond ±180°, so they are as narrow as elsewhere.

    Args:
        grid: grid of the window, with a CRS.
        window: (top, left, height, width) in pixels.
        crs: the other CRS as text that pyproj accepts.

    Returns:
        The bounds; None if the other CRS can represent no point of the window.
    """
    x, y = _points_in(grid, window, crs)
    if not is_one_crs(grid.crs_text, crs) and (turn := full_turn(crs)) is not None:
        x = moved_near(x, _middle_in(grid, crs, turn), turn)
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return None
    x, y = x[known], y[known]
    wide, tall = 2 * np.ptp(x) / _STEPS, 2 * np.ptp(y) / _STEPS
    return float(x.min() - wide), float(y.min() - tall), float(x.max() + wide), float(y.max() + tall)


def _points_in(grid: RasterGrid, window: Window, crs: str) -> Points:
    top, left, height, width = window
    steps = np.linspace(0, 1, _STEPS + 1)
    columns, rows = np.meshgrid(left + width * steps, top + height * steps)
    return transformer(grid.crs_text, crs)(*coordinates(grid.transform, columns, rows))


@lru_cache(maxsize=4096)
def _middle_in(grid: RasterGrid, crs: str, turn: float) -> float:
    """Returns the middle of a raster in another CRS, from which all its windows are less than half a turn away."""
    return middle_of(_points_in(grid, (0, 0, grid.height, grid.width), crs)[0], turn)


def transformer(source: str, target: str) -> Callable[[np.ndarray, np.ndarray], Points]:
    """Returns a function that maps points to another CRS, x (or longitude) first.

    Args:
        source: CRS of the points as text that pyproj accepts, such as "EPSG:4326" or WKT.
        target: the other CRS.

    Returns:
        A function of two arrays, x and y; points that the other CRS cannot represent become inf.

    Raises:
        AtrousError: pyproj is not installed, or a CRS cannot be read, or there is no transformation between them.
    """
    if is_one_crs(source, target):
        return _no_change
    return _transformer(source, target, os.getpid(), threading.get_ident())


@lru_cache(maxsize=256)
def is_one_crs(one: str, other: str) -> bool:
    """Returns whether two texts describe one CRS; the order of its axes does not matter.

    Args:
        one: a CRS as text that pyproj accepts.
        other: another CRS.

    Raises:
        AtrousError: pyproj is not installed, or a CRS cannot be read.
    """
    if one == other:
        return True
    try:
        from pyproj import CRS
        from pyproj.exceptions import CRSError
    except ImportError:
        raise missing_extra("pyproj", "geo") from None
    try:
        return CRS(one).equals(CRS(other), ignore_axis_order=True)
    except CRSError as error:
        raise AtrousError(f"a coordinate reference system cannot be read ({error}).") from error


@lru_cache(maxsize=64)
def _transformer(source: str, target: str, process: int, thread: int) -> Callable[[np.ndarray, np.ndarray], Points]:
    """Returns the function of `transformer`; threads, and processes after a fork, must not share objects of pyproj."""
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    try:
        found: Any = Transformer.from_crs(source, target, always_xy=True)
    except ProjError as error:
        raise AtrousError(
            f"there is no transformation from the coordinate reference system {source} to {target} ({error})."
        ) from error
    return lambda x, y: tuple(map(np.asarray, found.transform(x, y)))  # pyright: ignore[reportReturnType]


def _no_change(x: np.ndarray, y: np.ndarray) -> Points:
    return x, y
