"""Polygons of a vector file as the labels of a scene, drawn on the grid of the scene window by window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atrous.data.formats.tiff_page import Window
from atrous.data.rasters.date_line import full_turn, moved_near
from atrous.data.rasters.library_warnings import hide_rasterio_warnings
from atrous.data.rasters.raster_grid import RasterGrid, coordinates, crs_name, grid_text
from atrous.data.rasters.reprojection import bounds_in, is_one_crs, transformer
from atrous.data.rasters.vector_files import Polygons, count_values, open_layer, read_polygons
from atrous.data.raw_values import NO_NUMBER
from atrous.errors import AtrousError, counted, missing_extra
from atrous.fork_safety import ForkLock

#: Vertices are rounded to this fraction of a pixel. So an edge through a pixel centre gives the same result in each
#: window, in spite of the rounding errors of coordinates.
ROUNDED = 2**-10
#: An edge as long as the scene is divided into this many edges before it is mapped to another CRS.
EDGES = 256
#: Largest number of attribute values that a message names.
_SHOWN = 10

#: rasterio replaces the filters of warnings while it draws, which threads must not do at the same time.
_rasterizing = ForkLock()


class LabelWindow(NamedTuple):
    """The labels of a window.

    Attributes:
        values: H×W int64 values of the classes.
        nodata: the value of pixels of no class.
        disputed: number of pixels that polygons of different classes cover; their value is ``nodata``.
    """

    values: np.ndarray
    nodata: int
    disputed: int


@dataclass(frozen=True)
class VectorLabels:
    """The polygons of a vector file as labels. The object keeps no file open, and may be sent to other processes.

    A pixel belongs to a polygon if its centre is inside. A centre that is exactly on an edge belongs to one of the two
    polygons that share the edge. Edges are straight in the CRS of the file.

    Args:
        path: a GeoPackage, GeoJSON, shapefile or FlatGeobuf, or a file in another format that GDAL reads.
        attribute: name of the attribute that contains the class; None if all polygons belong to one class.
        layer: name of the layer; None if the file has only one with geometries.

    Raises:
        AtrousError: as for `open_layer`, or the layer has no such attribute.
    """

    path: Path
    attribute: str | None = None
    layer: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        layer = open_layer(self.path, self.layer)
        if self.attribute is not None:
            layer.check_attribute(self.attribute)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes of the layer."""
        return open_layer(self.path, self.layer).attributes

    def values(self, attribute: str | None = None) -> dict[str, int]:
        """Counts the features per value of an attribute.

        Args:
            attribute: name of the attribute; None for the attribute of the labels.

        Returns:
            The number of features by value as text, the most frequent first. Whole numbers have no decimal point; ""
            stands for features without a value.

        Raises:
            AtrousError: there is no such attribute, or the file is damaged.
        """
        name = attribute or self.attribute
        if name is None:
            raise AtrousError(f"{self.path}: name an attribute. The file has: {', '.join(self.attributes)}.")
        return count_values(open_layer(self.path, self.layer), name)

    def window(
        self,
        grid: RasterGrid,
        window: Window,
        value_of: Mapping[str, int],
        default: int | None,
        order: Sequence[int] = (),
    ) -> LabelWindow:
        """Draws the polygons of a window. Windows that overlap agree.

        Polygons of one class may overlap. A pixel that polygons of different classes cover belongs to no class, unless
        all these classes are in ``order``: the order of the features in a file has no meaning.

        Args:
            grid: grid of the scene; it must have a CRS.
            window: (top, left, height, width) in pixels of the scene.
            value_of: value of the class by value of the attribute, as in `values`; "" for features without a value.
                Without an attribute, all features get the only value in ``value_of`` that is not ``default``, or 1 if
                there is no such value.
            default: value of pixels outside every polygon; None if nothing is known about them.
            order: values of classes that may overlap, the most important one first.

        Raises:
            AtrousError: the scene has no CRS; a value of the attribute is not in ``value_of``; the file is damaged; or
                it has features that are not polygons.
        """
        layer = open_layer(self.path, self.layer)
        if grid.crs is None:
            raise AtrousError(
                f"{self.path}: polygons cannot be drawn on a scene without a coordinate reference system (CRS). The "
                f"scene has {grid_text(grid)}. Write its CRS into it: gdal_edit.py -a_srs EPSG:CODE SCENE"
            )
        bounds = bounds_in(grid, window, layer.crs)
        if bounds is None:
            raise AtrousError(f"{self.path}: the CRS of the file cannot represent the place of the scene.")
        polygons = read_polygons(layer, self.attribute, bounds)
        values = self._class_values(polygons, value_of, default)
        shapes, values = _within_scene(polygons.shapes, values, grid, layer.crs)
        return _drawn(_in_pixels(shapes, grid, window, layer.crs), values, window[2:], default, order)

    def _class_values(self, polygons: Polygons, value_of: Mapping[str, int], default: int | None) -> np.ndarray:
        if self.attribute is None:
            values = sorted({*value_of.values()} - {default})
            if len(values) > 1:
                raise AtrousError(
                    f"{self.path}: there are {len(values)} classes, and no attribute that names the class of a "
                    f"polygon. Name it. The file has: {', '.join(self.attributes) or 'no attributes'}."
                )
            return np.full(len(polygons.texts), values[0] if values else 1, np.int64)
        if {*polygons.texts.tolist()} - value_of.keys():
            raise self._unknown(value_of)
        return np.array([value_of[text] for text in polygons.texts.tolist()], np.int64)

    def _unknown(self, known: Mapping[str, int]) -> AtrousError:
        """Returns an error with the unknown values of the whole file, the same for each window."""
        counts = self.values()
        unknown = sorted(counts.keys() - known.keys())
        named = [f"{text!r}" for text in unknown if text]
        more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
        found = [f"the values {', '.join(named[:_SHOWN])}{more}"] if named else []
        found += [f"{counted(counts[''], 'polygon')} without a value"] if "" in unknown else []
        return AtrousError(
            f"{self.path}: the attribute {self.attribute} has {' and '.join(found)}, which belong to no class. In "
            'classes.yaml, add each value to segments: of its class, or to ignore: of the file; "" stands for polygons '
            "without a value."
        )


