"""Where pictures lie on Earth, as far as their files tell, and which of them show the same ground."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atrous.data.formats.decoder_errors import in_words
from atrous.data.formats.pillow import opened
from atrous.data.formats.tiff import TiffPicture, is_tiff
from atrous.errors import AtrousError

#: Share of the smaller picture's ground from which two pictures show the same: tiles that only touch do not.
LEAST_SHARED = 0.01
#: Photographs taken within so many metres of each other, along each axis, show the same scene.
NEAR_METRES = 10.0
_MOST_CELLS = 4096
_SMALLEST = 1e-9  # of a side, in metres or degrees: a tenth of a millimetre
_FARTHEST = 1e9  # in metres or degrees; what is farther, infinite or no number is no place on Earth
_METRES_PER_DEGREE = 111_320.0
_GPS_TAG = 34853  # of EXIF: its own directory of latitude and longitude
_PROJECTED, _GEOGRAPHIC = "ProjectedCSTypeGeoKey", "GeographicTypeGeoKey"
_USER_DEFINED = 32767
_OF_ONE_FILE = ("ModelPixelScale", "ModelTiepoint", "ModelTransformation")


@dataclass(frozen=True)
class Footprint:
    """A rectangle on Earth.

    Attributes:
        system: of coordinates, such as "EPSG:32633"; "GPS" for degrees east and north of where a photograph was taken;
            "" where coordinates are given and their system is not.
        left: smallest x.
        bottom: smallest y.
        right: largest x.
        top: largest y.
    """

    system: str
    left: float
    bottom: float
    right: float
    top: float

    @property
    def area(self) -> float:
        """In units of the system, squared."""
        return (self.right - self.left) * (self.top - self.bottom)

    def shares(self, other: Footprint) -> float:
        """The share of the smaller of two rectangles that lies in the other, 0–1; 0 in different systems.

        Args:
            other: the other rectangle.
        """
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        if self.system != other.system or width <= 0 or height <= 0:
            return 0.0
        return width * height / min(self.area, other.area)


def footprint_of(path: Path) -> Footprint | None:
    """The ground that a picture shows: from a GeoTIFF's tags, a world file beside it, or a photograph's GPS position.

    Args:
        path: of a picture.

    Returns:
        A rectangle around it; None where the file does not tell, or tells it in a way that is not read (ground control
        points).
    """
    try:
        corners, system = _corners_in(path)
        if corners is None:
            return None
        xs, ys = zip(*corners, strict=True)
        found = Footprint(system, min(xs), min(ys), max(xs), max(ys))
    except (AtrousError, OSError, ValueError, TypeError, IndexError, ArithmeticError, KeyError):
        return None  # whatever is wrong with a place, the picture can be learned from
    sound = all(abs(side) < _FARTHEST for side in (found.left, found.bottom, found.right, found.top))
    wide = min(found.right - found.left, found.top - found.bottom) > _SMALLEST
    return found if sound and wide else None


class Grounds:
    """Finds pictures that show the same ground, in about the time that it takes to name them.

    Args:
        footprints: of each picture that has one.
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

    def sharing(self, footprint: Footprint) -> Iterator[Path]:
        """One picture of each other ground that overlaps with a footprint, and of the same one.

        Args:
            footprint: to look up.
        """
        cells = self._cells_of(footprint)
        near = self._first if cells is None else [one for cell in cells for one in self._in_cell.get(cell, ())]
        for one in dict.fromkeys((*near, *self._wide)):
            if footprint.shares(one) > LEAST_SHARED:
                yield self._first[one]

    def _cells_of(self, one: Footprint) -> list[tuple[str, int, int]] | None:
        """The squares that a rectangle lies in; None of one that is much larger than the others."""
        side = self._cell.get(one.system)
        if side is None:
            return []
        sides = ((one.left, one.right), (one.bottom, one.top))
        if (one.right - one.left + side) * (one.top - one.bottom + side) > _MOST_CELLS * side * side:
            return None
        columns, rows = (range(math.floor(low / side), math.floor(high / side) + 1) for low, high in sides)
        return [(one.system, column, row) for column in columns for row in rows]


