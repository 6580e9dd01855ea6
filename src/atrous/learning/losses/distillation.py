"""Terms of the loss that compare the scores of a model with those of its teacher; labels of 255 are ignored.

Both maps of scores are enlarged to the size of the labels, each as its own model enlarges it. So model and teacher may
have different output strides, and exactly the ignored pixels are left out. As in `pixel`, only one band of rows of the
enlarged scores is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.learning.batch import TEACHER, Batch
from atrous.learning.losses.pixel import bands, summed_over_bands
from atrous.models.layers import resize_rows

#: Function that maps the N×K×rows×W scores of a band, divided by the temperature, to log-probabilities.
LogProbabilities = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SoftLabels:
    """Divergence of a model's class probabilities from the teacher's, averaged over labelled pixels (arXiv:1503.02531).

    Per pixel, it is T² · Σ_k p_k · log(p_k / q_k), with p = softmax(teacher / T) and q = softmax(model / T) over the
    classes. The factor T² keeps the size of the gradients at any T (arXiv:1503.02531 §2).

    Args:
        weight: weight of the term, ≥ 0.
        temperature: T > 0.
        align_corners: whether the bilinear resizing of the model and of the teacher aligns corners.
        mean_of: function that returns the mean of a tensor over all training processes (`ProcessGroup.mean_of`); None
            for one process. The mean of the processes' values is then the mean over the pixels of all processes.
    """

    weight: float
    temperature: float
    align_corners: tuple[bool, bool] = (False, False)
    mean_of: Callable[[Tensor], Tensor] | None = None

    def __call__(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Returns the weighted divergence as a scalar; arguments as in `terms.Term`."""
        scores, teacher = comparable(outputs["main"], batch.more[TEACHER])
        pixels = (batch.labels != IGNORE_INDEX).sum().float()
        return _apply(self, scores, teacher, batch.labels, pixels, (_over_classes, _over_classes))


@dataclass(frozen=True)
class ChannelDistillation:
    """Channel-wise divergence of a model's score maps from the teacher's (CWD, arXiv:2011.13256 §3.2).

    Per picture, it is T² / K · Σ_k Σ_i p_ki · log(p_ki / q_ki) over the K classes k and the labelled pixels i of the
    crop, with p = softmax(teacher / T) and q = softmax(model / T) over the pixels. It is averaged over the pictures
    that have labelled pixels.

    Differs: the paper compares maps at the resolution of the network's output, and does not leave out ignored pixels.

    Args:
        weight: weight of the term, ≥ 0; 3 for maps of scores in the paper's code.
        temperature: T > 0; 4 in the paper's code.
        align_corners: as in `SoftLabels`.
        mean_of: as in `SoftLabels`; the mean of the processes' values is the mean over the pictures of all processes.
    """

    weight: float
    temperature: float
    align_corners: tuple[bool, bool] = (False, False)
    mean_of: Callable[[Tensor], Tensor] | None = None

    def __call__(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Returns the weighted divergence as a scalar; arguments as in `terms.Term`."""
        scores, teacher = comparable(outputs["main"], batch.more[TEACHER])
        pictures = (batch.labels != IGNORE_INDEX).flatten(1).any(1).sum().float()
        logs = tuple(
            partial(_over_pixels, total=_log_totals(one, batch.labels, self.temperature, align_corners))
            for one, align_corners in zip((scores, teacher), self.align_corners, strict=True)
        )
        return _apply(self, scores, teacher, batch.labels, pictures * scores.shape[1], logs)


def comparable(scores: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the scores of a model and of its teacher with the same number of channels.

    If one of two models for two classes has one logit, the second logit minus the first replaces the two logits of the
    other, which describes the same probabilities.

    Args:
        scores: N×K×h×w scores of the model.
        teacher: N×K'×h'×w' scores of the teacher, for the same classes in the same order.
    """
    if scores.shape[1] == teacher.shape[1]:
        return scores, teacher
    return _difference(scores), _difference(teacher)


def _difference(scores: Tensor) -> Tensor:
    return scores if scores.shape[1] == 1 else scores[:, 1:] - scores[:, :1]


def _over_classes(scores: Tensor) -> Tensor:
    """Returns the logarithms of the softmax over the classes; one logit is compared with a logit of 0."""
    if scores.shape[1] == 1:
        scores = torch.cat([torch.zeros_like(scores), scores], 1)
    return F.log_softmax(scores, 1)


def _over_pixels(scores: Tensor, total: Tensor) -> Tensor:
    """Returns the logarithms of the softmax over all labelled pixels, for those of a band.

    Args:
        scores: N×K×rows×W scores, divided by the temperature.
        total: N×K×1×1 logarithm of the sum of the exponentials of all labelled pixels' scores.
    """
    return scores - total


def _log_totals(scores: Tensor, labels: Tensor, temperature: float, align_corners: bool) -> Tensor:
    """Returns, as N×K×1×1, log Σ exp(score / temperature) over the labelled pixels; 0 for pictures without any."""
    with torch.no_grad():
        low = scores.detach().float()
        total = low.new_full(low.shape[:2], -torch.inf)
        for rows in bands(scores, labels):
            ignored = labels[:, None, rows.start : rows.stop] == IGNORE_INDEX
            band = resize_rows(low, labels.shape[-2:], rows, align_corners) / temperature
            total = torch.logaddexp(total, band.masked_fill(ignored, -torch.inf).flatten(2).logsumexp(2))
        return total.masked_fill(total == -torch.inf, 0.0)[..., None, None]


def _apply(
    term: SoftLabels | ChannelDistillation,
    scores: Tensor,
    teacher: Tensor,
    labels: Tensor,
    count: Tensor,
    logs: tuple[LogProbabilities, ...],
) -> Tensor:
    """Returns the weighted divergence of a term, divided by the mean of the processes' counts; 0 if that is 0."""
    count = count if term.mean_of is None else term.mean_of(count)
    count = count.clamp(min=torch.finfo(torch.float32).tiny)
    factor = term.weight * term.temperature**2
    return _Divergence.apply(scores, teacher, labels, count, factor, term.temperature, term.align_corners, logs)  # pyright: ignore[reportReturnType]


class _Divergence(torch.autograd.Function):
    """Divergence of a model's probabilities from the teacher's; one pass over bands computes it and its gradient."""

    @staticmethod
    def forward(ctx, scores, teacher, labels, count, factor, temperature, align_corners, logs):
        given = teacher.detach().float()

        def loss_of(upsampled: Tensor, band: slice) -> Tensor:
            ignored = labels[:, None, band] == IGNORE_INDEX
            rows = range(band.start, band.stop)
            target = resize_rows(given, labels.shape[-2:], rows, align_corners[1])
            log_q, log_p = (
                log_of(one / temperature).masked_fill(ignored, 0.0)
                for one, log_of in zip((upsampled, target), logs, strict=True)
            )
            # Summed over a distribution, exp(log_q) − exp(log_p) is 0. Its gradient is the one that flows through the
            # normaliser of q, which `_over_pixels` takes as a constant. Equal scores get a gradient of exactly 0.
            return (log_p.exp() * (log_p - log_q) + log_q.exp() - log_p.exp()).sum()

        total, gradient = summed_over_bands(scores, labels, loss_of, align_corners[0])
        ctx.save_for_backward((gradient / count * factor).to(scores.dtype))
        return total / count * factor

    @staticmethod
    def backward(ctx, *grad_outputs):
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None, None, None, None, None, None
