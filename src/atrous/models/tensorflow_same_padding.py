"""TensorFlow's SAME padding, for networks whose weights were trained with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding; it exports with dynamic sizes, and its stride can be reduced to 1.

    SAME padding depends on the size and the stride, and it is asymmetric at even sizes. If the stride is reduced, the
    padding stays that of the strided convolution (`base_stride`). If every stride-th feature of the convolution with
    stride 1 is taken, these features equal the features of the strided convolution, at every picture size.

    timm and TensorFlow instead change to symmetric padding if the stride is reduced. At even sizes, this shifts the
    features of pretrained weights by one pixel. `base_stride` 1 reproduces the padding of timm and TensorFlow.
    """

    base_stride: int  # stride that determines the padding

    @classmethod
    def of(cls, conv: nn.Conv2d) -> SameConv2d:
        """Returns the same convolution with SAME padding; it shares the weights."""
        same = cls(
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            stride=(conv.stride[0], conv.stride[1]),
            dilation=(conv.dilation[0], conv.dilation[1]),
            groups=conv.groups,
            bias=conv.bias is not None,
            device="meta",
        )
        same.weight, same.bias = conv.weight, conv.bias
        same.base_stride = conv.stride[0]
        return same

    def _padding(self, size: int, dim: int) -> tuple[int, int]:
        """Returns the padding in pixels before and after the map along one dimension, as in the strided convolution."""
        kernel, rate, stride = self.kernel_size[dim], self.dilation[dim], self.base_stride
        if kernel < stride:
            return 0, 0
        total = kernel - stride
        if (
            stride > 1
        ):  # positions = ⌈size / rate⌉; the last window lacks (−positions) modulo stride positions: add them
            # The operator % is avoided, because OpenVINO cannot read it in exported expressions of the size.
            positions = (size + rate - 1) // rate
            total = total + (positions + stride - 1) // stride * stride - positions
        before = (total // 2) * rate
        after = total * rate - before if self.stride[dim] == stride else (kernel - 1) * rate - before
        return before, after

    def forward(self, input: Tensor) -> Tensor:
        """Returns N×C'×⌈H/stride⌉×⌈W/stride⌉ features for N×C×H×W features."""
        vertical, horizontal = self._padding(input.shape[-2], 0), self._padding(input.shape[-1], 1)
        margin: tuple[int, int] = (0, 0)
        # Symmetric padding in the convolution avoids a copy. During tracing, the padding is an expression of the size,
        # so its values must not be compared.
        constant = self.base_stride == 1 or not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        if constant and vertical[0] == vertical[1] and horizontal[0] == horizontal[1]:
            margin = (vertical[0], horizontal[0])
        else:
            input = F.pad(input, (*horizontal, *vertical))
        return F.conv2d(input, self.weight, self.bias, self.stride, margin, self.dilation, self.groups)


def pads_unevenly(model: nn.Module) -> bool:
    """Returns whether a strided convolution has SAME padding; sampling positions then depend on the picture's size."""
    return any(isinstance(module, SameConv2d) and module.base_stride > 1 for module in model.modules())
