"""The grid of a raster on Earth: its size, its coordinate reference system and its affine map."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from atrous.data.file_version import MOST_FILES, RasterVersion, raster_version
from atrous.data.formats.tiff import TiffPicture, is_tiff
from atrous.data.rasters.open_raster import open_raster
from atrous.errors import AtrousError

#: Two rasters are on one grid if their corners are at most this fraction of a pixel apart.
TOLERANCE = 1e-3
#: Largest number of coordinate reference systems whose texts and codes are kept.
_MOST_SYSTEMS = 1024


@dataclass(frozen=True)
class RasterGrid:
    """The grid of a raster.

    Attributes:
        crs: coordinate reference system as a rasterio object; None if it is unknown.
        transform: affine map from (column, row) to coordinates, as an `affine.Affine`; (0, 0) is the outer corner of
            the first pixel.
        height: number of rows.
        width: number of columns.
    """

    crs: Any
    transform: Any
    height: int
    width: int

    @property
    def has_place(self) -> bool:
        """Whether the raster has coordinates: a coordinate reference system, or an affine map besides the identity."""
        return self.crs is not None or not self.transform.is_identity

    @cached_property
    def crs_text(self) -> str:
        """The coordinate reference system as text that pyproj accepts, an EPSG code or WKT; "" if it is unknown."""
        return "" if self.crs is None else _crs_text(self.crs)


def grid_of(path: str | Path) -> RasterGrid:
    """Reads the grid of a raster from its header; an unchanged file is read once.

    Args:
        path: a file that rasterio reads, such as GeoTIFF, JPEG 2000 or VRT.

    Raises:
        AtrousError: rasterio is not installed; the file is missing or damaged; or it is a TIFF that is not stored
            upright.
    """
    return _read_grid(Path(path), raster_version(path))


def is_tiff_file(path: str | Path) -> bool:
    """Returns whether a file is a TIFF, from its first bytes.

    Args:
        path: a file that exists.
    """
    with Path(path).open("rb") as file:
        return is_tiff(file.read(4))


@lru_cache(maxsize=MOST_FILES)
def _read_grid(path: Path, version: RasterVersion) -> RasterGrid:
    with open_raster(path) as dataset:
        grid = RasterGrid(dataset.crs or None, dataset.transform, dataset.height, dataset.width)
    if is_tiff_file(path):
        with TiffPicture(path) as tiff:
            if tiff.orientation != 1:
                raise AtrousError(
                    f"{path}: the TIFF tag Orientation is {tiff.orientation}, so its picture is turned, but its "
                    "coordinates are those of the stored pixels. If GIS programs show the file at the right place, "
                    f"remove the tag: {shlex.join(['tiffset', '-u', '274', str(path)])}"
                )
    return grid


def same_grid(one: RasterGrid, other: RasterGrid) -> bool:
    """Returns whether the pixels of two rasters lie on each other.

    They do if both rasters have the same size, their corners agree within `TOLERANCE` of a pixel, and their coordinate
    reference systems are equal. If the system of one raster is missing, the systems count as equal, because equal
    coordinates in two different systems do not occur by chance. A raster without coordinates lies on every raster of
    its size, pixel by pixel.

    Args:
        one: grid of a raster.
        other: grid of another raster.
    """
    if (one.height, one.width) != (other.height, other.width):
        return False
    if not (one.has_place and other.has_place):
        return True
    if one.crs is not None and other.crs is not None and not same_crs(one.crs, other.crs):
        return False
    columns, rows = np.array([0, one.width, 0, one.width]), np.array([0, 0, one.height, one.height])
    if one.transform.determinant == 0:
        return one.transform == other.transform
    there = coordinates(~one.transform, *coordinates(other.transform, columns, rows))
    return bool(np.abs(np.subtract(there, (columns, rows))).max() <= TOLERANCE)


def same_crs(one: Any, other: Any) -> bool:
    """Returns whether two coordinate reference systems are equal, or have the same EPSG code.

    Args:
        one: a rasterio object.
        other: another rasterio object.
    """
    if one == other:
        return True
    code = epsg_code(one)
    return code is not None and code == epsg_code(other)


# For a system without an EPSG code, PROJ searches its whole database, which takes a second.
@lru_cache(maxsize=_MOST_SYSTEMS)
def _crs_text(crs: Any) -> str:
    return crs.to_string()


@lru_cache(maxsize=_MOST_SYSTEMS)
def epsg_code(crs: Any) -> int | None:
    """Returns the EPSG code of a coordinate reference system of rasterio; None if no code is certain.

    Args:
        crs: the system.
    """
    return crs.to_epsg(confidence_threshold=90)


def coordinates(transform: Any, columns: Any, rows: Any) -> tuple[Any, Any]:
    """Applies an affine map to positions in pixels.

    Args:
        transform: the map, as an `affine.Affine`.
        columns: a number or an array; x, for the inverse map of a grid.
        rows: a number or an array of the same shape; y, for the inverse map of a grid.

    Returns:
        x and y; columns and rows, for the inverse map of a grid.
    """
    a, b, c, d, e, f = transform[:6]  # Affine's operator * is deprecated, and @ is missing in old versions
    return a * columns + b * rows + c, d * columns + e * rows + f


def grid_text(grid: RasterGrid) -> str:
    """Describes a grid for messages.

    Args:
        grid: the grid.

    Returns:
        Text such as "512×512 px in EPSG:32632, pixels of 10×10, corner at (500000, 4600000)".
    """
    size = f"{grid.width}×{grid.height} px"
    if not grid.has_place:
        return f"{size} without coordinates"
    move = grid.transform
    system = "without a coordinate reference system" if grid.crs is None else f"in {crs_name(grid.crs)}"
    across, down = np.hypot(move.a, move.d), np.hypot(move.b, move.e)
    turned = ", rotated" if move.b or move.d else ""
    return f"{size} {system}, pixels of {across:.6g}×{down:.6g}{turned}, corner at ({move.c:.9g}, {move.f:.9g})"


def crs_name(crs: Any) -> str:
    """Returns a short name of a coordinate reference system for messages: its EPSG code, or the name in its WKT.

    Args:
        crs: a rasterio object.
    """
    text = _crs_text(crs)
    return text if len(text) < 40 or '"' not in text else text.split('"')[1]