def _within_scene(shapes: np.ndarray, values: np.ndarray, grid: RasterGrid, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """Prepares polygons for another CRS.

    The polygons are cut to the surroundings of the scene, because the CRS of the scene may be unable to represent
    places far away. Long edges get more vertices, because they are curved in the other CRS. The cut and the new
    vertices depend on the scene, not on the window.
    """
    if is_one_crs(crs, grid.crs_text):
        return shapes, values
    import shapely

    area, longest = _scene_area(grid, crs)
    far = ~shapely.covered_by(shapes, area)
    if far.any():
        shapes = shapes.copy()
        shapes[far] = shapely.intersection(shapes[far], area)
        shapes, owners = shapely.get_parts(shapes, return_index=True)
        areas = (shapely.get_type_id(shapes) == 3) & ~shapely.is_empty(shapes)
        shapes, values = shapes[areas], values[owners][areas]
    return shapely.segmentize(shapes, longest), values


@lru_cache(maxsize=4096)
def _scene_area(grid: RasterGrid, crs: str) -> tuple[Any, float]:
    """Returns the bounds of a scene in another CRS as a polygon, and the longest edge that is not divided."""
    import shapely

    bounds = bounds_in(grid, (0, 0, grid.height, grid.width), crs)
    assert bounds is not None  # a window of the scene has bounds
    area = shapely.box(*bounds)
    shapely.prepare(area)
    return area, max(bounds[2] - bounds[0], bounds[3] - bounds[1]) / EDGES


def _in_pixels(shapes: np.ndarray, grid: RasterGrid, window: Window, crs: str) -> list[list[np.ndarray]]:
    """Returns the rings of each polygon, the outer one first, as N×2 (column, row) in pixels of the window.

    A polygon outside the window has no rings.
    """
    import shapely

    rings, owners = shapely.get_rings(shapes, return_index=True)
    points, of_ring = shapely.get_coordinates(rings, return_index=True)
    x, y = transformer(crs, grid.crs_text)(points[:, 0], points[:, 1])
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise AtrousError(f"polygons reach places that {crs_name(grid.crs)}, the CRS of the scene, cannot represent.")
    if not is_one_crs(crs, grid.crs_text):  # polygons in the CRS of the scene are moved as a whole
        x = moved_near(x, coordinates(grid.transform, grid.width / 2, grid.height / 2)[0], full_turn(grid.crs_text))
    columns, rows = coordinates(~grid.transform, x, y)
    top, left, height, width = window
    places = np.rint(np.stack([columns, rows], 1) / ROUNDED) * ROUNDED - (left, top)
    starts = np.searchsorted(of_ring, np.arange(len(rings) + 1))
    found: list[list[np.ndarray]] = [[] for _ in shapes]
    outer = np.diff(owners, prepend=-1) != 0
    for owner, start, end, is_outer in zip(owners.tolist(), starts[:-1], starts[1:], outer.tolist(), strict=True):
        ring = _near_window(places[start:end], height, width)
        if is_outer and ring is None:
            continue
        if ring is not None and (is_outer or found[owner]):
            found[owner].append(_turned(ring, is_outer))
    return found


def _near_window(ring: np.ndarray, height: int, width: int) -> np.ndarray | None:
    """Leaves out vertices of a closed ring that do not change its part inside a window; None if there is no such part.

    A run of vertices on one side of the window is replaced by its first and last vertex. Then rows of pixel centres
    cross the ring as often as before on each side of the window, and at the same places inside it.
    """
    low, high = ring.min(axis=0), ring.max(axis=0)
    if (high <= 0).any() or (low >= (width, height)).any():
        return None
    if (low >= 0).all() and (high <= (width, height)).all():
        return ring
    x, y = ring[:-1].T
    side = np.select([y < 0, y > height, x < 0, x > width], [1, 2, 3, 4], 0)
    inner = (side == np.roll(side, 1)) & (side == np.roll(side, -1)) & (side > 0)
    kept = ring[:-1][~inner]
    return np.concatenate([kept, kept[:1]])


def _turned(ring: np.ndarray, outer: bool) -> np.ndarray:
    """Returns a ring in the direction in which GDAL assigns each pixel centre on an edge to only one polygon."""
    x, y = ring[:-1].T
    area = float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
    return ring if (area > 0) == outer else ring[::-1]


def _drawn(
    polygons: list[list[np.ndarray]],
    values: np.ndarray,
    shape: tuple[int, int],
    default: int | None,
    order: Sequence[int],
) -> LabelWindow:
    ranks = {value: rank for rank, value in enumerate(order)}
    drawn = np.full(shape, NO_NUMBER if default is None else default, np.int64)
    covered, unordered = np.zeros(shape, np.uint16), np.zeros(shape, bool)
    for value in sorted({*values.tolist()}, key=lambda one: -ranks.get(one, len(ranks))):
        own = [rings for rings, one in zip(polygons, values.tolist(), strict=True) if one == value and rings]
        inside = _mask(own, shape)
        drawn[inside] = value
        covered += inside
        if value not in ranks:
            unordered |= inside
    disputed = (covered > 1) & unordered
    drawn[disputed] = NO_NUMBER
    return LabelWindow(drawn, NO_NUMBER, int(disputed.sum()))


def _mask(polygons: list[list[np.ndarray]], shape: tuple[int, int]) -> np.ndarray:
    """Returns the pixels whose centre is inside one of the polygons."""
    if not polygons:
        return np.zeros(shape, bool)
    try:
        from rasterio.features import rasterize
    except ImportError:
        raise missing_extra("rasterio", "geo") from None

    hide_rasterio_warnings()  # the warning is about a grid without coordinates; here, coordinates are pixels
    with _rasterizing:
        return np.asarray(rasterize(_geojson(polygons), shape, dtype="uint8"), bool)


def _geojson(polygons: list[list[np.ndarray]]) -> Iterator[tuple[dict[str, Any], int]]:
    for rings in polygons:
        yield {"type": "Polygon", "coordinates": [ring.tolist() for ring in rings]}, 1
