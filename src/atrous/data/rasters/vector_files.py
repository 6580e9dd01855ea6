"""Reads polygons and their attributes from GeoPackage, GeoJSON, shapefiles and other vector files, area by area.

A file with a spatial index is opened for each area, so that no file handle outlives a call. Other files, such as
GeoJSON, are read as a whole. Their polygons stay in memory, however many files there are, until the polygons of all
files together need more than `KEPT_BYTES` in a process. Then the files that were not used for the longest time are
dropped, and are read again if they are needed. For more polygons, convert the files to GeoPackage.
"""

from __future__ import annotations

import shlex
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atrous.data.file_version import MOST_FILES, Version, file_version
from atrous.data.rasters.date_line import full_turn, turns_to
from atrous.data.rasters.library_warnings import hide_pyogrio_warnings
from atrous.data.rasters.reprojection import Bounds
from atrous.errors import AtrousError, counted, missing_extra, unknown_name
from atrous.fork_safety import ForkLock

#: Suffixes of vector files.
VECTOR_SUFFIXES = frozenset({".gpkg", ".geojson", ".shp", ".fgb", ".kml"})
#: Suffixes of the files that belong to a shapefile. All are checked, because a change of an attribute changes only the
#: .dbf file.
_BESIDE_SHP = (".dbf", ".prj", ".qix", ".cpg")
#: Suffixes of formats that have one layer.
_ONE_LAYER = (".shp", ".geojson", ".fgb")
_POINTS_AND_LINES = ("Point", "LineString", "MultiPoint", "MultiLineString")
_VALID = "Valid Geometry"  # text that GEOS returns for valid geometries
_POLYGON, _COLLECTIONS = 3, (6, 7)  # shapely's numbers for Polygon, and for MultiPolygon and GeometryCollection
#: Bounds of longitude and latitude; some files count longitudes to 360.
_MOST_DEGREES = (361.0, 91.0)
#: Largest estimated size in bytes of all polygons that stay in memory. A single file may be larger.
KEPT_BYTES = 2**28
#: Approximate memory in bytes of a vertex; and of a polygon with its entry in the index, without its vertices.
_VERTEX_BYTES, _POLYGON_BYTES = 24, 600

_loaded: OrderedDict[tuple[VectorLayer, str | None], _Loaded] = OrderedDict()
_loading = ForkLock()


def is_vector_file(path: Path) -> bool:
    """Returns whether a file name has the suffix of a vector file.

    Args:
        path: any path.
    """
    return path.suffix.lower() in VECTOR_SUFFIXES


@dataclass(frozen=True)
class VectorLayer:
    """A layer of a vector file.

    Attributes:
        path: the file.
        version: version of the file, for caches.
        name: name of the layer.
        crs: coordinate reference system as text that pyproj accepts.
        attributes: names of the attributes.
        indexed: whether the file has a spatial index.
        extent: smallest and largest x of all features; both are NaN if there are none.
        turn: length of a turn around the Earth in units of x, as of `full_turn`; None if x has no period.
    """

    path: Path
    version: tuple[Version, ...]
    name: str
    crs: str
    attributes: tuple[str, ...]
    indexed: bool
    extent: tuple[float, float]
    turn: float | None

    def check_attribute(self, attribute: str) -> None:
        """Checks that the layer has an attribute.

        Args:
            attribute: name of the attribute.

        Raises:
            AtrousError: the layer has no such attribute.
        """
        if attribute not in self.attributes:
            error = unknown_name("attribute", attribute, self.attributes)
            raise AtrousError(f"{self.path}: {error}")


class Polygons(NamedTuple):
    """Polygons in the coordinate reference system of their file.

    Attributes:
        shapes: N valid polygons as shapely objects.
        texts: N texts: the value of the attribute for each polygon; "" if it has none.
    """

    shapes: np.ndarray
    texts: np.ndarray


class _Loaded(NamedTuple):
    """All polygons of a file, their spatial index (a shapely.STRtree), and their approximate memory in bytes."""

    polygons: Polygons
    tree: Any
    nbytes: int


