"""Pictures with more channels than OpenCV accepts give the results of their channels one by one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import tifffile

from atrous.data.many_channels import by_channels
from atrous.data.pictures import read_picture
from atrous.data.transforms import Augment, augment
from atrous.inference.test_time_augmentation import View

CHANNELS = 300


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).normal(size=(20, 24, CHANNELS)).astype(np.float32)


def each(change, image):
    return np.stack([change(image[:, :, [channel]])[..., 0] for channel in range(CHANNELS)], axis=2)


@pytest.mark.parametrize("channels", [1, 3, 128, 129, CHANNELS])
def test_channels_are_treated_alike(image, channels):
    def blurred(part):
        return cv2.GaussianBlur(part, (0, 0), 1.5)

    found = by_channels(blurred, np.ascontiguousarray(image[:, :, :channels]))
    expected = [blurred(np.ascontiguousarray(image[:, :, channel])) for channel in range(channels)]
    assert np.array_equal(found, np.stack(expected, axis=2))


def test_views_of_a_hyperspectral_picture(image):
    assert np.allclose(View(scale=1.5).of(image), each(View(scale=1.5).of, image), atol=1e-5)


def test_augmentation_of_a_hyperspectral_picture(image):
    label = np.zeros(image.shape[:2], np.uint8)
    config = Augment(crop=(30, 30), scale=(0.5, 1.5), rotation=20, blur=1.0)
    found, _ = augment(image, label, config, seed=0, epoch=0, index=3, fill=[float(c) for c in range(CHANNELS)])
    alone = [
        augment(image[:, :, [c]], label, config, seed=0, epoch=0, index=3, fill=float(c))[0][:, :, 0]
        for c in (0, 127, 128, 299)
    ]
    assert np.allclose(found[:, :, [0, 127, 128, 299]], np.stack(alone, axis=2), atol=1e-5)


def test_planes_of_a_tiff(tmp_path, image):
    tifffile.imwrite(tmp_path / "a.tif", image.transpose(2, 0, 1), planarconfig="separate", photometric="minisblack")
    assert np.array_equal(read_picture(tmp_path / "a.tif"), image)
