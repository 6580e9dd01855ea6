"""A CRF as the last layer of any model, trained with the model (arXiv:1502.03240)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from atrous.crf import DenseCRF
from atrous.crf.settings import settings_of
from atrous.crf.spatial_gaussian import LEAST
from atrous.learning.recipe_sections import Crf
from atrous.models import Info
from atrous.models.crf_colors import check_crf_fits
from atrous.models.layers import class_probabilities, resize

#: Mean-field iterations after training. arXiv:1502.03240 §6 uses five in training and ten afterwards.
ITERATIONS_AFTER = 10


class CrfLayer(nn.Module):
    """A layer that refines scores by a CRF whose weights are trained.

    Args:
        settings: initial settings of the CRF.
        info: metadata of the model whose scores are refined.

    Attributes:
        crf: the CRF. Its kernel weights are parameters. If `settings.compatibility` is "learned", its compatibility
            matrix is a parameter, too.

    Raises:
        AtrousError: as for `check_crf_fits`.
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
        picture = info.preprocessing.image  # the CRF does not use further inputs, such as depth
        self.channels = picture.channels
        # The loader converts 16-bit pictures to float32 without scaling; the CRF expects values of 0–255.
        self.unit = 257.0 if picture.dtype == "uint16" else 1.0

    def forward(self, scores: Tensor, raw_images: Tensor, align_corners: bool = False) -> Tensor:
        """Refines scores at the pictures' full size.

        Args:
            scores: N×K×h×w logits; K = 1 is one logit for two classes.
            raw_images: N×C×H×W, unnormalised.
            align_corners: whether the model's bilinear resizing aligns corners, as in `F.interpolate`.

        Returns:
            N×K×H×W float32 logits whose softmax (sigmoid, for K = 1) is the CRF's output. If any score is not finite,
            the upsampled scores are returned unrefined.
        """
        full = resize(scores.float(), raw_images.shape[-2:], align_corners)
        if not full.isfinite().all():  # the trainer then raises `Diverged` with the names of the pictures
            return full
        pictures = raw_images[:, : self.channels].permute(0, 2, 3, 1)
        if self.unit != 1:
            pictures = pictures / self.unit
        logs = self.crf(pictures, class_probabilities(full)).clamp(min=LEAST).log()
        return logs if scores.shape[1] > 1 else logs[:, 1:] - logs[:, :1]

    @torch.no_grad()
    def keep_in_range(self) -> None:
        """Clamps the kernels' weights to 0 or more; called after each optimiser step."""
        self.crf.bilateral_weight.clamp_(min=0)
        self.crf.gaussian_weight.clamp_(min=0)

    def learned(self) -> dict[str, Any]:
        """Returns the settings of the trained CRF, for `Info.crf`."""
        return {**settings_of(self.crf), "iterations": ITERATIONS_AFTER}
