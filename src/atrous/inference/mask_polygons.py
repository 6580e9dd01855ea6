"""Turns the masks of rasters into polygons: one polygon for each connected part of a class.

The masks are read in windows. A polygon may have parts in several neighbouring windows, also of neighbouring rasters on
one grid. These parts are found by the pixels on both sides of the common edges of the windows. The parts of a polygon
are merged as soon as no further window can add a part. So the memory depends on the unfinished polygons, not on the
size of the masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.data.rasters.open_raster import opened_raster, rasterio_errors, rasterio_window
from atrous.errors import missing_extra
from atrous.inference.adjacent_rasters import GridRaster, Raster, grids_of, seams_of, windows_of

#: Largest height and width of the windows in which masks are read, in pixels; a multiple of the tiles of the masks.
WINDOW = 2048
#: The number of no piece, on the border of a window.
NONE = -1


class ClassPolygon(NamedTuple):
    """A connected part of a class.

    Attributes:
        label: class index.
        sources: names of the rasters that contain the part, in alphabetical order.
        polygon: shapely polygon, in the coordinates of the rasters.
    """

    label: int
    sources: tuple[str, ...]
    polygon: Any


def mask_polygons(
    masks: Sequence[Raster], raw: np.ndarray | None = None, *, window: int = WINDOW
) -> Iterator[ClassPolygon]:
    """Yields the polygons of all classes; pixels without data have no polygon.

    Two pixels are connected if they share an edge. An area inside a polygon that has another class, or no data, is a
    hole. Polygons of rasters that share an edge and are on one grid are merged. Rasters that overlap keep their own
    polygons.

    Args:
        masks: masks in one coordinate reference system.
        raw: K raw values of the classes, if the masks contain raw values; None for masks of class indices.
        window: largest height and width of the windows in which masks are read, in pixels, 1 or more.

    Raises:
        AtrousError: rasterio or shapely is not installed, or a mask cannot be read.
    """
    for grid in grids_of(masks):
        yield from _polygons_of_grid(grid, raw, window)


def _polygons_of_grid(grid: Sequence[GridRaster], raw: np.ndarray | None, side: int) -> Iterator[ClassPolygon]:
    windows = windows_of(grid, side)
    seams = seams_of(grid, windows)
    merged = _MergedPieces()
    borders: dict[tuple[int, int], np.ndarray] = {}  # (window, later neighbour) → piece numbers along the common edge
    place, opened = grid[0].raster.transform, _OpenMask()
    try:
        for index, (number, window) in enumerate(windows):
            one = grid[number]
            labels = _labels(opened.read(one.raster, window.within(one.window)), raw)
            rings, values = _traced(labels)
            polygons = _as_polygons(rings, window.left, window.top)
            lines = _border_lines(rings, labels.shape)
            along = {seam: lines[seam.side][seam.begin : seam.end] for seam in seams[index]}
            at_seams = np.unique(np.concatenate([*along.values(), np.empty(0, np.int64)]))
            kept = at_seams[at_seams != NONE]
            for piece in np.setdiff1d(np.arange(len(polygons)), kept).tolist():
                yield _placed(int(values[piece]), {one.raster.name}, polygons[piece], place)
            numbers = merged.add(kept, values, polygons, one.raster.name)
            touched = list(numbers[kept].tolist())
            for seam, local in along.items():
                facing = numbers[local]
                if seam.other > index:
                    borders[index, seam.other] = facing
                    merged.wait_for(facing)
                else:
                    earlier = borders.pop((seam.other, index))
                    merged.join(earlier, facing)
                    touched += merged.stop_waiting_for(earlier)
            for label, sources, pieces in merged.finished(touched):
                yield _placed(label, sources, _union(pieces), place)
    finally:
        opened.close()


class _OpenMask:
    """The mask that is being read; windows are in the order of the masks, so only one mask is open at a time."""

    def __init__(self) -> None:
        self._raster: Raster | None = None
        self._file: Any = None

    def read(self, raster: Raster, window: tuple[int, int, int, int]) -> np.ndarray:
        with rasterio_errors(raster.path):
            if raster is not self._raster:
                self.close()
                self._file, self._raster = opened_raster(raster.path), raster
            return self._file.read(1, window=rasterio_window(window))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@dataclass
class _Part:
    """Pieces that belong to one polygon.

    Attributes:
        label: class index.
        pieces: shapely polygons, in pixels of the grid.
        numbers: numbers of the pieces.
        sources: names of the rasters of the pieces.
        waiting: number of common edges with windows that are not yet read.
    """

    label: int
    pieces: list[Any]
    numbers: list[int]
    sources: set[str]
    waiting: int = 0


class _MergedPieces:
    """The pieces of unfinished polygons, each with a number; joined pieces share one `_Part`."""

    def __init__(self) -> None:
        self._parts: dict[int, _Part] = {}
        self._next = 0

    def add(self, kept: np.ndarray, values: np.ndarray, polygons: np.ndarray, source: str) -> np.ndarray:
        """Adds pieces of a window; returns the number of each piece of the window, -1 for a piece that is not added.

        One more -1 follows at the end, so that it is also the number of the index -1.
        """
        numbers = np.full(len(polygons) + 1, NONE, np.int64)
        for piece in kept.tolist():
            self._parts[self._next] = _Part(int(values[piece]), [polygons[piece]], [self._next], {source})
            numbers[piece] = self._next
            self._next += 1
        return numbers

    def wait_for(self, border: np.ndarray) -> None:
        """Keeps the pieces of a border until `stop_waiting_for` is called with the same border."""
        for number in _numbers(border):
            self._parts[number].waiting += 1

    def stop_waiting_for(self, border: np.ndarray) -> list[int]:
        """Returns the pieces of a border whose neighbour is now read."""
        for number in _numbers(border):
            self._parts[number].waiting -= 1
        return _numbers(border)

    def join(self, one: np.ndarray, other: np.ndarray) -> None:
        """Joins the pieces of the same class on both sides of a common edge."""
        both = (one != NONE) & (other != NONE)
        for first, second in np.unique(np.stack([one[both], other[both]], 1), axis=0).tolist():
            a, b = self._parts[first], self._parts[second]
            if a is b or a.label != b.label:
                continue
            if len(a.pieces) < len(b.pieces):
                a, b = b, a
            a.pieces += b.pieces
            a.numbers += b.numbers
            a.sources |= b.sources
            a.waiting += b.waiting
            for number in b.numbers:
                self._parts[number] = a

    def finished(self, numbers: Iterable[int]) -> Iterator[tuple[int, set[str], list[Any]]]:
        """Yields the parts of some pieces to which no further window can add a piece, and then forgets these parts."""
        for number in numbers:
            part = self._parts.get(number)
            if part is not None and part.waiting == 0:
                for one in part.numbers:
                    del self._parts[one]
                yield part.label, part.sources, part.pieces


def _numbers(border: np.ndarray) -> list[int]:
    return np.unique(border[border != NONE]).tolist()


def _labels(values: np.ndarray, raw: np.ndarray | None) -> np.ndarray:
    """Returns the class indices of a mask; 255 for raw values that no class has."""
    if raw is None:
        return values
    order = np.argsort(raw)
    found = np.minimum(np.searchsorted(raw[order], values), len(raw) - 1)
    return np.where(raw[order][found] == values, order[found], IGNORE_INDEX).astype(np.uint8)


def _traced(labels: np.ndarray) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Returns the rings of each connected part, the outer ring first, as (column, row); and the class of each part."""
    from rasterio.features import shapes

    found = list(shapes(labels, mask=labels != IGNORE_INDEX, connectivity=4))
    rings = [[np.asarray(ring) for ring in shape["coordinates"]] for shape, _ in found]
    return rings, np.array([value for _, value in found], np.int64)


