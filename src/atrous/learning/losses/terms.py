"""Terms of the total loss of training: each maps the model's outputs and a batch to a scalar."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from atrous.checked_arguments import checked
from atrous.errors import AtrousError, shown
from atrous.learning.batch import Batch
from atrous.models import SegmentationModel
from atrous.models.model_checks import check_model

#: Name of the auxiliary head's output; the losses of all other outputs have weight 1.
AUXILIARY = "aux"


class Term(Protocol):
    """One term of the total loss; if it is a module, its parameters are trained with those of the model."""

    def __call__(self, outputs: Mapping[str, Tensor], batch: Batch, /) -> Tensor:
        """Returns the value of the term as a scalar tensor.

        Args:
            outputs: N×K×h×w scores by name: "main" and, during training, further outputs of the model.
            batch: batch on which the network ran.
        """
        ...


#: Terms by name; training minimises their sum.
Terms = Mapping[str, Term]


class Supervised(nn.Module):
    """Sum of the losses of the output "main" and of each scale of DeepLabV2, but not of the auxiliary head.

    Args:
        loss: function of (N×K×h×w scores, N×H×W labels, align_corners) that returns a scalar.
        align_corners: whether the model's bilinear resizing aligns corners, as in `F.interpolate`.
    """

    def __init__(self, loss: nn.Module, *, align_corners: bool) -> None:
        super().__init__()
        self.loss, self.align_corners = loss, align_corners

    def forward(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Returns the sum of the losses as a scalar; arguments as in `Term`."""
        main = [output for name, output in outputs.items() if name != AUXILIARY]
        return torch.stack([self.loss(output, batch.labels, self.align_corners) for output in main]).sum()


class Auxiliary(nn.Module):
    """Weighted loss of an auxiliary head's output; 0 if the model has no such output.

    Args:
        loss: as in `Supervised`.
        weight: weight of the loss, ≥ 0.
        align_corners: whether the model's bilinear resizing aligns corners, as in `F.interpolate`.
    """

    def __init__(self, loss: nn.Module, weight: float, *, align_corners: bool) -> None:
        super().__init__()
        self.loss, self.weight, self.align_corners = loss, weight, align_corners

    def forward(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Returns the weighted loss as a scalar; arguments as in `Term`."""
        if AUXILIARY not in outputs:
            return outputs["main"].new_zeros((), dtype=torch.float32)
        return self.weight * self.loss(outputs[AUXILIARY], batch.labels, self.align_corners)


@checked
def supervised_terms(loss: nn.Module, model: SegmentationModel, auxiliary: float = 0.4) -> dict[str, Term]:
    """Returns the terms of supervised training.

    Args:
        loss: function of (N×K×h×w scores, N×H×W labels, align_corners) that returns a scalar.
        model: model whose outputs the terms get.
        auxiliary: weight of an auxiliary head's loss, ≥ 0.

    Returns:
        The terms "supervised" and "auxiliary", for `TrainingStep`.

    Raises:
        AtrousError: `loss` cannot be called, `model` is not a model of atrous, or the weight is out of range.
    """
    check_model(model)
    if not callable(loss):
        raise AtrousError(f"loss must be a function of (scores, labels, align_corners), got {shown(loss)}.")
    if not 0 <= auxiliary < math.inf:
        raise AtrousError(f"auxiliary must be a weight of 0 or more, got {shown(auxiliary)}.")
    return {
        "supervised": Supervised(loss, align_corners=model.align_corners),
        "auxiliary": Auxiliary(loss, auxiliary, align_corners=model.align_corners),
    }
