"""Finds rasters that show the same ground, also if their coordinate reference systems differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atrous.data.doctor.geographic_footprints import LEAST_SHARED
from atrous.errors import missing_extra


def overlapping_outlines(outlines: Mapping[Path, NDArray[np.float64]]) -> Iterator[tuple[Path, Path, float]]:
    """Yields pairs of rasters that overlap by more than 1 % of the smaller one; tiles that only touch do not overlap.

    The outlines of two rasters are compared in an equal-area projection around the first one, so rasters at a pole and
    on both sides of the date line are compared, too.

    Args:
        outlines: points along the outline of each raster, as N × (longitude, latitude) in degrees; see
            `PixelAreas.outline`.

    Yields:
        The two rasters, and the shared part of the smaller one, 0–1.

    Raises:
        AtrousError: shapely or pyproj is not installed.
    """
    finite = {path: points[np.isfinite(points).all(1)] for path, points in outlines.items()}
    known = {path: points for path, points in finite.items() if len(points) > 2}
    paths, spheres = list(known), [_sphere_around(points) for points in known.values()]
    for index, path in enumerate(paths):
        centre, radius = spheres[index]
        near = [
            other
            for other, (place, size) in zip(paths[index + 1 :], spheres[index + 1 :], strict=True)
            if np.linalg.norm(place - centre) < radius + size
        ]
        for other in near:
            shared = _shared(known[path], known[other], centre)
            if shared > LEAST_SHARED:
                yield path, other, shared


def _sphere_around(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Returns the centre of points on the unit sphere, and the largest distance of a point from it."""
    longitude, latitude = np.radians(points.T)
    across = np.cos(latitude)
    vectors = np.stack([across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude)], -1)
    centre = vectors.mean(0)
    return centre, float(np.linalg.norm(vectors - centre, axis=1).max())


def _shared(first: NDArray[np.float64], second: NDArray[np.float64], centre: NDArray[np.float64]) -> float:
    """Returns the shared area of two outlines, as a part of the smaller one, 0–1."""
    try:
        from pyproj import Transformer
    except ImportError:
        raise missing_extra("pyproj", "geo") from None
    try:
        from shapely import Polygon, make_valid
    except ImportError:
        raise missing_extra("shapely", "geo") from None

    latitude = np.degrees(np.arctan2(centre[2], np.hypot(centre[0], centre[1])))
    longitude = np.degrees(np.arctan2(centre[1], centre[0]))
    plane = f"+proj=laea +lat_0={latitude:.8f} +lon_0={longitude:.8f} +datum=WGS84"
    to_plane = Transformer.from_crs("EPSG:4326", plane, always_xy=True)
    one, other = (make_valid(Polygon(np.stack(to_plane.transform(*points.T), -1))) for points in (first, second))
    smaller = min(one.area, other.area)
    return one.intersection(other).area / smaller if smaller > 0 else 0.0
