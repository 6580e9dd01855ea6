"""Longitudes modulo one turn around the Earth, so that 190° and −170° are the same place."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from atrous.data.rasters.ellipsoid import horizontal_crs
from atrous.errors import AtrousError, missing_extra

#: A coordinate just before the first one of an interval, by this part of a turn, is not moved: it is rounded.
_ROUNDED = 1e-12
#: Largest difference, in degrees, of positions that are the same.
_SAME_DEGREES = 1e-7


@lru_cache(maxsize=1024)
def full_turn(crs: str) -> float | None:
    """Returns by how much x grows in one turn around the Earth: 360 if x is a longitude in degrees.

    It is 2π divided by the unit of angles in a geographic CRS, and the length of the equator on the map in a
    cylindrical projection, such as Web Mercator.

    Args:
        crs: a coordinate reference system as text that pyproj accepts.

    Returns:
        The length of a turn in units of x; None for all other systems, in which x has no period.

    Raises:
        AtrousError: pyproj is not installed, or the CRS cannot be read.
    """
    try:
        from pyproj import CRS
        from pyproj.exceptions import CRSError
    except ImportError:
        raise missing_extra("pyproj", "geo") from None
    try:
        found = horizontal_crs(CRS(crs))
    except CRSError as error:
        raise AtrousError(f"a coordinate reference system cannot be read ({error}).") from error
    if found.is_derived and not found.is_projected:
        return None
    if found.is_geographic:
        turn = 2 * math.pi / found.axis_info[0].unit_conversion_factor
        return float(round(turn)) if math.isclose(turn, round(turn), rel_tol=1e-9) else turn
    return _turn_of_projection(found) if found.is_projected and found.geodetic_crs is not None else None


def _turn_of_projection(crs: Any) -> float | None:
    """Returns the turn of a projected system: positions one turn away must be the same on Earth."""
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    try:
        change = Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
        x, y = np.array(change.transform(np.array([0.0, 1, 90, 91, -90, -89]), np.zeros(6)))
        with np.errstate(invalid="ignore"):
            turn = 360 * float(np.median(x[1::2] - x[::2]))  # one of these steps may be across the end of the map
        if not math.isfinite(turn) or turn <= 0:
            return None
        x, y = np.array(change.transform(np.array([0.0, 100, 0, 100]), np.array([1.0, 1, 60, 60])))
        here = np.array(change.transform(x, y, direction="INVERSE"))
        for moved in (x - turn, x + turn):
            there = np.array(change.transform(moved, y, direction="INVERSE"))
            with np.errstate(invalid="ignore"):
                if not (np.abs(there - here) < _SAME_DEGREES).all():
                    return None
    except ProjError:
        return None
    return turn


def moved_near(x: np.ndarray, middle: float, turn: float | None) -> np.ndarray:
    """Moves coordinates by whole turns to less than half a turn from a coordinate.

    Args:
        x: coordinates; those that are not finite become NaN.
        middle: the coordinate.
        turn: length of a turn, as of `full_turn`; None changes nothing.
    """
    if turn is None:
        return x
    with np.errstate(invalid="ignore"):
        return x - np.floor((x - (middle - turn / 2)) / turn + _ROUNDED) * turn


def middle_of(x: np.ndarray, turn: float) -> float:
    """Returns the middle of coordinates on a circle; 0 if there is none.

    Args:
        x: coordinates; those that are not finite do not count.
        turn: length of the circle.
    """
    angles = x[np.isfinite(x)] * (2 * math.pi / turn)
    return float(np.arctan2(np.sin(angles).sum(), np.cos(angles).sum()) * turn / (2 * math.pi))


def turns_to(low: float, high: float, other: tuple[float, float], turn: float | None) -> list[int]:
    """Returns the numbers of turns by which an interval is moved so that it meets another one.

    Args:
        low: start of the interval.
        high: its end.
        other: start and end of the other interval.
        turn: length of a turn, as of `full_turn`; None if the interval cannot be moved.

    Returns:
        Each number of turns for which the two intervals have more than one point in common.
    """
    if turn is None:
        return [0] if low < other[1] and other[0] < high else []
    first, last = math.ceil((other[0] - high) / turn), math.floor((other[1] - low) / turn)
    moved = ((number, number * turn) for number in range(first, last + 1))
    return [number for number, by in moved if low + by < other[1] and other[0] < high + by]
