"""The Lovász-softmax loss, a surrogate of the mean IoU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.learning.losses.mean_of_classes import mean_of_present
from atrous.models.layers import class_probabilities, resize


class LovaszSoftmax(nn.Module):
    """Lovász-softmax loss (arXiv:1705.08790): mean of the Lovász extension of 1 − IoU over the classes in a batch.

    The loss sorts the errors of all pixels. So, unlike the other losses, it needs full-size probabilities of all
    classes in memory.

    Args:
        class_weights: weight of each class in the mean, ≥ 0; None for equal weights.
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, scores: Tensor, labels: Tensor, align_corners: bool = False) -> Tensor:
        """Returns the loss as a float32 scalar; arguments as in `dice.Tversky.forward`."""
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


def _lovasz(likely: Tensor, inside: Tensor) -> Tensor:
    """Loss of one class: the sorted errors, each weighted by the drop in IoU it causes (algorithm 1)."""
    errors, order = (inside.float() - likely).abs().sort(descending=True)
    sorted_inside = inside[order].float()
    total = sorted_inside.sum()
    missed = total - sorted_inside.cumsum(0)
    joined = total + (1 - sorted_inside).cumsum(0)
    falls = 1 - missed / joined
    return errors @ torch.diff(falls, prepend=falls.new_zeros(1))
