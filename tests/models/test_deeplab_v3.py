import pytest
import torch
from torch import nn

from atrous.errors import AtrousError
from atrous.models import DeepLabV3


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def rates(module: nn.Module) -> list[int]:
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert all(conv.padding == conv.dilation for conv in convs)
    return [conv.dilation[0] for conv in convs]


@pytest.mark.parametrize(("output_stride", "expected"), [(32, [3, 6, 9]), (16, [6, 12, 18]), (8, [12, 24, 36])])
def test_rates_double_at_output_stride_8(output_stride, expected):
    """arXiv:1706.05587 §3.3."""
    with torch.device("meta"):
        model = DeepLabV3(backbone="resnet50")
    model.set_output_stride(output_stride)
    assert model.aspp is not None
    assert rates(model.aspp) == expected


def test_the_papers_head_has_the_papers_size():
    """ASPP over a ResNet, counted by hand from arXiv:1706.05587 §3.3 (norms have 2 per channel)."""
    norm = 2 * 256
    with torch.device("meta"):
        model = DeepLabV3(backbone="resnet50")
    assert model.aspp is not None
    assert count(model.aspp) == (2048 * 256 + norm) * 2 + (9 * 2048 * 256 + norm) * 3 + 5 * 256 * 256 + norm
    assert count(model.classifier) == 256 * 21 + 21


@pytest.mark.parametrize(("cascade", "grid"), [(0, (1, 2, 4)), (3, (1, 2, 1))])
def test_multi_grid_is_the_papers_best_by_default(cascade, grid):
    """Table 5 (ASPP) and Table 3 (cascaded)."""
    with torch.device("meta"):
        model = DeepLabV3(backbone="resnet50", cascade=cascade)
    assert model.info.arguments["multi_grid"] == grid
    assert rates(model.backbone.net.layer4) == [2 * factor for factor in grid]


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv2_035", "vgg16", "res2net50_26w_4s", "skresnext50_32x4d"])
def test_no_multi_grid_by_default_elsewhere(backbone):
    assert DeepLabV3(backbone=backbone, aspp_channels=8).info.arguments["multi_grid"] == (1, 1, 1)


@pytest.mark.parametrize("output_stride", [16, 8])
def test_cascaded_blocks_double_the_rate_of_the_one_before(output_stride):
    """Rates 2, 4, 8, 16 of blocks 4 to 7 at output stride 16 (Figure 3), times the multi-grid."""
    with torch.device("meta"):
        model = DeepLabV3(backbone="resnet50", cascade=3, multi_grid=(1, 1, 1), output_stride=output_stride)
    assert model.aspp is None
    assert model.cascade is not None
    base = 32 // output_stride
    assert [rates(block) for block in model.cascade.blocks] == [[base * r] * 3 for r in (2, 4, 8)]
    with_grid = DeepLabV3(backbone="resnet50", cascade=3, output_stride=output_stride)
    assert with_grid.cascade is not None
    assert rates(with_grid.cascade.blocks[0]) == [base * 2, base * 4, base * 2]


def test_cascaded_blocks_are_block_4s_units():
    """A block whose input is as wide as its output has no projection: three units like block 4's second."""
    with torch.device("meta"):
        model = DeepLabV3(backbone="resnet50", cascade=3)
    assert model.cascade is not None
    unit = count(model.backbone.net.layer4[1])
    assert count(model.cascade) == 9 * unit
    assert model.classifier.in_channels == 2048


def test_fresh_cascaded_blocks_do_not_share_weights():
    model = DeepLabV3(backbone="resnet18", cascade=2)
    assert model.cascade is not None
    first, second = (block[0].conv1.weight for block in model.cascade.blocks)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("backbone", ["mobilenetv2_035", "vgg16", "skresnext50_32x4d"])
def test_a_cascade_over_another_than_a_resnet_is_refused(backbone):
    with pytest.raises(AtrousError, match="cascade copies a ResNet's last stage"):
        DeepLabV3(backbone=backbone, cascade=3)


def test_googles_mobile_head_has_no_atrous_branch():
    model = DeepLabV3(backbone="google_mobilenetv2_050", atrous_rates=())
    assert model.aspp is not None
    assert rates(model.aspp) == []
    assert model.aspp.project[0].in_channels == 512
