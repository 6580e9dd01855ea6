"""Grad-CAM of a class, from the last features of the backbone."""

from __future__ import annotations

from torch import Tensor

from atrous.explaining.activations import WatchedNetwork, gradients_of


def grad_cam(watched: WatchedNetwork, index: int) -> Tensor:
    """Returns a map of the positions at which the backbone's last features raise a class's score.

    Sources: Seg-Grad-CAM (arXiv:2002.11434) and Grad-CAM (arXiv:1610.02391).

    Args:
        watched: the forward pass.
        index: the class, 0 to K − 1.

    Returns:
        h×w, ≥ 0: ReLU of the weighted sum of the channels; each weight is the mean gradient of the class's mean score.
    """
    (gradient,) = gradients_of(watched.mean_score(index), [watched.high])
    weights = gradient[0].mean((1, 2), keepdim=True)
    return (weights * watched.high.detach()[0]).sum(0).relu()
