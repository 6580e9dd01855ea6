"""VRT files in predict and area: their masks are those of the GeoTIFF that they show."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from tests.data.rasters.rasters import write_raster

from atrous.data.mask_value_map import ClassTable
from atrous.data.pictures import read_kind, read_pixels
from atrous.data.rasters.open_raster import source_files
from atrous.data.remote.transfer import fetch
from atrous.data.sources.geotiff import GeoTiffSink, GeoTiffSource, needs_windows, place_of
from atrous.errors import AtrousError
from atrous.inference.picture_paths import find_pictures

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import from_origin  # noqa: E402

TABLE = ClassTable(("a", "b"), ((0, 0, 0), (255, 0, 0)), ((0,), (1,)))
PLACE = ("EPSG:32632", from_origin(500_000, 4_600_000, 10, 10))


@pytest.fixture
def vrt(tmp_path):
    """A VRT of a GeoTIFF with three bands of int16, 40×60 px."""
    from rasterio.shutil import copy

    values = np.random.default_rng(0).integers(1, 4000, (3, 40, 60)).astype(np.int16)
    values[:, 5:20, 10:30] = -9999
    (tmp_path / "tiles").mkdir()
    write_raster(tmp_path / "tiles" / "a.tif", values, *PLACE, nodata=-9999)
    copy(str(tmp_path / "tiles" / "a.tif"), str(tmp_path / "b.vrt"), driver="VRT")
    return tmp_path / "b.vrt"


def test_a_vrt_has_the_pixels_and_the_place_of_its_tiff(vrt):
    tiff = vrt.parent / "tiles" / "a.tif"
    with closing(GeoTiffSource(vrt, 3, missing=[7])) as one, closing(GeoTiffSource(tiff, 3, missing=[7])) as other:
        assert one.shape == other.shape == (40, 60, 3) and one.geometry == other.geometry
        for found, expected in zip(one.read((3, 4, 30, 50)), other.read((3, 4, 30, 50)), strict=True):
            assert np.array_equal(found, expected)
    for found, expected in zip(read_pixels(vrt).for_model(), read_pixels(tiff).for_model(), strict=True):
        assert found is not None and np.array_equal(found, expected)
    assert read_kind(vrt).channels == 3 and needs_windows(vrt, 1e9) and place_of(vrt) == place_of(tiff)
    assert find_pictures([vrt.parent]) == [vrt]
    assert source_files(vrt) == [tiff] and source_files(tiff) == []


def test_the_mask_of_a_vrt_is_a_geotiff_on_its_grid(vrt, tmp_path):
    with (
        closing(GeoTiffSource(vrt, 3)) as source,
        GeoTiffSink(tmp_path / "mask.tif", source, TABLE) as sink,
    ):
        sink.write((0, 0, 40, 60), np.ones((40, 60), np.uint8))
    with rasterio.open(tmp_path / "mask.tif") as mask:
        assert (mask.crs.to_string(), mask.transform, mask.shape) == (*PLACE, (40, 60))


def test_a_vrt_without_one_of_its_files_is_refused_and_the_error_names_it(vrt):
    (vrt.parent / "tiles" / "a.tif").unlink()
    for read in (read_pixels, place_of, lambda path: GeoTiffSource(path, 3)):
        with pytest.raises(AtrousError, match=r"b.vrt: the VRT takes its pixels from .*a.tif, which is missing"):
            read(vrt)
    assert source_files(vrt) == [vrt.parent / "tiles" / "a.tif"]


def test_a_vrt_at_a_url_is_refused(tmp_path):
    with pytest.raises(AtrousError, match="a VRT takes its pixels from other files"):
        fetch("https://example.org/a.vrt", tmp_path)


def test_a_band_is_alpha_by_its_colour_interpretation_and_not_by_its_name(tmp_path):
    values = np.random.default_rng(0).uniform(0, 90, (4, 8, 9)).astype(np.float32)
    values[3, :4] = 0  # an angle of 0 degrees hides nothing
    path = write_raster(tmp_path / "a.tif", values, *PLACE)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("red", "green", "blue", "alpha")
    from rasterio.shutil import copy

    copy(str(path), str(tmp_path / "a.vrt"), driver="VRT")
    for file in (path, tmp_path / "a.vrt"):
        stored = read_pixels(file)
        assert stored.alpha is None and stored.names[3] == "alpha"
        assert stored.for_model()[1] is None and stored.for_model()[0].shape == (8, 9, 4)
    marked = write_raster(tmp_path / "m.tif", values.astype(np.uint8), *PLACE)  # GDAL marks the fourth band as alpha
    copy(str(marked), str(tmp_path / "m.vrt"), driver="VRT")
    for file in (marked, tmp_path / "m.vrt"):
        assert read_pixels(file).alpha == 3 and not read_pixels(file).for_model()[1][:4].any()
