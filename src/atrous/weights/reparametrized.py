"""Joins weights that pruning or weight normalisation stores as two tensors.

Source: torch/nn/utils/prune.py (`weight_orig`, `weight_mask`), weight_norm.py (`weight_g`, `weight_v`) and
parametrizations.py (`parametrizations.weight.original0`, `original1`; the length and the direction).
"""

from __future__ import annotations

import re

import torch
from torch import Tensor


def joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replaces each pair of stored parts in a state dict by the weight that they form.

    Args:
        state: tensors by the names of any library.

    Returns:
        The same tensors, with one tensor for each pair.
    """
    made: dict[str, Tensor] = {}
    second: set[str] = set()
    for key, tensor in state.items():
        if key in second:
            continue
        name, value, others = _joined(key, tensor, state)
        made[name] = value
        second |= others
        for other in others:
            made.pop(other, None)
    return made


def _joined(key: str, tensor: Tensor, state: dict[str, Tensor]) -> tuple[str, Tensor, set[str]]:
    """Returns the name and value of the weight of which this tensor is a part, and the keys of its other parts."""
    if key.endswith("_orig"):
        name = key.removesuffix("_orig")
        mask = state.get(f"{name}_mask")
        if mask is not None and mask.shape == tensor.shape and tensor.is_floating_point():
            return name, tensor * mask, {f"{name}_mask"}
    for pattern, by_name in ((r"(.*)_v", True), (r"(.*)parametrizations\.(\w+)\.original1", False)):
        match = re.fullmatch(pattern, key)
        if match:
            name = match[1] if by_name else f"{match[1]}{match[2]}"
            other = f"{match[1]}_g" if by_name else key.removesuffix("1") + "0"
            found = state.get(other)
            if found is not None and _is_length(found, tensor):
                return name, _of_length(tensor, found), {other}
    return key, tensor, set()


def _is_length(length: Tensor, direction: Tensor) -> bool:
    """Returns whether `length` has the shape of a norm of `direction`, and both are floating-point."""
    return (
        length.ndim == direction.ndim
        and all(size in (1, whole) for size, whole in zip(length.shape, direction.shape, strict=True))
        and length.is_floating_point()
        and direction.is_floating_point()
    )


def _of_length(direction: Tensor, length: Tensor) -> Tensor:
    """Scales a direction to a length; the norm is over the dimensions in which `length` has size 1."""
    over = [dim for dim, size in enumerate(length.shape) if size == 1]
    if not over:
        return direction.sign() * length
    return direction * (length / torch.linalg.vector_norm(direction, dim=over, keepdim=True))
