import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from atrous.data.mask_value_map import ClassTable
from atrous.data.sources.geotiff import GeoTiffSink, GeoTiffSource, needs_windows
from atrous.errors import AtrousError
from atrous.software_tag import is_sealed

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


def tiff_directories(path: Path) -> list[dict[int, tuple[int, ...]]]:
    """The whole numbers of each directory of a TIFF by tag (TIFF 6.0, BigTIFF); the tag 0 is the directory's offset."""
    content, found = path.read_bytes(), []
    big = content[:4] == b"II+\0"
    assert big or content[:4] == b"II*\0"
    many, inline, word = ("<Q", 8, "<Q") if big else ("<H", 4, "<I")
    (at,) = struct.unpack_from(word, content, 8 if big else 4)
    while at:
        tags = {0: (at,)}
        (count,) = struct.unpack_from(many, content, at)
        entry = at + struct.calcsize(many)
        for _ in range(count):
            tag, kind = struct.unpack_from("<HH", content, entry)
            (values,) = struct.unpack_from(word, content, entry + 4)
            place = entry + 4 + struct.calcsize(word)
            code = {3: "H", 4: "I", 16: "Q"}.get(kind)
            if code is not None:
                if values * struct.calcsize(code) > inline:
                    (place,) = struct.unpack_from(word, content, place)
                tags[tag] = struct.unpack_from(f"<{values}{code}", content, place)
            entry += 4 + struct.calcsize(word) + inline
        found.append(tags)
        (at,) = struct.unpack_from(word, content, entry)
    return found


@pytest.mark.parametrize("size", [(3000, 2100), (512, 513), (300, 200)])
@pytest.mark.parametrize("raw", [False, True])
def test_a_mask_is_a_cloud_optimised_geotiff(write, tmp_path, size, raw):
    """The rules of OGC 21-026, and of the ghost area that GDAL's documentation of its COG driver describes."""
    source = GeoTiffSource(write(np.zeros((1, *size), np.uint8), **PLACE), 1)
    mask = np.kron(np.random.default_rng(0).integers(0, 3, (375, 263)), np.ones((8, 8)))[: size[0], : size[1]]
    mask = np.array([0, 1, 255], np.uint8)[mask.astype(int)]
    mask[:200] = 255
    path = tmp_path / "mask.tif"
    with GeoTiffSink(path, source, TABLE, raw=raw) as sink:
        fill(sink, mask, 700)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["mask.tif", "scene.tif"]
    assert is_sealed(path)

    head = path.read_bytes()[:300]
    assert head[8:].startswith(b"GDAL_STRUCTURAL_METADATA_SIZE=")
    assert b"LAYOUT=IFDS_BEFORE_DATA\n" in head and b"KNOWN_INCOMPATIBLE_EDITION=NO\n" in head
    directories = tiff_directories(path)
    offsets = [tags[0][0] for tags in directories]
    assert offsets == sorted(offsets)
    first_pixels = [min(tags[324]) for tags in directories]
    assert max(offsets) < min(first_pixels)
    assert first_pixels == sorted(first_pixels, reverse=True)  # the smallest overview first
    assert all((tags[322], tags[323]) == ((512,), (512,)) for tags in directories)
    assert [tags.get(254, (0,))[0] for tags in directories] == [0] + [1] * (len(directories) - 1)
    sizes = [(tags[257][0], tags[256][0]) for tags in directories]
    assert sizes[0] == size and max(sizes[-1]) <= 512
    halved = [pair for larger, smaller in pairwise(sizes) for pair in zip(larger, smaller, strict=True)]
    assert all(smaller in (larger // 2, -(-larger // 2)) for larger, smaller in halved)

    stored = np.select([mask == 0, mask == 1], [10, 80], 0) if raw else mask
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(1), stored)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    for level in range(len(directories) - 1):
        with rasterio.open(path, overview_level=level) as file:
            overview, step = file.read(1), 2 ** (level + 1)
            assert file.nodata == (0 if raw else 255)
            assert set(np.unique(overview)) <= set(np.unique(stored))
            assert (overview[: 200 // step] == file.nodata).all()
            assert file.colormap(1)[80 if raw else 1] == (0, 0, 255, 255)
            if size[0] % step == size[1] % step == 8 % step == 0:  # a block of 8×8 pixels has one class
                assert np.array_equal(overview, stored[::step, ::step])


PEAK = """
import sys
import numpy as np, rasterio
from atrous.data.mask_value_map import ClassTable
from atrous.data.sources.geotiff import GeoTiffSink, Place

class Source:
    shape, geometry = (int(sys.argv[1]), int(sys.argv[1]), 1), Place(None, rasterio.Affine.identity(), (), None)

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

mask = np.kron(np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8), np.ones((16, 16), np.uint8))
with GeoTiffSink(sys.argv[2], Source(), ClassTable(("a", "b"), ((0, 0, 0),) * 2, ((0,), (1,)))) as sink:
    for top in range(0, Source.shape[0], 1024):
        for left in range(0, Source.shape[1], 1024):
            sink.write((top, left, 1024, 1024), mask)
print(peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read as Linux tells it")
def test_the_memory_of_a_mask_does_not_grow_with_its_area(tmp_path):
    def peak(side: int) -> int:
        words = [sys.executable, "-c", PEAK, str(side), str(tmp_path / "mask.tif")]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    assert peak(12 * 1024) - peak(2 * 1024) < 110e6  # the mask has 151 MB; its rows of blocks and GDAL's cache grow


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
