"""Files of polygons as other programs read them, and areas on the ellipsoid."""

from __future__ import annotations

import json
import math
import sqlite3

import numpy as np
import pytest

from atrous.data.rasters.polygon_area import polygon_area
from atrous.errors import AtrousError
from atrous.inference.mask_polygons import ClassPolygon
from atrous.inference.polygon_files import check_polygon_options, polygons_output, write_polygons
from atrous.software_tag import is_sealed_text

rasterio = pytest.importorskip("rasterio")
pyogrio = pytest.importorskip("pyogrio")
pyproj = pytest.importorskip("pyproj")
shapely = pytest.importorskip("shapely")

CLASSES = ("land", "Gewässer, flach")
BOX = shapely.box(500_000, 4_599_000, 501_000, 4_600_000)
RING = BOX.difference(shapely.box(500_200, 4_599_200, 500_300, 4_599_300))
FOUND = [ClassPolygon(1, ("a.tif", "b.tif"), RING), ClassPolygon(0, ("a.tif",), BOX.centroid.buffer(10).envelope)]


def wkt(code: int) -> str:
    return rasterio.CRS.from_epsg(code).to_wkt()


def read(path):
    meta, _, geometry, columns = pyogrio.raw.read(path)
    return meta, shapely.from_wkb(geometry), dict(zip(meta["fields"], columns, strict=True))


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".GeoJSON"])
def test_a_file_has_the_polygons_their_classes_and_areas(tmp_path, suffix):
    path = tmp_path / "new" / f"classes{suffix}"
    assert write_polygons(path, FOUND, CLASSES, wkt(32632)) == 2
    meta, polygons, columns = read(path)
    assert meta["crs"] == "EPSG:32632"
    assert meta["geometry_type"] == "Polygon"
    assert [one.equals(other.polygon) for one, other in zip(polygons, FOUND, strict=True)] == [True, True]
    assert columns["class_index"].tolist() == [1, 0]
    assert columns["class_name"].tolist() == ["Gewässer, flach", "land"]
    assert columns["source"].tolist() == ["a.tif, b.tif", "a.tif"]
    # on the central meridian of UTM, a length in the plane is 0.9996 of that on the ellipsoid
    assert columns["area_ha"] == pytest.approx(np.array([99, 0.04]) / 0.9996**2, rel=1e-6)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
