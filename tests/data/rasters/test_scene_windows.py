"""A window of a scene is a picture: its pixels and labels are those of the scene."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.rasters.test_band_names import write

from atrous.data.pictures import exif_orientation, read_kind, read_mask, read_pixels, stored_lossily
from atrous.data.rasters.scene_windows import WindowPlace, window_place
from atrous.data.sources.source import Window
from atrous.errors import AtrousError

pytestmark = pytest.mark.filterwarnings("ignore")
H, W = 70, 90


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    values = np.random.default_rng(0).integers(0, 60000, (H, W, 3)).astype(np.uint16)
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    return write(path, values, ["a", "b", "c"], tiled=True, blockxsize=32, blockysize=16, nodata=0), values


@given(data=st.data())
def test_pixels_and_labels_of_a_window(scene, data):
    path, values = scene
    top, left = data.draw(st.integers(0, H - 1)), data.draw(st.integers(0, W - 1))
    window = Window(top, left, data.draw(st.integers(1, H - top)), data.draw(st.integers(1, W - left)))
    place = WindowPlace(path, window).path
    assert window_place(place) == WindowPlace(path, window)
    assert np.array_equal(read_pixels(place).values, values[window.rows, window.columns])
    assert read_kind(place) == read_kind(path)
    assert exif_orientation(place) == exif_orientation(path) == 1
    assert not stored_lossily(place)


def test_masks_keep_palette_nodata_and_negative_values(tmp_path):
    values = np.random.default_rng(0).integers(-1, 5, (40, 50, 1)).astype(np.int16)
    path = write(tmp_path / "mask.tif", values, [""], nodata=-1)
    found = read_mask(path / "window/10_20_8_9")
    assert np.array_equal(found.values, values[10:18, 20:29, 0])
    assert found.nodata == read_mask(path).nodata == -1


@pytest.mark.parametrize("name", ["60_0_11_5", "0_80_5_11", "0_0_0_5", "70_90_1_1"])
def test_a_window_outside_the_scene_is_refused(scene, name):
    with pytest.raises(AtrousError, match=r"is not inside the scene, which has 90×70 pixels"):
        read_pixels(scene[0] / "window" / name)


def test_other_paths_are_no_windows(tmp_path):
    for name in ("window/1_2_3", "window/a_b_c_d", "windows/1_2_3_4", "window/1_2_3_-4"):
        assert window_place(tmp_path / name) is None
    with pytest.raises(AtrousError, match="cannot be read"):
        read_pixels(tmp_path / "none.tif/window/0_0_4_4")
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(AtrousError, match="convert the scene to a GeoTIFF"):
        read_pixels(tmp_path / "a.png/window/0_0_4_4")


def test_a_changed_scene_is_read_again(tmp_path):
    path = tmp_path / "scene.tif"
    for value in (7, 8):
        write(path, np.full((20, 20, 1), value, np.uint8), [""])
        assert (read_pixels(path / "window/0_0_5_5").values == value).all()


def test_threads_and_forked_processes_read_the_same(scene):
    path, values = scene
    windows = [Window(top, left, 20, 30) for top in range(0, 50, 7) for left in range(0, 60, 11)]

    def right(window):
        found = read_pixels(WindowPlace(path, window).path).values
        return np.array_equal(found, values[window.rows, window.columns])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(right, windows * 5))
    if "fork" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=_read_or_exit, args=(path, values, windows)) for _ in range(3)]
        for child in children:
            child.start()
        _read_or_exit(path, values, windows, leave=False)
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0, 0, 0]


def _read_or_exit(path, values, windows, leave=True):
    for window in windows * 3:
        found = read_pixels(WindowPlace(path, window).path).values
        if not np.array_equal(found, values[window.rows, window.columns]):
            raise SystemExit(3)
    if leave:
        raise SystemExit(0)


def test_windows_of_vrt_and_jpeg_2000_are_those_of_the_tiff(tmp_path):
    import rasterio

    values = np.random.default_rng(0).integers(1, 4000, (40, 60, 3)).astype(np.int16)
    values[5:20, 10:30] = -9999
    write(tmp_path / "a.tif", values, ["red", "green", "blue"], nodata=-9999)
    bands = "".join(
        f'<VRTRasterBand dataType="Int16" band="{band}"><Description>{name}</Description>'
        "<NoDataValue>-9999</NoDataValue>"
        f'<SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>{band}</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for band, name in enumerate(("red", "green", "blue"), 1)
    )
    (tmp_path / "b.vrt").write_text(f'<VRTDataset rasterXSize="60" rasterYSize="40">{bands}</VRTDataset>')
    for name in ("0_0_40_60", "3_7_20_25", "6_12_4_4"):
        one, other = (read_pixels(tmp_path / file / "window" / name) for file in ("a.tif", "b.vrt"))
        for first, second in zip(one.for_model(), other.for_model(), strict=True):
            assert (first is None) == (second is None)
            assert first is None or np.array_equal(first, second)
        assert one.names == other.names == ("red", "green", "blue")
    assert read_kind(tmp_path / "b.vrt/window/0_0_9_9") == replace(
        read_kind(tmp_path / "a.tif"), stacks=False, white_is_zero=None
    )
    shown = np.clip(values, 0, 4000).astype(np.uint16)
    options = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    with rasterio.open(tmp_path / "c.jp2", "w", height=40, width=60, count=3, dtype="uint16", **options) as file:
        file.write(shown.transpose(2, 0, 1))
    assert np.array_equal(read_pixels(tmp_path / "c.jp2/window/4_5_30_31").values, shown[4:34, 5:36])
    assert stored_lossily(tmp_path / "c.jp2/window/4_5_30_31")
    assert exif_orientation(tmp_path / "b.vrt/window/4_5_30_31") == 1
    with pytest.raises(AtrousError, match=r"b.vrt: the window"):
        read_pixels(tmp_path / "b.vrt/window/4_5_30_310")
    (tmp_path / "d.vrt").write_text("<VRTDataset")
    with pytest.raises(AtrousError, match=r"d.vrt: cannot be read"):
        read_pixels(tmp_path / "d.vrt/window/0_0_1_1")
