"""Differences between this package's backbones and implementations in other libraries, which use the same weights.

A converted checkpoint reproduces the predictions of its library only if the network computes as in that library. Each
difference is one argument here, which the model's record stores.
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
    """The differences between another implementation of a backbone and the implementation in this package.

    Args:
        padding: padding of a SAME convolution whose stride was reduced to 1. "consistent" (default) keeps the positions
            of the features; "tensorflow" pads symmetrically, as timm and TensorFlow do. The two
            paddings differ at even sizes only.
        symmetric: prefixes of the paths of convolutions whose SAME padding is symmetric at every size.
            efficientnet-pytorch computes all paddings for one picture size; at that size, the input maps of these
            convolutions have odd sides, so their padding is symmetric.
        rate_factors: factors on the rates at output strides 8 and 16, by prefix of the convolutions' paths.
            segmentation-models-pytorch gives some blocks the rate of the next stage.
        stride_first: whether a bottleneck has its stride in the first 1×1 convolution, as in Caffe's ResNets.
        ceil_pool: whether the stem's max pool rounds sizes up, as in Caffe.
        dilate_second: whether a ResNet's basic block dilates both 3×3 convolutions (default); mmsegmentation dilates
            the first one only.
        pad_expansion: whether inverted residuals are padded before their expansion, so that the border is not zero
            after the expansion. The stem is then not padded (VainF/DeepLabV3Plus-Pytorch,
            network/backbone/mobilenetv2.py).

    Raises:
        AtrousError: the padding is unknown.
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
        """Applies the differences to a timm network whose strides, rates and paddings have just been set.

        Args:
            net: the network; it is changed in place.
            output_stride: its output stride: 8, 16 or 32.
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
