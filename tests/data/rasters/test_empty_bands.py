"""A band without data in the whole file does not make pixels missing; a gap in a band does."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.data.rasters.test_band_names import write

from atrous.data.formats import decoded_blocks, empty_bands
from atrous.data.formats.empty_bands import SearchedFile
from atrous.data.formats.tiff import TiffPicture
from atrous.data.formats.tiff_page import StoredPage
from atrous.data.pictures import read_pixels
from atrous.data.rasters.gdal_picture import GdalPicture
from atrous.data.rasters.scene_windows import WindowPlace
from atrous.data.sources.geotiff import GeoTiffSource
from atrous.data.sources.scene_files import read_input
from atrous.data.sources.source import Window, whole
from atrous.input_spec import Input

pytestmark = pytest.mark.filterwarnings("ignore")
NODATA = -32768


@pytest.fixture(params=["declared", "nan"])
def scene(request, tmp_path):
    """A raster of five bands: band 1 is empty, and band 3 has a gap that covers its last 16 rows."""
    values = np.random.default_rng(0).integers(1, 900, (48, 40, 5)).astype(np.int16)
    values[:, :, 1] = NODATA
    values[32:, :, 3] = NODATA
    values[:4, :6] = NODATA
    if request.param == "declared":
        return write(tmp_path / "scene.tif", values, ["a", "b", "c", "d", "e"], nodata=NODATA), values
    floats = np.where(values == NODATA, np.nan, values).astype(np.float32)
    return write(tmp_path / "scene.tif", floats, ["a", "b", "c", "d", "e"]), values


def truth(values):
    return (values[:, :, [0, 2, 3, 4]] != NODATA).all(axis=2)


def test_an_empty_band_voids_no_pixel(scene):
    path, values = scene
    picture, valid = read_pixels(path).for_model()
    assert np.array_equal(valid, truth(values))
    assert np.array_equal(picture[valid][:, [0, 2, 3, 4]], values[valid][:, [0, 2, 3, 4]])


def test_windows_mean_what_the_whole_scene_means(scene):
    path, values = scene
    mean = (1.0, 222.0, 3.0, 4.0, 5.0)
    one = Input(mean, (1.0,) * 5, dtype="float32")
    expected = read_input(path, one)
    assert (expected.values[expected.valid][:, 1] == 222.0).all()  # normalised, an empty band is 0
    source = GeoTiffSource(path, 5, fill=mean)
    for window in (Window(0, 0, 8, 8), Window(30, 3, 18, 20), Window(32, 0, 16, 40), Window(5, 7, 2, 2)):
        for found in (source.read(window), read_input(WindowPlace(path, window).path, one)):
            valid = np.ones((window.height, window.width), bool) if found.valid is None else found.valid
            assert np.array_equal(valid, truth(values)[window.rows, window.columns])
            assert np.array_equal(found.values[valid], expected.values[window.rows, window.columns][valid])
    assert np.array_equal(whole(source).values[expected.valid], expected.values[expected.valid])
    source.close()


def test_a_chosen_empty_band_alone_leaves_nothing(scene):
    path, _ = scene
    _, valid = read_pixels(path).choosing([1]).for_model()
    assert valid is not None
    assert not valid.any()


def test_bands_of_water_vapour_do_not_void_hyperspectral_tiles(shared):
    for path in sorted((shared / "data/enmap_potsdam/images").glob("*.tif")):
        pixels = read_pixels(path)
        assert pixels.empty == tuple(range(129, 135))
        _, valid = pixels.for_model()
        assert valid is None or valid.mean() > 0.99


def test_an_empty_band_of_whole_numbers_changes_neither_type_nor_rule(tmp_path):
    values = np.random.default_rng(0).integers(1, 900, (20, 20, 5)).astype(np.uint16)
    values[:, :, 4] = 0
    values[3, 3, 1] = 0  # a dark pixel
    path = write(tmp_path / "scene.tif", values, ["a", "b", "c", "d", "e"], nodata=0)
    plain, filled = read_pixels(path).for_model(), read_pixels(path).for_model(None, [1.0, 2.0, 3.0, 4.0, 70.4])
    assert plain[1] is None
    assert filled[1] is None
    assert filled[0].dtype == np.uint16
    assert (filled[0][:, :, 4] == 70).all()
    assert np.array_equal(filled[0][:, :, :4], values[:, :, :4])
    assert np.isnan(read_pixels(path).for_model(None, [np.nan] * 5)[0][:, :, 4]).all()


def wide_scene(path, bands=3, **profile):
    """A raster of 64×640 pixels whose band 1 is empty, and whose band 2 has data only in its last row."""
    values = np.random.default_rng(0).integers(1, 900, (64, 640, bands)).astype(np.int16)
    values[:, :, 1] = values[:-1, :, 2] = NODATA
    return write(path, values, [""] * bands, nodata=NODATA, compress="deflate", **profile)


WINDOW = (3, 5, 20, 30)


@pytest.mark.parametrize("kind", [{"blockysize": 4}, {"tiled": True, "blockxsize": 32, "blockysize": 16}])
def test_each_block_is_decoded_once_in_the_search(tmp_path, monkeypatch, kind):
    path = wide_scene(tmp_path / "a.tif", interleave="pixel", **kind)
    monkeypatch.setattr(decoded_blocks, "MOST_BYTES", 0)
    monkeypatch.setattr(empty_bands, "PART_BYTES", 640 * 20 * 6)
    with TiffPicture(path) as tiff:
        before = tiff.pixels((3, 5, 1, 1))
        decoded, function = [], StoredPage._decoded
        monkeypatch.setattr(
            StoredPage, "_decoded", lambda page, index, *more: [decoded.append(index), function(page, index, *more)][1]
        )
        empty_bands._found.clear()
        assert tiff.pixels((3, 5, 1, 1)).empty == before.empty == (1,)
    # block 0 is still in memory from the window
    assert sorted(decoded) == list(range(80 if "tiled" in kind else 16))


@pytest.mark.parametrize("suffix", [".tif", ".vrt"])
def test_a_file_is_searched_once_until_it_changes(tmp_path, monkeypatch, suffix):
    path = wide_scene(tmp_path / "a.tif")
    if suffix == ".vrt":
        from rasterio.shutil import copy

        path = tmp_path / "a.vrt"
        copy(str(tmp_path / "a.tif"), str(path), driver="VRT")
    searched, function = [], empty_bands._search
    monkeypatch.setattr(empty_bands, "_search", lambda file: [searched.append(file), function(file)][1])

    def empty():
        picture = TiffPicture(path) if suffix == ".tif" else GdalPicture(path)
        found = picture.pixels(WINDOW).empty
        picture.close()
        return found

    assert [empty() for _ in range(3)] == [(1,)] * 3
    assert len(searched) == 1
    os.utime(path, ns=(1, 1))
    assert empty() == (1,)
    assert len(searched) == 2


def test_parts_have_the_full_width_unless_a_row_of_blocks_is_too_large(monkeypatch):
    monkeypatch.setattr(empty_bands, "PART_BYTES", 1000)

    def parts(shape, block):
        file = SearchedFile(None, shape, np.dtype(np.uint8), block, (), np.zeros, np.zeros)
        return [*empty_bands._parts(file)]

    assert parts((25, 10, 10), (4, 10)) == [(0, 0, 8, 10), (8, 0, 8, 10), (16, 0, 8, 10), (24, 0, 1, 10)]
    assert parts((4, 50, 10), (4, 10)) == [(0, 0, 4, 20), (0, 20, 4, 20), (0, 40, 4, 10)]
    assert parts((40, 50, 10), (40, 50)) == [(0, 0, 40, 50)]  # one strip


def test_threads_that_need_the_same_file_search_it_once(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(1, 900, (64, 64, 3)).astype(np.int16)
    values[:, :, 1] = NODATA
    path = write(tmp_path / "scene.tif", values, ["a", "b", "c"], nodata=NODATA)
    searched, search = [], empty_bands._search

    def slow(file):
        searched.append(file.version)
        time.sleep(0.2)
        return search(file)

    monkeypatch.setattr(empty_bands, "_search", slow)
    windows = [path / "window" / f"{row * 8}_0_8_8" for row in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = [pixels.empty for pixels in pool.map(read_pixels, windows)]
    assert found == [(1,)] * 8
    assert len(searched) == 1