def open_layer(path: str | Path, layer: str | None = None) -> VectorLayer:
    """Reads the description of a layer; an unchanged file is read once.

    Args:
        path: the file.
        layer: name of the layer; None if the file has only one layer with geometries.

    Raises:
        AtrousError: pyogrio is not installed; the file is missing or damaged; no layer is named, and the file has
            several; the file has no layer of this name; the layer has points or lines; or its coordinate reference
            system is unknown or wrong.
    """
    path = Path(path)
    beside = [path.with_suffix(suffix) for suffix in _BESIDE_SHP] if path.suffix.lower() == ".shp" else []
    versions = (file_version(path), *(file_version(one) for one in beside if one.is_file()))
    return _read_layer(path, versions, layer)


def count_values(layer: VectorLayer, attribute: str) -> dict[str, int]:
    """Counts the features per value of an attribute.

    Args:
        layer: the layer.
        attribute: name of the attribute.

    Returns:
        The number of features by value, the most frequent first; "" for features without a value.

    Raises:
        AtrousError: the layer has no such attribute, or the file is damaged.
    """
    layer.check_attribute(attribute)
    return dict(_counted(layer)[attribute])


def read_polygons(layer: VectorLayer, attribute: str | None, bounds: Bounds) -> Polygons:
    """Reads the polygons whose bounding box touches an area.

    Invalid polygons, such as bow ties, are repaired (`shapely.make_valid`, method "structure"). Each part of a
    multipolygon is one polygon. Features without a geometry are left out. Longitudes that differ by whole turns are the
    same: polygons are moved by whole turns, so that they touch the area.

    Args:
        layer: the layer.
        attribute: name of the attribute; None for none.
        bounds: the area, in the coordinate reference system of the layer.

    Raises:
        AtrousError: the file is damaged, or has features that are not polygons.
    """
    parts = [_moved(_read_in(layer, attribute, _shifted(bounds, by)), by) for by in _shifts(layer, bounds)]
    if len(parts) == 1:
        return parts[0]
    shapes = np.concatenate([np.empty(0, object), *(one.shapes for one in parts)])
    texts = np.concatenate([np.empty(0, object), *(one.texts for one in parts)])
    return Polygons(shapes, texts)


def _shifts(layer: VectorLayer, bounds: Bounds) -> list[float]:
    """Returns the lengths by which an area is moved along x to places where the layer may have polygons."""
    if layer.turn is None or not np.isfinite(layer.extent).all():
        return [0.0]
    margin = 1e-9 * layer.turn  # polygons that only touch the area count
    numbers = turns_to(bounds[0] - margin, bounds[2] + margin, layer.extent, layer.turn)
    return [number * layer.turn for number in numbers]


def _shifted(bounds: Bounds, by: float) -> Bounds:
    left, bottom, right, top = bounds
    return left + by, bottom, right + by, top


def _moved(polygons: Polygons, by: float) -> Polygons:
    """Moves polygons that were found in a moved area back to the area."""
    if not by or not len(polygons.shapes):
        return polygons
    import shapely

    return polygons._replace(shapes=shapely.transform(polygons.shapes, lambda points: points - (by, 0)))


