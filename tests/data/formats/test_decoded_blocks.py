"""Decoded strips and tiles of all open files share one limit of memory."""

from __future__ import annotations

import numpy as np
import pytest
from tests.data.rasters.rasters import write_raster

from atrous.data.formats import decoded_blocks
from atrous.data.formats.tiff import TiffPicture
from atrous.data.formats.tiff_page import StoredPage
from atrous.data.pictures import read_pixels
from atrous.data.rasters.scene_windows import close_scenes

rasterio = pytest.importorskip("rasterio")
BLOCK = 64 * 64 * 2  # bytes


@pytest.fixture
def scenes(tmp_path):
    """Four open scenes of 16 tiles each, and their values."""
    files = []
    for number in range(4):
        values = np.random.default_rng(number).integers(0, 900, (1, 256, 256)).astype(np.uint16)
        layout = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
        path = write_raster(tmp_path / f"{number}.tif", values, None, rasterio.Affine.identity(), **layout)
        files.append((TiffPicture(path), values[0]))
    yield files
    for picture, _ in files:
        picture.close()


def kept() -> int:
    return sum(values.nbytes for values in decoded_blocks._blocks.values())


@pytest.fixture(autouse=True)
def nothing_kept():
    decoded_blocks._blocks.clear()
    decoded_blocks._bytes = 0


def test_all_files_together_stay_below_the_limit_and_values_are_right(scenes, monkeypatch):
    monkeypatch.setattr(decoded_blocks, "MOST_BYTES", 10 * BLOCK)
    rng, largest = np.random.default_rng(0), 0
    for _ in range(200):
        picture, values = scenes[rng.integers(4)]
        top, left = rng.integers(0, 156, 2).tolist()
        assert np.array_equal(picture.read((top, left, 100, 100))[:, :, 0], values[top : top + 100, left : left + 100])
        largest = max(largest, kept())
        assert kept() == decoded_blocks._bytes
    assert largest == 10 * BLOCK


def test_a_block_is_decoded_once_while_it_is_kept_and_again_after_the_file_is_closed(scenes, monkeypatch):
    decoded, function = [], StoredPage._decoded
    monkeypatch.setattr(
        StoredPage, "_decoded", lambda page, index, *more: [decoded.append(index), function(page, index, *more)][1]
    )
    picture = scenes[0][0]
    picture.read((0, 0, 100, 100))
    picture.read((20, 20, 100, 100))
    assert sorted(decoded) == [0, 1, 4, 5]
    scenes[1][0].read((0, 0, 10, 10))
    picture.close()
    assert kept() == BLOCK  # that of the other scene


def test_closing_the_scenes_of_a_thread_frees_their_blocks(tmp_path):
    values = np.random.default_rng(0).integers(0, 900, (1, 256, 256)).astype(np.uint16)
    layout = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    path = write_raster(tmp_path / "a.tif", values, None, rasterio.Affine.identity(), **layout)
    window = path / "window" / "0_0_100_100"
    before = read_pixels(window).values
    assert kept() == 4 * BLOCK
    close_scenes()
    assert kept() == 0
    assert np.array_equal(read_pixels(window).values, before)


def test_a_block_larger_than_the_limit_is_kept_alone(scenes, monkeypatch):
    monkeypatch.setattr(decoded_blocks, "MOST_BYTES", 1)
    scenes[0][0].read((0, 0, 100, 100))
    assert kept() == BLOCK
