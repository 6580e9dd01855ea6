import pytest
import timm
import torch

from atrous import create_model
from atrous.errors import AtrousError


def test_vgg_takes_timms_convolutions(monkeypatch):
    """timm's real network; only its download, which is not to be had here, is left out."""
    torch.manual_seed(0)
    donor = timm.create_model("vgg16").eval()
    asked = []

    def create(name, *, pretrained, in_chans):
        asked.append((name, pretrained, in_chans))
        return donor

    monkeypatch.setattr(timm, "create_model", create)
    model = create_model("deeplabv1", pretrained=True, fov_channels=8, num_classes=2).eval()
    assert asked == [("vgg16", True, 3)]
    images = torch.randn(1, 3, 33, 40)
    with torch.no_grad():
        assert torch.equal(model.backbone.net["conv1_1"](images), donor.features[0](images))
        convs = [layer for layer in donor.features if isinstance(layer, torch.nn.Conv2d)]
        for ours, theirs in zip(model.backbone.net.values(), convs, strict=True):
            assert torch.equal(ours.weight, theirs.weight)
            assert torch.equal(ours.bias, theirs.bias)


def test_a_backbone_without_imagenet_weights_says_what_to_do():
    with pytest.raises(AtrousError, match="no ImageNet weights for backbone 'google_mobilenetv2_050'"):
        create_model("deeplabv3", backbone="google_mobilenetv2_050", pretrained=True)


def test_arguments_that_change_the_layers_do_not_fit_imagenet_weights(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **given: create(name, **{**given, "pretrained": False}))
    with pytest.raises(AtrousError, match=r"ImageNet weights of backbone 'resnet18' do not fit .*'stem_type': 'deep'"):
        create_model("deeplabv3", pretrained=True, backbone="resnet18", backbone_arguments={"stem_type": "deep"})