def _read_in(layer: VectorLayer, attribute: str | None, bounds: Bounds) -> Polygons:
    if layer.indexed:
        return _read(layer, attribute, bounds)
    import shapely

    with _loading:
        (shapes, texts), tree, _ = _kept(layer, attribute)
    found = np.sort(tree.query(shapely.box(*bounds)))
    return Polygons(shapes[found], texts[found])


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Gives pyogrio to a `with` block; errors of pyogrio and of shapely in the block get the name of the file."""
    try:
        import pyogrio
        import shapely
    except ImportError as error:
        raise missing_extra(error.name or "pyogrio", "geo") from None
    hide_pyogrio_warnings()
    try:
        with np.errstate(invalid="ignore"):  # coordinates that are NaN
            yield pyogrio
    except AtrousError:
        raise
    except (RuntimeError, ValueError, shapely.GEOSException) as error:
        raise AtrousError(f"{path}: cannot be read as a vector file ({error}).") from error


@lru_cache(maxsize=MOST_FILES)
def _read_layer(path: Path, version: tuple[Version, ...], layer: str | None) -> VectorLayer:
    with _reading(path) as pyogrio:
        # a GeoJSON is read as a whole each time it is opened
        one_layer = layer is None and path.suffix.lower() in _ONE_LAYER
        name = None if one_layer else _layer_name(path, pyogrio.list_layers(path), layer)
        found = pyogrio.read_info(path, layer=name, force_total_bounds=True)
    kind = (found["geometry_type"] or "").removeprefix("2.5D ").split(" ")[0]
    if kind in _POINTS_AND_LINES:
        raise _no_area(path, kind)
    _check_crs(path, found["crs"], found["total_bounds"])
    indexed = bool(found["capabilities"]["fast_spatial_filter"])
    names = tuple(map(str, found["fields"]))
    left, _, right, _ = found["total_bounds"] or [np.nan] * 4
    turn = full_turn(found["crs"])
    return VectorLayer(path, version, found["layer_name"], found["crs"], names, indexed, (left, right), turn)


def _layer_name(path: Path, layers: np.ndarray, given: str | None) -> str:
    names = [str(name) for name, kind in layers if kind is not None]
    if given is not None:
        if given not in names:
            raise AtrousError(f"{path}: {unknown_name('layer', given, names)}")
        return given
    if len(names) != 1:
        cure = ", and labels need polygons."
        if names:
            target = path.with_name(f"{path.stem}_{names[0]}.gpkg").name
            command = shlex.join(["ogr2ogr", target, path.name, names[0]])
            cure = (
                f": {', '.join(names)}. Write the layer of the labels into a file of its own, and use that file "
                f"instead: {command}"
            )
        raise AtrousError(f"{path}: the file has {counted(len(names), 'layer')} with geometries{cure}")
    return names[0]


def _check_crs(path: Path, crs: str | None, bounds: tuple[float, ...] | None) -> None:
    try:
        from pyproj import CRS
        from pyproj.exceptions import CRSError
    except ImportError:
        raise missing_extra("pyproj", "geo") from None
    try:
        known = None if crs is None else CRS(crs)
    except CRSError as error:
        raise AtrousError(f"{path}: its coordinate reference system cannot be read ({error}).") from error
    target = path.with_name(f"{path.stem}_with_crs.gpkg")
    if known is None or known.is_engineering:
        beside = ", or copy the .prj file that belongs to it" if path.suffix.lower() == ".shp" else ""
        raise AtrousError(
            f"{path}: the file has no coordinate reference system, so its polygons have no place. Write the system: "
            f"ogr2ogr -a_srs EPSG:CODE {target.name} {path.name}{beside}."
        )
    if known.is_geographic and bounds is not None and np.isfinite(bounds).all():
        most = np.abs(np.reshape(bounds, (2, 2))).max(axis=0) * (360 / (full_turn(crs or "") or 360))
        if (most > _MOST_DEGREES).any():
            raise AtrousError(
                f"{path}: the coordinates reach {most[0]:.6g} and {most[1]:.6g}, and are not degrees, but the system "
                f"of the file is {known.name} (GeoJSON without a system is in WGS 84, RFC 7946). Write the true "
                f"system: ogr2ogr -a_srs EPSG:CODE {target.name} {path.name}."
            )


@lru_cache(maxsize=8)
def _counted(layer: VectorLayer) -> dict[str, tuple[tuple[str, int], ...]]:
    """Returns the counts of all attributes at once, because a GeoJSON would be parsed as a whole for each attribute."""
    with _reading(layer.path) as pyogrio:
        about, _, _, columns = pyogrio.raw.read(layer.path, layer=layer.name, read_geometry=False)
    names = map(str, about["fields"])
    return {
        name: tuple(Counter(_texts(column).tolist()).most_common()) for name, column in zip(names, columns, strict=True)
    }


def _kept(layer: VectorLayer, attribute: str | None) -> _Loaded:
    """Returns all polygons of a file without a spatial index, and drops other files if there are too many polygons."""
    key = layer, attribute
    if key not in _loaded:
        _loaded[key] = _load(layer, attribute)
        while len(_loaded) > 1 and sum(one.nbytes for one in _loaded.values()) > KEPT_BYTES:
            _loaded.popitem(last=False)
    _loaded.move_to_end(key)
    return _loaded[key]


def _load(layer: VectorLayer, attribute: str | None) -> _Loaded:
    import shapely

    shapes, texts = _read(layer, attribute, None)
    once: dict[str, str] = {}
    texts[:] = [once.setdefault(text, text) for text in texts.tolist()]
    nbytes = int(shapely.get_num_coordinates(shapes).sum()) * _VERTEX_BYTES + len(shapes) * _POLYGON_BYTES
    return _Loaded(Polygons(shapes, texts), shapely.STRtree(shapes), nbytes)


def _read(layer: VectorLayer, attribute: str | None, bounds: Bounds | None) -> Polygons:
    with _reading(layer.path) as pyogrio:
        import shapely

        columns = [] if attribute is None else [attribute]
        _, _, stored, values = pyogrio.raw.read(
            layer.path, layer=layer.name, columns=columns, bbox=bounds, force_2d=True
        )
        shapes = shapely.from_wkb(stored)
        texts = np.full(len(shapes), "", object) if attribute is None else _texts(values[0])
        known = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
        shapes, owners = _polygons_in(layer.path, shapes[known])
        return Polygons(shapes, texts[known][owners])


def _polygons_in(path: Path, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the valid polygons of geometries, and the index of the geometry of each."""
    import shapely

    owners = np.arange(len(shapes))
    while np.isin(shapely.get_type_id(shapes), _COLLECTIONS[1:]).any():
        shapes, parts = shapely.get_parts(shapes, return_index=True)
        owners = owners[parts]
    kinds = shapely.get_type_id(shapes)
    other = ~np.isin(kinds, (_POLYGON, *_COLLECTIONS))
    if other.any():
        raise _no_area(path, shapes[np.argmax(other)].geom_type, int(other.sum()))
    # shapely.is_valid replaces the filters of warnings, which is not safe for threads
    invalid = shapely.is_valid_reason(shapes) != _VALID
    if invalid.any():
        if not np.isfinite(shapely.get_coordinates(shapes[invalid])).all():
            raise AtrousError(f"{path}: a polygon has coordinates that are not finite numbers. Remove it.")
        shapes = shapes.copy()
        shapes[invalid] = shapely.make_valid(shapes[invalid], method="structure", keep_collapsed=False)
    shapes, parts = shapely.get_parts(shapes, return_index=True)
    areas = shapely.get_type_id(shapes) == _POLYGON
    areas &= ~shapely.is_empty(shapes)
    return shapes[areas], owners[parts][areas]


