"""torchvision's DeepLabV3, converted, gives its logits, and trains its running means."""

from __future__ import annotations

import pytest
import seeded
import torch
from torch.nn import functional as F

import atrous
from atrous import models
from atrous.data.layouts.voc import VOC_CLASSES
from atrous.weights import torchvision as adapter
from atrous.weights.adapter import check_fits
from atrous.weights.read_checkpoint import from_state_dict

torchvision = pytest.importorskip("torchvision")
segmentation = torchvision.models.segmentation

#: One odd, one of 32k + 1 so long that rate 36 at stride 16 reaches from end to end, one neither square nor odd.
SIZES = [(97, 97), (33, 641), (96, 130)]
FRESH = {"weights": None, "weights_backbone": None}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v3_large"])
def test_same_logits_parameters_and_running_means(name):
    torch.manual_seed(0)
    build = getattr(segmentation, f"deeplabv3_{name}")
    theirs = seeded.settle(build(**FRESH, num_classes=5, aux_loss=True), "classifier.4", SIZES[0])
    ours = atrous.convert(theirs.state_dict(), source="torchvision")
    assert not ours.training
    seeded.check_logits(lambda images: theirs(images)["out"], ours, SIZES)

    left = sum(theirs.get_parameter(key).numel() for key in ours.info.provenance["left_over"] if "running" not in key)
    assert sum(p.numel() for p in ours.parameters()) + left == sum(p.numel() for p in theirs.parameters())

    answers, scores = seeded.check_training_step(theirs, ours, "torchvision", (65, 97))
    assert ("aux" in scores) == (name == "resnet50")
    if "aux" in scores:
        aux = F.interpolate(scores["aux"], size=(65, 97), mode="bilinear", align_corners=False)
        assert answers["aux"].std() > 0.1
        torch.testing.assert_close(aux, answers["aux"], atol=1e-4, rtol=0)


def test_the_auxiliary_head_of_mobilenet_reads_what_ours_does_not_and_is_left_over():
    with torch.device("meta"):
        with_head, without = (
            from_state_dict(segmentation.deeplabv3_mobilenet_v3_large(**FRESH, aux_loss=aux).state_dict())
            for aux in (True, False)
        )
    left = adapter.adapt(with_head, {}).left_over
    assert left == tuple(key for key in with_head.state if key.startswith("aux_") and "num_batches" not in key) != ()
    assert not adapter.adapt(without, {}).left_over


@pytest.mark.parametrize("aux", [True, False])
@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_every_weight_has_a_place(name, aux):
    """Of the large ones names and shapes alone, without memory."""
    with torch.device("meta"):
        theirs = getattr(segmentation, f"deeplabv3_{name}")(**FRESH, num_classes=21, aux_loss=aux)
        adapted = adapter.adapt(from_state_dict(theirs.state_dict()), {})
        ours = models.build(adapted.architecture, adapted.arguments)
    assert check_fits(adapted, ours.state_dict()) == ()
    assert not adapted.left_over
    assert adapted.arguments["backbone"] == name
    assert adapted.arguments["auxiliary"] == aux
    assert adapted.classes == VOC_CLASSES
    # 42,004,074 and 60,996,202 are the metadata's (with the auxiliary head).
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(
    ("build", "backbone"),
    [
        ("resnet152", "resnet152"),
        ("wide_resnet50_2", "wide_resnet50_2"),
        ("resnext50_32x4d", "resnext50_32x4d"),
        ("resnext101_32x8d", "resnext101_32x8d"),
    ],
)
def test_its_other_resnets_are_told_by_their_shapes(build, backbone):
    with torch.device("meta"):
        net = getattr(torchvision.models, build)(weights=None)
    state = {f"backbone.{key}": tensor for key, tensor in net.state_dict().items()}
    assert adapter.resnet(state) == backbone


def test_rates_follow_the_output_stride():
    """Its published weights are used at 8; at 16 the rates are halved, as in the paper."""
    theirs = segmentation.deeplabv3_resnet50(**FRESH, num_classes=2)
    ours = atrous.convert(theirs.state_dict(), output_stride=16)
    assert ours.info.arguments["output_stride"] == 16
    assert [branch[0].dilation[0] for branch in ours.aspp.atrous] == [6, 12, 18]
    ours.set_output_stride(8)
    assert [branch[0].dilation[0] for branch in ours.aspp.atrous] == [12, 24, 36]
