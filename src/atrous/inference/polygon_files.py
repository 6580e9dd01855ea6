"""Writes polygons of classes as GeoPackage (OGC 12-128) or GeoJSON (RFC 7946)."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from atrous.atomic_write import atomic_path, temporary_folder
from atrous.data.rasters.polygon_area import polygon_area
from atrous.errors import AtrousError, missing_extra, shown
from atrous.inference.mask_polygons import ClassPolygon
from atrous.overwrite_checks import Output
from atrous.software_tag import UNSEALED_TEXT, is_sealed_text, seal_text

#: File name suffixes of the formats.
SUFFIXES = (".gpkg", ".geojson")
#: Number of polygons that are written at once.
BATCH = 10_000
#: Name of the layer in a GeoPackage.
LAYER = "polygons"


def polygons_output(path: Path | None) -> Output | None:
    """Returns the `Output` of a file of polygons; None for a path of None."""
    return None if path is None else Output("polygons", path, "polygon file", is_sealed_text)


def check_polygon_options(path: Path | None, smallest: float) -> None:
    """Checks the options of a command that writes polygons.

    Args:
        path: the file of polygons; None to write none.
        smallest: smallest area of a polygon, in m².

    Raises:
        AtrousError: the file has the suffix of another format, the area is below 0 or not finite, there is an area but
            no file, or a package is not installed.
    """
    if not 0 <= smallest < math.inf:
        raise AtrousError(f"smallest-polygon must be an area of 0 m² or more, got {shown(smallest)}.")
    if path is None:
        if smallest:
            raise AtrousError(
                "smallest-polygon is for the file of --polygons: give one, or leave smallest-polygon out."
            )
        return
    if path.suffix.lower() not in SUFFIXES:
        raise AtrousError(f"polygons is {path}: give a file with the suffix .gpkg (GeoPackage) or .geojson (GeoJSON).")
    for package in ("rasterio", "pyogrio", "shapely", "pyproj"):
        try:
            __import__(package)
        except ImportError:
            raise missing_extra(package, "geo") from None


def write_polygons(
    path: Path, polygons: Iterable[ClassPolygon], classes: Sequence[str], crs_wkt: str, *, smallest: float = 0.0
) -> int:
    """Writes polygons, atomically.

    A polygon has the attributes class_index, class_name, source (names of its rasters, separated by commas) and
    area_ha (its area on the ellipsoid, in hectares).

    Args:
        path: the file, with a suffix of `SUFFIXES`; its folder is created if missing.
        polygons: polygons in coordinates.
        classes: names of the K classes.
        crs_wkt: coordinate reference system of the polygons, as WKT.
        smallest: smallest area of a polygon that is written, in m².

    Returns:
        The number of polygons in the file.

    Raises:
        AtrousError: a package is not installed, the file cannot be written, or GeoJSON cannot name the system.
    """
    area = polygon_area(crs_wkt)
    measured = ((one, size) for one in polygons if (size := area(one.polygon)) >= smallest)
    records = ((_attributes(one, size, classes), one.polygon) for one, size in measured)
    with atomic_path(path) as part, temporary_folder(path) as folder:
        draft = folder / path.name
        if path.suffix.lower() == ".gpkg":
            count = _write_geopackage(draft, records, crs_wkt)
        else:
            count = _write_geojson(draft, records, crs_wkt)
        seal_text(draft)
        shutil.copyfile(draft, part)
    return count


def _attributes(one: ClassPolygon, size: float, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "class_index": one.label,
        "class_name": classes[one.label],
        "source": ", ".join(one.sources),
        "area_ha": size / 10_000,
    }


def _write_geopackage(path: Path, records: Iterator[tuple[dict[str, Any], Any]], crs_wkt: str) -> int:
    import shapely
    from pyogrio import raw
    from pyogrio.errors import DataSourceError

    name, count, kinds = _authority(crs_wkt), 0, (np.int32, object, object, np.float64)
    system = crs_wkt if name is None else ":".join(name)
    while (batch := list(islice(records, BATCH))) or not count:
        columns = [[attributes[field] for attributes, _ in batch] for field in _FIELDS]
        try:
            raw.write(
                path,
                geometry=np.array(shapely.to_wkb([polygon for _, polygon in batch]), object),
                field_data=[np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)],
                fields=list(_FIELDS),
                geometry_type="Polygon",
                crs=system,
                driver="GPKG",
                layer=LAYER,
                append=count > 0,
                layer_options={} if count else {"DESCRIPTION": f"Polygons of classes {UNSEALED_TEXT}"},
            )
        except DataSourceError as error:
            raise AtrousError(f"{path.name}: cannot be written ({error}).") from error
        count += len(batch)
        if not batch:
            break
    return count


_FIELDS = ("class_index", "class_name", "source", "area_ha")


def _write_geojson(path: Path, records: Iterator[tuple[dict[str, Any], Any]], crs_wkt: str) -> int:
    import shapely
    from shapely.geometry.polygon import orient

    name, count = _authority(crs_wkt), 0
    if name is None:
        raise AtrousError(
            f"{path.name}: GeoJSON can only name coordinate reference systems of a register such as EPSG, and that of "
            "the rasters has no number there: give a file with the suffix .gpkg."
        )
    head: dict[str, Any] = {"type": "FeatureCollection", "generator": UNSEALED_TEXT}
    if name not in (("EPSG", "4326"), ("OGC", "CRS84")):  # the system of RFC 7946; others are named as in GeoJSON 2008
        head["crs"] = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{name[0]}::{name[1]}"}}
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(head)[:-1] + ', "features": [')
        for attributes, polygon in records:
            text = json.dumps(attributes, ensure_ascii=False)
            geometry = shapely.to_geojson(orient(polygon))  # RFC 7946 §3.1.6: the outer ring is counterclockwise
            file.write(f'{"," if count else ""}\n{{"type": "Feature", "properties": {text}, "geometry": {geometry}}}')
            count += 1
        file.write("\n]}\n")
    return count


def _authority(crs_wkt: str) -> tuple[str, str] | None:
    """Returns the register of a coordinate reference system and its name there, such as ("EPSG", "32632"), or None."""
    import pyproj

    return pyproj.CRS.from_wkt(crs_wkt).to_authority(min_confidence=100)
