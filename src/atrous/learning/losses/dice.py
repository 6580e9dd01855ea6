"""The Tversky loss, with the Dice loss as a special case; both compare predicted masks as a whole with the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.learning.losses.mean_of_classes import mean_of_present
from atrous.learning.losses.pixel import bands
from atrous.models.layers import class_probabilities, resize_rows

#: Added to numerator and denominator, so that a class of few pixels has a finite gradient.
SMOOTH = 1.0


class Tversky(nn.Module):
    """Tversky loss (arXiv:1706.05721): mean of 1 − TP / (TP + α·FP + β·FN) of soft masks over the classes in labels.

    Soft masks are the class probabilities; TP, FP and FN are computed from sums over a whole batch. With α = β = ½, the
    loss is the Dice loss (arXiv:1606.04797). Like `pixel.CrossEntropy`, it is computed in bands of rows: a first pass
    for the sums, a second for the gradient.

    Args:
        alpha: weight of false positives, ≥ 0.
        beta: weight of false negatives, ≥ 0; if it is above alpha, masks of rare classes grow.
        class_weights: weight of each class in the mean, ≥ 0; None for equal weights.
    """

    class_weights: Tensor | None

    def __init__(self, alpha: float = 0.5, beta: float = 0.5, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, scores: Tensor, labels: Tensor, align_corners: bool = False) -> Tensor:
        """Returns the loss as a float32 scalar; 0 with a zero gradient if there are no labelled pixels.

        Args:
            scores: N×K×h×w logits; K = 1 is one logit for two classes, and the loss is that of the second class.
            labels: N×H×W class indices, 255 = ignore.
            align_corners: whether the model's bilinear resizing aligns corners, as in `F.interpolate`.
        """
        loss: Any = _TwoPasses.apply(scores, labels, self._of_sums, align_corners)
        return loss

    def _of_sums(self, sums: Tensor) -> Tensor:
        """Returns the loss of 3×K sums.

        The sums of a class are: its probabilities at pixels labelled with it, its probabilities at all labelled pixels,
        and the number of pixels labelled with it.
        """
        hit, predicted, true = sums
        index = (hit + SMOOTH) / (hit + self.alpha * (predicted - hit) + self.beta * (true - hit) + SMOOTH)
        return mean_of_present(1 - index, true > 0, self.class_weights)


class _TwoPasses(torch.autograd.Function):
    """A function of sums over all pixels, computed in bands: a first pass for the sums, a second for the gradient."""

    @staticmethod
    def forward(ctx, scores, labels, of_sums, align_corners):
        low = scores.detach().float()
        with torch.no_grad():
            sums = torch.stack([_sums(low, labels, rows, align_corners) for rows in bands(scores, labels)]).sum(0)
        with torch.enable_grad():
            loss = of_sums(sums.requires_grad_())
            (slopes,) = torch.autograd.grad(loss, sums)
            gradient = torch.zeros_like(low)
            if scores.requires_grad:
                low.requires_grad_()
                for rows in bands(scores, labels):
                    part = (_sums(low, labels, rows, align_corners) * slopes).sum()
                    gradient += torch.autograd.grad(part, low)[0]
        ctx.save_for_backward(gradient.to(scores.dtype))
        return loss.detach()

    @staticmethod
    def backward(ctx, *grad_outputs):
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None, None


def _sums(low: Tensor, labels: Tensor, rows: range, align_corners: bool) -> Tensor:
    """Returns the 3×K sums that `Tversky._of_sums` takes, for some rows; 3×1 for one logit."""
    truth = labels[:, rows.start : rows.stop]
    likely = class_probabilities(resize_rows(low, labels.shape[-2:], rows, align_corners))
    labelled = truth != IGNORE_INDEX
    inside = torch.zeros_like(likely).scatter_(1, torch.where(labelled, truth, 0).long()[:, None], 1.0)
    inside, likely = inside * labelled[:, None], likely * labelled[:, None]
    sums = torch.stack([each.sum((0, 2, 3)) for each in (inside * likely, likely, inside)])
    return sums[:, 1:] if low.shape[1] == 1 else sums
