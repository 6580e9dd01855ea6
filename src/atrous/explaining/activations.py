"""A network watched while one picture passes: what its parts give, and what a class's score owes to each of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atrous.models import SegmentationModel
from atrous.models.aspp import ASPP
from atrous.models.deeplab_v2 import SummedASPP
from atrous.models.layers import Normalize

#: Of a class that is best nowhere, its score is taken over this share of the cells, where it is most probable.
MOST_PROBABLE = 0.01


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the network, for one picture.

    Args:
        name: such as "rate 12" or "image pooling".
        group: what it is a part of: "pyramid", "decoder" or "sides".
        features: C×h×w, what it gives.
        gradients: C×h×w, of the watched class's score by them.
    """

    name: str
    group: str
    features: Tensor
    gradients: Tensor

    @property
    def energy(self) -> Tensor:
        """h×w: root of the mean square over the channels."""
        return self.features.square().mean(0).sqrt()

    @property
    def contribution(self) -> Tensor:
        """h×w: what it adds to the class's score, to first order; below 0 where it takes from it.

        The sum over channels of feature × gradient. Exact where what follows is linear; ReLUs are taken as they stand
        for this picture.
        """
        return (self.features * self.gradients).sum(0)


class WatchedNetwork:
    """One pass of a picture through a network, kept for asking back.

    Args:
        model: put into evaluation mode.
        image: 1×C×H×W raw values.

    Attributes:
        scores: K×h×w logits at low resolution; two of one-logit models, the first of them 0.
    """

    def __init__(self, model: SegmentationModel, image: Tensor) -> None:
        model.eval()
        self._parts: dict[tuple[str, str], Tensor] = {}
        with ExitStack() as hooks:
            for (group, name), module in parts_of(model).items():
                hooks.callback(module.register_forward_hook(self._keeping(group, name)).remove)
            hooks.callback(model.backbone.register_forward_hook(self._keep_high).remove)
            self._high: Tensor | None = None
            with torch.enable_grad():
                normalize = Normalize.of(model.info.preprocessing).to(image.device)
                normalised = normalize(image).to(next(model.parameters()).dtype)
                self._picture = normalised.detach().requires_grad_()
                main = model.scores(self._picture)["main"][0]
                self._scores = torch.cat([torch.zeros_like(main), main]) if len(main) == 1 else main
        self.scores = self._scores.detach()

    def _keeping(self, group: str, name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            self._parts.setdefault((group, name), output)  # DeepLabV2 looks at smaller pictures afterwards

        return hook

    def _keep_high(self, _: nn.Module, __: Any, output: Any) -> None:
        self._high = output.high if self._high is None else self._high

    def region(self, index: int) -> Tensor:
        """h×w booleans: where a class is best; where it is nowhere, the cells where it is most probable."""
        best = self.scores.argmax(0) == index
        if best.any():
            return best
        probability = self.scores.softmax(0)[index]
        count = max(1, round(MOST_PROBABLE * probability.numel()))
        return probability >= probability.flatten().topk(count).values[-1]

    def parts(self, index: int) -> list[Part]:
        """The network's parts, with the gradients of a class's mean score over its region."""
        names, features = list(self._parts), list(self._parts.values())
        gradients = self._gradients(self._mean_score(index), features)
        return [
            Part(name, group, one.detach()[0], gradient[0])
            for (group, name), one, gradient in zip(names, features, gradients, strict=True)
        ]

    def grad_cam(self, index: int) -> Tensor:
        """Where the backbone's last features speak for a class (arXiv:2002.11434, Seg-Grad-CAM; arXiv:1610.02391).

        Returns:
            h×w, ≥ 0: ReLU of the channels' sum, each weighted by the mean gradient of the class's mean score.
        """
        assert self._high is not None
        (gradient,) = self._gradients(self._mean_score(index), [self._high])
        weights = gradient[0].mean((1, 2), keepdim=True)
        return (weights * self._high.detach()[0]).sum(0).relu()

    def receptive_field(self, row: int, column: int) -> Tensor:
        """Which pixels the best class's score at one low-resolution cell depends on (arXiv:1701.04128).

        Args:
            row: of the cell.
            column: of the cell.

        Returns:
            H'×W', ≥ 0: the absolute gradient by the network's input, which is larger where pictures are enlarged,
            summed over channels.
        """
        score = self._scores[int(self.scores[:, row, column].argmax()), row, column]
        (gradient,) = self._gradients(score, [self._picture])
        return gradient[0].abs().sum(0)

    def _mean_score(self, index: int) -> Tensor:
        return self._scores[index][self.region(index)].mean()

    @staticmethod
    def _gradients(score: Tensor, by: Sequence[Tensor]) -> list[Tensor]:
        if not by:
            return []
        if not score.requires_grad:  # the constant logit of a one-logit model
            return [torch.zeros_like(one) for one in by]
        found = torch.autograd.grad(score, by, retain_graph=True, allow_unused=True)
        return [
            torch.zeros_like(one) if gradient is None else gradient for one, gradient in zip(by, found, strict=True)
        ]


def parts_of(model: SegmentationModel) -> dict[tuple[str, str], nn.Module]:
    """What a paper's head is made of, by group and name: a pyramid's branches, a decoder's inputs, side features."""
    aspp, decoder, side = (getattr(model, name, None) for name in ("aspp", "decoder", "side"))
    parts: dict[tuple[str, str], nn.Module] = {}
    if isinstance(aspp, ASPP):
        parts["pyramid", "1×1"] = aspp.point
        for branch in aspp.atrous:
            parts["pyramid", f"rate {_rate(branch)}"] = branch
        parts["pyramid", "image pooling"] = aspp.image_pooling
    if isinstance(aspp, SummedASPP):
        for branch in aspp.branches:
            parts["pyramid", f"rate {_rate(branch)}"] = branch
    if isinstance(decoder, nn.Module):
        parts["decoder", "high-level"] = model.get_submodule("aspp_conv")
        parts["decoder", "low-level"] = model.get_submodule("decoder.reduce")
    if isinstance(side, nn.Module):
        parts["sides", "large field of view"] = model.get_submodule("head")
        for number, far in enumerate(model.get_submodule("side.far").children()):
            parts["sides", f"pool{number}" if number else "picture"] = far
    return parts


def field_radii(field: Tensor, row: float, column: float, shares: Sequence[float] = (0.5, 0.95)) -> list[float]:
    """How far from a point the given shares of a receptive field reach.

    Args:
        field: H×W, ≥ 0.
        row: of the point, in pixels.
        column: of the point, in pixels.
        shares: 0–1 each.

    Returns:
        Of each share the distance in pixels; 0 where the field is zero.
    """
    rows = torch.arange(field.shape[0]).unsqueeze(1) - row
    columns = torch.arange(field.shape[1]).unsqueeze(0) - column
    distances, order = (rows.square() + columns.square()).sqrt().flatten().sort()
    inside = field.flatten()[order].double().cumsum(0)
    if inside[-1] == 0:
        return [0.0 for _ in shares]
    places = [int(torch.searchsorted(inside, share * inside[-1])) for share in shares]
    return [float(distances[min(place, len(distances) - 1)]) for place in places]


def _rate(branch: nn.Module) -> int:
    return max(int(part.dilation[0]) for part in branch.modules() if isinstance(part, nn.Conv2d))
