"""`atrous predict --polygons`: the masks of rasters as one file of polygons."""

import sqlite3

import numpy as np
import pytest
from PIL import Image

from atrous.cli import main

rasterio = pytest.importorskip("rasterio")
pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")
from rasterio.features import rasterize  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402


@pytest.fixture
def rasters(shapes, tmp_path):
    """Two rasters that share an edge, of three test pictures each."""
    parts = [np.asarray(Image.open(shapes / "images" / f"test_{index}.png")) for index in range(3)]
    for name, left, order in (("west", 0, (0, 1, 2)), ("east", 1, (2, 0, 1))):
        values = np.concatenate([parts[index] for index in order]).transpose(2, 0, 1)
        save(tmp_path / "rasters" / f"{name}.tif", values, left * values.shape[2])
    return tmp_path / "rasters"


def save(path, values: np.ndarray, left: int = 0, crs: str | None = "EPSG:32632"):
    path.parent.mkdir(exist_ok=True)
    count, height, width = values.shape
    fixed = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", crs=crs, transform=from_origin(5e5 + 10 * left, 4.6e6, 10, 10), **fixed) as file:
        file.write(values)


def run(model, rasters, *words: object) -> int:
    return main(["predict", str(model), str(rasters), *map(str, words), "--device", "cpu", "--precision", "float32"])


@pytest.mark.parametrize("raw", [False, True])
def test_the_polygons_are_those_of_the_masks(model, rasters, tmp_path, capsys, raw):
    file = tmp_path / "found.gpkg"
    words = ["--out", tmp_path / "out", "--polygons", file, *(["--raw"] if raw else [])]
    assert run(model, rasters, *words) == 0
    meta, _, geometry, columns = pyogrio.raw.read(file)
    fields = dict(zip(meta["fields"], columns, strict=True))
    assert meta["crs"] == "EPSG:32632"
    assert f"{len(geometry):,} polygons in" in " ".join(capsys.readouterr().out.split())
    names = dict(zip(fields["class_index"].tolist(), fields["class_name"].tolist(), strict=True))
    assert set(names) == {0, 1, 2}
    assert names[1] == "box"
    assert "east.tif, west.tif" in fields["source"]
    values = np.array([0, 7, 300])[fields["class_index"]] if raw else fields["class_index"]
    for name in ("west", "east"):
        with rasterio.open(tmp_path / "out" / f"{name}.tif") as mask:
            drawn = np.full(mask.shape, -1, np.int32)
            pairs = zip(shapely.from_wkb(geometry), values.tolist(), strict=True)
            rasterize(pairs, out=drawn, transform=mask.transform)
            assert np.array_equal(drawn, mask.read(1))
    smallest = np.unique(fields["area_ha"])[:2].mean() * 10_000  # between two areas, which are rounded in the file
    assert run(model, rasters, *words, "--smallest-polygon", smallest) == 0
    assert pyogrio.read_info(file)["features"] == (fields["area_ha"] * 10_000 >= smallest).sum() < len(geometry)


def test_pictures_without_coordinates_are_refused_before_the_work(model, rasters, tmp_path, capsys):
    words = ["--out", tmp_path / "out", "--polygons", tmp_path / "found.geojson"]
    save(rasters / "plain.tif", np.zeros((3, 40, 40), np.uint8), crs=None)
    assert run(model, rasters, *words) == 2
    assert "plain.tif has no coordinates on Earth" in " ".join(capsys.readouterr().err.split())
    (rasters / "plain.tif").unlink()
    save(rasters / "zone33.tif", np.zeros((3, 40, 40), np.uint8), crs="EPSG:32633")
    assert run(model, rasters, *words) == 2
    assert "zone33.tif has EPSG:32633. Call predict --polygons once" in " ".join(capsys.readouterr().err.split())
    (rasters / "zone33.tif").unlink()
    Image.new("RGB", (40, 40)).save(rasters / "photo.png")
    assert run(model, rasters, *words) == 2
    assert "photo.png is not a raster with coordinates" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists() and not (tmp_path / "found.geojson").exists()


def test_a_damaged_raster_fails_alone(model, rasters, tmp_path, capsys):
    (rasters / "broken.tif").write_bytes(b"II*\0nothing")
    assert run(model, rasters, "--out", tmp_path / "out", "--polygons", tmp_path / "found.geojson") == 1
    assert "broken.tif" in capsys.readouterr().out
    assert pyogrio.read_info(tmp_path / "found.geojson")["features"] > 0


def test_polygons_that_a_user_edited_are_kept(model, rasters, tmp_path, capsys):
    file = tmp_path / "found.gpkg"
    words = ["--out", tmp_path / "out", "--polygons", file]
    assert run(model, rasters, *words) == 0
    assert run(model, rasters, *words) == 0  # a file that atrous wrote is replaced
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE notes (text TEXT)")
    database.close()
    edited = file.read_bytes()
    assert run(model, rasters, *words) == 2
    assert "found.gpkg exists and is not a polygon file of atrous" in " ".join(capsys.readouterr().err.split())
    assert file.read_bytes() == edited
    assert run(model, rasters, *words, "--overwrite") == 0
    assert file.read_bytes() != edited


def test_options_that_do_not_fit(model, rasters, tmp_path, capsys):
    for words, said in (
        (["--polygons", tmp_path / "a.shp"], "suffix .gpkg"),
        (["--smallest-polygon", 5], "is for the file of --polygons"),
        (["--polygons", tmp_path / "a.gpkg", "--out", "memory://masks"], "give a folder on this machine for --out"),
        (["--polygons", rasters / "west.tif" / "a.gpkg", "--out", tmp_path / "out"], "not a folder"),
    ):
        assert run(model, rasters, *words) == 2
        assert said in " ".join(capsys.readouterr().err.split())
