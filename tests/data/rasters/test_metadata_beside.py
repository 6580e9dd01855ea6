"""Names, nodata and masks that GDAL stores beside a raster count as in GDAL, for pictures and for labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.data.rasters.rasters import write_raster

from atrous.data.dataset import stored_mask
from atrous.data.formats.tiff import TiffPicture
from atrous.data.mask_value_map import ClassTable
from atrous.data.pictures import read_kind, read_mask, read_pixels
from atrous.data.rasters.raster_grid import RasterGrid
from atrous.data.rasters.raster_labels import read_raster_labels
from atrous.data.raw_values import NO_NUMBER
from atrous.data.sources.geotiff import GeoTiffSource
from atrous.data.sources.source import whole

rasterio = pytest.importorskip("rasterio")
from rasterio.shutil import copy  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402

PLACE = ("EPSG:32632", from_origin(500_000, 4_600_000, 10, 10))


def beside(path: Path, **elements) -> None:
    """Writes PATH.aux.xml with one value of each element per band, None for none."""
    bands = [
        "".join(f"<{name}>{values[band]}</{name}>" for name, values in elements.items() if values[band] is not None)
        for band in range(len(next(iter(elements.values()))))
    ]
    text = "".join(f'<PAMRasterBand band="{band}">{content}</PAMRasterBand>' for band, content in enumerate(bands, 1))
    Path(f"{path}.aux.xml").write_text(f"<PAMDataset>{text}</PAMDataset>", encoding="utf-8")


def hide(path: Path, hidden: np.ndarray) -> None:
    """Writes PATH.msk, which hides pixels."""
    mask = np.where(hidden, 0, 255).astype(np.uint8)
    write_raster(path.with_name("mask.tif"), mask, None, rasterio.Affine.identity())
    with rasterio.open(path.with_name("mask.tif"), "r+") as file:
        file.update_tags(INTERNAL_MASK_FLAGS_1=2)  # one mask of all bands
    path.with_name("mask.tif").rename(f"{path}.msk")


@pytest.mark.parametrize("tag", [("x", "y", "z"), (None, None, None), ("B2", "B3", "B4")])
def test_names_beside_a_tiff(tmp_path, tag):
    values = np.stack([np.full((8, 9), number, np.uint16) for number in (4, 3, 2)])
    path = write_raster(tmp_path / "a.tif", values, *PLACE)
    with rasterio.open(path, "r+") as file:
        file.descriptions = tag
    beside(path, Description=("B4", None, "B2"))
    with rasterio.open(path) as file:
        expected = tuple(name or "" for name in file.descriptions)
    expected = () if len({*expected} - {""}) < sum(map(bool, expected)) else expected
    for place in (path, path / "window" / "0_0_8_9"):
        assert read_kind(place).names == read_pixels(place).names == expected
    source = GeoTiffSource(path, 2, names=("B2", "B4"))
    assert whole(source).values[0, 0].tolist() == [2, 4]
    source.close()


@pytest.mark.parametrize("tag", [None, -5])
@pytest.mark.parametrize("listed", [(-1, -2, None), (None, -2, None), (40_000, None, -5)])
def test_nodata_of_each_band_beside_a_tiff(tmp_path, tag, listed):
    values = np.random.default_rng(0).choice(np.array([-1, -2, -5, 3], np.int16), (3, 30, 30))
    path = write_raster(tmp_path / "a.tif", values, *PLACE, nodata=tag)
    beside(path, NoDataValue=listed)
    with rasterio.open(path) as file:
        truth = np.moveaxis(file.read_masks(), 0, 2) > 0
    vrt = tmp_path / "a.vrt"
    copy(str(path), str(vrt), driver="VRT")
    for place in (path, path / "window" / "0_0_30_30", vrt):
        missing = read_pixels(place).missing
        assert np.array_equal(np.zeros_like(truth) if missing is None else missing, ~truth)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_missing_tiles_have_the_nodata_value_of_their_band(tmp_path, interleave):
    layout = {"tiled": True, "blockxsize": 16, "blockysize": 16, "sparse_ok": True, "interleave": interleave}
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=32, height=32, count=2, dtype="int16", nodata=-7, **layout
    ) as file:
        file.write(np.ones((2, 16, 16), np.int16), window=rasterio.windows.Window(0, 0, 16, 16))  # type: ignore[call-arg]
    beside(tmp_path / "a.tif", NoDataValue=(-5, -5))
    with rasterio.open(tmp_path / "a.tif") as file:
        expected = np.moveaxis(file.read(), 0, 2)
    with TiffPicture(tmp_path / "a.tif") as tiff:
        assert np.array_equal(tiff.raw_mask(), expected)
    assert expected[20, 20].tolist() == [-5, -5]


HIDDEN = np.arange(12)[:, None] < np.full((1, 14), 5)
LAND_AND_WATER = ClassTable(("land", "water"), ((0, 0, 0), (1, 1, 1)), ((0,), (1,)))


@pytest.mark.parametrize(
    ("kind", "nodata"),
    [
        *((kind, nodata) for kind in ("whole", "window", "vrt", "inside the file") for nodata in (None, 0, 9)),
        ("png", None),
    ],
)
def test_hidden_pixels_of_labels_have_no_class(tmp_path, kind, nodata):
    labels = np.random.default_rng(0).integers(0, 2, (12, 14)).astype(np.uint8)
    labels[-1, -1] = 0 if nodata is None else nodata
    suffix = "png" if kind == "png" else "tif"
    profile = {"driver": "PNG"} if kind == "png" else {}
    path = write_raster(tmp_path / f"a.{suffix}", labels, *PLACE, nodata=nodata, **profile)
    if kind == "inside the file":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
            file.write_mask(~HIDDEN)
    else:
        hide(path, HIDDEN)
    place = path / "window" / "0_0_12_14" if kind == "window" else path
    if kind == "vrt":
        copy(str(path), str(tmp_path / "a.vrt"), driver="VRT")
        place = tmp_path / "a.vrt"
    found = stored_mask(place, None, LAND_AND_WATER)
    encoded = LAND_AND_WATER.encode(found.values, found.nodata)
    listed = HIDDEN | (labels == 9)
    assert (encoded[listed] == 255).all()
    assert np.array_equal(encoded[~listed], labels[~listed])
    assert np.array_equal(read_mask(place).values, labels)  # the stored values, as before


def test_hidden_pixels_of_labels_on_another_grid_have_no_class(tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, (12, 14)).astype(np.uint8)
    path = write_raster(tmp_path / "a.tif", labels, *PLACE)
    hide(path, HIDDEN)
    fine = RasterGrid(rasterio.CRS.from_string(PLACE[0]), from_origin(500_000, 4_600_000, 5, 5), 24, 28)
    found = read_raster_labels(path, fine, (0, 0, 24, 28))
    assert found.hidden is not None
    assert np.array_equal(found.hidden, np.kron(HIDDEN, np.ones((2, 2), bool)))


def test_without_a_class_table_hidden_pixels_have_no_number(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.ones((12, 14), np.uint8), *PLACE, nodata=0)
    hide(path, HIDDEN)
    found = stored_mask(path, None, None)
    assert found.nodata == NO_NUMBER and np.array_equal(found.values == NO_NUMBER, HIDDEN)


@pytest.mark.parametrize("suffix", ["jp2", "png"])
def test_a_mask_beside_hides_the_same_pixels_in_training_and_prediction(tmp_path, suffix):
    values = np.random.default_rng(0).integers(1, 255, (3, 12, 14)).astype(np.uint8)
    profile = {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES"} if suffix == "jp2" else {"driver": "PNG"}
    path = write_raster(tmp_path / f"a.{suffix}", values, *PLACE, **profile)
    hide(path, HIDDEN)
    places = [path, path / "window" / "0_0_12_14"] if suffix == "jp2" else [path]
    for place in places:
        assert read_kind(place).may_lack_data
        assert np.array_equal(read_pixels(place).for_model()[1], ~HIDDEN)
    source = GeoTiffSource(path, 3)
    assert np.array_equal(whole(source).valid, ~HIDDEN)
    assert np.array_equal(whole(source).values[~HIDDEN], np.moveaxis(values, 0, 2)[~HIDDEN])
    source.close()
