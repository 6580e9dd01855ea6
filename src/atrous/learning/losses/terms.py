"""The terms of what a training minimises: each maps the model's outputs and a batch to a scalar."""

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

#: The output of an auxiliary head; every other output of a model counts in full.
AUXILIARY = "aux"


class Term(Protocol):
    """Part of a loss; a module's parameters learn with the model's."""

    def __call__(self, outputs: Mapping[str, Tensor], batch: Batch, /) -> Tensor:
        """Returns a scalar.

        Args:
            outputs: N×K×h×w scores by name: "main", and in training others that the model gives.
            batch: as the network saw it.
        """
        ...


#: What is minimised, by name: the sum of these.
Terms = Mapping[str, Term]


class Supervised(nn.Module):
    """The loss of every output but the auxiliary head's against the labels, summed: "main", each scale of DeepLabV2.

    Args:
        loss: called with (N×K×h×w scores, N×H×W labels, align_corners); returns a scalar.
        align_corners: the model's upsampling convention.
    """

    def __init__(self, loss: nn.Module, *, align_corners: bool) -> None:
        super().__init__()
        self.loss, self.align_corners = loss, align_corners

    def forward(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """As `Term`."""
        main = [output for name, output in outputs.items() if name != AUXILIARY]
        return torch.stack([self.loss(output, batch.labels, self.align_corners) for output in main]).sum()


class Auxiliary(nn.Module):
    """The weighted loss of an auxiliary head's output against the labels; 0 where the model gives none.

    Args:
        loss: as of `Supervised`.
        weight: 0 or more.
        align_corners: the model's upsampling convention.
    """

    def __init__(self, loss: nn.Module, weight: float, *, align_corners: bool) -> None:
        super().__init__()
        self.loss, self.weight, self.align_corners = loss, weight, align_corners

    def forward(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """As `Term`."""
        if AUXILIARY not in outputs:
            return outputs["main"].new_zeros((), dtype=torch.float32)
        return self.weight * self.loss(outputs[AUXILIARY], batch.labels, self.align_corners)


@checked
def supervised_terms(loss: nn.Module, model: SegmentationModel, auxiliary: float = 0.4) -> dict[str, Term]:
    """The terms of a training on labels alone.

    Args:
        loss: called with (N×K×h×w scores, N×H×W labels, align_corners); returns a scalar.
        model: whose outputs they are.
        auxiliary: weight of an auxiliary head's loss, 0 or more.

    Returns:
        "supervised" and "auxiliary", for `TrainingStep`.

    Raises:
        AtrousError: no loss, no model of atrous, or a weight out of range.
    """
    check_model(model)
    if not callable(loss):
        raise AtrousError(f"loss is called with scores, labels and align_corners, got {shown(loss)}.")
    if not 0 <= auxiliary < math.inf:
        raise AtrousError(f"auxiliary is a weight, 0 or more, got {shown(auxiliary)}.")
    return {
        "supervised": Supervised(loss, align_corners=model.align_corners),
        "auxiliary": Auxiliary(loss, auxiliary, align_corners=model.align_corners),
    }
