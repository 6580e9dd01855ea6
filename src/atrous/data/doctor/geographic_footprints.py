"""Reads the geographic positions of pictures from their files, and finds pictures that show the same ground."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from atrous.data.file_version import Version, file_version
from atrous.data.formats.decoder_errors import in_words
from atrous.data.formats.jpeg2000 import is_jpeg2000
from atrous.data.formats.pillow import opened
from atrous.data.formats.tiff import TiffPicture, is_tiff
from atrous.data.rasters.date_line import full_turn
from atrous.data.rasters.ground_outline import GroundOutline
from atrous.data.rasters.ground_overlap import LEAST_SHARED as LEAST_SHARED
from atrous.data.rasters.ground_overlap import GroundComparison, SphereTree
from atrous.data.rasters.open_raster import VRT_SUFFIX
from atrous.data.rasters.raster_grid import epsg_code, grid_of
from atrous.data.rasters.scene_windows import window_place
from atrous.data.sources.source import Window
from atrous.errors import AtrousError

#: Two photographs show the same ground if their positions differ by less than this distance along each axis, in metres.
NEAR_METRES = 10.0
_MOST_CELLS = 4096  # a footprint that overlaps more grid squares than this is compared with all other footprints
_SMALLEST = 1e-9  # smallest side of a footprint, in metres or degrees
_FARTHEST = 1e9  # largest coordinate in metres or degrees; larger, infinite or NaN coordinates are not on Earth
_METRES_PER_DEGREE = 111_320.0
_GPS_TAG = 34853  # EXIF tag of the directory with latitude and longitude
_PROJECTED, _GEOGRAPHIC = "ProjectedCSTypeGeoKey", "GeographicTypeGeoKey"
_USER_DEFINED = 32767
_OF_ONE_FILE = ("ModelPixelScale", "ModelTiepoint", "ModelTransformation")


#: A coordinate system, as `Footprint.system` and as `Footprint.crs`.
System: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Footprint:
    """A rectangle on Earth.

    Attributes:
        system: coordinate system, such as "EPSG:32633"; "GPS" for the position of a photograph, in degrees east and
            north; "" if the system of the coordinates is unknown.
        left: smallest x, in units of the system.
        bottom: smallest y.
        right: largest x.
        top: largest y.
        crs: the system as text that pyproj accepts; "" if positions in this system cannot be compared with other
            systems.
    """

    system: str
    left: float
    bottom: float
    right: float
    top: float
    crs: str = field(default="", compare=False)

    @property
    def area(self) -> float:
        """The area in squared units of the system."""
        return (self.right - self.left) * (self.top - self.bottom)

    def shares(self, other: Footprint) -> float:
        """Returns how much of the smaller rectangle overlaps with the larger rectangle, 0–1; 0 for different systems.

        Args:
            other: the other rectangle.
        """
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        if self.system != other.system or width <= 0 or height <= 0:
            return 0.0
        return width * height / min(self.area, other.area)


def footprint_of(path: Path) -> Footprint | None:
    """Returns the ground that a picture shows.

    The position is read from the first of these sources that exists: the tags of a GeoTIFF, or the header of a VRT or
    JPEG 2000 file if rasterio is installed; a world file in the same folder; the GPS position of a photograph.

    Args:
        path: path of a picture, or of a window of a scene.

    Returns:
        The rectangle around the ground; None if the file has no valid position. Ground control points are not read.
    """
    try:
        corners, (system, crs) = _corners_in(path)
        if corners is None:
            return None
        xs, ys = zip(*corners, strict=True)
        found = Footprint(system, min(xs), min(ys), max(xs), max(ys), crs)
    except (AtrousError, OSError, ValueError, TypeError, IndexError, ArithmeticError, KeyError):
        return None  # a picture with a wrong position is still usable for training
    sound = all(abs(side) < _FARTHEST for side in (found.left, found.bottom, found.right, found.top))
    wide = min(found.right - found.left, found.top - found.bottom) > _SMALLEST
    return found if sound and wide else None


class Grounds:
    """Finds pictures that show the same ground; a grid of squares avoids the comparison of all pairs of pictures.

    Footprints in one coordinate system are compared exactly. Those in different systems, or with longitudes over 180°,
    are compared as in `overlapping_outlines`, if pyproj and shapely are installed.

    Args:
        footprints: the footprint of each picture that has one.
    """

    def __init__(self, footprints: Mapping[Path, Footprint]) -> None:
        self._first: dict[Footprint, Path] = {}
        for path, one in footprints.items():
            self._first.setdefault(one, path)
        sides: dict[str, list[float]] = defaultdict(list)
        for one in self._first:
            sides[one.system].append(max(one.right - one.left, one.top - one.bottom))
        self._cell = {system: statistics.median(found) for system, found in sides.items()}
        self._in_cell: dict[tuple[str, int, int], list[Footprint]] = defaultdict(list)
        self._wide: list[Footprint] = []
        for one in self._first:
            cells = self._cells_of(one)
            if cells is None:
                self._wide.append(one)
            for cell in cells or ():
                self._in_cell[cell].append(one)
        self._systems = {one.system for one in self._first if one.crs}

    def sharing(self, footprint: Footprint) -> Iterator[Path]:
        """Yields one picture for each footprint that overlaps with the given footprint or equals it.

        Args:
            footprint: the footprint to compare.
        """
        cells = self._cells_of(footprint)
        near = self._first if cells is None else [one for cell in cells for one in self._in_cell.get(cell, ())]
        for one in dict.fromkeys((*near, *self._wide)):
            if footprint.shares(one) > LEAST_SHARED:
                yield self._first[one]
        if not footprint.crs or not _compares_systems():
            return
        if self._systems - {footprint.system} or self._pass_date_line or _passes_date_line(footprint):
            yield from (self._first[one] for one in self._in_other_coordinates(footprint))

    def _in_other_coordinates(self, footprint: Footprint) -> Iterator[Footprint]:
        """Yields the footprints that overlap with a footprint, but in another system, or by other longitudes."""
        outline, (placed, tree) = _outline_of(footprint), self._placed
        if outline is None or tree is None:
            return
        comparison, passes = GroundComparison(outline), _passes_date_line(footprint)
        for _, index in tree.near([outline.sphere]):
            one, other = placed[index]
            moved = (passes or one in self._pass_date_line) and footprint.shares(one) <= LEAST_SHARED
            if (one.system != footprint.system or moved) and comparison.shared(other) > LEAST_SHARED:
                yield one

    @cached_property
    def _pass_date_line(self) -> set[Footprint]:
        return {one for one in self._first if one.crs and _passes_date_line(one)}

    @cached_property
    def _placed(self) -> tuple[list[tuple[Footprint, GroundOutline]], SphereTree | None]:
        """The footprints with their ground, and a tree that finds near ones."""
        outlines = ((one, _outline_of(one)) for one in self._first if one.crs)
        placed = [(one, outline) for one, outline in outlines if outline is not None]
        return placed, SphereTree([outline.sphere for _, outline in placed]) if placed else None

    def _cells_of(self, one: Footprint) -> list[tuple[str, int, int]] | None:
        """Returns the grid squares that a rectangle overlaps; None for a rectangle that overlaps too many squares."""
        side = self._cell.get(one.system)
        if side is None:
            return []
        sides = ((one.left, one.right), (one.bottom, one.top))
        if (one.right - one.left + side) * (one.top - one.bottom + side) > _MOST_CELLS * side * side:
            return None
        columns, rows = (range(math.floor(low / side), math.floor(high / side) + 1) for low, high in sides)
        return [(one.system, column, row) for column in columns for row in rows]


def overlapping(footprints: Mapping[Path, Footprint]) -> Iterator[tuple[Path, Path]]:
    """Yields pairs of pictures that show the same ground.

    Args:
        footprints: the footprint of each picture that has one.
    """
    grounds = Grounds(footprints)
    for path, one in footprints.items():
        yield from ((other, path) for other in grounds.sharing(one) if other != path)


def _compares_systems() -> bool:
    return all(find_spec(package) is not None for package in ("pyproj", "shapely"))


def _outline_of(footprint: Footprint) -> GroundOutline | None:
    """Returns the ground of a footprint; None if it is not on Earth, or if the system cannot be read."""
    wide, tall = footprint.right - footprint.left, footprint.top - footprint.bottom
    outline = GroundOutline(footprint.crs, (wide, 0.0, footprint.left, 0.0, tall, footprint.bottom), 1, 1)
    try:
        return outline if outline.is_on_earth else None
    except (AtrousError, RuntimeError):  # pyproj's errors are RuntimeErrors
        return None


def _passes_date_line(footprint: Footprint) -> bool:
    """Returns whether longitudes reach beyond ±180°, where another footprint in the same system may count otherwise."""
    try:
        turn = full_turn(footprint.crs)
    except (AtrousError, RuntimeError):
        return False
    return turn is not None and max(-footprint.left, footprint.right) > turn / 2


def _corners_in(path: Path) -> tuple[list[tuple[float, float]] | None, System]:
    """Returns the corners of the ground in a file, or None, and their coordinate system."""
    if (place := window_place(path)) is not None:
        affine, system, _ = _header(place.file, file_version(place.file))
        return None if affine is None else _corners(affine, place.window), system
    affine, system, size = _header(path, file_version(path))
    if affine is not None:
        return _corners(affine, Window(0, 0, *size)), system
    with in_words(path), opened(path) as picture:
        size, gps = picture.size, picture.getexif().get_ifd(_GPS_TAG)
    affine = _world_file(path)
    if affine is not None:
        return _corners(affine, Window(0, 0, size[1], size[0])), ("", "")
    return _around(gps), ("GPS", "")


@lru_cache(maxsize=256)
def _header(path: Path, version: Version) -> tuple[tuple[float, ...] | None, System, tuple[int, int]]:
    """Returns the affine map of a raster or None, its coordinate system, and the (H, W) of the stored picture."""
    with path.open("rb") as file:
        start = file.read(16)
    if is_tiff(start):
        with TiffPicture(path) as tiff:
            tags, size = tiff.place_tags, tiff.stored_size
        system = _system_of(tags)
        crs = system if system.startswith("EPSG:") or not system else _system_in_gdal(path)[1]
        return _affine_of(tags), (system, crs), size
    if path.suffix.lower() == VRT_SUFFIX or is_jpeg2000(start):
        try:
            grid = grid_of(path)
        except AtrousError:  # rasterio is not installed
            return None, ("", ""), (0, 0)
        if grid.has_place:
            return tuple(grid.transform[:6]), _system_in_gdal(path), (grid.height, grid.width)
    return None, ("", ""), (0, 0)


def _system_in_gdal(path: Path) -> System:
    """Returns the coordinate system that GDAL finds in a raster; unknown if there is none, or without rasterio."""
    try:
        grid = grid_of(path)
    except AtrousError:
        return "", ""
    code = None if grid.crs is None else epsg_code(grid.crs)
    text = grid.crs_text if code is None else f"EPSG:{code}"
    return text, text


def _affine_of(tags: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Returns (a, b, c, d, e, f) of x = a·column + b·row + c, y = d·column + e·row + f (GeoTIFF 1.1 § 2.6), or None."""
    if (matrix := tags.get("ModelTransformation")) is not None:
        rows = [float(value) for value in matrix]
        return rows[0], rows[1], rows[3], rows[4], rows[5], rows[7]
    scale, tie = tags.get("ModelPixelScale"), tags.get("ModelTiepoint")
    if scale is None or tie is None or len(tie) != 6:
        return None
    column, row, _, x, y, _ = map(float, tie)
    width, height = float(scale[0]), float(scale[1])
    return width, 0.0, x - column * width, 0.0, -height, y + row * height


