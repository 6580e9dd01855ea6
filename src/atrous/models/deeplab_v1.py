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

#: Inputs of the side features of MSc, the multi-scale prediction of §4.3, each as (channels, stride): the picture (0
#: stands for its C channels) and pool1…pool4 of VGG-16.
SIDES = ((0, 1), (64, 2), (128, 4), (256, 8), (512, 16))
SIDE_CHANNELS = 128


class LargeFOV(nn.Module):
    """VGG-16's fully connected layers as convolutions; the first one is atrous, for a large field of view (§3.2).

    Args:
        in_channels: number of channels of the backbone's last features.
        channels: number of channels of fc6 and fc7, ≥ 1; 1024 in the paper.
        rate: atrous rate of fc6 in feature pixels, ≥ 1; 12 at output stride 8.
        dropout: dropout probability after fc6 and fc7, 0–1.
    """

    def __init__(self, in_channels: int, channels: int = 1024, *, rate: int = 12, dropout: float = 0.5) -> None:
        super().__init__()
        self.fc6 = nn.Conv2d(in_channels, channels, 3, padding=rate, dilation=rate)
        self.fc7 = nn.Conv2d(channels, channels, 1)
        self.dropout = nn.Dropout(dropout)
        initialise_relu(self)

    def forward(self, features: Tensor) -> Tensor:
        """Returns N×channels×h×w features for N×C×h×w features."""
        return self.dropout(self.fc7(self.dropout(self.fc6(features).relu())).relu())


class SideFeatures(nn.Module):
    """The side features of MSc (§4.3): the picture and the first four pools, each as 128 channels at the output stride.

    Each input goes through a 3×3 convolution, whose stride brings it to the output stride, and a 1×1 convolution.

    Args:
        in_channels: number of channels C of the picture.
        output_stride: output stride of the main features: 8, 16 or 32.
        dropout: dropout probability after each convolution, 0–1.
    """

    def __init__(self, in_channels: int, output_stride: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.near = nn.ModuleList(nn.Conv2d(c or in_channels, SIDE_CHANNELS, 3, padding=1) for c, _ in SIDES)
        self.far = nn.ModuleList(nn.Conv2d(SIDE_CHANNELS, SIDE_CHANNELS, 1) for _ in SIDES)
        self.dropout = nn.Dropout(dropout)
        self.set_output_stride(output_stride)
        initialise_relu(self)

    def set_output_stride(self, output_stride: int) -> None:
        """Sets the strides of the convolutions so that every side feature has the output stride.

        At output stride 8, pool4 of the backbone has stride 1, so its output already has the output stride.
        """
        for conv, (_, stride) in zip(self.near, SIDES, strict=True):
            assert isinstance(conv, nn.Conv2d)
            step = max(1, output_stride // stride)
            conv.stride = (step, step)

    def forward(self, sources: list[Tensor]) -> list[Tensor]:
        """Returns five N×128×h×w maps for the picture and the outputs of the first four pools."""
        sides = []
        for source, near, far in zip(sources, self.near, self.far, strict=True):
            sides.append(self.dropout(far(self.dropout(near(source).relu())).relu()))
        return sides


class DeepLabV1(nn.Module):
    """DeepLabV1: an atrous VGG-16 and a head with a large field of view; by default at output stride 8.

    In the paper, a fully connected CRF follows the network. In this package, `atrous.crf.DenseCRF` refines the
    probabilities of the network.

    The shared arguments are documented in `atrous.models.paper_arguments`.

    Args:
        backbone: "vgg16" by default, as in the paper.
        output_stride: 8 by default, as in the paper.
        atrous_rate: atrous rate of fc6 at output stride 8, in feature pixels, ≥ 1. It is halved at 16 and quartered at
            32. Default 12, as in the paper (DeepLab-LargeFOV, §5 Table 2).
        fov_channels: number of channels of fc6 and fc7, ≥ 1; default 1024, as in the paper.
        multi_scale: whether the classifier also reads the side features of §4.3 (MSc); for VGG-16 only. Default False.
        dropout: dropout probability after fc6, fc7 and the convolutions of the side features; default 0.5.
        frozen_norm: whether batch norms are frozen. VGG-16 has none, so with VGG-16 this concerns only the auxiliary
            head.
        norm: batch norm settings of the auxiliary head; the paper's head has no batch norm.

    Attributes:
        info: the model's record, see `models.info.Info`.

    Raises:
        AtrousError: a value is out of range, the backbone is unknown, or `multi_scale` is set for another backbone than
            VGG-16.
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
            raise AtrousError(
                f"multi_scale is {multi_scale} with backbone '{backbone}': only vgg16 has the side features "
                "that it needs. Leave multi_scale out, or use backbone 'vgg16'."
            )
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
        """Changes the output stride of the features in place; the weights stay the same.

        Args:
            output_stride: 8, 16 or 32.

        Raises:
            AtrousError: the output stride has another value, or the backbone does not support it.
        """
        self.backbone.set_output_stride(output_stride)
        set_rate(self.head, _rate(self.atrous_rate, output_stride))
        if self.side is not None:
            self.side.set_output_stride(output_stride)
        self.info = replace(self.info, arguments={**self.info.arguments, "output_stride": output_stride})

    def scores(self, images: Tensor) -> dict[str, Tensor]:
        """Returns the logits at low resolution; losses and masks are computed from them.

        Args:
            images: N×C×H×W, normalised; H, W ≥ 1.

        Returns:
            {"main": N×K×⌈H/output_stride⌉×⌈W/output_stride⌉ logits}. In training with an auxiliary head it also
            contains "aux", the logits of that head.

        Raises:
            AtrousError: the pictures have a wrong type or shape; or a batch norm is in training, and the batch is one
                picture with a side under 33 px.
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
        """Returns N×K×H×W logits, bilinearly resized, for N×C×H×W normalised pictures."""
        return resize(self.scores(images)["main"], images.shape[-2:], self.align_corners)

    def train(self, mode: bool = True) -> DeepLabV1:
        """Sets the mode as `nn.Module.train` does; with `frozen_norm`, batch norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_norm:
            freeze_norm(self)
        return self


def _rate(atrous_rate: int, output_stride: int) -> int:
    return max(1, atrous_rate * 8 // output_stride)
