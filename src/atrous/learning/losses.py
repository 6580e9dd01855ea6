"""Losses on low-resolution scores and full-size labels; 255 is ignored by all of them.

Full-size scores of all classes are the largest tensor of a plain training step. Here they never exist: a loss is
computed band by band of rows, and each band's gradient with respect to the low-resolution scores is taken on the spot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.data.labels import IGNORE_INDEX
from atrous.errors import AtrousError, unknown_name
from atrous.models.layers import resize_rows

#: Size of one band of full-size scores. Small enough for the processor's cache, large enough to keep it busy.
BAND_BYTES = 8 * 2**20


class CrossEntropy(nn.Module):
    """Cross-entropy of bilinearly upsampled scores, equal to upsampling first, in a fraction of the memory.

    Args:
        class_weights: one per class, ≥ 0, or None for all 1; the loss is the weighted mean over labelled pixels.
        label_smoothing: 0–1, as in `torch.nn.CrossEntropyLoss`.
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.label_smoothing = label_smoothing

    def forward(self, scores: Tensor, labels: Tensor, align_corners: bool = False) -> Tensor:
        """The mean loss over labelled pixels; 0 with a zero gradient where none is labelled.

        Args:
            scores: N×K×h×w logits of any float type; K = 1 is one logit for two classes.
            labels: N×H×W class indices, 255 = ignore.
            align_corners: the model's upsampling convention.

        Returns:
            A float32 scalar.
        """
        loss: Any = _Banded.apply(scores, labels, self.class_weights, self.label_smoothing, align_corners)
        return loss


class _Banded(torch.autograd.Function):
    """Loss and gradient of upsample + cross-entropy in one pass over bands of rows."""

    @staticmethod
    def forward(ctx, scores, labels, weights, smoothing, align_corners):
        low = scores.detach().float().requires_grad_(scores.requires_grad)
        (height, width), classes = labels.shape[-2:], scores.shape[1]
        band = max(1, BAND_BYTES // (4 * scores.shape[0] * classes * width))
        total = low.new_zeros(())
        gradient = torch.zeros_like(low)
        with torch.enable_grad():
            for start in range(0, height, band):
                rows = range(start, min(start + band, height))
                upsampled = resize_rows(low, (height, width), rows, align_corners)
                loss = _summed(upsampled, labels[:, rows.start : rows.stop], weights, smoothing)
                total += loss.detach()
                if scores.requires_grad:
                    gradient += torch.autograd.grad(loss, low)[0]
        weight = _total_weight(labels, weights).clamp(min=torch.finfo(torch.float32).tiny)
        ctx.save_for_backward((gradient / weight).to(scores.dtype))
        return total / weight

    @staticmethod
    def backward(ctx, *grad_outputs):
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None, None, None


def _summed(scores: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    """Σ of weighted cross-entropy over the labelled pixels of N×K×H×W scores."""
    if scores.shape[1] > 1:
        return F.cross_entropy(
            scores,
            labels.long(),
            weights,
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=smoothing,
        )
    labelled = labels != IGNORE_INDEX
    truth = labels[labelled].float()
    pixel_weights = None if weights is None else weights[truth.long()]
    truth = truth * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(scores[:, 0][labelled], truth, pixel_weights, reduction="sum")


def _total_weight(labels: Tensor, weights: Tensor | None) -> Tensor:
    """Σ of the weights of the labelled pixels: what the mean divides by."""
    counts = torch.bincount(labels.flatten().int(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX].float()
    return counts.sum() if weights is None else (counts[: len(weights)] * weights).sum()


def class_weights(pixels: Sequence[int], how: str) -> list[float] | None:
    """Weights per class from how often it occurs in the training labels, with mean 1 over all pixels.

    Args:
        pixels: labelled pixels per class; a class that never occurs gets the largest weight of those that do.
        how: "none"; "inverse_sqrt", 1/√frequency, or the milder "inverse_fourth_root"; "median_frequency"
            (arXiv:1411.4734 §6.3.2); "log", 1/ln(1.02 + frequency) (ENet, arXiv:1606.02147 §4).

    Raises:
        AtrousError: unknown name, or no labelled pixel at all.
    """
    formulas = {
        "none": None,
        "inverse_sqrt": lambda f: 1 / np.sqrt(f),
        "inverse_fourth_root": lambda f: f**-0.25,
        "median_frequency": lambda f: np.median(f) / f,
        "log": lambda f: 1 / np.log(1.02 + f),
    }
    if how not in formulas:
        raise unknown_name("class weighting", how, formulas)
    counts = np.asarray(pixels, dtype=np.float64)
    if counts.sum() == 0:
        raise AtrousError("the training split has no labelled pixel: check its masks with `atrous doctor`.")
    formula = formulas[how]
    if formula is None:
        return None
    present = counts > 0
    frequency = counts[present] / counts.sum()
    weights = np.zeros(len(counts))
    weights[present] = formula(frequency)
    weights[~present] = weights.max()
    return (weights / (weights[present] * frequency).sum()).tolist()
