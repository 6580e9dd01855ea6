"""Losses over pixels, from low-resolution scores and full-size labels; labels of 255 are ignored.

Full-size scores of all classes are the largest tensor of a plain training step. Here, only one band of rows of the
full-size scores is in memory at a time: the loss of a band, and the gradient of this loss with respect to the
low-resolution scores, are computed before the next band.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.device import with_float64
from atrous.models.layers import resize_rows

#: Size in bytes of one band of full-size scores: small enough for the processor's cache, large enough for full speed.
BAND_BYTES = 8 * 2**20
#: A pixel is hard if the probability of its true class is below this value (OHEM in mmsegmentation).
HARD_BELOW = 0.7
#: Largest distance from another class, in pixels, at which a pixel counts as near a boundary.
BOUNDARY_REACH = 2


class CrossEntropy(nn.Module):
    """Cross-entropy of bilinearly upsampled scores, in a fraction of the memory of upsampling all rows at once.

    Args:
        class_weights: weight of each class, ≥ 0; None for 1 each. The loss is the weighted mean over labelled pixels.
        label_smoothing: label smoothing, 0–1, as in `torch.nn.CrossEntropyLoss`.
        focal: γ ≥ 0 of the focal loss (arXiv:1708.02002): the loss of each pixel is multiplied by (1 − p)^γ, with p the
            probability of its true class; 0 for plain cross-entropy.
        hardest: smallest number of hard pixels, as a share of the labelled pixels, 0–1. Above 0, only hard pixels count
            (OHEM, arXiv:1604.03540; see `hard_pixels`); at 0, all labelled pixels count.
        boundary: extra weight, ≥ 0: pixels within two pixels of another class get the weight 1 + boundary.
        mean_of: function that returns the mean of a tensor over all training processes (`ProcessGroup.mean_of`); None
            for one process.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        *,
        focal: float = 0.0,
        hardest: float = 0.0,
        boundary: float = 0.0,
        mean_of: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.label_smoothing, self.focal, self.hardest, self.boundary = label_smoothing, focal, hardest, boundary
        self.mean_of = mean_of

    def forward(self, scores: Tensor, labels: Tensor, align_corners: bool = False) -> Tensor:
        """Returns the mean loss over labelled pixels; 0 with a zero gradient if there are no labelled pixels.

        With `mean_of`, each process divides its sum of losses by the mean of the processes' total weights. So the mean
        of the processes' losses is the mean over the pixels of all processes.

        Args:
            scores: N×K×h×w logits of any float type; K = 1 is one logit for two classes.
            labels: N×H×W class indices, 255 = ignore.
            align_corners: whether the model's bilinear resizing aligns corners, as in `F.interpolate`.

        Returns:
            A float32 scalar.
        """
        counted = None
        if self.boundary:
            counted = 1 + self.boundary * near_boundary(labels)
        if self.hardest:
            hard = hard_pixels(scores, labels, self.hardest, align_corners)
            counted = hard.float() if counted is None else counted * hard
        loss: Any = _Banded.apply(
            scores, labels, counted, self.class_weights, self.label_smoothing, self.focal, align_corners, self.mean_of
        )
        return loss


class _Banded(torch.autograd.Function):
    """Cross-entropy of upsampled scores; one pass over bands of rows computes the loss and its gradient."""

    @staticmethod
    def forward(ctx, scores, labels, counted, weights, smoothing, focal, align_corners, mean_of):
        def loss_of(upsampled: Tensor, band: slice) -> Tensor:
            here = None if counted is None else counted[:, band]
            return _summed(upsampled, labels[:, band], here, weights, smoothing, focal)

        total, gradient = summed_over_bands(scores, labels, loss_of, align_corners)
        weight = _total_weight(labels, counted, weights)
        weight = weight if mean_of is None else mean_of(weight)
        weight = weight.clamp(min=torch.finfo(torch.float32).tiny)
        ctx.save_for_backward((gradient / weight).to(scores.dtype))
        return total / weight

    @staticmethod
    def backward(ctx, *grad_outputs):
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None, None, None, None, None, None


def summed_over_bands(
    scores: Tensor, labels: Tensor, loss_of: Callable[[Tensor, slice], Tensor], align_corners: bool
) -> tuple[Tensor, Tensor]:
    """Returns the sum of a loss over bands of rows of upsampled scores, and its gradient.

    Args:
        scores: N×K×h×w logits of any float type.
        labels: N×H×W labels, whose size the upsampled scores get.
        loss_of: function of the N×K×rows×W float32 scores of a band and its rows; it returns a scalar.
        align_corners: whether the model's bilinear resizing aligns corners, as in `F.interpolate`.

    Returns:
        The sum, and its N×K×h×w float32 gradient with respect to the scores; 0 if the scores need no gradient.
    """
    low = scores.detach().float().requires_grad_(scores.requires_grad)
    total = low.new_zeros(())
    gradient = torch.zeros_like(low)
    with torch.enable_grad():
        for rows in bands(scores, labels):
            upsampled = resize_rows(low, labels.shape[-2:], rows, align_corners)
            loss = loss_of(upsampled, slice(rows.start, rows.stop))
            total += loss.detach()
            if scores.requires_grad:
                gradient += torch.autograd.grad(loss, low)[0]
    return total, gradient


