"""torchvision's DeepLabV3, converted, gives its logits, and trains its running means."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import atrous
from atrous import models
from atrous.data.voc import VOC_CLASSES
from atrous.weights import torchvision as adapter
from atrous.weights.adapted import check_fits
from atrous.weights.foreign import from_state_dict

torchvision = pytest.importorskip("torchvision")
segmentation = torchvision.models.segmentation

#: One odd, one 32k + 1, one neither square nor odd.
SIZES = [(97, 97), (129, 65), (96, 130)]
FRESH = {"weights": None, "weights_backbone": None}


def randomise(model: nn.Module) -> nn.Module:
    """Draws the statistics and affine parameters of every batch norm, and logits of order one."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, 0, 0.1)
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def pictures(size: tuple[int, int], count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


@pytest.fixture(scope="module", params=["resnet50", "mobilenet_v3_large"])
def pair(request):
    torch.manual_seed(0)
    build = getattr(segmentation, f"deeplabv3_{request.param}")
    theirs = randomise(build(**FRESH, num_classes=5, aux_loss=True)).eval()
    return theirs, atrous.convert(theirs.state_dict(), source="torchvision")


@pytest.mark.parametrize("size", SIZES)
def test_same_logits(pair, size):
    theirs, ours = pair
    assert not ours.training
    with torch.no_grad():
        expected = theirs(pictures(size))["out"]
        assert 1e-2 < expected.std() < 100
        torch.testing.assert_close(ours(pictures(size)), expected, atol=1e-4, rtol=0)


def test_same_number_of_parameters(pair):
    theirs, ours = pair
    left = sum(theirs.get_parameter(key).numel() for key in ours.info.provenance["left_over"] if "running" not in key)
    assert sum(p.numel() for p in ours.parameters()) + left == sum(p.numel() for p in theirs.parameters())


def test_same_running_means_and_auxiliary_logits_after_a_training_step(pair):
    """Last, for it changes both."""
    theirs, ours = pair
    for module in ours.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images = pictures((65, 97), 2)
    scores = ours.train().scores(images)
    answers = theirs.train()(images)
    assert ("aux" in scores) == ("layer4" in dict(theirs.backbone.named_children()))  # ResNet's alone
    if "aux" in scores:
        aux = F.interpolate(scores["aux"], size=images.shape[-2:], mode="bilinear", align_corners=False)
        assert answers["aux"].std() > 1e-2
        torch.testing.assert_close(aux, answers["aux"], atol=1e-4, rtol=0)
    after = adapter.adapt(from_state_dict(theirs.state_dict()), {}).state
    state = ours.state_dict()
    means = [name for name in after if name.endswith(("running_mean", "running_var"))]
    assert len(means) > 100
    for name in means:
        torch.testing.assert_close(state[name], after[name], atol=1e-5, rtol=1e-5, msg=name)


def test_the_auxiliary_head_of_mobilenet_reads_what_ours_does_not_and_is_left_over():
    theirs = segmentation.deeplabv3_mobilenet_v3_large(**FRESH, aux_loss=True)
    left = atrous.convert(theirs.state_dict(), source="torchvision").info.provenance["left_over"]
    assert left == [key for key in theirs.state_dict() if key.startswith("aux_") and "num_batches" not in key]
    without = segmentation.deeplabv3_mobilenet_v3_large(**FRESH, aux_loss=False)
    assert not atrous.convert(without.state_dict()).info.provenance["left_over"]


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
