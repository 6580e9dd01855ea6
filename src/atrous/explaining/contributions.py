"""Computes how much each part of a network contributes to the score of a class."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from atrous.explaining.activations import WatchedNetwork, gradients_of


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the network, for one picture and one class.

    Args:
        name: name of the part, such as "rate 12" or "image pooling".
        group: "pyramid", "decoder" or "sides".
        features: C×h×w, the part's output.
        gradients: C×h×w, the gradients of the class's mean score with respect to the features.
    """

    name: str
    group: str
    features: Tensor
    gradients: Tensor

    @property
    def energy(self) -> Tensor:
        """The root mean square of the features over the channels, h×w."""
        return self.features.square().mean(0).sqrt()

    @property
    def contribution(self) -> Tensor:
        """The part's first-order contribution to the score of the class at each position, h×w; it may be negative.

        The contribution is the sum over channels of feature × gradient. It is exact if all later layers are linear; a
        ReLU is approximated by its slope for this picture.
        """
        return (self.features * self.gradients).sum(0)


def parts_for_class(watched: WatchedNetwork, index: int) -> list[Part]:
    """Returns every part of the network, with the gradients of a class's mean score over its region.

    Args:
        watched: the forward pass.
        index: the class, 0 to K − 1.
    """
    features = list(watched.features.values())
    gradients = gradients_of(watched.mean_score(index), features)
    return [
        Part(name, group, feature.detach()[0], gradient[0])
        for (group, name), feature, gradient in zip(watched.features, features, gradients, strict=True)
    ]