def bands(scores: Tensor, labels: Tensor) -> Iterator[range]:
    """Yields the rows of the labels in bands whose upsampled scores take at most `BAND_BYTES`, or in single rows."""
    height, width = labels.shape[-2:]
    count = max(1, BAND_BYTES // (4 * scores.shape[0] * scores.shape[1] * width))
    return (range(start, min(start + count, height)) for start in range(0, height, count))


def near_boundary(labels: Tensor) -> Tensor:
    """Returns N×H×W booleans: whether another class is within `BOUNDARY_REACH` pixels; ignored labels do not count."""
    side = 2 * BOUNDARY_REACH + 1
    ignored, values = labels == IGNORE_INDEX, labels.float()
    largest, smallest = (
        F.max_pool2d((sign * values).masked_fill(ignored, -math.inf)[:, None], side, 1, BOUNDARY_REACH)[:, 0]
        for sign in (1, -1)
    )
    return (largest != -smallest) & ~ignored


def hard_pixels(scores: Tensor, labels: Tensor, share: float, align_corners: bool = False) -> Tensor:
    """Returns N×H×W booleans, True for hard pixels: labelled pixels whose true class has a probability below 0.7.

    If fewer than `share` of the labelled pixels are hard, the pixels with the next largest losses are hard, too.

    Args:
        scores: N×K×h×w logits.
        labels: N×H×W class indices, 255 = ignore.
        share: smallest number of hard pixels, as a share of the labelled pixels, 0–1.
        align_corners: whether the model's bilinear resizing aligns corners, as in `F.interpolate`.
    """
    with torch.no_grad():
        low, losses = scores.detach().float(), []
        for rows in bands(scores, labels):
            upsampled = resize_rows(low, labels.shape[-2:], rows, align_corners)
            losses.append(_each(upsampled, labels[:, rows.start : rows.stop], 0.0))
        every, labelled = torch.cat(losses, 1), labels != IGNORE_INDEX
        known = every[labelled]
        least = round(share * len(known))
        threshold = -math.log(HARD_BELOW)
        if least:
            threshold = min(threshold, known.kthvalue(len(known) - least + 1).values.item())
        return labelled & (every >= threshold)


def _summed(
    scores: Tensor, labels: Tensor, counted: Tensor | None, weights: Tensor | None, smoothing: float, focal: float
) -> Tensor:
    """Returns the sum of weighted losses over the labelled pixels of N×K×H×W scores."""
    if scores.shape[1] > 1 and counted is None and not focal:  # one kernel is enough
        return F.cross_entropy(
            scores,
            labels.long(),
            weights,
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=smoothing,
        )
    each = _each(scores, labels, smoothing, weights)
    if focal:
        # 1 − p is kept above 0, because for γ < 1 the derivative of 0^γ is infinite, and infinity times 0 is NaN.
        unlikely = -torch.expm1(-_each(scores, labels, 0.0))
        each = each * unlikely.clamp(min=torch.finfo(unlikely.dtype).tiny) ** focal
    return (each if counted is None else each * counted).sum()


def _each(scores: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None = None) -> Tensor:
    """Returns the N×H×W losses of the pixels, 0 for ignored pixels."""
    if scores.shape[1] > 1:
        return F.cross_entropy(
            scores,
            labels.long(),
            weights,
            ignore_index=IGNORE_INDEX,
            reduction="none",
            label_smoothing=smoothing,
        )
    labelled = labels != IGNORE_INDEX
    truth = torch.where(labelled, labels, 0)
    soft = truth.float() * (1 - smoothing) + smoothing / 2
    each = F.binary_cross_entropy_with_logits(scores[:, 0], soft, reduction="none")
    return torch.where(labelled, each if weights is None else each * weights[truth.long()], 0.0)


def _total_weight(labels: Tensor, counted: Tensor | None, weights: Tensor | None) -> Tensor:
    """Returns the sum of the weights of the labelled pixels, which is the divisor of the mean."""
    flat = labels.flatten().int()
    if counted is None:
        counts = torch.bincount(flat, minlength=IGNORE_INDEX + 1)
    else:  # in float64, because float32 represents integers exactly only up to 2²⁴
        where = with_float64(counted.device)
        each = counted.flatten().to(where).double()
        counts = torch.bincount(flat.to(where), each, minlength=IGNORE_INDEX + 1)
    counts = counts[:IGNORE_INDEX].float().to(labels.device)
    return counts.sum() if weights is None else (counts[: len(weights)] * weights).sum()
