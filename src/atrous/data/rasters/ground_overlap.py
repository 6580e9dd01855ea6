"""Finds rasters that show the same ground, even if their coordinate reference systems differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.data.rasters.ground_outline import GroundOutline, Sphere
from atrous.errors import missing_extra

#: Two pictures overlap if they share more than this fraction of the ground of the smaller picture. Tiles that only
#: touch do not overlap.
LEAST_SHARED = 0.01


def overlapping_outlines(outlines: Mapping[Path, GroundOutline]) -> Iterator[tuple[Path, Path, float]]:
    """Yields pairs of rasters that overlap by more than 1 % of the smaller one; tiles that only touch do not overlap.

    Rasters at a pole, on both sides of the date line and of the whole Earth are compared, too; see `GroundComparison`.

    Args:
        outlines: the ground of each raster; see `PixelAreas.outline`.

    Yields:
        The two rasters, and the fraction of the smaller raster that both share, 0–1.

    Raises:
        AtrousError: shapely or pyproj is not installed.
    """
    known = {path: outline for path, outline in outlines.items() if outline.is_on_earth}
    paths, grounds = list(known), list(known.values())
    at, comparison = -1, None
    for first, second in _near_pairs([one.sphere for one in grounds]):
        if comparison is None or first != at:
            at, comparison = first, GroundComparison(grounds[first])
        shared = comparison.shared(grounds[second])
        if shared > LEAST_SHARED:
            yield paths[first], paths[second], shared


def _near_pairs(spheres: list[Sphere]) -> list[tuple[int, int]]:
    """Returns the pairs of spheres with a common point, in order; each pair is (smaller index, larger index)."""
    if len(spheres) < 2:
        return []
    pairs = SphereTree(spheres).near(spheres)
    return [(first, second) for first, second in pairs if first < second]


class SphereTree:
    """Finds the spheres that have a point in common with a given sphere.

    First, a tree of boxes in a plane finds the spheres that may have a common point. A projection on a plane does not
    increase lengths, so no sphere is lost. The plane is chosen so that the projected centres are as far apart as
    possible.

    Args:
        spheres: spheres as of `GroundOutline.sphere`, at least one.

    Raises:
        AtrousError: shapely is not installed.
    """

    def __init__(self, spheres: Sequence[Sphere]) -> None:
        try:
            from shapely import STRtree
        except ImportError:
            raise missing_extra("shapely", "geo") from None
        self._centres, self._radii = _arrays_of(spheres)
        away = self._centres - self._centres.mean(0)
        self._axes = np.linalg.eigh(away.T @ away)[1][:, -2:]
        self._tree = STRtree(self._boxes(self._centres, self._radii))

    def near(self, spheres: Sequence[Sphere]) -> list[tuple[int, int]]:
        """Returns the pairs (index of the given sphere, index of the sphere of the tree) with a common point, sorted.

        Args:
            spheres: spheres to compare, at least one.
        """
        centres, radii = _arrays_of(spheres)
        first, second = self._tree.query(self._boxes(centres, radii))
        near = np.linalg.norm(self._centres[second] - centres[first], axis=1) < radii[first] + self._radii[second]
        return sorted(zip(first[near].tolist(), second[near].tolist(), strict=True))

    def _boxes(self, centres: NDArray[np.float64], radii: NDArray[np.float64]) -> Any:
        from shapely import box

        x, y = (centres @ self._axes).T
        reach = radii * (1 + 1e-9) + 1e-12  # a tolerance, so that no pair is lost by rounding
        return box(x - reach, y - reach, x + reach, y + reach)


def _arrays_of(spheres: Sequence[Sphere]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array([centre for centre, _ in spheres]), np.array([radius for _, radius in spheres])


class GroundComparison:
    """Compares the ground of a raster with that of others.

    Two rasters between meridians and parallels are compared exactly if they have one coordinate reference system, or if
    one of them is wide (`GroundOutline.is_wide`). Otherwise, if one of them is wide, the shared part is the area of the
    samples of the smaller one that lie inside the other one. All others are compared as polygons in an equal-area
    projection around this raster.

    Args:
        outline: the ground of the raster.

    Raises:
        AtrousError: shapely or pyproj is not installed.
    """

    def __init__(self, outline: GroundOutline) -> None:
        self._outline = outline

    def shared(self, other: GroundOutline) -> float:
        """Returns the ground that both rasters show, as a part of the smaller one, 0–1.

        Args:
            other: the ground of another raster.
        """
        own, wide = self._outline, self._outline.is_wide or other.is_wide
        if own.box is not None and other.box is not None and (wide or own.crs == other.crs):
            return _part(own.box.shared(other.box), own.box.area, other.box.area)
        if wide:
            smaller, larger = sorted((own, other), key=lambda one: one.area)
            points, areas = smaller.samples()
            return _part(float(areas[larger.contains(points)].sum()), smaller.area, larger.area)
        to_plane, polygon = self._plane
        another = _polygon(to_plane, other)
        return _part(polygon.intersection(another).area, polygon.area, another.area)

    @cached_property
    def _plane(self) -> tuple[Any, Any]:
        """The projection around the raster, and the raster in it."""
        to_plane = _plane_around(self._outline.sphere[0])
        return to_plane, _polygon(to_plane, self._outline)


def _part(shared: float, one: float, other: float) -> float:
    smaller = min(one, other)
    return min(1.0, shared / smaller) if smaller > 0 else 0.0


def _polygon(to_plane: Any, outline: GroundOutline) -> Any:
    try:
        from shapely import Polygon, make_valid
    except ImportError:
        raise missing_extra("shapely", "geo") from None

    return make_valid(Polygon(np.stack(to_plane(*outline.points.T), -1)))


def _plane_around(centre: NDArray[np.float64]) -> Any:
    """Returns a function of longitudes and latitudes: an equal-area projection around a point in space."""
    try:
        from pyproj import Proj
    except ImportError:
        raise missing_extra("pyproj", "geo") from None

    latitude = np.degrees(np.arctan2(centre[2], np.hypot(centre[0], centre[1])))
    longitude = np.degrees(np.arctan2(centre[1], centre[0]))
    # a Transformer between two systems gives the same numbers, but creating it takes 25 times longer
    return Proj(f"+proj=laea +lat_0={latitude:.8f} +lon_0={longitude:.8f} +datum=WGS84")
