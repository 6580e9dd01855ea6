"""DeepLabV3+: Encoder-Decoder with Atrous Separable Convolution (arXiv:1802.02611)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from atrous.errors import AtrousError
from atrous.models.aspp import ASPP
from atrous.models.backbones import Backbone
from atrous.models.info import Info, Preprocessing, placeholder_classes
from atrous.models.layers import check_trainable, conv3x3, conv_norm_relu, initialise, resize

#: Backbones made of separable convolutions, over which the paper makes ASPP and decoder separable too (§4.3).
SEPARABLE_FAMILIES = ("mobilenet", "efficientnet", "xception", "mnasnet", "mixnet", "fbnet", "ghostnet")


class Decoder(nn.Module):
    """Fuses ASPP features with low-level ones to sharpen object boundaries (arXiv:1802.02611 §3.1, Figure 2).

    Args:
        low_channels: C of the backbone's features at stride 4.
        channels: C of the ASPP features, of every 3×3 convolution and of the output; 256 in the paper.
        reduced_channels: C to which low-level features are reduced, so that they do not outweigh; 48 in the paper.
        num_convs: how many 3×3 convolutions; 2 in the paper (Table 2).
        separable: depthwise-separable 3×3 convolutions.
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
        """N×channels×h×w and N×low_channels×H/4×W/4 → N×channels×H/4×W/4."""
        upsampled = resize(high, low.shape[-2:], self.align_corners)
        return self.fuse(torch.cat([upsampled, self.reduce(low)], dim=1))


class DeepLabV3Plus(nn.Module):
    """Encoder (atrous backbone and ASPP) and decoder, as in Figure 2 of arXiv:1802.02611.

    Args:
        backbone: any timm network that supports an output stride (`models.backbones`).
        num_classes: K ≥ 1; 1 is one logit that separates two classes at probability 0.5.
        output_stride: 8, 16 or 32; 16 trains well, 8 is finer and costs several times more.
        in_channels: C ≥ 1 of the pictures.
        atrous_rates: of the ASPP at output stride 16; doubled at 8, halved at 32 (arXiv:1706.05587 §3.3).
        aspp_channels: C of the ASPP, 256 in the paper.
        aspp_conv: one more 3×3 unit after the ASPP's projection, as segmentation-models-pytorch has it.
        low_channels: C of the reduced low-level features, 48 in the paper.
        decoder_convs: number of 3×3 convolutions in the decoder, 2 in the paper.
        separable: depthwise-separable ASPP and decoder; by default over mobile and Xception backbones.
        depthwise_norm: norm and ReLU between depthwise and pointwise, as in the paper.
        dropout: probability, 0–1, after the ASPP.
        align_corners: convention of every resize; TensorFlow's DeepLab and smp use True.

    Attributes:
        info: what the model says about itself, see `models.info.Info`.
    """

    def __init__(
        self,
        *,
        backbone: str = "resnet50",
        num_classes: int = 21,
        output_stride: int = 16,
        in_channels: int = 3,
        atrous_rates: Sequence[int] = (6, 12, 18),
        aspp_channels: int = 256,
        aspp_conv: bool = False,
        low_channels: int = 48,
        decoder_convs: int = 2,
        separable: bool | None = None,
        depthwise_norm: bool = True,
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise AtrousError(f"num_classes must be 1 (binary, one logit) or more, got {num_classes}.")
        if separable is None:
            separable = any(family in backbone for family in SEPARABLE_FAMILIES)
        arguments = {**locals(), "atrous_rates": tuple(atrous_rates)}
        self.align_corners = align_corners
        self.atrous_rates = tuple(atrous_rates)
        units: dict[str, Any] = {"separable": separable, "depthwise_norm": depthwise_norm}

        self.backbone = Backbone(backbone, in_channels=in_channels, output_stride=output_stride)
        self.aspp = ASPP(
            self.backbone.high_channels,
            aspp_channels,
            rates=self._rates(output_stride),
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
        self.info = Info(
            architecture="deeplabv3plus",
            arguments={key: value for key, value in arguments.items() if key not in ("self", "__class__")},
            preprocessing=_preprocessing(self.backbone),
            **placeholder_classes(num_classes),
        )

    def _rates(self, output_stride: int) -> tuple[int, ...]:
        return tuple(max(1, rate * 16 // output_stride) for rate in self.atrous_rates)

    def set_output_stride(self, output_stride: int) -> None:
        """Changes the density of the features in place, on the same weights (arXiv:1706.05587 §3.3).

        Args:
            output_stride: 8, 16 or 32.
        """
        self.backbone.set_output_stride(output_stride)
        self.aspp.set_rates(self._rates(output_stride))
        self.info = replace(self.info, arguments={**self.info.arguments, "output_stride": output_stride})

    def scores(self, images: Tensor) -> dict[str, Tensor]:
        """Class scores at low resolution, where losses and masks are made from them.

        Args:
            images: N×C×H×W, normalised, any H, W ≥ 1.

        Returns:
            {"main": N×K×⌈H/4⌉×⌈W/4⌉} logits.

        Raises:
            AtrousError: in training, one picture smaller than 33×33 px.
        """
        check_trainable(self, images)
        low, high = self.backbone(images)
        return {"main": self.classifier(self.decoder(self.aspp_conv(self.aspp(high)), low))}

    def forward(self, images: Tensor) -> Tensor:
        """N×C×H×W normalised → N×K×H×W logits, bilinearly resized."""
        return resize(self.scores(images)["main"], images.shape[-2:], self.align_corners)


def _preprocessing(backbone: Backbone) -> Preprocessing:
    """What the backbone's pretrained weights expect, in 0–255; grey and many-band pictures get the channels' mean."""
    mean, std = [255 * value for value in backbone.mean], [255 * value for value in backbone.std]
    if backbone.in_channels != len(mean):
        mean = [sum(mean) / len(mean)] * backbone.in_channels
        std = [sum(std) / len(std)] * backbone.in_channels
    return Preprocessing(tuple(mean), tuple(std))
