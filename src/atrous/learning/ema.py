"""The exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from atrous.models import SegmentationModel


class WeightAverage:
    """Exponential moving average (EMA) of all weights and batch-norm statistics.

    After n updates, the decay of the next update is at most (1 + n) / (10 + n). So the random initial weights soon lose
    their influence.

    Args:
        model: model to copy, whose weights are averaged.
        decay: weight of the old average in each update, 0–1.

    Attributes:
        module: model with the averaged weights.
    """

    def __init__(self, model: SegmentationModel, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: SegmentationModel, step: int) -> None:
        """Moves the average towards the model's current weights.

        Args:
            model: model of the same architecture.
            step: number of updates before this one, ≥ 0.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, currents = [], []
        for average, current in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                averages.append(average)
                currents.append(current)
            else:
                average.copy_(current)
        torch._foreach_lerp_(averages, currents, 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the averaged weights by their names in the model."""
        return self.module.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Restores averaged weights."""
        self.module.load_state_dict(state_dict)