def _corners(affine: tuple[float, ...], window: Window) -> list[tuple[float, float]]:
    a, b, c, d, e, f = affine
    top, left, height, width = window
    columns, rows = (left, left + width), (top, top + height)
    return [(a * x + b * y + c, d * x + e * y + f) for x in columns for y in rows]


def _system_of(tags: Mapping[str, Any]) -> str:
    """Returns the coordinate system of a GeoTIFF, as in `Footprint.system`."""
    for key in (_PROJECTED, _GEOGRAPHIC):
        code = int(tags.get(key, 0))
        if (
            code == _USER_DEFINED
        ):  # a projected system without a code is identified by its parameters; the geographic key names only its base
            return repr(sorted((name, str(value)) for name, value in tags.items() if name not in _OF_ONE_FILE))
        if code:
            return f"EPSG:{code}"
    return ""


def _world_file(path: Path) -> tuple[float, ...] | None:
    """Returns the affine map of a world file, such as a.jgw, a.jpgw or a.wld for a.jpg, or None.

    The origin of a world file is the centre of the first pixel; the origin of the result is its corner.
    """
    suffix = path.suffix
    for ending in (f"{suffix[:2]}{suffix[-1:]}w", f"{suffix}w", ".wld"):
        beside = path.with_suffix(ending)
        if beside.is_file() and beside.stat().st_size < 1000:
            a, d, b, e, c, f = map(float, beside.read_text(encoding="ascii").split())
            return a, b, c - (a + b) / 2, d, e, f - (d + e) / 2
    return None


def _around(gps: Mapping[int, Any]) -> list[tuple[float, float]] | None:
    """Returns two corners of a square with sides of `NEAR_METRES` around a photograph's position, or None.

    Source: EXIF 2.32, GPS tags 1 to 4.
    """
    if not all(tag in gps for tag in (1, 2, 3, 4)):
        return None
    north = _degrees(gps[2]) * (-1 if str(gps[1]).upper().startswith("S") else 1)
    east = _degrees(gps[4]) * (-1 if str(gps[3]).upper().startswith("W") else 1)
    if not (abs(north) < 90 and abs(east) <= 180) or (
        north == 0 and east == 0
    ):  # cameras write zeros if they do not know their position
        return None
    half = NEAR_METRES / 2 / _METRES_PER_DEGREE
    wide = half / math.cos(math.radians(north))
    return [(east - wide, north - half), (east + wide, north + half)]


def _degrees(parts: Any) -> float:
    degrees, minutes, seconds = (float(part) for part in parts)
    return degrees + minutes / 60 + seconds / 3600
