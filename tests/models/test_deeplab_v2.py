import pytest
import torch
from torch import nn
from torch.nn import functional as F

from atrous.errors import AtrousError
from atrous.models import DeepLabV2
from atrous.models.deeplab_v2 import ASPP_L, ASPP_S, SummedASPP


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_papers_pyramids():
    """arXiv:1606.00915 §4.1: ASPP-S and ASPP-L."""
    assert ASPP_S == (2, 4, 8, 12)
    assert ASPP_L == (6, 12, 18, 24)


def test_branches_over_vgg_are_fc6_fc7_fc8_and_over_resnet_one_convolution():
    with torch.device("meta"):
        vgg, resnet = DeepLabV2(backbone="vgg16"), DeepLabV2(backbone="resnet50")
    branch = 9 * 512 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 21 + 21
    assert count(vgg.aspp) == 4 * branch
    assert count(resnet.aspp) == 4 * (9 * 2048 * 21 + 21)


@pytest.mark.parametrize(("output_stride", "rates"), [(8, [6, 12, 18, 24]), (16, [3, 6, 9, 12]), (32, [1, 3, 4, 6])])
@pytest.mark.parametrize("channels", [0, 4])
def test_rates_follow_the_output_stride(output_stride, rates, channels):
    model = DeepLabV2(backbone="resnet18", fov_channels=channels)
    model.set_output_stride(output_stride)
    convs = [m for m in model.aspp.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [conv.dilation[0] for conv in convs] == [conv.padding[0] for conv in convs] == rates


def test_branches_are_summed():
    torch.manual_seed(0)
    aspp, features = SummedASPP(8, 3, rates=(1, 2, 3)).eval(), torch.randn(2, 8, 9, 7)
    expected = sum(F.conv2d(features, b.weight, b.bias, padding=r, dilation=r) for r, b in enumerate(aspp.branches, 1))
    torch.testing.assert_close(aspp(features), expected)


@torch.no_grad()
def test_scales_are_fused_by_their_maximum():
    torch.manual_seed(0)
    fused = DeepLabV2(backbone="resnet18", num_classes=3).eval()
    single = DeepLabV2(backbone="resnet18", num_classes=3, scales=(1.0,)).eval()
    single.load_state_dict(fused.state_dict())
    images = torch.randn(1, 3, 96, 64)
    maps = [single.scores(images)["main"]]
    for scale in (0.5, 0.75):
        scores = single.scores(F.interpolate(images, scale_factor=scale, mode="bilinear"))["main"]
        maps.append(F.interpolate(scores, maps[0].shape[-2:], mode="bilinear"))
    torch.testing.assert_close(fused.scores(images)["main"], torch.stack(maps).amax(0))


def test_each_scale_gives_its_scores_in_training():
    model = DeepLabV2(backbone="resnet18", num_classes=3).train()
    shapes = {name: tuple(scores.shape[-2:]) for name, scores in model.scores(torch.randn(2, 3, 96, 64)).items()}
    assert shapes == {"main": (12, 8), "scale_1": (12, 8), "scale_0.5": (6, 4), "scale_0.75": (9, 6)}
    assert list(model.eval().scores(torch.randn(1, 3, 96, 64))) == ["main"]


def test_one_picture_must_be_large_enough_for_its_smallest_scale():
    model = DeepLabV2(backbone="resnet18").train()
    model.scores(torch.randn(1, 3, 66, 66))
    with pytest.raises(AtrousError, match="at least 66×66 px"):
        model.scores(torch.randn(1, 3, 65, 66))


@pytest.mark.parametrize("scales", [(0.5, 0.75), (1.0, 1.5), (0, 1), ()])
def test_scales_out_of_range_are_refused(scales):
    with pytest.raises(AtrousError, match="scales must lie in 0–1 and contain 1"):
        DeepLabV2(backbone="resnet18", scales=scales)


def test_fresh_branches_start_without_biases_as_deeplabv1_does():
    biases = [bias for name, bias in SummedASPP(4, 3, rates=(6, 12), channels=8).named_parameters() if "bias" in name]
    assert len(biases) == 6
    assert not any(bias.any() for bias in biases)


@pytest.mark.parametrize(
    ("backbone", "seen"),
    [("tf_efficientnet_lite0", {(97, 129), (65, 97), (33, 65)}), ("resnet18", {(97, 129), (72, 96), (48, 64)})],
)
def test_all_scales_have_sides_that_the_padding_of_tensorflow_samples_alike(backbone, seen):
    model = DeepLabV2(backbone=backbone, num_classes=3).eval()
    sizes = set()
    model.backbone.register_forward_pre_hook(lambda module, inputs: sizes.add(tuple(inputs[0].shape[-2:])))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 97, 129)).shape[-2:] == (97, 129)
    assert sizes == seen
