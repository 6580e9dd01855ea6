"""Finds the state dicts in the content of a checkpoint, and checks their tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from atrous.errors import AtrousError
from atrous.weights.reparametrized import joined

#: Keys under which training scripts usually store the model's state dict; they are searched first, in this order.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema",
    "params",
    "weights",
    "module",
)

#: Prefixes of keys whose values are not a model's weights.
NO_WEIGHTS = ("optim", "scheduler", "lr_sched", "scaler", "amp", "callbacks", "loops", "rng", "random")


def find_state_dicts(found: Any, name: str, most: float = math.inf) -> dict[str, dict[str, Tensor]]:
    """Returns every dict of tensors in a checkpoint, by its path in the checkpoint.

    Args:
        found: content of the checkpoint.
        name: name of the checkpoint in messages.
        most: largest allowed number of values in one dict; unlimited by default.

    Raises:
        AtrousError: there are no tensors, the content is not a dict of weights, or a tensor was altered or is not
            dense.
    """
    if isinstance(found, Mapping) and "param_groups" in found:
        raise AtrousError(f"{name} is the state of an optimiser, not the weights of a model.")
    if isinstance(found, torch.nn.Module):
        raise AtrousError(f"{name} is a torch.nn.Module; give its state_dict().")
    sets = {}
    for path, state in _candidates(found):
        tensors = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
        for key, tensor in tensors.items():
            _check_sound(key, tensor, name)
        if sum(tensor.numel() for tensor in tensors.values()) > most:
            raise AtrousError(
                f"{name} claims more numbers than it has bytes: it was altered, or is not a file of weights."
            )
        if tensors:
            sets.setdefault(path, joined(tensors))
    if not sets:
        raise AtrousError(
            f"{name} holds no weights: it is not a dict of tensors, and has no such dict under {', '.join(WRAPPERS)}."
        )
    return sets


def _check_sound(key: str, tensor: Tensor, name: str) -> None:
    """Refuses a tensor that is not dense, stores fewer numbers than its shape needs, or has an unprintable name."""
    if not key.isprintable():
        raise AtrousError(f"{name} has a weight named {key[:60]!r}: it was altered, or is not a file of weights.")
    if tensor.layout != torch.strided or tensor.is_quantized:
        kind = "quantised" if tensor.is_quantized else "sparse"
        raise AtrousError(f"{name} has '{key}' as a {kind} tensor; save it dense, as floating-point numbers.")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        shape = tuple(tensor.shape)
        raise AtrousError(
            f"{name} has '{key}' of shape {shape}, but stores fewer numbers than that: it was altered, or is not a "
            "file of weights."
        )


def _candidates(found: Any, path: str = "", depth: int = 3) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yields the path and content of each dict that may hold weights: first dicts in wrappers, then the dict itself."""
    if not isinstance(found, Mapping) or not depth or "param_groups" in found:
        return
    names = [key for key in found if isinstance(key, str) and not key.lower().startswith(NO_WEIGHTS)]
    for key in sorted(names, key=lambda key: WRAPPERS.index(key) if key in WRAPPERS else len(WRAPPERS)):
        yield from _candidates(found[key], f"{path}.{key}" if path else key, depth - 1)
    yield path, found
