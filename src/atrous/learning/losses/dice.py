"""The Tversky loss, of which the Dice loss is one case: it compares whole masks with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.learning.losses.mean_of_classes import mean_of_present
from atrous.learning.losses.pixel import bands
from atrous.models.layers import class_probabilities, resize_rows

#: Added above and below the line, so that a class of few pixels has a finite gradient.
SMOOTH = 1.0


class Tversky(nn.Module):
    """1 − TP / (TP + α·FP + β·FN) of soft masks, the mean over the classes in the labels (arXiv:1706.05721).

    With α = β = ½ it is the Dice loss (arXiv:1606.04797). It is taken over a whole batch, in bands as
    `pixel.CrossEntropy` is: one pass for the sums, a second for the gradient.

    Args:
        alpha: ≥ 0, what a pixel too many costs.
        beta: ≥ 0, what a missing one costs; above alpha, masks of rare classes grow.
        class_weights: one per class, ≥ 0, of the mean; None for all 1.
    """

    class_weights: Tensor | None

    def __init__(self, alpha: float = 0.5, beta: float = 0.5, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, scores: Tensor, labels: Tensor, align_corners: bool = False) -> Tensor:
        """Of N×K×h×w logits and N×H×W labels a float32 scalar; 0 with a zero gradient where nothing is labelled.

        K = 1 is one logit for two classes, of which the second counts.
        """
        loss: Any = _TwoPasses.apply(scores, labels, self._of_sums, align_corners)
        return loss

    def _of_sums(self, sums: Tensor) -> Tensor:
        """3×K sums: of likelihoods within the class, of all likelihoods, of the class's pixels."""
        hit, predicted, true = sums
        index = (hit + SMOOTH) / (hit + self.alpha * (predicted - hit) + self.beta * (true - hit) + SMOOTH)
        return mean_of_present(1 - index, true > 0, self.class_weights)


class _TwoPasses(torch.autograd.Function):
    """A function of sums over all pixels: the sums in bands, then in bands again the gradient, given theirs."""

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
    """3×K, or 3×1 of one logit: of some rows, what `Tversky` is made of."""
    truth = labels[:, rows.start : rows.stop]
    likely = class_probabilities(resize_rows(low, labels.shape[-2:], rows, align_corners))
    labelled = truth != IGNORE_INDEX
    inside = torch.zeros_like(likely).scatter_(1, torch.where(labelled, truth, 0).long()[:, None], 1.0)
    inside, likely = inside * labelled[:, None], likely * labelled[:, None]
    sums = torch.stack([each.sum((0, 2, 3)) for each in (inside * likely, likely, inside)])
    return sums[:, 1:] if low.shape[1] == 1 else sums
