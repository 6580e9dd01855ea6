"""DeepLabV3+: Encoder-Decoder with Atrous Separable Convolution (arXiv:1802.02611)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from atrous.checked_arguments import checked
from atrous.models.aspp import ASPP
from atrous.models.auxiliary_head import AuxiliaryHead
from atrous.models.backbones import create_backbone, is_separable_family
from atrous.models.default_info import first_info
from atrous.models.layers import (
    Norm,
    check_pictures,
    conv3x3,
    conv_norm_relu,
    freeze_norm,
    initialise,
    resize,
    set_norm,
)
from atrous.models.paper_arguments import check_arguments, checked_constructor


class Decoder(nn.Module):
    """The decoder: fuses ASPP features with low-level features to sharpen object boundaries (§3.1, Figure 2).

    Args:
        low_channels: C of the backbone's features at stride 4.
        channels: C of the ASPP features, of every 3×3 convolution and of the output; 256 in the paper.
        reduced_channels: C of the low-level features after their reduction; small, so that they do not outweigh the
            ASPP features; 48 in the paper.
        num_convs: number of 3×3 convolutions, ≥ 1; 2 in the paper (Table 2).
        separable: whether the 3×3 convolutions are depthwise separable.
        depthwise_norm: see `layers.separable_conv`.
        align_corners: see `layers.resize`.
    """

    def __init__(
        self,
        low_channels: int,
        channels: int = 256,
        *,
        reduced_channels: int = 48,
        num_convs: int = 2,
        separable: bool = False,
        depthwise_norm: bool = True,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.reduce = conv_norm_relu(low_channels, reduced_channels, 1)
        widths = [channels + reduced_channels] + [channels] * num_convs
        self.fuse = nn.Sequential(
            *(
                conv3x3(before, after, separable=separable, depthwise_norm=depthwise_norm)
                for before, after in pairwise(widths)
            )
        )

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """Fuses both kinds of features at stride 4.

        Args:
            high: N×channels×h×w ASPP features.
            low: N×low_channels×⌈H/4⌉×⌈W/4⌉ low-level features.

        Returns:
            N×channels×⌈H/4⌉×⌈W/4⌉ features.
        """
        upsampled = resize(high, low.shape[-2:], self.align_corners)
        return self.fuse(torch.cat([upsampled, self.reduce(low)], dim=1))


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+: encoder (atrous backbone and ASPP) and decoder, as in Figure 2 of arXiv:1802.02611.

    The shared arguments are documented in `atrous.models.paper_arguments`.

    Args:
        backbone: "resnet50" by default; the paper uses "xception65", "xception71" and "resnet101".
        output_stride: 16 by default, which trains well; 8 gives finer features and takes several times as long.
        low_channels: C of the reduced low-level features, ≥ 1; default 48, as in the paper.
        decoder_convs: number of 3×3 convolutions in the decoder, 1–64; default 2, as in the paper.
        multi_grid: default (1, 1, 1), which leaves the rates to the dilation rule and suits every backbone.
        dropout: dropout probability on the output of the ASPP; default 0.1.
        norm: (eps, momentum) of the head's batch norms, by default (1e-5, 0.1); the paper's momentum is 0.0003 (decay
            0.9997).

    Attributes:
        info: the model's record, see `models.info.Info`.

    Raises:
        AtrousError: a value is out of range, the backbone is unknown, or a multi-grid is given for a backbone that is
            not a ResNet.
    """

    @checked_constructor
    def __init__(
        self,
        *,
        backbone: str = "resnet50",
        num_classes: int = 21,
        output_stride: int = 16,
        in_channels: int = 3,
        atrous_rates: Sequence[float] = (6, 12, 18),
        aspp_channels: int = 256,
        aspp_conv: bool = False,
        projection_kernel: int = 1,
        low_channels: int = 48,
        decoder_convs: int = 2,
        multi_grid: Sequence[float] = (1, 1, 1),
        separable: bool | None = None,
        depthwise_norm: bool = True,
        dilation_rule: str = "previous",
        auxiliary: bool = False,
        dropout: float = 0.1,
        frozen_norm: bool = False,
        norm: Norm = (1e-5, 0.1),
        align_corners: bool = False,
        backbone_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if separable is None:
            separable = is_separable_family(backbone)
        arguments = dict(locals())
        check_arguments(arguments, halves=True)
        self.align_corners, self.frozen_norm, self.atrous_rates = align_corners, frozen_norm, tuple(atrous_rates)
        self.backbone = create_backbone(
            backbone,
            backbone_arguments,
            in_channels=in_channels,
            output_stride=output_stride,
            dilation_rule=dilation_rule,
            multi_grid=multi_grid,
        )
        self.info = first_info("deeplabv3plus", arguments, self.backbone)
        units: dict[str, Any] = {"separable": separable, "depthwise_norm": depthwise_norm}
        self.aspp = ASPP(
            self.backbone.high_channels,
            aspp_channels,
            rates=self._rates(output_stride),
            projection_kernel=projection_kernel,
            dropout=dropout,
            **units,
        )
        self.aspp_conv = conv3x3(aspp_channels, aspp_channels, **units) if aspp_conv else nn.Identity()
        self.decoder = Decoder(
            self.backbone.low_channels,
            aspp_channels,
            reduced_channels=low_channels,
            num_convs=decoder_convs,
            align_corners=align_corners,
            **units,
        )
        self.classifier = nn.Conv2d(aspp_channels, num_classes, 1)
        for part in (self.aspp, self.aspp_conv, self.decoder, self.classifier):
            initialise(part)
            set_norm(part, norm)
        middle = self.backbone.middle_channels
        self.auxiliary = AuxiliaryHead(middle, num_classes, norm=norm) if auxiliary else None

    def _rates(self, output_stride: int) -> tuple[int, ...]:
        return tuple(max(1, int(rate * 16 // output_stride)) for rate in self.atrous_rates)

    @checked
    def set_output_stride(self, output_stride: int) -> None:
        """Changes the output stride of the features in place; the weights stay the same (arXiv:1706.05587 §3.3).

        Args:
            output_stride: 8, 16 or 32.

        Raises:
            AtrousError: the output stride has another value, or the backbone does not support it.
        """
        self.backbone.set_output_stride(output_stride)
        self.aspp.set_rates(self._rates(output_stride))
        self.info = replace(self.info, arguments={**self.info.arguments, "output_stride": output_stride})

    def scores(self, images: Tensor) -> dict[str, Tensor]:
        """Returns the logits at low resolution; losses and masks are computed from them.

        Args:
            images: N×C×H×W, normalised; H, W ≥ 1.

        Returns:
            {"main": N×K×⌈H/4⌉×⌈W/4⌉ logits}. In training with an auxiliary head it also contains "aux", the
            logits of that head.

        Raises:
            AtrousError: the pictures have a wrong type or shape; or a batch norm is in training, and the batch is one
                picture with a side under 33 px.
        """
        check_pictures(self, images)
        low, middle, high = self.backbone(images)
        scores = {"main": self.classifier(self.decoder(self.aspp_conv(self.aspp(high)), low))}
        if self.auxiliary is not None and self.training:
            scores["aux"] = self.auxiliary(middle)
        return scores

    def forward(self, images: Tensor) -> Tensor:
        """Returns N×K×H×W logits, bilinearly resized, for N×C×H×W normalised pictures."""
        return resize(self.scores(images)["main"], images.shape[-2:], self.align_corners)

    def train(self, mode: bool = True) -> DeepLabV3Plus:
        """Sets the mode as `nn.Module.train` does; with `frozen_norm`, batch norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_norm:
            freeze_norm(self)
        return self
