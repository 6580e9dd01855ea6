"""A raster whose file, metadata, mask or sources change is read anew; an open window has no old content."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tests.data.rasters.rasters import write_raster

from atrous.data.pictures import read_pixels
from atrous.data.rasters import gdal_picture
from atrous.data.rasters.raster_grid import grid_of
from atrous.errors import AtrousError

rasterio = pytest.importorskip("rasterio")
from rasterio.shutil import copy  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402

PLACE = ("EPSG:32632", from_origin(500_000, 4_600_000, 10, 10))
BANDS = np.stack([np.full((16, 20), value, np.int16) for value in (5, 6, 7)])


@pytest.fixture(autouse=True)
def always_checked(monkeypatch):
    monkeypatch.setattr(gdal_picture, "CHECK_SECONDS", 0)
    monkeypatch.setattr(gdal_picture, "CHECK_PART", 0)


def scene(path: Path, values: np.ndarray = BANDS, **profile) -> Path:
    """Writes a raster with the time of a new second, so that a test needs no waiting."""
    scene.second += 1
    write_raster(path, values, *PLACE, **profile)
    os.utime(path, (scene.second, scene.second))
    return path


scene.second = 1_700_000_000


def first_pixels(path: Path) -> list[int]:
    return read_pixels(path / "window" / "0_0_4_4").values[0, 0].tolist()


def valid_pixels(path: Path) -> int:
    valid = read_pixels(path / "window" / "0_0_4_4").for_model()[1]
    return 16 if valid is None else int(valid.sum())


def test_a_changed_source_of_a_vrt(tmp_path):
    tiff = scene(tmp_path / "a.tif")
    vrts = [tmp_path / name for name in ("one.vrt", "two.vrt")]
    for vrt in vrts:
        copy(str(tiff), str(vrt), driver="VRT")
        assert first_pixels(vrt) == [5, 6, 7]
    scene(tiff, BANDS + 10)
    assert [first_pixels(vrt) for vrt in vrts] == [[15, 16, 17]] * 2


def test_a_changed_source_of_a_vrt_in_a_vrt(tmp_path):
    tiff, inner, outer = scene(tmp_path / "a.tif"), tmp_path / "inner.vrt", tmp_path / "outer.vrt"
    copy(str(tiff), str(inner), driver="VRT")
    outer.write_text(inner.read_text(encoding="utf-8").replace("a.tif", "inner.vrt"), encoding="utf-8")
    assert first_pixels(outer) == [5, 6, 7]
    scene(tiff, BANDS + 10)
    assert first_pixels(outer) == [15, 16, 17]
    tiff.unlink()
    with pytest.raises(AtrousError, match=r"a\.tif"):
        first_pixels(outer)


def test_the_files_of_a_vrt_are_checked_rarely(tmp_path, monkeypatch):
    monkeypatch.setattr(gdal_picture, "CHECK_SECONDS", 3600)
    tiff, vrt, checked = scene(tmp_path / "a.tif"), tmp_path / "a.vrt", []
    copy(str(tiff), str(vrt), driver="VRT")
    first_pixels(vrt)
    monkeypatch.setattr(gdal_picture, "file_version", checked.append)
    for _ in range(20):
        first_pixels(vrt)
    assert not checked


def test_a_source_of_a_vrt_whose_empty_band_gets_data(tmp_path):
    """The bands without data are kept for each version of a file; the file of a VRT does not change with its source."""
    empty = BANDS.copy()
    empty[1] = -9999
    tiff = scene(tmp_path / "a.tif", empty, nodata=-9999)
    vrt = tmp_path / "a.vrt"
    copy(str(tiff), str(vrt), driver="VRT")
    assert valid_pixels(vrt) == valid_pixels(tiff) == 16  # a band without data voids no pixel
    empty[1, 10:] = 3
    scene(tiff, empty, nodata=-9999)
    assert valid_pixels(vrt) == valid_pixels(tiff) == 0


@pytest.mark.parametrize("change", ["appears", "changes", "disappears"])
def test_nodata_beside_a_tiff(tmp_path, change):
    values = BANDS.copy()
    values[0, 8:] = 9  # a band without data would void no pixel
    tiff, beside = scene(tmp_path / "a.tif", values), tmp_path / "a.tif.aux.xml"

    def declare(value):
        text = f'<PAMRasterBand band="1"><NoDataValue>{value}</NoDataValue></PAMRasterBand>'
        beside.write_text(f"<PAMDataset>{text}</PAMDataset>", encoding="utf-8")

    if change != "appears":
        declare(777)
    if change == "disappears":
        declare(5)
        assert valid_pixels(tiff) == 0
        beside.unlink()
        assert valid_pixels(tiff) == 16
        return
    assert valid_pixels(tiff) == 16
    declare(5)
    assert valid_pixels(tiff) == 0


def test_a_mask_beside_a_tiff_that_appears(tmp_path):
    tiff = scene(tmp_path / "a.tif")
    assert valid_pixels(tiff) == 16
    mask = np.full((1, 16, 20), 255, np.uint8)
    mask[0, 0] = 0
    write_raster(tmp_path / "mask.tif", mask, None, rasterio.Affine.identity())
    (tmp_path / "mask.tif").rename(tmp_path / "a.tif.msk")
    assert valid_pixels(tiff) == 12


def test_a_changed_place(tmp_path):
    tiff = scene(tmp_path / "a.tif")
    assert grid_of(tiff).transform.c == 500_000
    moved = "<GeoTransform>600000, 10, 0, 4600000, 0, -10</GeoTransform>"
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{moved}</PAMDataset>", encoding="utf-8")
    with rasterio.open(tiff) as file:
        truth = file.transform.c
    assert grid_of(tiff).transform.c == truth
