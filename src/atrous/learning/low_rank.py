"""Low-rank adaptation (LoRA, arXiv:2106.09685): training learns low-rank changes of a network's frozen weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from atrous.adapter_file import save_adapter
from atrous.errors import AtrousError
from atrous.learning.transfer_weights import classwise_names
from atrous.models import SegmentationModel


class Factors(nn.Module):
    """The factors A and B of a low-rank change B·A of a weight; B is 0 at first, so that training starts at the weight.

    Args:
        weight: weight of a convolution or of a linear layer, seen as a matrix with one row for each output channel.
        rank: number of rows of A and of columns of B, ≥ 1.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as in github.com/microsoft/LoRA

    def forward(self) -> Tensor:
        """Returns B·A, with one row for each output channel."""
        return self.up @ self.down


class LowRank(nn.Module):
    """Weights W + B·A of a model, where W is frozen, and the factors A and B are learned (arXiv:2106.09685 §4.1).

    The other weights of the model, such as norms, depthwise convolutions and the last layer, are trained as usual, as
    far as `freeze` does not freeze them. The paper multiplies B·A by a constant α / r; here it is 1. The model itself
    always contains W + B·A as plain weights: `merge_into` updates them after each optimiser step.

    Args:
        model: model whose weights at this time become W.
        rank: rank r of the changes, ≥ 1.
        frozen: names of modules whose weights are not adapted.
        base_sha256: SHA-256 of the file with the weights W, for adapters; it is part of the state.

    Attributes:
        names: names of the adapted weights in the model.
        factors: factors of each adapted weight, in the order of `names`.
        base: weights W, in the order of `names`.
        unchanged: names of further weights that are those of the base's file, and that adapters need not contain.

    Raises:
        AtrousError: no weight is left to adapt.
    """

    def __init__(self, model: SegmentationModel, rank: int, frozen: Sequence[str] = (), base_sha256: str = "") -> None:
        super().__init__()
        self.rank, self.base_sha256, self.unchanged = rank, base_sha256, set[str]()
        weights = dict(adaptable(model, rank, frozen))
        if not weights:
            raise AtrousError(
                f"train.learn lora with train.rank {rank} finds no weight to adapt: B·A would have as many numbers as "
                "each weight, or train.frozen names all layers. Give a smaller rank."
            )
        self.names = tuple(weights)
        self.factors = nn.ModuleList(Factors(weight, rank) for weight in weights.values())
        self.base = nn.ParameterList(nn.Parameter(weight.detach().clone(), False) for weight in weights.values())

    def weights(self, factors: nn.ModuleList | None = None) -> dict[str, Tensor]:
        """Returns W + B·A by the name of the weight.

        Args:
            factors: factors to use instead of the learned ones, such as their moving average.
        """
        pairs = zip(self.names, self.base, factors or self.factors, strict=True)
        return {name: base + change().view_as(base) for name, base, change in pairs}

    @torch.no_grad()
    def merge_into(self, model: nn.Module, factors: nn.ModuleList | None = None) -> None:
        """Sets the adapted weights of a model to W + B·A.

        Args:
            model: model with the same names of weights.
            factors: as in `weights`.
        """
        for name, weight in self.weights(factors).items():
            model.get_parameter(name).copy_(weight)

    def scores(self, model: SegmentationModel, images: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the scores of a model with other weights, so that gradients flow to their factors.

        Args:
            model: the model.
            images: N×C×H×W normalised images.
            weights: result of `weights`.
        """
        named = {f"model.{name}": weight for name, weight in weights.items()}
        return functional_call(_Scores(model), named, (images,))

    def save_adapter(self, model: SegmentationModel, factors: nn.ModuleList | None, path: Path) -> None:
        """Writes the changes of a fine-tuned model to its base as an adapter file.

        Args:
            model: the fine-tuned model, such as the one with averaged weights.
            factors: as in `weights`.
            path: the file to write; an existing file is replaced.

        Raises:
            AtrousError: the file cannot be written.
        """
        named: Any = zip(self.names, factors or self.factors, strict=True)
        pairs = {name: (one.down, one.up) for name, one in named}
        save_adapter(model, pairs, sorted(self.unchanged), self.base_sha256, path)

    def leave_out_trained(self, model: nn.Module) -> None:
        """Removes the weights that are trained from now on from those that are unchanged.

        Args:
            model: the model, whose trained parameters have requires_grad True.
        """
        self.unchanged &= {name for name, one in model.named_parameters() if not one.requires_grad}

    def get_extra_state(self) -> dict[str, Any]:
        """Returns what else a resumed training needs, for `state_dict`."""
        state = {"rank": self.rank, "names": list(self.names), "unchanged": sorted(self.unchanged)}
        return {**state, "base_sha256": self.base_sha256}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `get_extra_state` returned, for `load_state_dict`."""
        self.base_sha256, self.unchanged = state["base_sha256"], set(state["unchanged"])

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Restores the state of a training.

        Raises:
            ValueError: the training changed other weights, or had another rank.
        """
        before = state_dict["_extra_state"]
        if before["rank"] != self.rank:
            raise ValueError(f"its train.rank is {before['rank']}, which must not change on resuming")
        if tuple(before["names"]) != self.names:
            raise ValueError("its train.frozen leaves other layers to adapt, and must not change them on resuming")
        return super().load_state_dict(state_dict, strict, assign)


class _Scores(nn.Module):
    """A module whose call returns the scores of a model, because `functional_call` calls a module."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.model.scores(images)


def adaptable(model: SegmentationModel, rank: int, frozen: Iterable[str] = ()) -> Iterator[tuple[str, Tensor]]:
    """Yields name and weight of the layers for which a change of this rank needs fewer numbers than the weight.

    These are convolutions and linear layers, except depthwise convolutions and layers with one row for each class.

    Args:
        model: the model.
        rank: rank of the change, ≥ 1.
        frozen: names of modules that are left out.
    """
    left_out, classwise = tuple(f"{name}." for name in frozen), classwise_names(model)
    for module_name, module in model.named_modules():
        name = f"{module_name}.weight"
        if not isinstance(module, nn.Conv2d | nn.Linear) or name in classwise or name.startswith(left_out):
            continue
        depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
        rows, columns = module.weight.flatten(1).shape
        if not depthwise and rank * (rows + columns) < rows * columns:
            yield name, module.weight
