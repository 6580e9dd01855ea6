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
        backbone: "xception65", "xception71" or "resnet101" in the paper; any network of `models.backbones`.
        num_classes: K ≥ 1; 1 is one logit that separates two classes at probability 0.5.
        output_stride: 8, 16 or 32; 16 trains well, 8 is finer and costs several times more.
        in_channels: C ≥ 1 of the pictures.
        atrous_rates: of the ASPP at output stride 16, whole or half numbers; doubled at 8, halved at 32
            (arXiv:1706.05587 §3.3).
        aspp_channels: C of the ASPP, 256 in the paper.
        aspp_conv: one more 3×3 unit after the ASPP's projection, as segmentation-models-pytorch has it.
        projection_kernel: of the ASPP's projection; 1 in the paper, 3 in mmsegmentation.
        low_channels: C of the reduced low-level features, 48 in the paper.
        decoder_convs: number of 3×3 convolutions in the decoder, 2 in the paper.
        multi_grid: for ResNets, factors on the last stage's rate, one for each block; none for Xception.
        separable: depthwise-separable ASPP and decoder; by default over mobile and Xception backbones.
        depthwise_norm: norm and ReLU between depthwise and pointwise, as in the paper.
        dilation_rule: "previous" or "full", see `models.backbones`.
        auxiliary: a second classifier for training, on the stage before the last.
        dropout: probability, 0–1, after the ASPP.
        frozen_norm: batch norms keep their statistics in training.
        norm: (eps, momentum) of the heads' batch norms; the paper's momentum is 0.0003 (decay 0.9997).
        align_corners: convention of every resize; TensorFlow's DeepLab and smp use True.
        backbone_arguments: further arguments of `models.backbones.Backbone`.

    Attributes:
        info: what the model says about itself, see `models.info.Info`.

    Raises:
        AtrousError: values out of range, an unknown backbone, or a multi-grid over another than a ResNet.
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
            {"main": N×K×⌈H/4⌉×⌈W/4⌉} logits; in training with an auxiliary head also "aux".

        Raises:
            AtrousError: in training, one picture smaller than 33×33 px.
        """
        check_pictures(self, images)
        low, middle, high = self.backbone(images)
        scores = {"main": self.classifier(self.decoder(self.aspp_conv(self.aspp(high)), low))}
        if self.auxiliary is not None and self.training:
            scores["aux"] = self.auxiliary(middle)
        return scores

    def forward(self, images: Tensor) -> Tensor:
        """N×C×H×W normalised → N×K×H×W logits, bilinearly resized."""
        return resize(self.scores(images)["main"], images.shape[-2:], self.align_corners)

    def train(self, mode: bool = True) -> DeepLabV3Plus:
        """As `nn.Module.train`; frozen batch norms stay as they are."""
        super().train(mode)
        if self.frozen_norm:
            freeze_norm(self)
        return self
