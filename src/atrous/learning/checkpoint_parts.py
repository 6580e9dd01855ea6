"""The parts of a training checkpoint, each as tensors and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from atrous.errors import AtrousError, shown


@runtime_checkable
class Stateful(Protocol):
    """An object whose state a checkpoint can store: a module, optimiser, scheduler, counter or buffer of pictures."""

    def state_dict(self) -> Mapping[str, Any]:
        """Returns the state: tensors, arrays, numbers, texts, None, and lists, tuples and dicts of them."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any:
        """Restores a state that `state_dict` returned."""
        ...


def take_apart(name: str, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], Any]:
    """Splits a state into tensors by name and values for JSON; `put_together` restores it exactly.

    Args:
        name: name of the part; the names of its tensors begin with this name and a dot.
        state: result of `Stateful.state_dict`.

    Returns:
        The tensors, and the values for JSON; these are None if the state contains only tensors by name.

    Raises:
        AtrousError: the state contains a value that a checkpoint cannot store.
    """
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        return {f"{name}.{key}": value for key, value in state.items()}, None
    tensors: dict[str, Tensor] = {}
    return tensors, _plain(name, dict(state), tensors)


def put_together(name: str, tensors: Mapping[str, Tensor], rest: Any) -> dict[str, Any]:
    """Restores a state that `take_apart` split.

    Args:
        name: name of the part.
        tensors: all tensors of the checkpoint, by name.
        rest: values that `take_apart` returned for JSON.

    Raises:
        KeyError: a tensor is missing.
    """
    if rest is None:
        prefix = f"{name}."
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return _whole(rest, tensors)


def _plain(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """Converts a value to JSON: containers become [kind, parts]; tensors become [kind, name], and move to `tensors`."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.bool_ | np.number):
        return value.item()
    if isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf"):
        key = f"{name}.{len(tensors)}"
        tensors[key] = value if isinstance(value, Tensor) else torch.from_numpy(value.copy())
        return ["tensor" if isinstance(value, Tensor) else "array", key]
    if isinstance(value, Mapping):
        pairs = [[_plain(name, key, tensors), _plain(name, one, tensors)] for key, one in value.items()]
        return ["dict", pairs]
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return [kind, [_plain(name, one, tensors) for one in value]]
    raise AtrousError(
        f"the state '{name}' contains {shown(value)}, of type {type(value).__name__}. A checkpoint can store tensors, "
        "arrays, numbers, texts, None, and lists, tuples and dicts of them: convert the value to one of these."
    )


def _whole(rest: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Restores a value that `_plain` converted."""
    if not isinstance(rest, list):
        return rest
    kind, held = rest
    if kind == "tensor":
        return tensors[held]
    if kind == "array":
        return tensors[held].numpy()
    if kind == "dict":
        return {_whole(key, tensors): _whole(one, tensors) for key, one in held}
    parts = [_whole(one, tensors) for one in held]
    return tuple(parts) if kind == "tuple" else parts
