"""DeepLabV2: DeepLab with atrous spatial pyramid pooling and multi-scale inputs (arXiv:1606.00915)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.checked_arguments import checked
from atrous.errors import AtrousError
from atrous.models.auxiliary_head import AuxiliaryHead
from atrous.models.backbones import create_backbone
from atrous.models.default_info import first_info
from atrous.models.info import aligned_side
from atrous.models.layers import Norm, check_pictures, freeze_norm, initialise_relu, resize, set_rate
from atrous.models.paper_arguments import check_arguments, checked_constructor
from atrous.models.tensorflow_same_padding import pads_unevenly

#: The paper's two pyramids (§4.1, Figure 7), at output stride 8.
ASPP_S, ASPP_L = (2, 4, 8, 12), (6, 12, 18, 24)


class Branch(nn.Module):
    """One branch of the ASPP on VGG-16: fc6 with one atrous rate, fc7 and fc8 (§3.2, Figure 7b).

    Args:
        in_channels: C of the backbone's last features.
        channels: C of fc6 and fc7, ≥ 1; 1024 in the paper.
        num_classes: K ≥ 1.
        rate: atrous rate of fc6, in feature pixels, ≥ 1.
        dropout: dropout probability after fc6 and fc7, 0–1.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, *, rate: int, dropout: float) -> None:
        super().__init__()
        self.fc6 = nn.Conv2d(in_channels, channels, 3, padding=rate, dilation=rate)
        self.fc7 = nn.Conv2d(channels, channels, 1)
        self.fc8 = nn.Conv2d(channels, num_classes, 1)
        self.dropout = nn.Dropout(dropout)
        for conv in (self.fc6, self.fc7):
            initialise_relu(conv)

    def forward(self, features: Tensor) -> Tensor:
        """Returns N×K×h×w logits for N×C×h×w features."""
        hidden = self.dropout(self.fc6(features).relu())
        return self.fc8(self.dropout(self.fc7(hidden).relu()))


