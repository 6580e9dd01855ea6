"""The mean of a loss over the classes that a batch contains."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_of_present(losses: Tensor, present: Tensor, weights: Tensor | None) -> Tensor:
    """Returns the weighted mean of K losses over the classes that are present; 0 if no class is present."""
    if weights is not None and len(weights) > len(losses):  # for one logit, there is only the loss of the second class
        weights = weights[1:]
    share = present.float() if weights is None else present * weights
    return (losses * share).sum() / share.sum().clamp(min=torch.finfo(torch.float32).tiny)