def test_small_polygons_are_left_out_and_a_file_may_be_empty(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    assert write_polygons(path, FOUND, CLASSES, wkt(32632), smallest=401) == 1
    assert read(path)[2]["class_index"].tolist() == [1]
    assert write_polygons(path, FOUND, CLASSES, wkt(32632), smallest=400) == 2
    assert write_polygons(path, FOUND, CLASSES, wkt(32632), smallest=1e7) == 0
    assert pyogrio.read_info(path)["features"] == 0
    assert is_sealed_text(path)


def test_many_polygons_are_written_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("atrous.inference.polygon_files.BATCH", 3)
    for count in (6, 7):
        assert write_polygons(tmp_path / "a.gpkg", FOUND[:1] * count, CLASSES, wkt(32632)) == count
        assert pyogrio.read_info(tmp_path / "a.gpkg")["features"] == count
        assert is_sealed_text(tmp_path / "a.gpkg")


def test_geojson_names_its_system_unless_it_is_wgs84(tmp_path):
    path, degrees = tmp_path / "a.geojson", [ClassPolygon(0, ("a.tif",), shapely.box(9, 45, 10, 46))]
    write_polygons(path, degrees, CLASSES, wkt(4326))
    written = json.loads(path.read_text(encoding="utf-8"))
    assert "crs" not in written
    ring = written["features"][0]["geometry"]["coordinates"][0]
    assert {tuple(corner) for corner in ring} == {(9, 45), (10, 45), (10, 46), (9, 46)}  # longitude first
    assert shapely.LinearRing(ring).is_ccw
    assert read(path)[0]["crs"] == "EPSG:4326"
    own = pyproj.CRS.from_proj4("+proj=tmerc +lat_0=1 +lon_0=9.123 +k=1 +x_0=5 +ellps=GRS80 +units=m").to_wkt()
    with pytest.raises(AtrousError, match=r"a\.geojson: GeoJSON can only name.*\.gpkg"):
        write_polygons(path, FOUND, CLASSES, own)
    assert json.loads(path.read_text(encoding="utf-8")) == written
    write_polygons(tmp_path / "a.gpkg", FOUND, CLASSES, own)
    assert pyproj.CRS.from_user_input(read(tmp_path / "a.gpkg")[0]["crs"]).equals(own, ignore_axis_order=True)


def test_a_file_that_was_edited_is_not_ours(tmp_path):
    for suffix in (".gpkg", ".geojson"):
        path = tmp_path / f"a{suffix}"
        write_polygons(path, FOUND, CLASSES, wkt(32632))
        output = polygons_output(path)
        assert output is not None and output.is_ours(path)
        read(path)
        assert output.is_ours(path)
    with sqlite3.connect(tmp_path / "a.gpkg") as database:
        database.execute("PRAGMA user_version = 10301")
    database.close()
    text = (tmp_path / "a.geojson").read_text(encoding="utf-8")
    (tmp_path / "a.geojson").write_text(text.replace('"class_index": 0', '"class_index": 1'), encoding="utf-8")
    (tmp_path / "empty.gpkg").touch()
    (tmp_path / "other.gpkg").write_text("another text")
    assert not any(is_sealed_text(path) for path in tmp_path.iterdir())


def test_options_that_cannot_be(tmp_path):
    check_polygon_options(None, 0)
    check_polygon_options(tmp_path / "a.GPKG", 25)
    for path, smallest, words in (
        (tmp_path / "a.shp", 0, r"a\.shp: give a file with the suffix \.gpkg"),
        (tmp_path / "a.gpkg", -1, "0 m² or more"),
        (tmp_path / "a.gpkg", math.nan, "0 m² or more"),
        (None, 3, "is for the file of --polygons"),
    ):
        with pytest.raises(AtrousError, match=words):
            check_polygon_options(path, smallest)


def test_the_whole_ellipsoid():
    """The area of WGS 84 is 510,065,621.724 km² (NGA.STND.0036, table 3.5: radius of a sphere of equal area)."""
    whole = polygon_area(wkt(4326))(shapely.box(-180, -90, 180, 90))
    assert whole == pytest.approx(4 * math.pi * 6_371_007.1809**2, rel=1e-10)
    half = polygon_area(wkt(4326))(shapely.box(-180, -90, 180, 90).difference(shapely.box(0, 0, 90, 90)))
    assert half == pytest.approx(whole * 7 / 8, rel=1e-12)


@pytest.mark.parametrize("code", [3035, 6933])
def test_areas_in_equal_area_projections(code):
    """Edges are divided, so the area differs from that in the plane by less than 1e-6."""
    corner = pyproj.Transformer.from_crs(4326, code, always_xy=True).transform(12, 50)
    hole = shapely.box(20_000, 30_000, 60_000, 50_000)
    ring = shapely.transform(shapely.box(0, 0, 100_000, 80_000).difference(hole), lambda at: at + np.array(corner))
    assert polygon_area(wkt(code))(ring) == pytest.approx(ring.area, rel=1e-6)


def test_a_polygon_around_the_pole_and_one_across_the_antimeridian():
    polar = polygon_area(wkt(3031))(shapely.box(-1e6, -1e6, 1e6, 1e6))
    quarter = polygon_area(wkt(3031))(shapely.box(0, 0, 1e6, 1e6))
    assert polar == pytest.approx(4 * quarter, rel=1e-9)
    antimeridian = polygon_area(wkt(32660))(shapely.box(833_000, 0, 843_000, 10_000))  # 180° is at x = 833,979 m
    other = polygon_area(wkt(32631))(shapely.box(833_000, 0, 843_000, 10_000))
    assert antimeridian == pytest.approx(other, rel=1e-9)


def test_feet_and_a_local_system():
    assert polygon_area('LOCAL_CS["site",UNIT["metre",1]]')(shapely.box(0, 0, 10, 20)) == 200
    feet = polygon_area(wkt(2263))(shapely.box(980_000, 200_000, 981_000, 201_000))
    assert feet == pytest.approx(1e6 * (1200 / 3937) ** 2, rel=1e-4)  # the US survey foot
