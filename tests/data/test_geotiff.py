import sys

import numpy as np
import pytest

from atrous.data.mask_value_map import ClassTable
from atrous.data.sources.geotiff import GeoTiffSink, GeoTiffSource, needs_windows
from atrous.errors import AtrousError

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import from_origin  # noqa: E402

TABLE = ClassTable(("land", "water"), ((90, 60, 30), (0, 0, 255)), ((10,), (80, 90)), (0,))
PLACE = {"crs": "EPSG:32632", "transform": from_origin(500000, 4600000, 10, 10)}


@pytest.fixture
def write(tmp_path):
    """Writes C×H×W values as a TIFF."""

    def make(values: np.ndarray, name: str = "scene.tif", **profile):
        count, height, width = values.shape
        fixed = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
        with rasterio.open(tmp_path / name, "w", **fixed, **profile) as file:
            file.write(values)
        return tmp_path / name

    return make


@pytest.mark.parametrize(
    ("stored", "given"), [("u1", "u1"), ("u2", "u2"), ("i2", "f4"), ("f4", "f4"), ("f8", "f4"), ("u4", "f4")]
)
def test_windows_of_the_first_bands(write, stored, given):
    values = np.random.default_rng(0).integers(0, 200, (12, 70, 90)).astype(stored)
    source = GeoTiffSource(write(values, **PLACE), 7)
    assert source.shape == (70, 90, 7)
    window, valid, _ = source.read((5, 11, 20, 30))
    assert window.dtype == given
    assert np.array_equal(window, values[:7, 5:25, 11:41].transpose(1, 2, 0))
    assert valid is None


def test_too_few_bands(write):
    path = write(np.zeros((2, 8, 8), "u1"))
    with pytest.raises(AtrousError, match=r"2 band\(s\), and the model takes the first 3"):
        GeoTiffSource(path, 3)
    assert GeoTiffSource(write(np.zeros((1, 8, 8), "u1")), 3).read((0, 0, 8, 8)).values.shape == (8, 8, 1)


def test_nodata_and_what_is_no_number(write):
    values = np.ones((3, 20, 20), "f4")
    values[:, :5] = -9999
    values[0, 10] = -9999  # one band of floats is enough, as with NaN
    values[:, 15] = np.nan
    source = GeoTiffSource(write(values, nodata=-9999, **PLACE), 3)
    pixels, valid, _ = source.read((0, 0, 20, 20))
    expected = np.ones((20, 20), bool)
    expected[:5] = expected[10] = expected[15] = False
    assert np.array_equal(valid, expected)
    assert set(np.unique(pixels)) == {0, 1}
    assert (pixels[10] == 0).all()


def test_a_mask_beside_the_bands_counts(tmp_path, write):
    path = write(np.ones((3, 16, 16), "u1"), **PLACE)
    mask = np.full((16, 16), 255, "u1")
    mask[3] = 0
    with rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    assert np.array_equal(GeoTiffSource(path, 3).read((0, 0, 16, 16)).valid, mask > 0)


def fill(sink: GeoTiffSink, mask: np.ndarray, side: int) -> None:
    for top in range(0, mask.shape[0], side):
        for left in range(0, mask.shape[1], side):
            part = mask[top : top + side, left : left + side]
            sink.write((top, left, *part.shape), part)


@pytest.mark.parametrize("side", [100, 512, 700, 2000])
def test_the_mask_lies_where_the_picture_lies(write, tmp_path, side):
    source = GeoTiffSource(write(np.ones((1, 1300, 900), "u1"), **PLACE), 1)
    mask = np.random.default_rng(0).choice(np.array([0, 1, 255], "u1"), (1300, 900))
    with GeoTiffSink(tmp_path / "mask.tif", source, TABLE) as sink:
        fill(sink, mask, side)
    with rasterio.open(tmp_path / "mask.tif") as file:
        assert np.array_equal(file.read(1), mask)
        assert (file.crs, file.transform) == (rasterio.CRS.from_epsg(32632), PLACE["transform"])
        assert file.nodata == 255
        assert np.array_equal(file.read_masks(1) > 0, mask != 255)
        assert file.colormap(1)[1] == (0, 0, 255, 255)
        assert file.tags(1) == {"class_0": "land", "class_1": "water"}
        assert (file.compression.name, file.block_shapes) == ("deflate", [(512, 512)])


def test_raw_values_and_the_value_of_no_data(write, tmp_path):
    source = GeoTiffSource(write(np.ones((1, 4, 4), "u1"), **PLACE), 1)
    mask = np.array([[0, 1, 1, 255]] * 4, "u1")
    with GeoTiffSink(tmp_path / "mask.tif", source, TABLE, raw=True) as sink:
        sink.write((0, 0, 4, 4), mask)
    with rasterio.open(tmp_path / "mask.tif") as file:
        assert np.array_equal(file.read(1)[0], [10, 80, 80, 0])
        assert file.nodata == 0
        assert file.tags(1) == {"class_10": "land", "class_80": "water"}


def test_ground_control_points_are_kept(write, tmp_path):
    from rasterio.control import GroundControlPoint

    points = [GroundControlPoint(row, col, col * 2.0, row * 3.0) for row, col in ((0, 0), (0, 8), (8, 0), (8, 8))]
    path = write(np.ones((1, 8, 8), "u1"))
    with rasterio.open(path, "r+") as file:
        file.gcps = (points, rasterio.CRS.from_epsg(4326))
    assert needs_windows(path, 1e9)
    with GeoTiffSink(tmp_path / "mask.tif", GeoTiffSource(path, 1), TABLE) as sink:
        sink.write((0, 0, 8, 8), np.zeros((8, 8), "u1"))
    with rasterio.open(tmp_path / "mask.tif") as file:
        assert [(p.row, p.col, p.x, p.y) for p in file.gcps[0]] == [(p.row, p.col, p.x, p.y) for p in points]


def test_a_mask_that_is_not_finished_is_deleted(write, tmp_path):
    source = GeoTiffSource(write(np.ones((1, 8, 8), "u1"), **PLACE), 1)
    with pytest.raises(KeyboardInterrupt), GeoTiffSink(tmp_path / "mask.tif", source, TABLE):
        raise KeyboardInterrupt
    assert not (tmp_path / "mask.tif").exists()


def test_which_pictures_are_read_in_windows(write, tmp_path):
    assert needs_windows(write(np.zeros((1, 8, 8), "u1"), "placed.tiff", **PLACE), 1e9)
    assert needs_windows(write(np.zeros((5, 8, 8), "u1"), "bands.tif"), 1e9)
    plain = write(np.zeros((3, 8, 8), "u1"), "plain.tif")
    assert not needs_windows(plain, 192)
    assert needs_windows(plain, 191)
    (tmp_path / "broken.tif").write_bytes(b"II*\0nothing")
    assert not needs_windows(tmp_path / "broken.tif", 1e9)


def test_a_damaged_file_is_an_error_in_words(write):
    path = write(np.random.default_rng(0).integers(0, 255, (3, 600, 600), np.uint8), **PLACE)
    path.write_bytes(path.read_bytes()[:300_000])
    source = GeoTiffSource(path, 3)
    with pytest.raises(AtrousError, match="damaged or cut short"):
        source.read((400, 0, 200, 600))


def test_without_rasterio_the_extra_is_named(write, monkeypatch):
    path = write(np.zeros((1, 8, 8), "u1"), **PLACE)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(AtrousError, match=r"pip install 'atrous\[geo\]'"):
        GeoTiffSource(path, 1)
    assert not needs_windows(path, 1e9)
