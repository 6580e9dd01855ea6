"""Scales and flips: the mean of probabilities, whatever the order, in bands or at once."""

import numpy as np
import pytest
import torch

import atrous
from atrous import Segmenter
from atrous.errors import AtrousError
from atrous.inference import test_time_augmentation
from atrous.inference.test_time_augmentation import View, mean_labels, mean_probabilities, views_of
from atrous.models.layers import class_probabilities, resize


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = atrous.create_model("deeplabv3plus", backbone="resnet18", num_classes=4).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 3, 65, 65))
    return model.eval()


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (8, 10, 3)), np.ones((9, 9, 1))).astype(np.uint8)


def test_each_scale_and_its_mirror_image():
    assert views_of([0.5, 1], flip=True) == (View(0.5), View(0.5, True), View(1.0), View(1.0, True))
    assert views_of([1], flip=False) == (View(),)


@pytest.mark.parametrize("scales", [[], [0], [-1.0], [1.0, float("nan")], [1000.0]])
def test_scales_out_of_range_are_refused(scales):
    with pytest.raises(AtrousError, match="scales"):
        views_of(scales, flip=False)


def test_the_mean_is_over_probabilities(model, picture):
    segmenter = Segmenter(model, precision="float32", scales=(0.75, 1.5), flip=True)
    size = picture.shape[:2]
    expected = torch.zeros(4, *size)
    plain = Segmenter(model, precision="float32")
    for scale in (0.75, 1.5):
        for mirrored in (False, True):
            view = View(scale, mirrored)
            (scores,) = plain.scores(view.of(picture))
            logits = torch.from_numpy(view.back(scores).transpose(2, 0, 1).copy())[None]
            expected += class_probabilities(resize(logits, size))[0] / 4
    found = mean_probabilities(segmenter.scores(picture), size, False, 1.0)
    torch.testing.assert_close(found, expected)
    assert (segmenter(picture).mask == expected.argmax(0).numpy()).mean() > 0.999
    assert (plain(picture).mask != segmenter(picture).mask).any()


def test_bands_change_nothing(model, picture, monkeypatch):
    segmenter = Segmenter(model, precision="float32", scales=(1.0, 1.25))
    whole = segmenter(picture).mask
    monkeypatch.setattr(test_time_augmentation, "BAND_BYTES", 1)
    assert np.array_equal(segmenter(picture).mask, whole)


def test_a_mirrored_picture_has_the_mirrored_mask(model, picture):
    segmenter = Segmenter(model, precision="float32", flip=True)
    mirrored = segmenter(picture[:, ::-1].copy()).mask[:, ::-1]
    assert (mirrored == segmenter(picture).mask).mean() > 0.999


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 6])
def test_deep_pictures_of_any_channels_are_resized(dtype, channels):
    image = np.random.default_rng(0).integers(0, 255, (20, 30, channels)).astype(dtype)
    assert View(0.5).of(image).shape == (10, 15, channels)
    assert View(0.5).of(image).dtype == dtype
    assert View(0.01).of(image).shape == (1, 1, channels)


def test_sides_are_rounded_to_the_nearest_pixel():
    assert View(0.75).of(np.zeros((101, 23, 3), np.uint8)).shape == (76, 17, 3)  # 75.75 × 17.25


def test_the_crf_gets_the_mean(model, picture):
    plain = Segmenter(model, precision="float32", scales=(0.75, 1.25))
    refined = Segmenter(model, precision="float32", scales=(0.75, 1.25), crf="iterations=0")
    assert (plain(picture).mask == refined(picture).mask).mean() > 0.999


def test_one_logit(picture):
    model = atrous.create_model("deeplabv3plus", backbone="resnet18", num_classes=1)
    mask = Segmenter(model, precision="float32", scales=(1.0, 0.5))(picture).mask
    assert set(np.unique(mask)) <= {0, 1}


def test_labels_are_the_best_probabilities():
    rng = np.random.default_rng(0)
    scores = [rng.normal(0, 2, (5, 7, 3)).astype(np.float32), rng.normal(0, 2, (9, 4, 3)).astype(np.float32)]
    labels = mean_labels(scores, (31, 33), True, 2.0)
    assert np.array_equal(labels, mean_probabilities(scores, (31, 33), True, 2.0).argmax(0).numpy())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5)])
def test_a_picture_of_one_column(model, engine, size):
    """Mirrored, a single column counts as contiguous, but its step is negative, which torch does not take."""
    picture = np.full((*size, 3), 90, np.uint8)
    segmenter = Segmenter(model, engine=engine, device="cpu", scales=(0.5, 1.0), flip=True, precision="float32")
    assert segmenter(picture).mask.shape == size
