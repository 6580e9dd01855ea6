import pytest
import torch
from paper_networks import MODELS, built, normalised_picture, picture

from atrous.explaining.activations import WatchedNetwork
from atrous.explaining.grad_cam import grad_cam


def test_grad_cam_is_that_of_the_last_features():
    model = built("v3")
    watched = WatchedNetwork(model, picture())
    high = model.backbone(normalised_picture(model)).high.detach().requires_grad_()
    score = model.classifier(model.aspp(high))[0, 1]
    score[watched.region(1)].mean().backward()
    assert high.grad is not None
    expected = (high.grad[0].mean((1, 2))[:, None, None] * high.detach()[0]).sum(0).clamp(min=0)
    torch.testing.assert_close(grad_cam(watched, 1), expected)


@pytest.mark.parametrize("name", MODELS)
def test_grad_cam_of_every_paper_is_of_its_last_features(name):
    """Also of DeepLabV1 with MSc, which runs its backbone stage by stage."""
    model = built(name)
    watched = WatchedNetwork(model, picture())
    assert watched.high.shape[1] == model.backbone.high_channels
    assert any(grad_cam(watched, index).max() > 0 for index in range(3))
