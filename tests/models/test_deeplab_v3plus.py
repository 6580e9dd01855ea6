import pytest
import torch
from torch import nn

from atrous import models
from atrous.errors import AtrousError
from atrous.models import DeepLabV3Plus

SMALL = {"aspp_channels": 16, "low_channels": 8}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def picture(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(scope="module")
def small() -> DeepLabV3Plus:
    torch.manual_seed(0)
    return DeepLabV3Plus(backbone="mobilenetv2_035", num_classes=3, **SMALL)


def test_forward_is_the_resized_scores(small):
    small.eval()
    images = picture(2, 3, 45, 62)
    with torch.no_grad():
        expected = nn.functional.interpolate(small.scores(images)["main"], (45, 62), mode="bilinear")
        assert torch.equal(small(images), expected)


def test_pictures_of_a_batch_do_not_see_each_other(small):
    small.eval()
    images = picture(3, 3, 40, 50)
    with torch.no_grad():
        torch.testing.assert_close(small(images)[1:2], small(images[1:2]), atol=1e-5, rtol=1e-4)


def test_preprocessing_is_the_backbones_in_raw_units():
    preprocessing = DeepLabV3Plus(backbone="resnet18", **SMALL).info.preprocessing
    assert preprocessing.mean == pytest.approx((123.675, 116.28, 103.53))
    assert preprocessing.std == pytest.approx((58.395, 57.12, 57.375))


@pytest.mark.parametrize(
    ("backbone", "separable"), [("mobilenetv2_035", True), ("tf_efficientnet_lite0", True), ("resnet18", False)]
)
def test_separable_by_default_over_separable_backbones(backbone, separable):
    default = DeepLabV3Plus(backbone=backbone, **SMALL)
    assert default.info.arguments["separable"] is separable
    depthwise = [m for m in [*default.aspp.modules(), *default.decoder.modules()] if getattr(m, "groups", 1) > 1]
    assert len(depthwise) == (5 if separable else 0)  # three rates and two decoder convolutions
    other = DeepLabV3Plus(backbone=backbone, separable=not separable, **SMALL)
    assert (count(other) > count(default)) is separable


@pytest.mark.parametrize(("output_stride", "rates"), [(32, (3, 6, 9)), (16, (6, 12, 18)), (8, (12, 24, 36))])
def test_rates_follow_the_output_stride(small, output_stride, rates):
    small.set_output_stride(output_stride)
    found = [m.dilation[0] for branch in small.aspp.atrous for m in branch if getattr(m, "kernel_size", 0) == (3, 3)]
    assert tuple(found) == rates
    assert small.info.arguments["output_stride"] == output_stride
    built = DeepLabV3Plus(backbone="mobilenetv2_035", num_classes=3, output_stride=output_stride, **SMALL).eval()
    built.load_state_dict(small.state_dict())
    images = picture(1, 3, 50, 61)
    with torch.no_grad():
        assert torch.equal(built(images), small.eval()(images))


def test_the_papers_head_has_the_papers_size():
    """ASPP and decoder over a ResNet-50, counted by hand from arXiv:1802.02611 Figure 2 (norms have 2 per channel)."""
    norm = 2 * 256
    aspp = (2048 * 256 + norm) * 2 + (9 * 2048 * 256 + norm) * 3 + 5 * 256 * 256 + norm
    decoder = 256 * 48 + 2 * 48 + 9 * (256 + 48) * 256 + norm + 9 * 256 * 256 + norm
    with torch.device("meta"):
        model = DeepLabV3Plus(backbone="resnet50")
    assert count(model.aspp) == aspp
    assert count(model.decoder) == decoder
    assert count(model.classifier) == 256 * 21 + 21


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"output_stride": 8, "in_channels": 1, "num_classes": 1, "separable": False, "align_corners": True},
        {"atrous_rates": [2, 4], "aspp_conv": True, "decoder_convs": 1, "depthwise_norm": False, "dropout": 0.5},
    ],
)
def test_info_rebuilds_the_model(arguments):
    torch.manual_seed(0)
    model = models.build("deeplabv3plus", {"backbone": "mobilenetv2_035", **SMALL, **arguments}).eval()
    again = models.build(model.info.architecture, model.info.arguments).eval()
    assert again.info == model.info
    again.load_state_dict(model.state_dict())
    images = picture(1, model.info.arguments["in_channels"], 35, 48)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))


def test_unknown_names_give_the_nearest():
    with pytest.raises(AtrousError, match=r"unknown architecture 'deeplabv3\+'\. Did you mean 'deeplabv3plus'"):
        models.build("deeplabv3+", {})
    with pytest.raises(AtrousError, match=r"unknown argument of deeplabv3plus 'num_clases'\. .* 'num_classes'\?"):
        models.build("deeplabv3plus", {"num_clases": 2})
    with pytest.raises(AtrousError, match="cannot be built from"):
        models.build("deeplabv3plus", {"aspp_conv": True, "backbone_arguments": 3})
