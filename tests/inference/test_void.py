"""Pixels without data are 255 in masks, and other pixels do not feel them."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

import atrous
from atrous.data.class_colors import default_colors
from atrous.data.mask_value_map import ClassTable
from atrous.data.pictures import read_pixels
from atrous.data.sources.geotiff import GeoTiffSink, GeoTiffSource, has_place_tags, needs_windows
from atrous.errors import AtrousError
from atrous.inference.prediction import Prediction, visible
from atrous.inference.preprocess import Preparation
from atrous.inference.segmenter import Segmenter
from atrous.serving import response_formats


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    model = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_050", num_classes=3).eval()
    return Segmenter(model, engine="torch", device="cpu", precision="float32")


def test_nan_in_arrays_and_files(segmenter, tmp_path):
    image = np.random.default_rng(0).normal(100, 20, (64, 80, 3)).astype(np.float32)
    image[10:13, 20:23] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
    float_model = segmenter.looking()
    float_model.info = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_050", num_classes=3).info
    mask = with_float(float_model)(image).mask
    assert np.array_equal(mask == 255, np.isnan(image[..., 0]))
    assert np.array_equal(with_float(float_model)(tmp_path / "a.tif").mask, mask)


def with_float(segmenter: Segmenter) -> Segmenter:
    from dataclasses import replace

    segmenter.info = replace(segmenter.info, preprocessing=segmenter.info.preprocessing.with_image(dtype="float32"))
    segmenter.preparation = Preparation(segmenter.info.preprocessing)
    return segmenter


def test_transparent_pixels(segmenter, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 4), np.uint8)
    image[..., 3] = 255
    opaque = segmenter(Image.fromarray(image)).mask
    assert np.array_equal(opaque, segmenter(image[..., :3]).mask)
    image[:9, :, 3] = 0
    Image.fromarray(image).save(tmp_path / "a.png")
    prediction = segmenter(tmp_path / "a.png")
    assert (prediction.mask[:9] == 255).all() and (prediction.mask[9:] < 3).all()
    assert "no data" in repr(prediction)
    assert prediction.overlay(legend=True).size[0] == 80


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8, np.uint16])
def test_one_band_of_nodata_hides_a_pixel_of_floats_but_not_of_whole_colours(dtype, tmp_path):
    image = np.full((8, 9, 3), 7, dtype)
    nodata = 200 if dtype in (np.uint8, np.uint16) else -999
    image[0, :, 1], image[1] = nodata, nodata
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", extratags=[(42113, 2, 0, str(nodata), True)])
    values, valid = read_pixels(tmp_path / "a.tif").for_model(3)
    assert not valid[1].any() and valid[2:].all()
    assert valid[0].all() == (dtype in (np.uint8, np.uint16))
    assert (values[~valid] == 0).all()


def test_a_jpeg_2000_with_boxes_behind_its_codestream_is_read_and_one_cut_short_is_not(tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs")
    image = np.random.default_rng(0).integers(0, 65536, (40, 30, 3), np.uint16)
    content = imagecodecs.jpeg2k_encode(image, level=0, reversible=True, codecformat="jp2")
    box = (8 + 3000).to_bytes(4, "big") + b"xml " + b" " * 3000
    (tmp_path / "a.jp2").write_bytes(content + box)
    found = read_pixels(tmp_path / "a.jp2").values
    assert found.dtype == np.uint16 and np.array_equal(found, image)
    (tmp_path / "cut.jp2").write_bytes(content[: len(content) // 2])
    with pytest.raises(AtrousError, match="no end"):
        read_pixels(tmp_path / "cut.jp2")


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 16, 17, 254])
def test_a_mask_file_keeps_void_whatever_the_number_of_classes(classes, tmp_path):
    info = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_050", num_classes=classes).info
    raw = tuple((index,) for index in range(classes))
    info = info.with_table(ClassTable(tuple(map(str, range(classes))), default_colors(classes), raw, (255,)))
    mask = np.full((9, 300), 255, np.uint8)
    mask[:5, :classes] = np.arange(classes)
    prediction = Prediction(mask, np.zeros((9, 300, 3), np.uint8), info)
    prediction.save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), mask)
    sent = Image.open(
        io.BytesIO(response_formats.write(prediction, response_formats.ResponseOptions("mask", 0.5, False)))
    )
    assert np.array_equal(np.asarray(sent), mask)


@pytest.mark.parametrize(("bands", "dtype"), [(3, np.uint8), (1, np.uint16), (3, np.uint16), (5, np.uint16)])
def test_a_jpeg_2000_that_gdal_wrote(tmp_path, bands, dtype):
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (bands, 70, 90), dtype)
    profile = {"crs": "EPSG:32632", "transform": from_origin(500000, 4600000, 10, 10)}
    options = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES", **profile}
    path = tmp_path / "a.jp2"
    with rasterio.open(path, "w", count=bands, height=70, width=90, dtype=dtype, **options) as file:
        file.write(values)
    expected = values.transpose(1, 2, 0)
    found = read_pixels(path).values
    assert found.dtype == dtype and np.array_equal(found, expected)
    source = GeoTiffSource(path, bands)
    assert np.array_equal(source.read((5, 11, 20, 30)).values, expected[5:25, 11:41])
    assert has_place_tags(path) and needs_windows(path, 1e9)


def test_raw_masks_of_classes_that_mean_255(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    table = ClassTable(("ground", "object"), ((0, 0, 0), (255, 0, 0)), ((0,), (255,)))
    tifffile.imwrite(tmp_path / "a.tif", np.ones((20, 30, 3), np.uint8), photometric="rgb")
    source, mask = GeoTiffSource(tmp_path / "a.tif", 3), np.zeros((20, 30), np.uint8)
    mask[3:, 4:] = 1
    with GeoTiffSink(tmp_path / "whole.tif", source, table, raw=True) as sink:
        sink.write((0, 0, 20, 30), mask)
    with rasterio.open(tmp_path / "whole.tif") as file:
        assert np.array_equal(file.read(1), mask * 255) and file.nodata is None
        assert file.colormap(1)[255] == (255, 0, 0, 255)
    mask[0] = 255
    with (
        pytest.raises(AtrousError, match="without --raw"),
        GeoTiffSink(tmp_path / "void.tif", source, table, raw=True) as sink,
    ):
        sink.write((0, 0, 20, 30), mask)
    assert not (tmp_path / "void.tif").exists()
    with GeoTiffSink(tmp_path / "void.tif", source, table) as sink:
        sink.write((0, 0, 20, 30), mask)
    with rasterio.open(tmp_path / "void.tif") as file:
        assert np.array_equal(file.read(1), mask) and file.nodata == 255


def test_nodata_does_not_darken_what_people_are_shown():
    image = np.random.default_rng(0).uniform(100, 200, (32, 32, 3)).astype(np.float32)
    valid = np.ones((32, 32), bool)
    valid[:, :16] = False
    shown = visible(np.where(valid[..., None], image, np.float32(-3.4e38)), valid)
    assert np.array_equal(shown[valid], visible(image[:, 16:])[:, :].reshape(-1, 3))
    assert shown[valid].std() > 50