class SummedASPP(nn.Module):
    """The sum of the logits of several fields of view (§3.2), without the batch norm and image pooling of V3.

    Args:
        in_channels: C of the backbone's last features.
        num_classes: K ≥ 1.
        rates: atrous rate of each branch, in feature pixels, ≥ 1.
        channels: C of fc6 and fc7 in each branch. 0 makes each branch one 3×3 convolution to K channels, as on
            ResNet-101 (kazuto1011/deeplab-pytorch, libs/models/deeplabv2.py).
        dropout: dropout probability, 0–1, after fc6 and fc7 or, in branches of one convolution, on the input features.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, rates: Sequence[int], channels: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.0 if channels else dropout)
        if channels:
            make = [Branch(in_channels, channels, num_classes, rate=rate, dropout=dropout) for rate in rates]
        else:
            make = [nn.Conv2d(in_channels, num_classes, 3, padding=rate, dilation=rate) for rate in rates]
        self.branches = nn.ModuleList(make)
        for name, last in self.named_modules():
            if isinstance(last, nn.Conv2d) and (not channels or name.endswith("fc8")):
                nn.init.normal_(last.weight, std=0.01)
                nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]

    def set_rates(self, rates: Sequence[int]) -> None:
        """Changes the atrous rates in place, one per branch; the weights stay the same."""
        for branch, rate in zip(self.branches, rates, strict=True):
            set_rate(branch, rate)

    def forward(self, features: Tensor) -> Tensor:
        """Returns N×K×h×w logits for N×C×h×w features."""
        features = self.dropout(features)
        return torch.stack([branch(features) for branch in self.branches]).sum(0)


class DeepLabV2(nn.Module):
    """DeepLabV2: atrous backbone and ASPP, run on the picture at several scales; the logits are fused by the maximum.

    Difference from the paper: the maximum of the logits is taken at the output stride and then upsampled
    (kazuto1011/deeplab-pytorch, libs/models/msc.py); the paper upsamples the logits of each scale first (§3.2).

    If the backbone has TensorFlow's SAME padding, the smaller pictures have sides of 32k + 1 pixels. Then the features
    of all scales lie at the same positions.

    The shared arguments are documented in `atrous.models.paper_arguments`.

    Args:
        backbone: "resnet101" by default; the paper also uses "vgg16".
        output_stride: 8 by default, as in the paper.
        atrous_rates: atrous rates of the ASPP at output stride 8, in feature pixels: at least one, whole numbers ≥ 1.
            They are halved at 16 and quartered at 32. Default `ASPP_L`; the paper also uses `ASPP_S`.
        fov_channels: C of fc6 and fc7 in each branch; 0 for branches of one convolution. Default None, as in the
            paper: 1024 on VGG-16, 0 on other backbones.
        scales: scales of the input pictures, above 0, at most 1, with 1 among them; (1.0,) for the unscaled
            picture alone (§4.1). Default (0.5, 0.75, 1.0).
        dilation_rule: "previous" by default; the authors' Caffe networks use "full".
        dropout: dropout probability after fc6 and fc7, or on the features if there is no fc6. Default None: 0.5 with
            fc6 and fc7, else 0.
        norm: batch norm settings of the auxiliary head; the paper's head has no batch norm.

    Attributes:
        info: the model's record, see `models.info.Info`.

    Raises:
        AtrousError: a value is out of range, or the backbone is unknown.
    """

    @checked_constructor
    def __init__(
        self,
        *,
        backbone: str = "resnet101",
        num_classes: int = 21,
        output_stride: int = 8,
        in_channels: int = 3,
        atrous_rates: Sequence[int] = ASPP_L,
        fov_channels: int | None = None,
        scales: Sequence[float] = (0.5, 0.75, 1.0),
        dilation_rule: str = "previous",
        auxiliary: bool = False,
        dropout: float | None = None,
        frozen_norm: bool = False,
        norm: Norm = (1e-5, 0.1),
        align_corners: bool = False,
        backbone_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if fov_channels is None:
            fov_channels = 1024 if backbone == "vgg16" else 0
        if dropout is None:
            dropout = 0.5 if fov_channels else 0.0
        arguments = dict(locals())
        check_arguments(arguments, fewest_rates=1)
        if 1 not in scales or not all(0 < scale <= 1 for scale in scales):
            raise AtrousError(f"scales must lie in 0–1 and contain 1, such as (0.5, 0.75, 1), got {tuple(scales)}.")
        if len({_name(scale) for scale in scales}) < len(scales):
            raise AtrousError(f"scales must differ in their first six digits, got {tuple(scales)}.")
        self.align_corners, self.frozen_norm, self.atrous_rates = align_corners, frozen_norm, tuple(atrous_rates)
        self.smaller_scales = {_name(scale): scale for scale in sorted(scales) if scale != 1}
        self.backbone = create_backbone(
            backbone,
            backbone_arguments,
            in_channels=in_channels,
            output_stride=output_stride,
            dilation_rule=dilation_rule,
            multi_grid=None,
        )
        self.pads_unevenly = pads_unevenly(self.backbone)
        self.info = first_info("deeplabv2", arguments, self.backbone)
        self.aspp = SummedASPP(
            self.backbone.high_channels,
            num_classes,
            rates=self._rates(output_stride),
            channels=fov_channels,
            dropout=dropout,
        )
        middle = self.backbone.middle_channels
        self.auxiliary = AuxiliaryHead(middle, num_classes, norm=norm) if auxiliary else None

    def _rates(self, output_stride: int) -> tuple[int, ...]:
        return tuple(max(1, rate * 8 // output_stride) for rate in self.atrous_rates)

    @checked
    def set_output_stride(self, output_stride: int) -> None:
        """Changes the output stride of the features in place; the weights stay the same.

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
            {"main": N×K×⌈H/output_stride⌉×⌈W/output_stride⌉ logits}, the maximum over the scales. In training with
            several scales it also contains the logits of each scale, under "scale_1", "scale_0.5" and so on, because
            each scale has its own loss (§4.1). In training with an auxiliary head it also contains "aux",
            the logits of that head.

        Raises:
            AtrousError: the pictures have a wrong type or shape; or a batch norm is in training, and the batch is one
                picture with a side under 33 px at the smallest scale.
        """
        check_pictures(self, images, min([1.0, *self.smaller_scales.values()]))
        _, middle, high = self.backbone(images)
        largest = self.aspp(high)
        by_scale = {"scale_1": largest}
        for name, scale in self.smaller_scales.items():
            by_scale[name] = self.aspp(self.backbone(self._shrink(images, scale)).high)
        resized = [resize(scores, largest.shape[-2:], self.align_corners) for scores in by_scale.values()]
        scores = {"main": torch.stack(resized).amax(0)}
        if self.training and self.smaller_scales:
            scores |= by_scale
        if self.training and self.auxiliary is not None:
            scores["aux"] = self.auxiliary(middle)
        return scores

    def _shrink(self, images: Tensor, scale: float) -> Tensor:
        """Returns the picture at a scale below 1, sampled every 1/scale pixels, as other implementations do."""
        sides = images.shape[-2:]
        # without this rounding, the sampling positions of the scales would differ by up to one stride
        if self.pads_unevenly:
            size = [aligned_side(side, scale) for side in sides]
            return F.interpolate(images, size=size, mode="bilinear", align_corners=self.align_corners)
        if min(sides) * scale < 1:
            return resize(images, [max(1, int(side * scale)) for side in sides], self.align_corners)
        return F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=self.align_corners)

    def forward(self, images: Tensor) -> Tensor:
        """Returns N×K×H×W logits, bilinearly resized, for N×C×H×W normalised pictures."""
        return resize(self.scores(images)["main"], images.shape[-2:], self.align_corners)

    def train(self, mode: bool = True) -> DeepLabV2:
        """Sets the mode as `nn.Module.train` does; with `frozen_norm`, batch norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_norm:
            freeze_norm(self)
        return self


def _name(scale: float) -> str:
    """Returns the name of the logits of a scale, as losses and logs use it."""
    return f"scale_{scale:g}"
