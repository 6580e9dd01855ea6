"""A fast backward pass for depthwise convolutions on CPUs, up to twenty times as fast as the backward pass of oneDNN.

oneDNN, torch's library for CPUs, has a fast forward kernel for every depthwise convolution. But in the backward pass of
5×5 and dilated convolutions, it uses slow code. The gradients of the input and of the weight are depthwise convolutions
themselves, so the fast forward kernel can compute them. The input's gradient is the output's gradient, convolved with
the mirrored weight. The weight's gradient is the input, convolved with the output's gradient as one large kernel, with
stride and atrous rate exchanged.

The speed is measured in benchmarks/train.py. The gradients equal those of oneDNN up to rounding
(tests/learning/test_depthwise.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from atrous.models.layers import live_taps


class FastDepthwise(TorchFunctionMode):
    """A torch mode in which depthwise 2-D convolutions on the CPU use the fast backward pass, in any model."""

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d and not kwargs and len(args) == 7 and _is_depthwise(*args):
            image, weight, _, stride, padding, dilation, _ = args
            return _convolve(image, weight, _pair(stride), _pair(padding), _pair(dilation))
        return func(*args, **kwargs)


def _is_depthwise(
    image: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    return (
        image.device.type == "cpu"
        and bias is None
        and not isinstance(padding, str)
        and groups == image.shape[1] == weight.shape[0] > 1
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def _convolve(
    image: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> Tensor:
    # autocast changes only lower-level functions, so its rule for the data type is applied here
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        image, weight = image.to(dtype), weight.to(dtype)
    (top, bottom), (left, right) = (
        live_taps(image.shape[side], weight.shape[side], stride[side - 2], padding[side - 2], dilation[side - 2])
        for side in (2, 3)
    )
    padding = padding[0] - top * dilation[0], padding[1] - left * dilation[1]
    result: Any = _Depthwise.apply(image, weight[:, :, top:bottom, left:right], stride, padding, dilation)
    return result


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution, N×C×H×W and C×1×k×l → N×C×H'×W'."""

    @staticmethod
    def forward(ctx, image, weight, stride, padding, dilation):
        ctx.save_for_backward(image, weight)
        ctx.geometry = stride, padding, dilation
        return F.conv2d(image, weight, None, stride, padding, dilation, image.shape[1])

    @staticmethod
    def backward(ctx, *gradients):
        image, weight = ctx.saved_tensors
        (gradient,) = gradients
        stride, padding, dilation = ctx.geometry
        for_image = for_weight = None
        if ctx.needs_input_grad[0]:
            if stride == (1, 1):
                for_image = _image_gradient(gradient, weight, padding, dilation)
            else:  # with a larger stride, oneDNN is slow in bfloat16 but not in float32, so float32 is used
                for_image = _library(gradient, image, weight, ctx.geometry, torch.float32, (True, False)).to(
                    image.dtype
                )
        if ctx.needs_input_grad[1]:
            if weight.shape[-2:] == (3, 3) and dilation == (1, 1):  # oneDNN's forward kernel is fast only in this case
                for_weight = _library(gradient, image, weight, ctx.geometry, image.dtype, (False, True))
            else:
                for_weight = _weight_gradient(gradient, image, weight.shape[-2:], *ctx.geometry).to(weight.dtype)
        return for_image, for_weight, None, None, None


def _image_gradient(gradient: Tensor, weight: Tensor, padding: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
    """Returns the input's gradient for stride 1: the output's gradient, convolved with the mirrored weight."""
    margins = [(weight.shape[2 + side] - 1) * dilation[side] - padding[side] for side in (0, 1)]
    crops = [min(margin, 0) for margin in margins]  # negative if the padding is larger than the kernel's reach
    gradient = F.pad(gradient, (crops[1], crops[1], crops[0], crops[0])) if min(crops) < 0 else gradient
    margins = [max(margin, 0) for margin in margins]
    return F.conv2d(gradient, weight.flip(2, 3), None, 1, margins, dilation, gradient.shape[1])


def _weight_gradient(
    gradient: Tensor,
    image: Tensor,
    kernel: Sequence[int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Returns the weight's gradient: each input channel, convolved with the same channel of the output's gradient."""
    channels, height, width = gradient.shape[1:]
    needed = [
        stride[side] * (gradient.shape[2 + side] - 1) + (kernel[side] - 1) * dilation[side] + 1 for side in (0, 1)
    ]
    after = [needed[side] - padding[side] - image.shape[2 + side] for side in (0, 1)]
    total = gradient.new_zeros(channels, 1, *kernel, dtype=torch.promote_types(gradient.dtype, torch.float32))
    for one, by in zip(image.split(1), gradient.split(1), strict=True):  # a whole batch would take N times the memory
        padded = F.pad(one, (padding[1], after[1], padding[0], after[0])).contiguous(memory_format=torch.channels_last)
        kernels = by.reshape(channels, 1, height, width)
        total += F.conv2d(padded, kernels, None, dilation, 0, stride, channels).reshape(total.shape)
    return total


def _library(
    gradient: Tensor, image: Tensor, weight: Tensor, geometry: Any, dtype: torch.dtype, wanted: tuple[bool, bool]
) -> Tensor:
    """Returns the gradient of the input or of the weight, by torch's own backward function in the given dtype."""
    stride, padding, dilation = geometry
    gradients = torch.ops.aten.convolution_backward(
        gradient.to(dtype),
        image.to(dtype),
        weight.to(dtype),
        None,
        stride,
        padding,
        dilation,
        False,
        [0, 0],
        image.shape[1],
        [*wanted, False],
    )
    return gradients[0] if wanted[0] else gradients[1]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
