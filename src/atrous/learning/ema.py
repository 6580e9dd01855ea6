"""The exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from atrous.learning.low_rank import LowRank
from atrous.models import SegmentationModel

#: Prefix of the names of factors in the state of an average; no part of a model has this name.
_FACTORS = "low_rank_factors."


class WeightAverage:
    """Exponential moving average (EMA) of all weights and batch-norm statistics.

    After n updates, the decay of the next update is at most (1 + n) / (10 + n). So the random initial weights soon lose
    their influence.

    Args:
        model: model to copy, whose weights are averaged.
        decay: weight of the old average in each update, 0–1.
        low_rank: low-rank changes of the model, whose factors are then averaged instead of the weights that they
            change; None for a model without such changes.

    Attributes:
        module: model with the averaged weights.
        factors: averaged factors of the low-rank changes; None without such changes.
    """

    def __init__(self, model: SegmentationModel, decay: float, low_rank: LowRank | None = None) -> None:
        self.decay, self._low_rank = decay, low_rank
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.factors = None if low_rank is None else copy.deepcopy(low_rank.factors).requires_grad_(False)

    @torch.no_grad()
    def update(self, model: SegmentationModel, step: int) -> None:
        """Moves the average towards the model's current weights.

        Args:
            model: model of the same architecture.
            step: number of updates before this one, ≥ 0.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, currents = [], []
        pairs = [(self.module.state_dict(), model.state_dict())]
        if self._low_rank is not None and self.factors is not None:
            pairs.append((self.factors.state_dict(), self._low_rank.factors.state_dict()))
        merged = () if self._low_rank is None else self._low_rank.names  # these are computed from the averaged factors
        both = chain.from_iterable(zip(own.items(), other.values(), strict=True) for own, other in pairs)
        for (name, average), current in both:
            if name in merged:
                continue
            if average.is_floating_point():
                averages.append(average)
                currents.append(current)
            else:
                average.copy_(current)
        torch._foreach_lerp_(averages, currents, 1 - decay)
        if self._low_rank is not None:
            self._low_rank.merge_into(self.module, self.factors)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the averaged weights by their names in the model, and the averaged factors of low-rank changes."""
        factors = {} if self.factors is None else self.factors.state_dict(prefix=_FACTORS)
        return {**self.module.state_dict(), **factors}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Restores averaged weights and factors."""
        own = {name.removeprefix(_FACTORS): value for name, value in state_dict.items() if name.startswith(_FACTORS)}
        self.module.load_state_dict(
            {name: value for name, value in state_dict.items() if not name.startswith(_FACTORS)}
        )
        if self.factors is not None:
            self.factors.load_state_dict(own)
