"""A classification network's weights give the backbone its features; the head is fresh."""

from __future__ import annotations

import pytest
import timm
import torch

import atrous
from atrous.errors import AtrousError
from atrous.weights.foreign import from_state_dict
from atrous.weights.timm_backbone import recognises


def network(name: str) -> torch.nn.Module:
    """With the statistics that it measures on noise, so that the last features are of order one."""
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False, num_classes=10)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the average of all batches, of which there is one
    with torch.no_grad():
        net.train()(torch.randn(2, 3, 64, 64))
    return net.eval()


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet18", ["fc.weight", "fc.bias"]),
        ("mobilenetv2_035", ["conv_head.weight", "classifier.bias"]),
        ("regnetx_002", ["head.fc.weight", "head.fc.bias"]),
        ("convnext_atto", ["head.norm.weight", "head.fc.bias"]),  # stages are flattened
    ],
)
def test_the_features_are_the_networks(name, left):
    net = network(name)
    state = net.state_dict()
    assert recognises(from_state_dict(state))
    model = atrous.convert(state, source="timm-backbone", backbone=name, output_stride=32, num_classes=4)
    provenance = model.info.provenance
    assert set(left) <= set(provenance["left_over"])
    assert all(key.split(".")[0] in ("fc", "head", "conv_head", "bn2", "classifier") for key in provenance["left_over"])
    assert {key.split(".")[0] for key in provenance["fresh"]} == {"aspp", "decoder", "classifier"}
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        expected = net.forward_intermediates(images, intermediates_only=True, norm=False)[-1]
        features = model.backbone(images).high
    assert expected.std() > 0.1
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
    assert model.info.architecture == "deeplabv3plus"
    assert len(model.info.classes) == 4


def test_another_architecture_and_number_of_channels():
    net = network("resnet18")
    model = atrous.convert(
        net.state_dict(), source="timm-backbone", backbone="resnet18", architecture="deeplabv3", in_channels=1
    )
    assert model.info.architecture == "deeplabv3"
    # a grey picture as three equal channels gave the same features there
    torch.testing.assert_close(
        model.backbone.net.conv1.weight, net.get_parameter("conv1.weight").sum(1, keepdim=True), atol=1e-5, rtol=1e-5
    )
    assert len(model.info.preprocessing.mean) == 1


def test_the_backbone_must_be_named():
    with pytest.raises(AtrousError, match="name it as timm does with backbone="):
        atrous.convert(network("resnet18").state_dict(), source="timm-backbone")


def test_another_backbones_weights_are_refused():
    with pytest.raises(AtrousError, match=r"lacks .* weights of deeplabv3plus over resnet34"):
        atrous.convert(network("resnet18").state_dict(), source="timm-backbone", backbone="resnet34")
    with pytest.raises(AtrousError, match="differs in shape"):
        atrous.convert(network("mobilenetv2_035").state_dict(), source="timm-backbone", backbone="mobilenetv2_050")


def test_a_segmentation_model_is_none():
    model = atrous.create_model("deeplabv3plus", backbone="resnet18", num_classes=2)
    assert not recognises(from_state_dict(model.state_dict()))