def _no_area(path: Path, kind: str, count: int = 0) -> AtrousError:
    found = f"{counted(count, 'feature')} of the type {kind}" if count else f"features of the type {kind}"
    return AtrousError(
        f"{path}: the file has {found}, and labels need areas: polygons. Give points and lines an area (in QGIS: "
        "Vector > Geoprocessing Tools > Buffer), convert curves (ogr2ogr -nlt CONVERT_TO_LINEAR), or leave them out."
    )


def _texts(column: np.ndarray) -> np.ndarray:
    """Returns the values of an attribute as texts; whole numbers have no decimal point, "" stands for no value."""
    kind = column.dtype.kind
    if kind == "b":
        found = ["true" if one else "false" for one in column.tolist()]
    elif kind == "f":
        found = ["" if one != one else str(int(one)) if one == one // 1 else repr(one) for one in column.tolist()]
    elif kind == "M":
        found = ["" if np.isnat(one) else str(one) for one in column]
    else:
        found = ["" if one is None or one != one else str(one).strip() for one in column.tolist()]
    texts = np.empty(len(found), object)
    texts[:] = found
    return texts


def has_polygons_in(layer: VectorLayer, bounds: Bounds) -> bool:
    """Returns whether the bounding box of at least one feature of a layer touches an area.

    Args:
        layer: the layer.
        bounds: the area, in the coordinate reference system of the layer.

    Raises:
        AtrousError: the file is damaged.
    """
    with _reading(layer.path) as pyogrio:
        areas = (_shifted(bounds, by) for by in _shifts(layer, bounds))
        return any(len(pyogrio.read_bounds(layer.path, layer=layer.name, bbox=one)[0]) for one in areas)
