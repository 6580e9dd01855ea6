"""What other implementations of the same backbones do differently, with the same weights.

A converted checkpoint gives its own library's pixels only if its network does as that library does. Each difference is
one argument here, stored in the model's info.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from atrous.errors import unknown_name
from atrous.models.layers import multiply_rate
from atrous.models.tensorflow_same_padding import SameConv2d

PADDINGS = ("consistent", "tensorflow")


@dataclass(frozen=True)
class ForeignQuirks:
    """How a backbone's geometry departs from ours.

    Args:
        padding: where a convolution with SAME padding lost its stride: "consistent" keeps the features where they
            were, "tensorflow" pads symmetrically as timm and TensorFlow do; they differ at even sizes only.
        symmetric: beginnings of the paths of convolutions whose SAME padding is symmetric at every size, as
            efficientnet-pytorch's is where its map's side is odd at the one size for which it computes paddings.
        rate_factors: beginning of a path → factor on the rates of its convolutions at output strides 8 and 16, for
            blocks that smp counts to the stage after theirs.
        stride_first: a bottleneck's stride in its first 1×1 convolution, as Caffe's ResNets have it.
        ceil_pool: the stem's max pool rounds sizes up, as Caffe does.
        dilate_second: a ResNet's basic block dilates both of its 3×3 convolutions, or, as in mmsegmentation, the first.
        pad_expansion: inverted residuals are padded before their expansion, so that the border is not zero after it,
            and the stem not at all (VainF/DeepLabV3Plus-Pytorch, network/backbone/mobilenetv2.py).

    Raises:
        AtrousError: an unknown padding.
    """

    padding: Literal["consistent", "tensorflow"] = "consistent"
    symmetric: tuple[str, ...] = ()
    rate_factors: Mapping[str, int] = field(default_factory=dict)
    stride_first: bool = False
    ceil_pool: bool = False
    dilate_second: bool = True
    pad_expansion: bool = False

    def __post_init__(self) -> None:
        if self.padding not in PADDINGS:
            raise unknown_name("padding", self.padding, PADDINGS)

    def apply(self, net: nn.Module, output_stride: int) -> None:
        """Changes a timm network whose strides, rates and paddings were just set.

        Args:
            net: changed in place.
            output_stride: that it has.
        """
        for path, module in net.named_modules():
            if isinstance(module, SameConv2d):
                if self.padding == "tensorflow" or path.startswith(self.symmetric):
                    module.base_stride = 1 if path.startswith(self.symmetric) else module.stride[0]
            elif isinstance(module, Bottleneck) and self.stride_first:
                module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
            elif isinstance(module, nn.MaxPool2d) and self.ceil_pool:
                module.ceil_mode = True
            elif isinstance(module, BasicBlock) and not self.dilate_second:
                module.conv2.dilation = module.conv2.padding = (1, 1)
            elif isinstance(module, InvertedResidual) and self.pad_expansion:
                _pad_expansion(module)
            if isinstance(module, nn.Conv2d) and output_stride < 32:
                for beginning, factor in self.rate_factors.items():
                    if path.startswith(beginning):
                        multiply_rate(module, factor)
        if self.pad_expansion:
            stem: Any = net.get_submodule("conv_stem")
            stem.padding = (0, 0)


def _pad_expansion(block: Any) -> None:
    margin = block.conv_dw.dilation[0] * (block.conv_dw.kernel_size[0] // 2)
    block.conv_pw.padding, block.conv_dw.padding = (margin, margin), (0, 0)
