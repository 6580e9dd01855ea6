"""Runs one picture through a network and stores the features of its parts, from which gradients are computed later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from atrous.models import SegmentationModel
from atrous.models.aspp import ASPP
from atrous.models.deeplab_v2 import SummedASPP
from atrous.models.layers import Normalize

#: If a class has the highest score at no position, it is explained at the positions where it is most probable. This is
#: the share of these positions among all positions.
MOST_PROBABLE = 0.01


class WatchedNetwork:
    """One forward pass of one picture, with the features of every part, for gradients that are computed later.

    Args:
        model: the model; it is put into evaluation mode.
        image: 1×C×H×W raw values.

    Attributes:
        scores: K×h×w logits at low resolution, without gradients. For a one-logit model, K is 2: 0 and the logit.
        picture: 1×C×H'×W', the network's normalised input.
        high: 1×C×h×w, the last features of the backbone.
        features: 1×C×h×w, the output of each part, by (group, name); see `parts_of`.
    """

    def __init__(self, model: SegmentationModel, image: Tensor) -> None:
        model.eval()
        self.features: dict[tuple[str, str], Tensor] = {}
        highs: list[Tensor] = []
        with ExitStack() as hooks:
            for key, module in parts_of(model).items():
                hooks.callback(module.register_forward_hook(self._keep_features(key)).remove)
            hooks.callback(model.backbone.register_forward_hook(lambda *call: highs.append(call[-1].high)).remove)
            if isinstance(getattr(model, "side", None), nn.Module):
                # The multi-scale DeepLabV1 runs the backbone stage by stage, so its hook is not called.
                head = model.get_submodule("head")
                hooks.callback(head.register_forward_pre_hook(lambda _, inputs: highs.append(inputs[0])).remove)
            with torch.enable_grad():
                normalize = Normalize.of(model.info.preprocessing).to(image.device)
                normalised = normalize(image).to(next(model.parameters()).dtype)
                self.picture = normalised.detach().requires_grad_()
                main = model.scores(self.picture)["main"][0]
                self._scores = torch.cat([torch.zeros_like(main), main]) if len(main) == 1 else main
        # further entries belong to the smaller copies of the picture, which DeepLabV2 also segments
        self.high = highs[0]
        self.scores = self._scores.detach()

    def _keep_features(self, key: tuple[str, str]) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            self.features.setdefault(key, output)  # in DeepLabV2, later calls are for the smaller copies of the picture

        return hook

    def region(self, index: int) -> Tensor:
        """Returns the positions over which a class's score is averaged.

        Args:
            index: the class, 0 to K − 1.

        Returns:
            h×w booleans, True where the class has the highest score; if there is no such position, True where the
            class is most probable.
        """
        wins = self.scores.argmax(0) == index
        if wins.any():
            return wins
        probability = self.scores.softmax(0)[index]
        count = max(1, round(MOST_PROBABLE * probability.numel()))
        return probability >= probability.flatten().topk(count).values[-1]

    def mean_score(self, index: int) -> Tensor:
        """Returns the mean logit of a class over its `region`, with gradients.

        Args:
            index: the class, 0 to K − 1.
        """
        return self._scores[index][self.region(index)].mean()

    def best_score(self, row: int, column: int) -> Tensor:
        """Returns the highest logit at one position of the low-resolution scores, with gradients.

        Args:
            row: row of the position, 0 to h − 1.
            column: column of the position, 0 to w − 1.
        """
        return self._scores[int(self.scores[:, row, column].argmax()), row, column]


def gradients_of(score: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns the gradients of a score with respect to tensors; zeros if the score does not depend on a tensor.

    Args:
        score: a scalar.
        tensors: tensors of any shapes.

    Returns:
        One gradient for each tensor, with the shape of the tensor.
    """
    if not tensors:
        return []
    if not score.requires_grad:  # the score is the constant 0, the first logit of a one-logit model
        return [torch.zeros_like(one) for one in tensors]
    found = torch.autograd.grad(score, tensors, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(one) if gradient is None else gradient for one, gradient in zip(tensors, found, strict=True)
    ]


def parts_of(model: SegmentationModel) -> dict[tuple[str, str], nn.Module]:
    """Returns the parts of a network that are explained, by (group, name).

    The groups are "pyramid" (branches of the ASPP), "decoder" (inputs of the decoder) and "sides" (head and side
    features of the multi-scale DeepLabV1). A group is missing if the model does not have these parts.

    Args:
        model: the model.
    """
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
        for number, branch in enumerate(model.get_submodule("side.far").children()):
            parts["sides", f"pool{number}" if number else "picture"] = branch
    return parts


def _rate(branch: nn.Module) -> int:
    return max(int(part.dilation[0]) for part in branch.modules() if isinstance(part, nn.Conv2d))
