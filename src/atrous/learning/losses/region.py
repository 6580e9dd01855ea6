"""Losses over regions, which compare a whole mask with its truth: Tversky, of which Dice is one, and Lovász-softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from atrous.data.label_map import IGNORE_INDEX
from atrous.learning.losses.pixel import bands
from atrous.models.layers import class_probabilities, resize, resize_rows

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


class LovaszSoftmax(nn.Module):
    """The Lovász extension of 1 − IoU, the mean over the classes in the labels (arXiv:1705.08790, over a whole batch).

    It sorts the errors of all pixels, so full-size probabilities of all classes exist, unlike in all other losses.

    Args:
        class_weights: one per class, ≥ 0, of the mean; None for all 1.
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, scores: Tensor, labels: Tensor, align_corners: bool = False) -> Tensor:
        """As `Tversky.forward`."""
        labelled = labels != IGNORE_INDEX
        truth = labels[labelled]
        full = resize(scores.float(), labels.shape[-2:], align_corners)
        likely = class_probabilities(full).transpose(0, 1)[:, labelled]
        if scores.shape[1] == 1:
            likely, truth = likely[1:], torch.where(truth == 1, 0, 1)
        present = torch.bincount(truth.int(), minlength=len(likely))[: len(likely)] > 0
        losses = [_lovasz(one, truth == index) if present[index] else one.sum() * 0 for index, one in enumerate(likely)]
        weights = self.class_weights
        return mean_of_present(torch.stack(losses), present, weights)


def mean_of_present(losses: Tensor, present: Tensor, weights: Tensor | None) -> Tensor:
    """The weighted mean of K losses over the classes that are present; 0 where none is."""
    if weights is not None and len(weights) > len(losses):  # of one logit
        weights = weights[1:]
    share = present.float() if weights is None else present * weights
    return (losses * share).sum() / share.sum().clamp(min=torch.finfo(torch.float32).tiny)


def _lovasz(likely: Tensor, inside: Tensor) -> Tensor:
    """Of one class: its errors, the largest first, each times how much the IoU falls with it (algorithm 1)."""
    errors, order = (inside.float() - likely).abs().sort(descending=True)
    sorted_inside = inside[order].float()
    total = sorted_inside.sum()
    missed = total - sorted_inside.cumsum(0)
    joined = total + (1 - sorted_inside).cumsum(0)
    falls = 1 - missed / joined
    return errors @ torch.diff(falls, prepend=falls.new_zeros(1))


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
