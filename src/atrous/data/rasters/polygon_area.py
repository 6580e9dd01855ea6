"""Areas of polygons on the ellipsoid of their coordinate reference system."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from atrous.data.rasters.ellipsoid import Ellipsoid, ellipsoid_of, horizontal_crs
from atrous.errors import missing_extra

#: Longest edge of a polygon in a projection, in metres. Longer edges are divided, because a straight edge on a map is
#: not the shortest line on the ellipsoid.
LONGEST_EDGE = 1000.0


def polygon_area(crs_wkt: str) -> Callable[[Any], float]:
    """Returns a function that computes the area of a shapely polygon in square metres.

    - Coordinates in a projection: the area of the geodesic polygon (C. Karney, Algorithms for geodesics, 2013, §6).
    - Longitude and latitude: edges are straight lines on a map of longitude and latitude, so the area is the integral
      of the authalic latitude (J. Snyder, Map projections, 1987, equation 3-12) along the edges.
    - Coordinates without a relation to Earth: the area in the plane.

    Args:
        crs_wkt: coordinate reference system of the polygons, as WKT.

    Raises:
        AtrousError: pyproj is not installed.
    """
    try:
        import pyproj
    except ImportError:
        raise missing_extra("pyproj", "geo") from None
    crs = horizontal_crs(pyproj.CRS.from_wkt(crs_wkt))
    unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0  # in metres or radians
    if crs.ellipsoid is not None and crs.is_geographic:
        return _of_degrees(ellipsoid_of(crs), unit)
    if crs.ellipsoid is None or not crs.is_projected or crs.geodetic_crs is None:
        return lambda polygon: float(polygon.area) * unit**2
    to_degrees = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    geod, longest = crs.get_geod(), LONGEST_EDGE / unit
    assert geod is not None

    def area(polygon: Any) -> float:
        divided = polygon.segmentize(longest)
        rings = (divided.exterior, *divided.interiors)
        outer, *holes = (_geodesic(geod, to_degrees, np.asarray(ring.coords)) for ring in rings)
        return outer - sum(holes)

    return area


def _geodesic(geod: Any, to_degrees: Any, ring: np.ndarray) -> float:
    longitude, latitude = to_degrees.transform(ring[:, 0], ring[:, 1])
    return abs(geod.polygon_area_perimeter(longitude, latitude)[0])


def _of_degrees(ellipsoid: Ellipsoid, unit: float) -> Callable[[Any], float]:
    below = ellipsoid.area_below

    def ring_area(ring: Any) -> float:
        x, y = np.asarray(ring.coords).T[:2] * unit
        # for an edge along a meridian or a parallel, as in rasters, the mean of the values at its ends is exact
        return abs(float(np.sum(np.diff(x) * (below(y[:-1]) + below(y[1:])) / 2)))

    return lambda polygon: ring_area(polygon.exterior) - sum(map(ring_area, polygon.interiors))
