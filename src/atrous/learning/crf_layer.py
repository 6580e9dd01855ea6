"""A CRF as the last layer of any model, trained with it (arXiv:1502.03240)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from atrous.crf import DenseCRF
from atrous.crf.settings import settings_of
from atrous.crf.spatial_gaussian import LEAST
from atrous.learning.recipe import Crf
from atrous.models import Info
from atrous.models.crf_colors import check_crf_fits
from atrous.models.layers import class_probabilities, resize

#: Mean-field steps once trained; five in training and ten afterwards are those of arXiv:1502.03240 §6.
ITERATIONS_AFTER = 10


class CrfLayer(nn.Module):
    """Scores as they are after a CRF whose weights learn.

    Args:
        settings: to start from.
        info: of the model whose scores are refined.

    Attributes:
        crf: whose weights, and compatibility where it is learned, are parameters.
    """

    def __init__(self, settings: Crf, info: Info) -> None:
        super().__init__()
        self.crf = DenseCRF(
            settings.bilateral_weight,
            settings.bilateral_xy,
            settings.bilateral_rgb,
            settings.gaussian_weight,
            settings.gaussian_xy,
            settings.iterations,
            "potts" if settings.compatibility == "potts" else 1 - torch.eye(len(info.classes)),
            trainable=True,
        )
        check_crf_fits(info.preprocessing)
        picture = info.preprocessing.image  # further inputs, such as depth, are no colours to compare
        self.channels = picture.channels
        # The loader makes 16-bit pictures float32, whose colours the CRF would take for steps of 8 bits.
        self.unit = 257.0 if picture.dtype == "uint16" else 1.0

    def forward(self, scores: Tensor, raw_images: Tensor, align_corners: bool = False) -> Tensor:
        """Refines scores at the pictures' full size.

        Args:
            scores: N×K×h×w logits; K = 1 is one logit for two classes.
            raw_images: N×C×H×W, unnormalised.
            align_corners: the model's upsampling convention.

        Returns:
            N×K×H×W float32 logits whose softmax (sigmoid, for K = 1) is what the CRF gives; not finite where the scores
            are not.
        """
        full = resize(scores.float(), raw_images.shape[-2:], align_corners)
        if not full.isfinite().all():  # the training says so, with the names of the pictures
            return full
        pictures = raw_images[:, : self.channels].permute(0, 2, 3, 1)
        if self.unit != 1:
            pictures = pictures / self.unit
        logs = self.crf(pictures, class_probabilities(full)).clamp(min=LEAST).log()
        return logs if scores.shape[1] > 1 else logs[:, 1:] - logs[:, :1]

    @torch.no_grad()
    def keep_in_range(self) -> None:
        """After a step of the optimiser: kernels' weights are 0 or more."""
        self.crf.bilateral_weight.clamp_(min=0)
        self.crf.gaussian_weight.clamp_(min=0)

    def learned(self) -> dict[str, Any]:
        """The CRF's settings as they are used after training, for `Info.crf`."""
        return {**settings_of(self.crf), "iterations": ITERATIONS_AFTER}
