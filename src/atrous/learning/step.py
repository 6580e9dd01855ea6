"""The one module that training wraps: raw pictures and labels in, loss out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from atrous.arguments import checked
from atrous.errors import AtrousError, shown
from atrous.learning.depthwise import FastDepthwise
from atrous.models import SegmentationModel
from atrous.models.given import check_model
from atrous.models.layers import Normalize

if TYPE_CHECKING:
    from atrous.learning.crf_layer import CrfLayer


class TrainingStep(nn.Module):
    """Normalise, score, compare: what DDP and `torch.compile` wrap, and nothing else.

    Args:
        model: a paper's module with `.scores` and `.info`.
        loss: called with (N×K×h×w scores, N×H×W labels, align_corners); returns a scalar.
        precision: bfloat16 runs the network under autocast; the loss is always computed in float32.
        auxiliary: weight of an auxiliary head's loss, ≥ 0; the others, such as each scale's of DeepLabV2, have 1.
        crf: comes between the main output and its loss, as the model's last layer; or None.

    Raises:
        AtrousError: no model of atrous, or values out of range.
    """

    @checked
    def __init__(
        self,
        model: SegmentationModel,
        loss: nn.Module,
        precision: torch.dtype = torch.float32,
        auxiliary: float = 0.4,
        crf: CrfLayer | None = None,
    ) -> None:
        super().__init__()
        check_model(model)
        if not callable(loss):
            raise AtrousError(f"loss is called with scores, labels and align_corners, got {shown(loss)}.")
        if not isinstance(precision, torch.dtype) or precision not in (torch.float32, torch.bfloat16, torch.float16):
            raise AtrousError(f"precision is torch.float32, torch.bfloat16 or torch.float16, got {shown(precision)}.")
        if isinstance(auxiliary, bool) or not isinstance(auxiliary, int | float) or not 0 <= auxiliary < math.inf:
            raise AtrousError(f"auxiliary is a weight, 0 or more, got {shown(auxiliary)}.")
        self.auxiliary = auxiliary
        self.model = model
        self.loss = loss
        self.precision = precision
        self.crf = crf
        self.normalize = Normalize.of(model.info.preprocessing)

    def forward(self, raw_images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, summed over the model's outputs.

        Args:
            raw_images: N×C×H×W, unnormalised, any dtype.
            labels: N×H×W uint8 class indices, 255 = ignore.

        Returns:
            A float32 scalar.
        """
        images = self.normalize(raw_images)
        mixed = self.precision != torch.float32
        autocast = torch.autocast(images.device.type, dtype=self.precision if mixed else None, enabled=mixed)
        with autocast, FastDepthwise():
            scores = self.model.scores(images)
        if self.crf is not None:
            scores = {**scores, "main": self.crf(scores["main"], raw_images, self.model.align_corners)}
        losses = [
            self.loss(output, labels, self.model.align_corners) * (self.auxiliary if name == "aux" else 1.0)
            for name, output in scores.items()
        ]
        return torch.stack(losses).sum()
