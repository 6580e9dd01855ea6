import pytest
import torch
from torch import nn

from atrous.errors import AtrousError
from atrous.models import DeepLabV1


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_large_fov_has_the_papers_20_5_million_parameters():
    """arXiv:1412.7062 Table 2: DeepLab-CRF-LargeFOV, kernel 3×3, rate 12, 20.5 M."""
    with torch.device("meta"):
        model = DeepLabV1()
    assert count(model) == 20_505_429
    assert round(count(model) / 1e6, 1) == 20.5
    assert count(model.head) == 512 * 1024 * 9 + 1024 + 1024 * 1024 + 1024


@pytest.mark.parametrize(("output_stride", "rate"), [(8, 12), (16, 6), (32, 3)])
def test_rate_of_fc6_follows_the_output_stride(output_stride, rate):
    with torch.device("meta"):
        model = DeepLabV1(output_stride=output_stride)
    assert model.head.fc6.dilation == model.head.fc6.padding == (rate, rate)


def test_side_features_add_640_channels():
    """Five two-layer branches of 128 filters each; the enhanced map has 5 × 128 = 640 channels more (§4.3)."""
    with torch.device("meta"):
        plain, multi_scale = DeepLabV1(), DeepLabV1(multi_scale=True)
    assert multi_scale.classifier.in_channels - plain.classifier.in_channels == 640
    near = sum(9 * channels * 128 + 128 for channels in (3, 64, 128, 256, 512))
    assert count(multi_scale) - count(plain) == near + 5 * (128 * 128 + 128) + 640 * 21


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_every_side_matters_and_ends_at_the_output_stride(output_stride):
    torch.manual_seed(0)
    model = DeepLabV1(multi_scale=True, fov_channels=8, num_classes=2, output_stride=output_stride).eval()
    assert model.side is not None
    images = torch.randn(1, 3, 61, 90)
    with torch.no_grad():
        before = model.scores(images)["main"]
        assert before.shape[-2:] == (-(-61 // output_stride), -(-90 // output_stride))
        for far in model.side.far:
            kept = far.weight.clone()
            far.weight.zero_()
            assert not torch.allclose(model.scores(images)["main"], before)
            far.weight.copy_(kept)


def test_side_features_over_another_backbone_are_refused():
    with pytest.raises(AtrousError, match="multi_scale is True with backbone 'resnet18': only vgg16"):
        DeepLabV1(backbone="resnet18", multi_scale=True)
