"""VGG-16 with atrous blocks, the backbone of DeepLabV1 and V2 (arXiv:1412.7062 §3.1).

The network follows the authors' released networks (DeepLab-LargeFOV, train.prototxt). Pools are 3×3, so that each
feature lies on the centre of a pixel of the picture. At output stride 8 pool4 and pool5 have stride 1, and conv5 is
atrous. An average pool is the last layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from atrous.errors import AtrousError
from atrous.models.backbone_features import Features
from atrous.models.paper_arguments import check_channels, check_output_stride

#: Output channels of each block's convolutions (arXiv:1409.1556 Table 1, column D).
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """The thirteen convolutions of VGG-16, with Caffe's names.

    Attributes:
        low_channels: C of conv3_3, at stride 4.
        middle_channels: C of pool4.
        high_channels: C of pool5, at the output stride.
        mean: channel means for the normalisation of pictures in 0–1 that ImageNet weights need.
        std: channel standard deviations for this normalisation.

    Args:
        in_channels: number of channels of the pictures, ≥ 1.
        output_stride: 8, 16 or 32.

    Raises:
        AtrousError: a value is out of range.
    """

    name = "vgg16"
    multi_grid: Sequence[float] | None = None
    low_channels, middle_channels, high_channels = 256, 512, 512
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, *, in_channels: int = 3, output_stride: int = 8) -> None:
        super().__init__()
        check_channels(in_channels)
        self.in_channels = in_channels
        self.net = nn.ModuleDict()
        before = in_channels
        for block, widths in enumerate(BLOCKS, start=1):
            for index, width in enumerate(widths, start=1):
                conv = nn.Conv2d(before, width, 3, padding=1)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]
                self.net[f"conv{block}_{index}"] = conv
                before = width
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Changes the strides of pool4 and pool5 and the rate of conv5 in place; the weights stay the same."""
        check_output_stride(output_stride)
        self.output_stride = output_stride
        self.pool_strides = (2, 2, 2, 2 if output_stride > 8 else 1, 2 if output_stride > 16 else 1)
        rate = 2 if output_stride == 8 else 1
        for index in (1, 2, 3):
            conv: Any = self.net[f"conv5_{index}"]
            conv.dilation = conv.padding = (rate, rate)

    def stages(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Returns the outputs of the five pools and the output of conv3_3, for N×C×H×W normalised pictures."""
        pools, low, x = [], images, images
        for block, widths in enumerate(BLOCKS, start=1):
            for index in range(1, len(widths) + 1):
                x = F.relu(self.net[f"conv{block}_{index}"](x), inplace=True)
            if block == 3:
                low = x
            x = F.max_pool2d(x, 3, self.pool_strides[block - 1], padding=1)
            pools.append(x)
        return pools, low

    def forward(self, images: Tensor) -> Features:
        """Returns conv3_3 at stride 4, pool4, and the averaged pool5, for N×C×H×W normalised pictures."""
        pools, low = self.stages(images)
        return Features(low, pools[3], self.average(pools[4]))

    def average(self, pool5: Tensor) -> Tensor:
        """Returns pool5a of the authors' network: the 3×3 mean of pool5, with the size of pool5."""
        return F.avg_pool2d(pool5, 3, 1, padding=1)


def vgg16(*, in_channels: int, output_stride: int, dilation_rule: str, multi_grid: Any, **unknown: Any) -> VGG16:
    """Builds a `VGG16` from the arguments common to all backbones.

    Both dilation rules give the same network, because a pool whose stride is reduced to 1 belongs to the stage before
    the convolutions that become atrous.

    Args:
        in_channels: number of channels of the pictures, ≥ 1.
        output_stride: 8, 16 or 32.
        dilation_rule: "previous" or "full"; no effect.
        multi_grid: None or factors of 1.
        unknown: further arguments; none are allowed.

    Raises:
        AtrousError: a multi-grid or further arguments are given.
    """
    if multi_grid is not None and set(multi_grid) != {1}:
        raise AtrousError(
            f"multi_grid is for ResNets, and vgg16 is not a ResNet; got {tuple(multi_grid)}. Leave it out."
        )
    if unknown:
        raise AtrousError(f"vgg16 takes no backbone_arguments, got {', '.join(sorted(unknown))}.")
    return VGG16(in_channels=in_channels, output_stride=output_stride)
