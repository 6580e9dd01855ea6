"""The loss of a recipe: a weighted sum of losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from atrous.learning.losses.class_weights import class_weights
from atrous.learning.losses.dice import Tversky
from atrous.learning.losses.lovasz import LovaszSoftmax
from atrous.learning.losses.pixel import CrossEntropy
from atrous.learning.recipe_sections import Loss


class TotalLoss(nn.Module):
    """A weighted sum of losses.

    Args:
        terms: pairs of a loss, called with (scores, labels, align_corners), and its weight, > 0.
    """

    def __init__(self, terms: Sequence[tuple[nn.Module, float]]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(loss for loss, _ in terms)
        self.weights = [weight for _, weight in terms]

    def forward(self, scores: Tensor, labels: Tensor, align_corners: bool = False) -> Tensor:
        """Returns the weighted sum as a scalar; arguments as in `pixel.CrossEntropy.forward`."""
        values = [
            weight * loss(scores, labels, align_corners) for loss, weight in zip(self.losses, self.weights, strict=True)
        ]
        return torch.stack(values).sum()


def loss_for(recipe: Loss, pixels: Sequence[int], mean_of: Callable[[Tensor], Tensor] | None = None) -> TotalLoss:
    """Returns the loss of a recipe.

    Args:
        recipe: weights and settings of the losses; at least one weight is above 0.
        pixels: number of labelled training pixels per class.
        mean_of: function that returns the mean of a tensor over all training processes; None for one process.
    """
    weights = class_weights(pixels, recipe.class_weights)
    terms: list[tuple[nn.Module, float]] = [
        (
            CrossEntropy(
                weights,
                recipe.label_smoothing,
                focal=recipe.focal,
                hardest=recipe.hardest,
                boundary=recipe.boundary,
                mean_of=mean_of,
            ),
            recipe.cross_entropy,
        ),
        (Tversky(class_weights=weights), recipe.dice),
        (Tversky(recipe.tversky_alpha, 1 - recipe.tversky_alpha, weights), recipe.tversky),
        (LovaszSoftmax(weights), recipe.lovasz),
    ]
    return TotalLoss([(loss, weight) for loss, weight in terms if weight])
