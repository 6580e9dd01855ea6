"""The fast backward pass of depthwise convolutions: the library's gradients, in every geometry."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import atrous
from atrous.learning.batch import Batch
from atrous.learning.depthwise_backward import FastDepthwise
from atrous.learning.losses.pixel import CrossEntropy
from atrous.learning.losses.terms import supervised_terms
from atrous.learning.training_step import TrainingStep


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.sampled_from([1, 2, 3, 5, 7]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 9),
    rate=st.integers(1, 6),
    count=st.integers(1, 3),
    channels=st.integers(2, 5),
    extra=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    channels_last=st.booleans(),
)
def test_gradients_are_the_librarys(
    kernel: int,
    stride: int,
    padding: int,
    rate: int,
    count: int,
    channels: int,
    extra: tuple[int, int],
    channels_last: bool,
) -> None:
    least = max(1, (kernel - 1) * rate + 1 - 2 * padding)
    image = torch.randn(count, channels, least + extra[0], least + extra[1], dtype=torch.float64)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    image.requires_grad_()
    weight = torch.randn(channels, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    arguments = (image, weight, None, stride, padding, rate, channels)
    expected = F.conv2d(*arguments)
    with FastDepthwise():
        result = F.conv2d(*arguments)
    torch.testing.assert_close(result, expected)
    upstream = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(result, (image, weight), upstream),
        torch.autograd.grad(expected, (image, weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)  # two of the four paths compute in float32


def test_takes_over_depthwise_convolutions_alone() -> None:
    image = torch.randn(1, 4, 9, 9, requires_grad=True)
    with FastDepthwise():
        depthwise = F.conv2d(image, torch.randn(4, 1, 3, 3), None, 1, 1, 1, 4)
        plain = F.conv2d(image, torch.randn(4, 4, 3, 3), None, 1, 1, 1, 1)
        with torch.no_grad():
            inference = F.conv2d(image, torch.randn(4, 1, 3, 3), None, 1, 1, 1, 4)
    assert "_Depthwise" in type(depthwise.grad_fn).__name__
    assert "_Depthwise" not in type(plain.grad_fn).__name__
    assert inference.grad_fn is None


def test_rounds_like_autocast() -> None:
    image = torch.randn(2, 8, 12, 12).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(8, 1, 5, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.conv2d(image, weight, None, 1, 4, 2, 8)
        with FastDepthwise():
            result = F.conv2d(image, weight, None, 1, 4, 2, 8)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result, expected)
    result.sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    exact = torch.autograd.grad(F.conv2d(image, weight, None, 1, 4, 2, 8).sum(), weight)[0]
    assert ((weight.grad - exact).norm() / exact.norm()).item() < 0.01


@pytest.mark.parametrize("backbone", ["mobilenetv2_050", "tf_efficientnet_lite0"])
def test_a_training_step_has_the_gradients_of_the_plain_model(backbone: str) -> None:
    torch.manual_seed(0)
    model = atrous.create_model("deeplabv3plus", backbone=backbone, num_classes=4, dropout=0.0).train()
    raw = torch.randint(0, 256, (2, 3, 65, 97), dtype=torch.uint8)
    labels = torch.randint(0, 4, (2, 65, 97), dtype=torch.uint8)
    step = TrainingStep(model, supervised_terms(CrossEntropy(), model))
    step(Batch(raw, {"labels": labels})).backward()
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    plain = F.cross_entropy(model(step.normalize(raw)), labels.long(), ignore_index=255)
    plain.backward()
    # Against the whole gradient: that of a shift which the next batch norm removes again is rounding alone.
    theirs = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    difference = torch.cat([gradient.flatten() for gradient in ours.values()]) - theirs
    assert (difference.norm() / theirs.norm()).item() < 1e-3
