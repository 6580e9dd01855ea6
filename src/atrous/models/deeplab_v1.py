"""DeepLabV1: Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs (arXiv:1412.7062)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from atrous.checked_arguments import checked
from atrous.errors import AtrousError
from atrous.models.auxiliary_head import AuxiliaryHead
from atrous.models.backbones import create_backbone
from atrous.models.default_info import first_info
from atrous.models.layers import Norm, check_pictures, freeze_norm, initialise_relu, resize, set_rate
from atrous.models.paper_arguments import check_arguments, checked_constructor
from atrous.models.vgg import VGG16

#: Where the side features of MSc leave VGG-16: the picture and pool1…pool4, with their channels and strides (§4.3).
SIDES = ((0, 1), (64, 2), (128, 4), (256, 8), (512, 16))
SIDE_CHANNELS = 128


class LargeFOV(nn.Module):
    """VGG's fully connected layers as convolutions, the first one atrous: a large field of view at low cost (§3.2).

    Args:
        in_channels: C of the backbone's last features.
        channels: C of fc6 and fc7; 1024 in the paper.
        rate: atrous rate of fc6 in feature pixels; 12 at output stride 8.
        dropout: probability, 0–1, after fc6 and fc7.
    """

    def __init__(self, in_channels: int, channels: int = 1024, *, rate: int = 12, dropout: float = 0.5) -> None:
        super().__init__()
        self.fc6 = nn.Conv2d(in_channels, channels, 3, padding=rate, dilation=rate)
        self.fc7 = nn.Conv2d(channels, channels, 1)
        self.dropout = nn.Dropout(dropout)
        initialise_relu(self)

    def forward(self, features: Tensor) -> Tensor:
        """N×C×h×w → N×channels×h×w."""
        return self.dropout(self.fc7(self.dropout(self.fc6(features).relu())).relu())


class SideFeatures(nn.Module):
    """MSc: what the picture and the first four pools show, in 128 channels each, at the output stride (§4.3).

    Each side has a 3×3 convolution, strided to the output stride, and a 1×1 convolution.

    Args:
        in_channels: C of the picture.
        output_stride: of the main features.
        dropout: probability, 0–1, after each convolution.
    """

    def __init__(self, in_channels: int, output_stride: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.near = nn.ModuleList(nn.Conv2d(c or in_channels, SIDE_CHANNELS, 3, padding=1) for c, _ in SIDES)
        self.far = nn.ModuleList(nn.Conv2d(SIDE_CHANNELS, SIDE_CHANNELS, 1) for _ in SIDES)
        self.dropout = nn.Dropout(dropout)
        self.set_output_stride(output_stride)
        initialise_relu(self)

    def set_output_stride(self, output_stride: int) -> None:
        """Strides such that every side ends at the output stride; pool4 loses its own at output stride 8."""
        for conv, (_, stride) in zip(self.near, SIDES, strict=True):
            assert isinstance(conv, nn.Conv2d)
            step = max(1, output_stride // stride)
            conv.stride = (step, step)

    def forward(self, sources: list[Tensor]) -> list[Tensor]:
        """The picture and four pools → five maps N×128×h×w."""
        sides = []
        for source, near, far in zip(sources, self.near, self.far, strict=True):
            sides.append(self.dropout(far(self.dropout(near(source).relu())).relu()))
        return sides


class DeepLabV1(nn.Module):
    """An atrous VGG-16 with a large field of view, scores at an eighth of the picture's size.

    The fully connected CRF that follows in the paper refines probabilities after the network.

    Args:
        backbone: "vgg16" in the paper; any network of `models.backbones`.
        num_classes: K ≥ 1; 1 is one logit that separates two classes at probability 0.5.
        output_stride: 8 in the paper, 16 or 32.
        in_channels: C ≥ 1 of the pictures.
        atrous_rate: of fc6 at output stride 8; halved at 16. 12 in the paper (DeepLab-LargeFOV, §5 Table 2).
        fov_channels: C of fc6 and fc7, 1024 in the paper.
        multi_scale: MSc, the side features of §4.3; over VGG-16 only.
        dilation_rule: "previous" or "full", see `models.backbones`.
        auxiliary: a second classifier for training, on the stage before the last.
        dropout: probability, 0–1, after fc6 and fc7.
        frozen_norm: batch norms of the backbone keep their statistics in training.
        norm: (eps, momentum) of the auxiliary head's batch norm; the paper's head has none.
        align_corners: convention of every resize.
        backbone_arguments: further arguments of `models.backbones.Backbone`.

    Attributes:
        info: what the model says about itself, see `models.info.Info`.

    Raises:
        AtrousError: values out of range, an unknown backbone, or MSc over another backbone than VGG-16.
    """

    @checked_constructor
    def __init__(
        self,
        *,
        backbone: str = "vgg16",
        num_classes: int = 21,
        output_stride: int = 8,
        in_channels: int = 3,
        atrous_rate: int = 12,
        fov_channels: int = 1024,
        multi_scale: bool = False,
        dilation_rule: str = "previous",
        auxiliary: bool = False,
        dropout: float = 0.5,
        frozen_norm: bool = False,
        norm: Norm = (1e-5, 0.1),
        align_corners: bool = False,
        backbone_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        arguments = dict(locals())
        check_arguments(arguments, fov_channels=1)
        self.align_corners, self.frozen_norm, self.atrous_rate = align_corners, frozen_norm, atrous_rate
        self.backbone = create_backbone(
            backbone,
            backbone_arguments,
            in_channels=in_channels,
            output_stride=output_stride,
            dilation_rule=dilation_rule,
            multi_grid=None,
        )
        if multi_scale and not isinstance(self.backbone, VGG16):
            raise AtrousError(f"multi_scale takes the side features of vgg16, backbone '{backbone}' has none.")
        rate = _rate(atrous_rate, output_stride)
        self.head = LargeFOV(self.backbone.high_channels, fov_channels, rate=rate, dropout=dropout)
        self.side = SideFeatures(in_channels, output_stride, dropout=dropout) if multi_scale else None
        width = fov_channels + (len(SIDES) * SIDE_CHANNELS if multi_scale else 0)
        self.info = first_info("deeplabv1", arguments, self.backbone)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # pyright: ignore[reportArgumentType]
        middle = self.backbone.middle_channels
        self.auxiliary = AuxiliaryHead(middle, num_classes, norm=norm) if auxiliary else None

    @checked
    def set_output_stride(self, output_stride: int) -> None:
        """Changes the density of the features in place, on the same weights.

        Args:
            output_stride: 8, 16 or 32.
        """
        self.backbone.set_output_stride(output_stride)
        set_rate(self.head, _rate(self.atrous_rate, output_stride))
        if self.side is not None:
            self.side.set_output_stride(output_stride)
        self.info = replace(self.info, arguments={**self.info.arguments, "output_stride": output_stride})

    def scores(self, images: Tensor) -> dict[str, Tensor]:
        """Class scores at low resolution, where losses and masks are made from them.

        Args:
            images: N×C×H×W, normalised, any H, W ≥ 1.

        Returns:
            {"main": N×K×⌈H/8⌉×⌈W/8⌉} logits; in training with an auxiliary head also "aux".

        Raises:
            AtrousError: in training with batch norms, one picture smaller than 33×33 px.
        """
        check_pictures(self, images)
        if self.side is not None and isinstance(self.backbone, VGG16):
            pools, _ = self.backbone.stages(images)
            middle, high = pools[3], self.backbone.average(pools[4])
            features = torch.cat([self.head(high), *self.side([images, *pools[:4]])], dim=1)
        else:
            _, middle, high = self.backbone(images)
            features = self.head(high)
        scores = {"main": self.classifier(features)}
        if self.auxiliary is not None and self.training:
            scores["aux"] = self.auxiliary(middle)
        return scores

    def forward(self, images: Tensor) -> Tensor:
        """N×C×H×W normalised → N×K×H×W logits, bilinearly resized."""
        return resize(self.scores(images)["main"], images.shape[-2:], self.align_corners)

    def train(self, mode: bool = True) -> DeepLabV1:
        """As `nn.Module.train`; frozen batch norms stay as they are."""
        super().train(mode)
        if self.frozen_norm:
            freeze_norm(self)
        return self


def _rate(atrous_rate: int, output_stride: int) -> int:
    return max(1, atrous_rate * 8 // output_stride)
