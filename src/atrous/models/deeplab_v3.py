"""DeepLabV3: Rethinking Atrous Convolution for Semantic Image Segmentation (arXiv:1706.05587)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from atrous.checked_arguments import checked
from atrous.errors import AtrousError
from atrous.models.aspp import ASPP
from atrous.models.auxiliary_head import AuxiliaryHead
from atrous.models.backbones import Backbone, create_backbone, is_separable_family, plain_blocks
from atrous.models.default_info import first_info
from atrous.models.layers import Norm, check_pictures, conv3x3, freeze_norm, initialise, resize, set_norm, set_rate
from atrous.models.paper_arguments import check_arguments, checked_constructor
from atrous.models.vgg import VGG16

#: Multi-grids of the paper's best networks, which are factors on the rates of the last stage's three blocks: (1, 2, 4)
#: with ASPP (§4.3) and (1, 2, 1) with the cascade (§4.2).
MULTI_GRID, CASCADE_MULTI_GRID = (1, 2, 4), (1, 2, 1)


class Cascade(nn.Module):
    """Cascaded blocks: copies of ResNet's last stage, each with twice the atrous rate of the stage before (§3.2).

    If block 4 of the paper (the last stage) has rate 2, blocks 5, 6 and 7 have the rates 4, 8 and 16, times the
    factors of the multi-grid.

    Args:
        backbone: a ResNet, whose last stage is copied. All units are copies of its second unit, because the first unit
            changes the number of channels.
        num_blocks: number of copies, ≥ 1; 3 in the paper (blocks 5–7).
        multi_grid: factors on the rates, one for each unit of a block, above 0.
        dropout: dropout probability after the last block, 0–1.

    Raises:
        AtrousError: the backbone is not a ResNet.
    """

    def __init__(
        self, backbone: Backbone | VGG16, num_blocks: int, *, multi_grid: Sequence[float], dropout: float = 0.1
    ) -> None:
        super().__init__()
        units = plain_blocks(backbone.net)
        if len(units) < 2:
            raise AtrousError(f"cascade copies a ResNet's last stage; backbone '{backbone.name}' is not a ResNet.")
        self.multi_grid = tuple(multi_grid)
        blocks = [nn.Sequential(*(copy.deepcopy(units[1]) for _ in units)) for _ in range(num_blocks)]
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.set_rate(backbone.output_stride)

    def set_rate(self, output_stride: int) -> None:
        """Sets the rates of the copies for an output stride of 8, 16 or 32; the weights stay the same."""
        for number, block in enumerate(self.blocks, start=1):
            for unit, factor in zip(block.children(), self.multi_grid, strict=True):
                set_rate(unit, max(1, round(32 // output_stride * 2**number * factor)))

    def forward(self, features: Tensor) -> Tensor:
        """Returns N×C×h×w features for N×C×h×w features."""
        return self.dropout(self.blocks(features))


class DeepLabV3(nn.Module):
    """DeepLabV3: an atrous backbone and ASPP with image-level features, or cascaded atrous blocks in place of the ASPP.

    The shared arguments are documented in `atrous.models.paper_arguments`.

    Args:
        backbone: "resnet101" by default; the paper also uses "resnet50".
        output_stride: 16 by default; the paper trains at 16 and evaluates at 8.
        aspp_conv: whether one more 3×3 unit follows the projection of the ASPP, as in segmentation-models-pytorch and
            torchvision; default False.
        multi_grid: default None. If the backbone is a ResNet whose last stage has three plain blocks, None means the
            paper's best factors: (1, 2, 4) with ASPP, (1, 2, 1) with the cascade. Otherwise None means factors of 1.
        cascade: number of copies of the last stage that replace the ASPP, 0–64; 0 (default) keeps the ASPP; the
            paper uses 3. With a cascade, the backbone must be a ResNet, and the arguments of the ASPP have no effect.
        dropout: dropout probability on the output of the ASPP or the cascade; default 0.1.
        frozen_norm: whether all batch norms keep their running statistics in training, as in the second phase of the
            paper's training (§4.1); default False.
        norm: (eps, momentum) of the head's batch norms, by default (1e-5, 0.1); the paper's momentum is 0.0003 (decay
            0.9997).

    Attributes:
        info: the model's record, see `models.info.Info`.

    Raises:
        AtrousError: a value is out of range, the backbone is unknown, or a multi-grid or cascade is given for a
            backbone that is not a ResNet.
    """

    @checked_constructor
    def __init__(
        self,
        *,
        backbone: str = "resnet101",
        num_classes: int = 21,
        output_stride: int = 16,
        in_channels: int = 3,
        atrous_rates: Sequence[float] = (6, 12, 18),
        aspp_channels: int = 256,
        aspp_conv: bool = False,
        projection_kernel: int = 1,
        multi_grid: Sequence[float] | None = None,
        cascade: int = 0,
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
        if multi_grid is None and len(plain_blocks(self.backbone.net)) == 3:
            assert isinstance(self.backbone, Backbone)
            multi_grid = CASCADE_MULTI_GRID if cascade else MULTI_GRID
            self.backbone.set_multi_grid(multi_grid)
        self.info = first_info("deeplabv3", {**arguments, "multi_grid": multi_grid or (1, 1, 1)}, self.backbone)
        high, middle = self.backbone.high_channels, self.backbone.middle_channels
        units: dict[str, Any] = {"separable": separable, "depthwise_norm": depthwise_norm}
        self.cascade = self.aspp = None
        self.aspp_conv = nn.Identity()
        if cascade:
            grid = self.backbone.multi_grid or (1,) * len(plain_blocks(self.backbone.net))
            self.cascade = Cascade(self.backbone, cascade, multi_grid=grid, dropout=dropout)
        else:
            self.aspp = ASPP(
                high,
                aspp_channels,
                rates=self._rates(output_stride),
                projection_kernel=projection_kernel,
                dropout=dropout,
                **units,
            )
            self.aspp_conv = conv3x3(aspp_channels, aspp_channels, **units) if aspp_conv else nn.Identity()
        self.classifier = nn.Conv2d(high if cascade else aspp_channels, num_classes, 1)
        for part in (self.cascade, self.aspp, self.aspp_conv, self.classifier):
            if part is not None:
                initialise(part)
                set_norm(part, norm)
        self.auxiliary = AuxiliaryHead(middle, num_classes, norm=norm) if auxiliary else None

    def _rates(self, output_stride: int) -> tuple[int, ...]:
        return tuple(max(1, int(rate * 16 // output_stride)) for rate in self.atrous_rates)

    @checked
    def set_output_stride(self, output_stride: int) -> None:
        """Changes the output stride of the features in place; the weights stay the same (§3.3, §4.2).

        Args:
            output_stride: 8, 16 or 32.

        Raises:
            AtrousError: the output stride has another value, or the backbone does not support it.
        """
        self.backbone.set_output_stride(output_stride)
        if self.aspp is not None:
            self.aspp.set_rates(self._rates(output_stride))
        if self.cascade is not None:
            self.cascade.set_rate(output_stride)
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
        _, middle, features = self.backbone(images)
        for part in (self.cascade, self.aspp):
            features = features if part is None else part(features)
        scores = {"main": self.classifier(self.aspp_conv(features))}
        if self.auxiliary is not None and self.training:
            scores["aux"] = self.auxiliary(middle)
        return scores

    def forward(self, images: Tensor) -> Tensor:
        """Returns N×K×H×W logits, bilinearly resized, for N×C×H×W normalised pictures."""
        return resize(self.scores(images)["main"], images.shape[-2:], self.align_corners)

    def train(self, mode: bool = True) -> DeepLabV3:
        """Sets the mode as `nn.Module.train` does; with `frozen_norm`, batch norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_norm:
            freeze_norm(self)
        return self
