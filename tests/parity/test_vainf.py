"""Checkpoints of VainF/DeepLabV3Plus-Pytorch (4e1087d) give, converted, the logits that its code gave."""

import pytest
import seeded
import torch

import atrous
from atrous.data.layouts.cityscapes import CITYSCAPES_TRAIN_IDS
from atrous.data.layouts.voc import VOC_CLASSES
from atrous.errors import AtrousError
from atrous.models import build
from atrous.weights import detect_source, vainf
from atrous.weights.adapter import check_fits
from atrous.weights.read_checkpoint import Foreign

RESNET = {
    "backbone.bn1": "backbone.net.bn1",
    "backbone.layer2.0.bn1": "backbone.net.layer2.0.bn1",
    "backbone.layer4.2.bn3": "backbone.net.layer4.2.bn3",
}
MOBILENET = {
    "backbone.low_level_features.0.1": "backbone.net.bn1",
    "backbone.low_level_features.3.conv.0.1": "backbone.net.blocks.1.1.bn1",
    "backbone.high_level_features.7.conv.0.1": "backbone.net.blocks.3.0.bn1",
    "backbone.high_level_features.17.conv.1.1": "backbone.net.blocks.6.0.bn2",
}
V3 = {
    "classifier.classifier.0.convs.2.1": "aspp.atrous.1.1",
    "classifier.classifier.0.convs.4.2": "aspp.image_pooling.unit.1",
    "classifier.classifier.2": "aspp_conv.1",
}
V3_PLUS = {
    "classifier.aspp.convs.4.2": "aspp.image_pooling.unit.1",
    "classifier.project.1": "decoder.reduce.1",
    "classifier.classifier.1": "decoder.fuse.0.1",
}


@pytest.mark.parametrize(
    ("name", "given", "norms"),
    [
        ("deeplabv3_resnet50", {}, RESNET | V3),
        (
            "deeplabv3plus_resnet50_separable",
            {"output_stride": 8},
            RESNET | V3_PLUS | {"classifier.classifier.1": "decoder.fuse.0.2"},
        ),
        ("deeplabv3_mobilenet", {"output_stride": 8}, MOBILENET | V3),
        ("deeplabv3plus_mobilenet", {}, MOBILENET | V3_PLUS),
    ],
)
def test_same_logits_and_running_means(name, given, norms):
    golden = seeded.read(f"vainf_{name}")
    model = atrous.convert(golden.state(), source="vainf", **given)
    assert model.info.provenance["left_over"] in ((), [])
    seeded.check_eval(golden, model)
    seeded.check_training(golden, model, norms)


def test_resnet101_by_its_shapes():
    foreign = Foreign(seeded.hollow("vainf_deeplabv3plus_resnet101"))
    assert detect_source.guess(foreign) == "vainf"
    adapted = vainf.adapt(foreign, {})
    assert (adapted.arguments["backbone"], adapted.left_over) == ("resnet101", ())
    assert check_fits(adapted, build(adapted.architecture, adapted.arguments).state_dict()) == ()


@pytest.mark.parametrize(("num_classes", "table"), [(19, CITYSCAPES_TRAIN_IDS), (21, VOC_CLASSES), (7, None)])
def test_classes_by_their_number(num_classes, table):
    state = seeded.hollow("vainf_deeplabv3plus_mobilenet")
    state["classifier.classifier.3.weight"] = torch.empty(num_classes, 256, 1, 1, device="meta")
    state["classifier.classifier.3.bias"] = torch.empty(num_classes, device="meta")
    adapted = vainf.adapt(Foreign(state), {})
    assert adapted.classes is table
    assert adapted.arguments["num_classes"] == num_classes


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("deeplabv3plus_mobilenet", "backbone.low_level_features.0.0.weight"),
        ("deeplabv3plus_resnet101", "backbone.conv1.weight"),
    ],
)
def test_pictures_of_other_channels(name, stem):
    state = seeded.hollow(f"vainf_{name}")
    state[stem] = state[stem][:, :1]
    found = vainf.adapt(Foreign(state), {})
    assert found.preprocessing is not None
    assert found.arguments["in_channels"] == len(found.preprocessing.mean) == 1


@pytest.mark.parametrize(("network", "key"), vainf.REFUSED.items())
def test_its_other_backbones_are_refused(network, key):
    state = {key: torch.empty(1), "classifier.aspp.convs.0.0.weight": torch.empty(1)}
    state |= {"classifier.classifier.3.weight": torch.empty(21, 256, 1, 1), "classifier.project.0.weight": state[key]}
    state |= {"classifier.classifier.0.weight": torch.empty(256, 304, 3, 3)}
    assert vainf.recognises(Foreign(state))
    with pytest.raises(AtrousError, match=f"{network}.*ResNets"):
        vainf.adapt(Foreign(state), {})


def test_a_head_alone_is_refused():
    state = {"classifier.aspp.convs.0.0.weight": torch.empty(1)}
    with pytest.raises(AtrousError, match="no classifier"):
        vainf.adapt(Foreign(state), {})
