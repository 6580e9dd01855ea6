"""DeepLabV3+ in segmentation-models-pytorch's layout, with its weights, gives its logits."""

import pytest
import torch

from atrous.models import DeepLabV3Plus

smp = pytest.importorskip("segmentation_models_pytorch")


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("backbone", ["mobilenetv2_050", "resnet18"])
def test_same_parameters_and_logits(backbone, output_stride):
    torch.manual_seed(0)
    theirs = smp.DeepLabV3Plus(
        f"tu-{backbone}", encoder_weights=None, classes=21, encoder_output_stride=output_stride
    ).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    ours = DeepLabV3Plus(
        backbone=backbone,
        num_classes=21,
        output_stride=output_stride,
        # smp keeps its rates at every output stride; ours are named at 16 and doubled at 8.
        atrous_rates=tuple(rate * output_stride // 16 for rate in (12, 24, 36)),
        aspp_conv=True,
        decoder_convs=1,
        separable=True,
        depthwise_norm=False,
        dropout=0.5,
        align_corners=True,
    ).eval()
    assert count(ours) == count(theirs)
    state = adapt(theirs.state_dict(), list(ours.state_dict()))
    ours.load_state_dict(state)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(images)
        assert expected.std() > 1e-3
        torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=1e-4)


def adapt(foreign: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    """Their tensors under our names: both list the same layers in the same order, part by part."""
    parts = {
        "backbone.net.": "encoder.model.",
        "aspp.": "decoder.aspp.0.",
        "aspp_conv.": "decoder.aspp.",
        "decoder.reduce.": "decoder.block1.",
        "decoder.fuse.": "decoder.block2.",
        "classifier.": "segmentation_head.",
    }
    state, left = {}, dict(foreign)
    for ours, theirs in parts.items():
        here = [name for name in names if name.startswith(ours)]
        there = [name for name in left if name.startswith(theirs)]
        state |= {a: left.pop(b) for a, b in zip(here, there, strict=True)}
    assert not left
    return state
