"""VGG-16's weights give the backbone its features, and LargeFOV its thinned fc6 and fc7."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import atrous
from atrous.errors import AtrousError
from atrous.weights.read_checkpoint import from_state_dict
from atrous.weights.vgg_imagenet import CONVS, recognises

torchvision = pytest.importorskip("torchvision")


@cache
def vgg16() -> nn.Module:
    torch.manual_seed(0)
    with torch.device("meta"):
        net = torchvision.models.vgg16(weights=None, num_classes=10)
    net = net.to_empty(device="cpu")
    for name, parameter in net.named_parameters():  # its own initialisation takes seconds
        side = parameter[0].numel() if parameter.ndim > 1 else 1
        nn.init.uniform_(parameter, -(side**-0.5), side**-0.5) if "weight" in name else nn.init.zeros_(parameter)
    return net.eval()


def caffe_state(fc6=(4096, 512, 7, 7), fc7=(4096, 4096, 1, 1)) -> dict[str, torch.Tensor]:
    """The same weights as Caffe keeps them: its names, and BGR."""
    theirs = vgg16().state_dict()
    state = {
        f"{name}.{leaf}": theirs[f"features.{n}.{leaf}"] for n, name in CONVS.items() for leaf in ("weight", "bias")
    }
    state["conv1_1.weight"] = state["conv1_1.weight"].flip(1)
    for name, shape, number in (("fc6", fc6, 0), ("fc7", fc7, 3)):
        weight = theirs[f"classifier.{number}.weight"].flatten()
        state[f"{name}.weight"] = weight[: torch.Size(shape).numel()].reshape(shape)
        state[f"{name}.bias"] = theirs[f"classifier.{number}.bias"][: shape[0]]
    return state


def test_the_convolutions_are_torchvisions():
    net = vgg16()
    model = atrous.convert(net.state_dict(), source="vgg16", num_classes=5)
    images = torch.randn(1, 3, 32, 32)
    expected = images
    with torch.no_grad():
        for module in net.features[:16]:  # up to conv3_3, before the first pool that differs in its padding counts
            expected = F.max_pool2d(expected, 3, 2, padding=1) if isinstance(module, nn.MaxPool2d) else module(expected)
        torch.testing.assert_close(model.backbone(images).low, expected, atol=1e-5, rtol=1e-5)
    for number, name in CONVS.items():
        assert torch.equal(model.backbone.net[name].weight, net.features[number].weight)
    assert model.info.architecture == "deeplabv1"
    assert model.info.provenance["fresh"] == ["classifier.weight", "classifier.bias"]
    assert model.info.provenance["left_over"] == ["classifier.6.weight", "classifier.6.bias"]
    assert model.info.preprocessing.mean == pytest.approx((123.675, 116.28, 103.53))


def test_fc6_and_fc7_are_thinned_alike():
    net = vgg16()
    model = atrous.convert(net.state_dict(), source="vgg16", fov_channels=1024)
    fc6 = net.classifier[0].weight.reshape(4096, 512, 7, 7)
    assert model.head.fc6.weight.shape == (1024, 512, 3, 3)
    assert torch.equal(model.head.fc6.weight[5, 7, 1, 2], fc6[20, 7, 3, 6])
    assert torch.equal(model.head.fc6.bias, net.classifier[0].bias[::4])
    assert torch.equal(model.head.fc7.weight[3, 9, 0, 0], net.classifier[3].weight[12, 36])


def test_caffes_pictures_and_names():
    """BGR filters become RGB ones, and the mean is Caffe's; a width of ours other than the paper's is thinned too."""
    model = atrous.convert(caffe_state(), source="vgg16", fov_channels=512)
    assert torch.equal(model.backbone.net["conv1_1"].weight, vgg16().features[0].weight)
    assert model.info.preprocessing.mean == (123.68, 116.779, 103.939)
    assert model.info.preprocessing.std == (1.0, 1.0, 1.0)
    assert torch.equal(model.head.fc6.weight[1, 2, 2, 0], caffe_state()["fc6.weight"][8, 2, 6, 0])


def test_a_reduced_fc6_is_taken_as_it_is():
    state = caffe_state((1024, 512, 3, 3), (1024, 1024, 1, 1))
    model = atrous.convert(state, source="vgg16")
    assert torch.equal(model.head.fc6.weight, state["fc6.weight"])
    assert torch.equal(model.head.fc7.weight, state["fc7.weight"])


def test_every_branch_of_deeplabv2_starts_from_fc6():
    state = caffe_state((1024, 512, 3, 3), (1024, 1024, 1, 1))
    model = atrous.convert(state, source="vgg16", architecture="deeplabv2", num_classes=3)
    assert all(torch.equal(branch.fc6.weight, state["fc6.weight"]) for branch in model.aspp.branches)
    assert set(model.info.provenance["fresh"]) == {
        f"aspp.branches.{branch}.fc8.{leaf}" for branch in range(4) for leaf in ("weight", "bias")
    }


def test_over_another_paper_the_fully_connected_layers_are_left_over():
    state = caffe_state((1024, 512, 3, 3), (1024, 1024, 1, 1))
    model = atrous.convert(state, source="vgg16", architecture="deeplabv3", aspp_channels=8, in_channels=1)
    assert model.info.provenance["left_over"] == ["fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias"]
    torch.testing.assert_close(
        model.backbone.net["conv1_1"].weight, vgg16().features[0].weight.sum(1, keepdim=True), atol=1e-5, rtol=1e-5
    )


def test_recognised_by_its_thirteen_convolutions():
    with torch.device("meta"):
        others = [torchvision.models.vgg16_bn(), torchvision.models.vgg19(), torchvision.models.vgg13()]
    assert recognises(from_state_dict(vgg16().state_dict()))
    assert recognises(from_state_dict(caffe_state()))
    assert not any(recognises(from_state_dict(other.state_dict())) for other in others)


def test_another_backbone_or_a_wider_fov_is_refused():
    state = caffe_state((1024, 512, 3, 3), (1024, 1024, 1, 1))
    with pytest.raises(AtrousError, match="backbone is given as 'resnet50', and the state dict has 'vgg16'"):
        atrous.convert(state, source="vgg16", backbone="resnet50")
    with pytest.raises(AtrousError, match=r"'head.fc6.weight' differs in shape"):
        atrous.convert(state, source="vgg16", fov_channels=2048)
