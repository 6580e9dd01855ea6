"""Computes the true area of a raster's pixels on the ellipsoid, in any coordinate reference system (CRS).

In most projections, a pixel of 10 m does not cover 100 m² of ground: it covers 0.08 % more at the centre of a UTM zone,
and only a quarter of 100 m² in Web Mercator at a latitude of 60°. So the corners of small cells of pixels are converted
to positions on the ellipsoid, and the area of each cell is computed there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.data.rasters.ellipsoid import ellipsoid_of, horizontal_crs
from atrous.data.rasters.ground_outline import SIDE_POINTS, GroundOutline
from atrous.data.sources.geotiff import Place
from atrous.errors import AtrousError, missing_extra

#: Approximate side of a cell, in metres. All pixels of a cell get the same area. In a cell of 1 km, the true areas of
#: two pixels differ by about 0.05 % in Web Mercator at 60°, and much less in UTM.
CELL = 1000.0

Values = NDArray[np.float64]


class PixelAreas:
    """The true areas of the pixels of a raster.

    If the CRS is geographic and the raster is not rotated, a pixel is bounded by meridians and parallels, and its area
    is exact. Otherwise, a cell of at most `CELL` metres (or one pixel, if pixels are larger) is a flat quadrilateral
    between its four corners on the ellipsoid. The relative error of the area is below 10⁻⁷ for cells of 1 km. Pixels
    that are not on Earth, as in the corners of a world map, have no area.

    Args:
        place: position of the raster on Earth, as of `GeoTiffSource.geometry`.
        size: (height, width) of the raster, in pixels.
        name: name of the raster in messages.

    Raises:
        AtrousError: pyproj is not installed, the raster has no position or no CRS on Earth, or its coordinates are not
            on Earth.
    """

    def __init__(self, place: Place, size: tuple[int, int], name: str) -> None:
        self._crs = _horizontal_crs(place, name)
        self._transform = np.reshape([*place.transform][:6], (2, 3)).astype(np.float64)
        geodetic = self._crs.geodetic_crs
        self._ellipsoid = ellipsoid_of(geodetic)
        self._unit = float(geodetic.axis_info[0].unit_conversion_factor)  # radians
        geographic = self._crs.is_geographic and not self._crs.is_derived
        self._on_parallels = geographic and not self._transform[0, 1] and not self._transform[1, 0]
        self._size = height, width = size
        rows, columns = np.meshgrid(*(np.linspace(0, side, SIDE_POINTS) for side in size), indexing="ij")
        if not np.isfinite(self._converted(rows, columns, geodetic)).any():
            raise AtrousError(
                f"{name}: its coordinates are not on Earth in its coordinate reference system {_in_words(self._crs)}: "
                "the file has the wrong reference system or the wrong transform; gdalinfo shows both."
            )
        if self._on_parallels:
            step = abs(self._transform[1, 1]) * self._unit
            ends = np.abs(self._latitudes(np.array([0.0, height])))
            if ends.max() > np.pi / 2 + step:
                raise AtrousError(f"{name}: its latitudes go beyond 90°: longitude and latitude may be exchanged.")
        middle = self._of_cells(np.array([height // 2, height // 2 + 1]), np.array([width // 2, width // 2 + 1]))
        self._cell = max(1, round(CELL / np.sqrt(middle[0, 0]))) if middle[0, 0] > 0 else 1

    def of(self, window: tuple[int, int, int, int]) -> Values:
        """Returns the area of each pixel of a window in m², as H×W; it may be called from any thread.

        Args:
            window: (top, left, height, width) in pixels.
        """
        top, left, height, width = window
        if self._on_parallels:
            areas = self._of_rows(np.arange(top, top + height + 1.0))
            return np.broadcast_to(areas[:, None], (height, width))
        rows = _edges(top, height, self._cell, self._size[0])
        columns = _edges(left, width, self._cell, self._size[1])
        high, wide = np.diff(rows), np.diff(columns)
        cells = self._of_cells(rows, columns) / (high[:, None] * wide)
        areas = np.repeat(np.repeat(cells, high, axis=0), wide, axis=1)
        return areas[top - rows[0] : top - rows[0] + height, left - columns[0] : left - columns[0] + width]

    def outline(self) -> GroundOutline:
        """Returns the ground of the raster, which is compared with that of others."""
        height, width = self._size
        return GroundOutline(self._crs.to_wkt(), tuple(self._transform.ravel().tolist()), height, width)

    def _latitudes(self, rows: Values) -> Values:
        return (self._transform[1, 1] * rows + self._transform[1, 2]) * self._unit

    def _of_rows(self, rows: Values) -> Values:
        """Returns the area of a pixel of each row, which lies between two parallels."""
        latitudes = np.clip(self._latitudes(rows), -np.pi / 2, np.pi / 2)
        wide = abs(self._transform[0, 0]) * self._unit
        return wide * np.abs(np.diff(self._ellipsoid.area_below(latitudes)))

    def _of_cells(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Values:
        """Returns the area of each cell between neighbouring rows and columns; 0 for a cell that is not on Earth."""
        longitude, latitude = self._converted(*np.meshgrid(rows, columns, indexing="ij"), self._crs.geodetic_crs)
        with np.errstate(invalid="ignore"):  # infinite: not on Earth
            points = self._in_space(longitude * self._unit, latitude * self._unit)
            first, second = points[1:, 1:] - points[:-1, :-1], points[1:, :-1] - points[:-1, 1:]
            areas = np.linalg.norm(np.cross(first, second), axis=-1) / 2
        return np.where(np.isfinite(areas), areas, 0)

    def _in_space(self, longitude: Values, latitude: Values) -> Values:
        """Returns Cartesian coordinates, in metres from the centre of the ellipsoid, of positions in radians."""
        radius, squared = self._ellipsoid
        normal = radius / np.sqrt(1 - squared * np.sin(latitude) ** 2)
        across = normal * np.cos(latitude)
        return np.stack(
            [across * np.cos(longitude), across * np.sin(longitude), normal * (1 - squared) * np.sin(latitude)], -1
        )

    def _converted(self, rows: NDArray, columns: NDArray, target: Any) -> tuple[Values, Values]:
        """Returns longitudes and latitudes in units of the target CRS; infinite where a point is not on Earth."""
        from pyproj import Transformer

        (a, b, c), (d, e, f) = self._transform
        # a new object for each call, because an object of pyproj must stay in the thread that made it
        transformer = Transformer.from_crs(self._crs, target, always_xy=True)
        return transformer.transform(a * columns + b * rows + c, d * columns + e * rows + f)


def _horizontal_crs(place: Place, name: str) -> Any:
    """Returns the geographic or projected CRS of a raster, without heights and datum shifts, as an object of pyproj."""
    try:
        from pyproj import CRS
        from pyproj.exceptions import CRSError
    except ImportError:
        raise missing_extra("pyproj", "geo") from None
    if place.crs is None and place.points:
        raise AtrousError(
            f"{name}: it has ground control points, but no grid of pixels on Earth: make one, for example with "
            "gdalwarp -t_srs EPSG:32633 IN.tif OUT.tif."
        )
    if place.crs is None:
        raise AtrousError(
            f"{name}: it has no coordinate reference system, so the area of its pixels is unknown: set the right one, "
            "for example with gdal_edit.py -a_srs EPSG:32633 FILE.tif."
        )
    if place.transform.is_identity or not place.transform.determinant:
        raise AtrousError(
            f"{name}: it has a coordinate reference system, but no positions of its pixels: set the coordinates of its "
            "corners, for example with gdal_edit.py -a_ullr LEFT TOP RIGHT BOTTOM FILE.tif."
        )
    try:
        crs: Any = CRS.from_wkt(place.crs.to_wkt())
    except CRSError as error:
        raise AtrousError(f"{name}: its coordinate reference system cannot be read ({error}).") from error
    crs = horizontal_crs(crs)
    if not (crs.is_projected or crs.is_geographic) or crs.geodetic_crs is None:
        raise AtrousError(
            f"{name}: its coordinate reference system {_in_words(crs)} is not on Earth: give a raster in a projected "
            "or a geographic one."
        )
    return crs


def _in_words(crs: Any) -> str:
    code = crs.to_authority()
    return f"{crs.name} ({':'.join(code)})" if code else crs.name


def _edges(start: int, count: int, step: int, last: int) -> NDArray[np.int64]:
    """Returns the edges of the cells that a window touches; cells start at multiples of a step in every window."""
    stop = -(-(start + count) // step) * step
    return np.minimum(np.arange(start // step * step, stop + 1, step), last)
