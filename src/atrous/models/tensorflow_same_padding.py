"""TensorFlow's SAME padding, for networks whose weights were trained with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding that exports at dynamic sizes and survives losing its stride.

    SAME pads what the stride leaves over, unevenly at even sizes. When a stride is taken away, the padding stays
    that of the strided convolution (`base_stride`), so the dense features, subsampled, equal the strided ones at
    every size. Differs: timm and TensorFlow switch to symmetric padding there, which shifts the features of
    pretrained weights by one pixel at even sizes; with `base_stride` 1 this does the same.
    """

    base_stride: int  # the stride from which the padding follows

    @classmethod
    def of(cls, conv: nn.Conv2d) -> SameConv2d:
        """The same convolution, weights shared, with this padding."""
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
        """Pixels before and after one side, from the grid that the strided convolution would have seen."""
        kernel, rate, stride = self.kernel_size[dim], self.dilation[dim], self.base_stride
        if kernel < stride:
            return 0, 0
        total = kernel - stride
        if stride > 1:  # what the last window lacks; without %, which OpenVINO does not read in an exported size
            taps = (size + rate - 1) // rate
            total = total + (taps + stride - 1) // stride * stride - taps
        before = (total // 2) * rate
        after = total * rate - before if self.stride[dim] == stride else (kernel - 1) * rate - before
        return before, after

    def forward(self, input: Tensor) -> Tensor:
        """N×C×H×W → N×C'×ceil(H/stride)×ceil(W/stride)."""
        vertical, horizontal = self._padding(input.shape[-2], 0), self._padding(input.shape[-1], 1)
        margin: tuple[int, int] = (0, 0)
        # The convolution pads evenly without a copy. While tracing, uneven padding is an expression of the size, which
        # must not be asked whether it is even.
        constant = self.base_stride == 1 or not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        if constant and vertical[0] == vertical[1] and horizontal[0] == horizontal[1]:
            margin = (vertical[0], horizontal[0])
        else:
            input = F.pad(input, (*horizontal, *vertical))
        return F.conv2d(input, self.weight, self.bias, self.stride, margin, self.dilation, self.groups)


def pads_unevenly(model: nn.Module) -> bool:
    """Whether a network samples pictures of some sizes aside of others: a strided convolution has SAME padding."""
    return any(isinstance(module, SameConv2d) and module.base_stride > 1 for module in model.modules())
