"""Atrous spatial pyramid pooling with image-level features (arXiv:1706.05587 §3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atrous.models.layers import PooledBatchNorm2d, conv3x3, conv_norm_relu, set_rate


class GlobalMean(nn.Module):
    """The mean over the map. It is a module so that tiled inference can replace it by the mean of the whole picture."""

    def forward(self, features: Tensor) -> Tensor:
        """Returns the N×C×1×1 means of N×C×h×w features."""
        # A mean exports to every format at any size; AdaptiveAvgPool2d does not.
        return features.mean((2, 3), keepdim=True)


class ImagePooling(nn.Module):
    """Image-level features: the mean over the map goes through a 1×1 unit and is expanded to the map's size.

    Source: arXiv:1706.05587 §3.3. A unit is a convolution, batch norm and ReLU.

    Args:
        in_channels: C of the input features.
        channels: C of the output features.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.mean = GlobalMean()
        self.unit = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, bias=False),
            PooledBatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Returns N×channels×h×w features, constant over h×w, for N×C×h×w features."""
        return self.unit(self.mean(features)).expand(-1, -1, *features.shape[-2:])


class ASPP(nn.Module):
    """ASPP: a 1×1 branch, one 3×3 branch per atrous rate, and image pooling; then concatenation, projection, dropout.

    The projection is a convolution unit that reduces the joined branches to `channels`.

    Args:
        in_channels: C of the backbone's last features.
        channels: C of each branch and of the output; 256 in the paper.
        rates: atrous rate of each 3×3 branch, in feature pixels, ≥ 1; (6, 12, 18) at output stride 16. Without rates
            the 1×1 branch and image pooling remain, as in Google's mobile models.
        separable: whether the 3×3 branches are depthwise separable (arXiv:1802.02611 §3.1).
        depthwise_norm: see `layers.separable_conv`.
        projection_kernel: side of the projection's kernel, odd; 1 in the paper, 3 in mmsegmentation.
        dropout: dropout probability on the projected features, 0–1.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 256,
        *,
        rates: Sequence[int] = (6, 12, 18),
        separable: bool = False,
        depthwise_norm: bool = True,
        projection_kernel: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.point = conv_norm_relu(in_channels, channels, 1)
        self.atrous = nn.ModuleList(
            conv3x3(in_channels, channels, rate=rate, separable=separable, depthwise_norm=depthwise_norm)
            for rate in rates
        )
        self.image_pooling = ImagePooling(in_channels, channels)
        self.project = conv_norm_relu((2 + len(rates)) * channels, channels, projection_kernel)
        self.dropout = nn.Dropout(dropout)

    def set_rates(self, rates: Sequence[int]) -> None:
        """Changes the atrous rates in place, one per 3×3 branch; the weights stay the same."""
        for branch, rate in zip(self.atrous, rates, strict=True):
            set_rate(branch, rate)

    def forward(self, features: Tensor) -> Tensor:
        """Returns N×channels×h×w features for N×C×h×w features."""
        branches = [self.point(features), *(branch(features) for branch in self.atrous)]
        branches.append(self.image_pooling(features))
        return self.dropout(self.project(torch.cat(branches, dim=1)))