def _as_polygons(rings: Sequence[Sequence[np.ndarray]], left: int, top: int) -> np.ndarray:
    try:
        import shapely
    except ImportError:
        raise missing_extra("shapely", "geo") from None
    polygons, corner = np.empty(len(rings), object), np.array([left, top])
    for index, (outer, *holes) in enumerate(rings):
        polygons[index] = shapely.Polygon(outer + corner, [hole + corner for hole in holes])
    wrong = ~shapely.is_valid(polygons)  # a ring that touches itself is an outer ring and a hole, or two holes
    polygons[wrong] = shapely.make_valid(polygons[wrong])
    return polygons


def _border_lines(rings: Sequence[Sequence[np.ndarray]], size: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Returns for each side of a window the index of the piece at each pixel; -1 for a pixel without a piece."""
    height, width = size
    sides = {"top": (1, 0, width), "bottom": (1, height, width), "left": (0, 0, height), "right": (0, width, height)}
    lines = {name: np.full(length, NONE, np.int64) for name, (_, _, length) in sides.items()}
    for index, (outer, *_) in enumerate(rings):
        least, most = outer.min(0), outer.max(0)
        for name, (axis, at, _) in sides.items():
            if at not in (least[axis], most[axis]):
                continue
            across, along = outer[:, axis], outer[:, 1 - axis].astype(int)
            for step in np.flatnonzero((across[:-1] == at) & (across[1:] == at)).tolist():
                begin, end = sorted((along[step], along[step + 1]))
                lines[name][begin:end] = index
    return lines


def _union(pieces: list[Any]) -> Any:
    import shapely

    return pieces[0] if len(pieces) == 1 else shapely.union_all(pieces)


def _placed(label: int, sources: set[str], polygon: Any, place: Any) -> ClassPolygon:
    """Returns a polygon in coordinates, without corners on straight edges, which the edges of windows leave behind."""
    import shapely

    def to_coordinates(pixels: np.ndarray) -> np.ndarray:
        column, row = pixels.T
        return np.stack([place.a * column + place.b * row + place.c, place.d * column + place.e * row + place.f], 1)

    simple = shapely.simplify(polygon, 0, preserve_topology=False)
    return ClassPolygon(label, tuple(sorted(sources)), shapely.transform(simple, to_coordinates))