def overlapping(footprints: Mapping[Path, Footprint]) -> Iterator[tuple[Path, Path]]:
    """Pairs of pictures that join all those that show the same ground.

    Args:
        footprints: of each picture that has one.
    """
    grounds = Grounds(footprints)
    for path, one in footprints.items():
        yield from ((other, path) for other in grounds.sharing(one) if other != path)


def _corners_in(path: Path) -> tuple[list[tuple[float, float]] | None, str]:
    with path.open("rb") as file:
        start = file.read(4)
    if is_tiff(start):
        with TiffPicture(path) as tiff:
            tags, size = tiff.place_tags, tiff.stored_size
        affine = _affine_of(tags)
        if affine is not None:
            return _corners(affine, *size), _system_of(tags)
    with in_words(path), opened(path) as picture:
        size, gps = picture.size, picture.getexif().get_ifd(_GPS_TAG)
    affine = _world_file(path)
    if affine is not None:
        return _corners(affine, size[1], size[0]), ""
    return _around(gps), "GPS"


def _affine_of(tags: Mapping[str, Any]) -> tuple[float, ...] | None:
    """(a, b, c, d, e, f) of x = a·column + b·row + c, y = d·column + e·row + f, as GeoTIFF 1.1 § 2.6 has it."""
    if (matrix := tags.get("ModelTransformation")) is not None:
        rows = [float(value) for value in matrix]
        return rows[0], rows[1], rows[3], rows[4], rows[5], rows[7]
    scale, tie = tags.get("ModelPixelScale"), tags.get("ModelTiepoint")
    if scale is None or tie is None or len(tie) != 6:
        return None
    column, row, _, x, y, _ = map(float, tie)
    width, height = float(scale[0]), float(scale[1])
    return width, 0.0, x - column * width, 0.0, -height, y + row * height


def _corners(affine: tuple[float, ...], height: int, width: int) -> list[tuple[float, float]]:
    a, b, c, d, e, f = affine
    return [(a * x + b * y + c, d * x + e * y + f) for x in (0, width) for y in (0, height)]


def _system_of(tags: Mapping[str, Any]) -> str:
    for key in (_PROJECTED, _GEOGRAPHIC):
        code = int(tags.get(key, 0))
        if code == _USER_DEFINED:  # all that the file says of it; the system below it has other coordinates
            return repr(sorted((name, str(value)) for name, value in tags.items() if name not in _OF_ONE_FILE))
        if code:
            return f"EPSG:{code}"
    return ""


def _world_file(path: Path) -> tuple[float, ...] | None:
    """What a world file beside a picture says: a.jpg has a.jgw, a.jpgw or a.wld; its place is a pixel's centre."""
    suffix = path.suffix
    for ending in (f"{suffix[:2]}{suffix[-1:]}w", f"{suffix}w", ".wld"):
        beside = path.with_suffix(ending)
        if beside.is_file() and beside.stat().st_size < 1000:
            a, d, b, e, c, f = map(float, beside.read_text(encoding="ascii").split())
            return a, b, c - (a + b) / 2, d, e, f - (d + e) / 2
    return None


def _around(gps: Mapping[int, Any]) -> list[tuple[float, float]] | None:
    """A square of `NEAR_METRES` around where a photograph was taken (EXIF 2.32, tags 1 to 4)."""
    if not all(tag in gps for tag in (1, 2, 3, 4)):
        return None
    north = _degrees(gps[2]) * (-1 if str(gps[1]).upper().startswith("S") else 1)
    east = _degrees(gps[4]) * (-1 if str(gps[3]).upper().startswith("W") else 1)
    if not (abs(north) < 90 and abs(east) <= 180) or (north == 0 and east == 0):  # cameras without a fix write zeros
        return None
    half = NEAR_METRES / 2 / _METRES_PER_DEGREE
    wide = half / math.cos(math.radians(north))
    return [(east - wide, north - half), (east + wide, north + half)]


def _degrees(parts: Any) -> float:
    degrees, minutes, seconds = (float(part) for part in parts)
    return degrees + minutes / 60 + seconds / 3600
