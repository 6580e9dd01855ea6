"""Checkpoints of kazuto1011/deeplab-pytorch (4219467) give, converted, the logits that its code gave."""

import pytest
import seeded
import torch

import atrous
from atrous.data.layouts.voc import VOC_CLASSES
from atrous.errors import AtrousError
from atrous.models import build
from atrous.weights import detect_source, kazuto1011
from atrous.weights.adapter import check_fits
from atrous.weights.read_checkpoint import Foreign

NAME = "kazuto1011_deeplabv2_resnet101"

NORMS = {
    "base.layer1.conv1.bn": "backbone.net.bn1",
    "base.layer3.block1.shortcut.bn": "backbone.net.layer2.0.downsample.1",
    "base.layer4.block1.conv3x3.bn": "backbone.net.layer3.0.bn2",
    "base.layer5.block3.increase.bn": "backbone.net.layer4.2.bn3",
}


@pytest.mark.slow
def test_same_logits_and_running_means():
    golden = seeded.read(NAME)
    model = atrous.convert(golden.state(), source="kazuto1011")
    assert model.info.classes == VOC_CLASSES.names
    seeded.check_eval(golden, model)
    seeded.check_training(golden, model, NORMS)


def test_one_scale_without_base():
    """`DeepLabV2` alone has the same keys but for `base`; its guess, its classes, its scales."""
    state = {key.removeprefix("base."): tensor for key, tensor in seeded.hollow(NAME).items()}
    for branch in range(4):
        state[f"aspp.c{branch}.weight"] = torch.empty(182, 2048, 3, 3, device="meta")
        state[f"aspp.c{branch}.bias"] = torch.empty(182, device="meta")
    foreign = Foreign(state)
    assert detect_source.guess(foreign) == "kazuto1011"
    adapted = kazuto1011.adapt(foreign, {"atrous_rates": (3, 6, 9, 12)})
    assert adapted.arguments["scales"] == (1.0,)
    assert adapted.arguments["atrous_rates"] == (3, 6, 9, 12)
    assert check_fits(adapted, build(adapted.architecture, adapted.arguments).state_dict()) == adapted.left_over == ()
    assert adapted.classes is not None
    assert (adapted.classes.names[0], adapted.classes.names[11], adapted.classes.names[181]) == (
        "person",
        "unused 11",
        "wood",
    )


def test_pictures_of_other_channels_are_not_turned():
    state = seeded.hollow(NAME)
    stem = state["base.layer1.conv1.conv.weight"] = torch.arange(64.0 * 4 * 49).reshape(64, 4, 7, 7)
    found = kazuto1011.adapt(Foreign(state), {})
    assert found.preprocessing is not None
    assert found.arguments["in_channels"] == len(found.preprocessing.mean) == 4
    assert torch.equal(found.state["backbone.net.conv1.weight"], stem)


@pytest.mark.parametrize(
    ("drop", "message"),
    [("base.aspp.", "only DeepLabV2 of kazuto1011"), ("base.layer4.block23.", "22 blocks in layer4")],
)
def test_other_networks_are_refused(drop, message):
    state = {key: tensor for key, tensor in seeded.hollow(NAME).items() if not key.startswith(drop)}
    with pytest.raises(AtrousError, match=message):
        kazuto1011.adapt(Foreign(state), {})
