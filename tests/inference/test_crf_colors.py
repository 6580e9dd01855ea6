"""What a CRF compares where a model takes more than a picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import atrous
from atrous.errors import AtrousError
from atrous.explaining.explanation import explain_picture
from atrous.inference.segmenter import Segmenter
from atrous.input_spec import Input
from atrous.learning.crf_layer import CrfLayer
from atrous.learning.recipe_sections import Crf
from atrous.models.crf_colors import compared_by_crf
from atrous.models.info import Preprocessing

DEPTH = Input((1000.0,), (500.0,), name="depth", dtype="uint16")


def make(inputs):
    torch.manual_seed(0)
    channels = sum(one.channels for one in inputs)
    model = atrous.create_model(
        "deeplabv3plus",
        backbone="mobilenetv2_035",
        num_classes=3,
        aspp_channels=8,
        low_channels=8,
        in_channels=channels,
    )
    for parameter in model.classifier.parameters():
        torch.nn.init.normal_(parameter, std=2)
    model.info = replace(model.info, preprocessing=Preprocessing(inputs))
    return model.eval()


@pytest.fixture(scope="module")
def scene():
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return {"image": picture, "depth": random.integers(0, 4000, (48, 64), np.uint16)}


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_crf_compares_the_picture_and_no_depth(scene, dtype):
    picture = scene["image"] if dtype == "uint8" else scene["image"].astype(np.uint16) * 257
    model = make((Input((120.0,) * 3, (60.0,) * 3, dtype=dtype), DEPTH))
    crf = atrous.DenseCRF(bilateral_xy=20, bilateral_rgb=20)
    given = {**scene, "image": picture}
    plain = Segmenter(model, engine="torch", device="cpu", precision="float32")
    joined = plain.preparation.filled(plain.read(given))
    with torch.no_grad():
        mean, std = (torch.tensor(values) for values in (model.info.preprocessing.mean, model.info.preprocessing.std))
        logits = model(((torch.tensor(joined.astype(np.float32)) - mean) / std).permute(2, 0, 1)[None])[0]
    expected = crf(picture, logits.softmax(0).numpy()).argmax(0)
    mask = plain.looking(crf=crf)(given).mask
    assert (mask == expected).mean() > 0.999  # but for ties
    assert (mask != plain(given).mask).mean() > 0.01  # not vacuous


def test_depth_does_not_change_what_explain_refines(scene):
    model = make((Input((120.0,) * 3, (60.0,) * 3), DEPTH))
    crf = atrous.DenseCRF(bilateral_xy=20, bilateral_rgb=20)
    segmenter = Segmenter(model, engine="torch", device="cpu", precision="float32", crf=crf)
    seen = explain_picture(model, segmenter.preparation.filled(segmenter.read(scene)), crf=crf)
    assert (seen.refined == segmenter(scene).mask).mean() > 0.999


def test_a_crf_in_training_compares_the_picture_alone():
    three = make((Input((120.0,) * 3, (60.0,) * 3),))
    four = make((Input((120.0,) * 3, (60.0,) * 3), DEPTH))
    settings = Crf(trainable=True, bilateral_weight=2, bilateral_xy=10, bilateral_rgb=20, gaussian_xy=2, iterations=3)
    scores = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    raw = torch.randint(0, 256, (1, 4, 33, 33), generator=torch.Generator().manual_seed(1)).float()
    refined = CrfLayer(settings, four.info)(scores, raw)
    torch.testing.assert_close(refined, CrfLayer(settings, three.info)(scores, raw[:, :3]))


def test_a_picture_alone_is_given_as_it_is(scene):
    preprocessing = Preprocessing((Input((120.0,) * 3, (60.0,) * 3),))
    assert compared_by_crf(scene["image"], preprocessing) is scene["image"]


def test_standardised_values_are_no_colours_to_compare():
    model = make((Input((0.0,) * 3, (1.0,) * 3, dtype="float32", normalize="per_image"),))
    with pytest.raises(AtrousError, match=r"per_image.*leave the CRF out"):
        Segmenter(model, engine="torch", crf="deeplabv2")
    with pytest.raises(AtrousError, match="leave the CRF out"):
        Segmenter(model, engine="torch").looking(crf="deeplabv2")
    with pytest.raises(AtrousError, match="leave the CRF out"):
        CrfLayer(Crf(trainable=True), model.info)
    with pytest.raises(AtrousError, match="leave the CRF out"):
        explain_picture(model, np.zeros((33, 33, 3), np.float32), crf=atrous.DenseCRF())
