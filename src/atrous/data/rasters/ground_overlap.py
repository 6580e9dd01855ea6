"""Finds rasters that show the same ground, even if their coordinate reference systems differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from atrous.errors import missing_extra

#: Two pictures overlap if they share more than this fraction of the ground of the smaller picture. Tiles that only
#: touch do not overlap.
LEAST_SHARED = 0.01
#: The centre of a sphere in space, on the scale of the unit sphere, and its radius.
Sphere: TypeAlias = tuple[NDArray[np.float64], float]


def overlapping_outlines(outlines: Mapping[Path, NDArray[np.float64]]) -> Iterator[tuple[Path, Path, float]]:
    """Yields pairs of rasters that share more than 1 % of the smaller raster; tiles that only touch do not overlap.

    The outlines of two rasters are compared in an equal-area projection around the first raster. So the comparison also
    works for rasters at a pole, and for rasters on both sides of the date line.

    Args:
        outlines: points along the outline of each raster, as N × (longitude, latitude) in degrees; see
            `PixelAreas.outline`.

    Yields:
        The two rasters, and the fraction of the smaller raster that both share, 0–1.

    Raises:
        AtrousError: shapely or pyproj is not installed.
    """
    finite = {path: points[np.isfinite(points).all(1)] for path, points in outlines.items()}
    known = {path: points for path, points in finite.items() if len(points) > 2}
    paths, points, spheres = list(known), list(known.values()), [sphere_around(one) for one in known.values()]
    at, plane = -1, None
    for first, second in _near_pairs(spheres):
        if plane is None or first != at:
            at, plane = first, OutlinePlane(points[first])
        shared = plane.shared(points[second])
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
        spheres: spheres from `sphere_around`, at least one.

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


def sphere_around(points: NDArray[np.float64]) -> Sphere:
    """Returns the centre of points on the unit sphere, and the largest distance of a point from it.

    Args:
        points: N × (longitude, latitude) in degrees.
    """
    longitude, latitude = np.radians(points.T)
    across = np.cos(latitude)
    vectors = np.stack([across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude)], -1)
    centre = vectors.mean(0)
    return centre, float(np.linalg.norm(vectors - centre, axis=1).max())


class OutlinePlane:
    """An outline in an equal-area projection around it; in this projection, it is compared with other outlines.

    Args:
        outline: points along the outline, N × (longitude, latitude) in degrees, all finite.

    Raises:
        AtrousError: shapely or pyproj is not installed.
    """

    def __init__(self, outline: NDArray[np.float64]) -> None:
        self._to_plane = _plane_around(sphere_around(outline)[0])
        self._own = self._polygon(outline)

    def shared(self, other: NDArray[np.float64]) -> float:
        """Returns the area that this outline shares with another outline, divided by the area of the smaller one, 0–1.

        Args:
            other: the other outline, as for `OutlinePlane`.
        """
        polygon = self._polygon(other)
        smaller = min(self._own.area, polygon.area)
        return self._own.intersection(polygon).area / smaller if smaller > 0 else 0.0

    def _polygon(self, outline: NDArray[np.float64]) -> Any:
        try:
            from shapely import Polygon, make_valid
        except ImportError:
            raise missing_extra("shapely", "geo") from None

        return make_valid(Polygon(np.stack(self._to_plane(*outline.T), -1)))


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
