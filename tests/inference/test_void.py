"""Pixels without data are 255 in masks, and other pixels do not feel them."""

import numpy as np
import pytest
import tifffile
from PIL import Image

import atrous
from atrous.inference.segmenter import Segmenter


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

    segmenter.info = replace(segmenter.info, preprocessing=replace(segmenter.info.preprocessing, dtype="float32"))
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
