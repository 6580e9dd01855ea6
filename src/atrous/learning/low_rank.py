"""Low-rank adaptation (LoRA, arXiv:2106.09685): training learns low-rank changes of a network's frozen weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

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

    The other weights of the model, such as norms, depthwise convolutions and the last layer, are not changed here.
    The paper multiplies B·A by a constant α / r; here it is 1. The model itself always holds W + B·A as plain weights:
    `merge_into` updates them after each optimiser step.

    Args:
        model: model whose weights at this time become W.
        rank: rank r of the changes, ≥ 1.
        frozen: names of modules whose weights are not adapted.
        base_sha256: SHA-256 of the file with the weights W, for adapters; it is part of the state.

    Attributes:
        names: names of the adapted weights in the model.
        factors: factors of each adapted weight, in the order of `names`.

    Raises:
        AtrousError: no weight is left to adapt.
    """

    def __init__(self, model: SegmentationModel, rank: int, frozen: Sequence[str] = (), base_sha256: str = "") -> None:
        super().__init__()
        self.base_sha256 = base_sha256
        weights = dict(adaptable(model, rank, frozen))
        if not weights:
            raise AtrousError(
                f"train.learn lora with train.rank {rank} finds no weight to adapt: B·A would have as many numbers as "
                "each weight, or train.frozen names all layers. Give a smaller rank."
            )
        self.names = tuple(weights)
        self.factors = nn.ModuleList(Factors(weight, rank) for weight in weights.values())
        for index, weight in enumerate(weights.values()):
            self.register_buffer(f"base_{index}", weight.detach().clone())

    def weights(self, factors: nn.ModuleList | None = None) -> dict[str, Tensor]:
        """Returns W + B·A by the name of the weight.

        Args:
            factors: factors to use instead of the learned ones, such as their moving average.
        """
        pairs = zip(self.names, self._bases(), factors or self.factors, strict=True)
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

    @torch.no_grad()
    def start_at(self, model: nn.Module) -> None:
        """Sets W so that W + B·A are the present weights of a model.

        Args:
            model: model with the same names of weights.
        """
        for name, base, change in zip(self.names, self._bases(), self.factors, strict=True):
            base.copy_(model.get_parameter(name) - change().view_as(base))

    def scores(self, model: SegmentationModel, images: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the scores of a model with other weights, so that gradients flow to their factors.

        Args:
            model: the model.
            images: N×C×H×W normalised images.
            weights: result of `weights`.
        """
        named = {f"model.{name}": weight for name, weight in weights.items()}
        return functional_call(_Scores(model), named, (images,))

    def save_adapter(
        self, model: SegmentationModel, trained: SegmentationModel, factors: nn.ModuleList | None, path: Path
    ) -> None:
        """Writes the changes of a fine-tuned model to its base as an adapter file.

        Args:
            model: the fine-tuned model, such as the one with averaged weights.
            trained: the model that is trained; its frozen weights are those of the base, and are left out.
            factors: as in `weights`.
            path: the file to write; an existing file is replaced.

        Raises:
            AtrousError: the file cannot be written.
        """
        named: Any = zip(self.names, factors or self.factors, strict=True)
        pairs = {name: (one.down, one.up) for name, one in named}
        frozen = [name for name, one in trained.named_parameters() if not one.requires_grad and name not in pairs]
        save_adapter(model, pairs, frozen, self.base_sha256, path)

    def get_extra_state(self) -> str:
        """Returns the checksum of the base, for `state_dict`."""
        return self.base_sha256

    def set_extra_state(self, state: str) -> None:
        """Restores the checksum of the base, for `load_state_dict`."""
        self.base_sha256 = state

    def _bases(self) -> Iterator[Tensor]:
        return (cast(Tensor, getattr(self, f"base_{index}")) for index in range(len(self.names)))


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
