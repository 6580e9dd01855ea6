"""A VRT has the values of the TIFF that it shows: colours of a palette, grey of few bits, and CMYK."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tests.data.rasters.rasters import write_raster

from atrous.data.pictures import read_kind, read_mask, read_pixels
from atrous.data.rasters.gdal_picture import GdalPicture
from atrous.data.sources.geotiff import GeoTiffSource
from atrous.data.sources.source import whole
from atrous.errors import AtrousError

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import from_origin  # noqa: E402

PLACE = ("EPSG:32632", from_origin(500_000, 4_600_000, 10, 10))
INDICES = np.random.default_rng(0).integers(0, 3, (16, 20)).astype(np.uint8)
COLORS = {0: (1, 2, 3, 255), 1: (200, 0, 7, 255), 2: (9, 90, 250, 255)}


def as_vrt(path: Path) -> Path:
    from rasterio.shutil import copy

    copy(str(path), str(path.with_suffix(".vrt")), driver="VRT")
    return path.with_suffix(".vrt")


def with_palette(path: Path, indices: np.ndarray, **profile) -> Path:
    write_raster(path, indices, *PLACE, photometric="PALETTE", **profile)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, COLORS)
    return path


def same(tiff: Path, vrt: Path) -> None:
    """Asserts that both files are the same input of a model, whole and by windows."""
    one, other = read_pixels(tiff), read_pixels(vrt)
    assert np.array_equal(one.values, other.values) and one.values.dtype == other.values.dtype
    valid, valid_in_vrt = one.for_model()[1], other.for_model()[1]
    assert (valid is None) == (valid_in_vrt is None)
    assert valid is None or valid_in_vrt is None or np.array_equal(valid, valid_in_vrt)
    assert read_kind(tiff).channels == read_kind(vrt).channels == one.values.shape[2]
    assert read_kind(tiff).dtype == read_kind(vrt).dtype
    window = vrt / "window" / "3_4_5_6"
    assert np.array_equal(read_pixels(window).values, one.values[3:8, 4:10])
    source = GeoTiffSource(vrt, one.values.shape[2])
    assert source.shape == one.values.shape and np.array_equal(whole(source).values, one.for_model()[0])
    source.close()


@pytest.mark.parametrize("profile", [{}, {"nodata": 2}])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_palette_becomes_colours_and_masks_keep_the_indices(tmp_path, dtype, profile):
    tiff = with_palette(tmp_path / "a.tif", INDICES.astype(dtype), **profile)
    vrt = as_vrt(tiff)
    same(tiff, vrt)
    assert read_pixels(vrt).values[0, 0].tolist() == [*COLORS[INDICES[0, 0]][:3]]
    mask = read_mask(vrt)
    assert np.array_equal(mask.values, INDICES)
    assert (mask.palette or ())[:3] == (tuple(one[:3] for one in COLORS.values()) if dtype == "uint8" else ())


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("photometric", ["MINISBLACK", "MINISWHITE"])
def test_grey_of_few_bits_is_stretched_and_masks_are_not(tmp_path, bits, photometric):
    values = INDICES % min(2**bits, 255)
    few = {"nbits": bits} if bits < 8 else {}
    tiff = write_raster(tmp_path / "a.tif", values, *PLACE, photometric=photometric, **few)
    vrt = as_vrt(tiff)
    same(tiff, vrt)
    assert read_pixels(vrt).values.max() == int(values.max()) * 255 // (2**bits - 1)
    assert np.array_equal(read_mask(vrt).values, values) and read_mask(vrt).palette is None


def test_cmyk_of_8_bits_is_rgb_as_gdal_converts_it_and_other_cmyk_is_refused(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (4, 16, 20)).astype(np.uint8)
    tiff = write_raster(tmp_path / "a.tif", values, *PLACE, photometric="CMYK")
    found, expected = read_pixels(as_vrt(tiff)).for_model(), read_pixels(tiff).for_model()
    assert np.abs(found[0].astype(int) - expected[0]).max() <= 1 and found[0].shape == expected[0].shape
    vrt = as_vrt(write_raster(tmp_path / "b.tif", values.astype(np.uint16), *PLACE, photometric="CMYK"))
    for read in (read_pixels, read_kind, read_mask):
        with pytest.raises(AtrousError, match=r"b\.vrt: colours in CMYK"):
            read(vrt)


def test_a_vrt_that_declares_a_palette_without_a_colour_table_is_grey(tmp_path):
    vrt = as_vrt(with_palette(tmp_path / "a.tif", INDICES))
    vrt.write_text(re.sub(r"<ColorTable>.*</ColorTable>", "", vrt.read_text(), flags=re.DOTALL))
    assert np.array_equal(read_pixels(vrt).values[:, :, 0], INDICES) and read_kind(vrt).channels == 1
    mask = read_mask(vrt)
    assert np.array_equal(mask.values, INDICES) and mask.palette is None


def test_a_refused_file_is_closed(tmp_path, monkeypatch):
    from atrous.data.rasters import gdal_picture

    opened = []
    function = gdal_picture.opened_raster
    monkeypatch.setattr(gdal_picture, "opened_raster", lambda path: [opened.append(function(path)), opened[-1]][1])
    vrt = as_vrt(write_raster(tmp_path / "a.tif", INDICES, *PLACE))
    monkeypatch.setattr(gdal_picture, "file_version", lambda path: path.stat().missing)
    with pytest.raises(AttributeError):
        GdalPicture(vrt)
    assert opened[0].closed


def test_a_file_without_nodata_is_not_searched_for_missing_values(tmp_path):
    picture = GdalPicture(as_vrt(write_raster(tmp_path / "a.tif", INDICES, *PLACE)))
    values = np.broadcast_to(np.uint8(0), (2**31, 2**31, 1))  # no memory could contain booleans of this shape
    assert picture._missing(values) is None
    picture.close()
