"""The ground that a raster covers: its outline, its area, and which positions on Earth lie inside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from atrous.data.rasters.date_line import full_turn, moved_near
from atrous.data.rasters.ellipsoid import Ellipsoid, ellipsoid_of, horizontal_crs
from atrous.data.rasters.reprojection import transformer

#: Number of points on each side of an outline.
SIDE_POINTS = 16
#: Number of samples along each side of a raster, at the middles of equal cells.
SAMPLES = 64
#: A raster is compared in a plane if no point is farther than this from its centre, in degrees on Earth. Beyond, the
#: edges between the points of its outline would be too coarse.
FARTHEST = 60.0
#: Largest distance on the unit sphere of a position from itself, converted to a raster's coordinates and back.
SAME = 1e-6
_DEGREES = "EPSG:4326"

Values: TypeAlias = NDArray[np.float64]
#: The centre of a sphere in space, on the scale of the unit sphere, and its radius.
Sphere: TypeAlias = tuple[Values, float]


class Box(NamedTuple):
    """A raster between meridians and parallels.

    Attributes:
        west: longitude of one side in degrees from Greenwich, of any size.
        east: longitude of the other side, > west.
        south: smaller latitude in degrees, −90 to 90.
        north: larger latitude.
        ellipsoid: ellipsoid of the latitudes.
    """

    west: float
    east: float
    south: float
    north: float
    ellipsoid: Ellipsoid

    @property
    def area(self) -> float:
        """The area in m²."""
        return np.radians(self.east - self.west) * self._height(self.south, self.north)

    def shared(self, other: Box) -> float:
        """Returns the area in m² that it shares with another box; longitudes are compared modulo 360°.

        Args:
            other: the other box.
        """
        first, last = (int(np.floor((own - its) / 360)) for own, its in
                       ((self.west, other.east), (self.east, other.west)))  # fmt: skip
        wide = 0.0
        for turn in range(first, last + 1):
            by = 360.0 * turn
            wide += max(0.0, min(self.east, other.east + by) - max(self.west, other.west + by))
        south, north = max(self.south, other.south), min(self.north, other.north)
        return float(np.radians(wide) * self._height(south, north)) if north > south else 0.0

    def _height(self, south: float, north: float) -> float:
        low, high = self.ellipsoid.area_below(np.radians([south, north]))
        return float(high - low)


@dataclass(frozen=True)
class GroundOutline:
    """The place of a raster on Earth.

    Args:
        crs: coordinate reference system as text that pyproj accepts.
        transform: (a, b, c, d, e, f) of x = a·column + b·row + c, y = d·column + e·row + f, in pixels.
        height: number of rows.
        width: number of columns.

    Raises:
        AtrousError: pyproj is not installed, or the CRS cannot be read.
    """

    crs: str
    transform: tuple[float, ...]
    height: float
    width: float

    @cached_property
    def points(self) -> Values:
        """Points along the outline, N × (longitude, latitude) in degrees of WGS 84; infinite outside the Earth."""
        nodes = self._nodes
        return np.concatenate([nodes[0, :-1], nodes[:-1, -1], nodes[-1, :0:-1], nodes[:0:-1, 0]])

    @cached_property
    def _nodes(self) -> Values:
        """A lattice of points with the outline as its border, 17 × 17 × (longitude, latitude)."""
        part = np.linspace(0, 1, SIDE_POINTS + 1)
        return np.stack(self._degrees(*np.meshgrid(part, part)), -1)

    @property
    def is_on_earth(self) -> bool:
        """Whether at least three points of the raster are on Earth."""
        return bool(np.isfinite(self._nodes).all(-1).sum() > 2)

    @cached_property
    def sphere(self) -> Sphere:
        """A sphere in space around the ground, on the scale of the unit sphere."""
        if self.is_wide:
            return np.zeros(3), 1.0
        return sphere_around(self._nodes.reshape(-1, 2))

    @cached_property
    def is_wide(self) -> bool:
        """Whether a map in a plane cannot show the raster: it is very large, or a part is not on Earth."""
        nodes = self._nodes.reshape(-1, 2)
        if not np.isfinite(nodes).all():
            return True
        vectors = in_space(nodes)
        centre = vectors.mean(0)
        length = np.linalg.norm(centre)
        return not length > 0 or bool((vectors @ centre / length).min() < np.cos(np.radians(FARTHEST)))

    @cached_property
    def box(self) -> Box | None:
        """The meridians and parallels around the raster; None if it is rotated, or its CRS is not geographic."""
        found = _geographic(self.crs)
        a, b, c, d, e, f = self.transform
        if found is None or b or d:
            return None
        unit, prime, ellipsoid = found
        west, east = sorted(prime + one * unit for one in (c, c + a * self.width))
        south, north = np.clip(sorted(one * unit for one in (f, f + e * self.height)), -90, 90).tolist()
        return Box(west, east, south, north, ellipsoid)

    def samples(self) -> tuple[Values, Values]:
        """Returns points inside the raster, N × (longitude, latitude) in degrees, and N areas on the unit sphere."""
        corners = np.linspace(0, 1, SAMPLES + 1)
        middles = (corners[:-1] + corners[1:]) / 2
        points = np.stack(self._degrees(*np.meshgrid(middles, middles)), -1)
        with np.errstate(invalid="ignore"):  # infinite: not on Earth
            space = in_space(np.stack(self._degrees(*np.meshgrid(corners, corners)), -1))
            first, second = space[1:, 1:] - space[:-1, :-1], space[1:, :-1] - space[:-1, 1:]
            areas = np.linalg.norm(np.cross(first, second), axis=-1) / 2
        known = np.isfinite(points).all(-1) & np.isfinite(areas)
        return points[known], areas[known]

    @cached_property
    def area(self) -> float:
        """The approximate area on the unit sphere."""
        return float(self.samples()[1].sum())

    def contains(self, points: Values) -> NDArray[np.bool_]:
        """Returns which positions are inside the raster.

        Args:
            points: N × (longitude, latitude) in degrees.
        """
        a, b, c, d, e, f = self.transform
        x, y = transformer(_DEGREES, self.crs)(*points.T)
        x = moved_near(x, a * self.width / 2 + b * self.height / 2 + c, full_turn(self.crs))
        with np.errstate(invalid="ignore"):
            # some projections also map positions on the other side of the Earth, to wrong places
            back = np.stack(transformer(self.crs, _DEGREES)(x, y), -1)
            same = np.linalg.norm(in_space(back) - in_space(points), axis=-1) < SAME
            columns, rows = (e * (x - c) - b * (y - f)) / (a * e - b * d), (a * (y - f) - d * (x - c)) / (a * e - b * d)
            return same & (columns >= 0) & (columns <= self.width) & (rows >= 0) & (rows <= self.height)

    def _degrees(self, across: Values, down: Values) -> tuple[Values, Values]:
        """Returns longitudes and latitudes at parts of the width and of the height."""
        a, b, c, d, e, f = self.transform
        columns, rows = across * self.width, down * self.height
        return transformer(self.crs, _DEGREES)(a * columns + b * rows + c, d * columns + e * rows + f)


@lru_cache(maxsize=256)
def _geographic(crs: str) -> tuple[float, float, Ellipsoid] | None:
    """Returns the unit of a geographic CRS and its prime meridian in degrees, and its ellipsoid; None for others."""
    from pyproj import CRS

    found: Any = horizontal_crs(CRS(crs))
    if not found.is_geographic or found.is_derived:
        return None
    unit = float(np.degrees(found.axis_info[0].unit_conversion_factor))
    meridian = found.prime_meridian
    return unit, float(np.degrees(meridian.longitude * meridian.unit_conversion_factor)), ellipsoid_of(found)


def in_space(points: Values) -> Values:
    """Returns positions on the unit sphere as … × (x, y, z).

    Args:
        points: … × (longitude, latitude) in degrees.
    """
    longitude, latitude = np.radians(np.moveaxis(points, -1, 0))
    across = np.cos(latitude)
    return np.stack([across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude)], -1)


def sphere_around(points: Values) -> Sphere:
    """Returns the centre of points on the unit sphere, and the largest distance of a point from it.

    Args:
        points: N × (longitude, latitude) in degrees.
    """
    vectors = in_space(points)
    centre = vectors.mean(0)
    return centre, float(np.linalg.norm(vectors - centre, axis=1).max())
