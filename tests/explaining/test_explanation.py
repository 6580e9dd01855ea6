import numpy as np
import pytest
import torch

from atrous import create_model
from atrous.crf import DenseCRF
from atrous.errors import AtrousError
from atrous.explaining import explanation
from atrous.explaining.explanation import explain_picture
from atrous.inference.segmenter import Segmenter


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = create_model("deeplabv3plus", backbone="mobilenetv2_100", num_classes=4)
    with torch.no_grad():
        made.classifier.bias.copy_(torch.tensor([0.0, 0.02, -0.02, 0.01]))  # a single pixel's scores would be alike
    return made


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (50, 37), (97, 130)])
def test_every_map_has_the_pictures_size_and_the_mask_is_the_segmenters(model, size):
    image = picture(*size)
    found = explain_picture(model, image, classes=[0, 2], crf=DenseCRF())
    maps = [found.mask, found.entropy, found.margin, found.reach, found.refined, found.refined_entropy]
    for seen in found.classes:
        maps += [seen.probability, seen.grad_cam]
        maps += [each for part in seen.parts for each in (part.energy, part.contribution)]
    assert {one.shape for one in maps if one is not None} == {size} and all(one is not None for one in maps)
    assert all(np.isfinite(one).all() for one in maps if one is not None)
    mask = Segmenter(model, engine="torch", device="cpu", precision="float32")(image).mask
    assert (found.mask == mask).mean() >= 0.999  # ties within rounding


def test_by_default_the_largest_classes_are_explained(model):
    found = explain_picture(model, picture(97, 130), most=2)
    counts = np.bincount(found.mask.ravel(), minlength=4)
    assert [seen.index for seen in found.classes] == np.argsort(-counts)[: min(2, (counts > 0).sum())].tolist()
    assert [seen.pixels for seen in found.classes] == sorted(counts[counts > 0], reverse=True)[:2]


def test_probabilities_obey_the_temperature(model):
    from dataclasses import replace

    plain = explain_picture(model, picture(60, 60))
    given = model.info
    try:
        model.info = replace(given, temperature=50.0)
        cool = explain_picture(model, picture(60, 60))
    finally:
        model.info = given
    assert cool.entropy.mean() > plain.entropy.mean()
    assert (cool.mask == plain.mask).mean() > 0.99


def test_what_would_take_too_much_memory_is_refused(model, monkeypatch):
    monkeypatch.setattr(explanation, "MOST_PIXELS", 1000)
    with pytest.raises(AtrousError, match=r"40×50 pixels.*smaller copy"):
        explain_picture(model, picture(40, 50))


def test_sixteen_bits_are_explained_too():
    deep = create_model("deeplabv3", backbone="mobilenetv2_100", num_classes=3, in_channels=1)
    image = np.random.default_rng(0).integers(0, 65536, (40, 50, 1), np.uint16)
    assert explain_picture(deep, image).mask.shape == (40, 50)
