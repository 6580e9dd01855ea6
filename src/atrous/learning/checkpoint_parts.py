"""What a training keeps in its checkpoint, part by part, as tensors and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from atrous.errors import AtrousError, shown


@runtime_checkable
class Stateful(Protocol):
    """Anything whose state a checkpoint keeps: modules, optimisers, schedulers, counters, buffers of pictures."""

    def state_dict(self) -> Mapping[str, Any]:
        """The state: tensors, arrays, numbers, texts, None, and lists, tuples and dicts of them."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any:
        """Puts back what `state_dict` returned."""
        ...


def take_apart(name: str, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], Any]:
    """A state as tensors by name, and the rest as JSON; `put_together` undoes it, to the bit.

    Args:
        name: of the part; each tensor's begins with it and a dot.
        state: what `Stateful.state_dict` returned.

    Returns:
        The tensors, and what JSON keeps: None where the state is tensors by name and nothing else.

    Raises:
        AtrousError: a value that a checkpoint does not keep.
    """
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        return {f"{name}.{key}": value for key, value in state.items()}, None
    tensors: dict[str, Tensor] = {}
    return tensors, _plain(name, dict(state), tensors)


def put_together(name: str, tensors: Mapping[str, Tensor], rest: Any) -> dict[str, Any]:
    """The state that `take_apart` was given.

    Args:
        name: of the part.
        tensors: of the whole checkpoint, by name.
        rest: what JSON kept of it.

    Raises:
        KeyError: a tensor is missing.
    """
    if rest is None:
        prefix = f"{name}."
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return _whole(rest, tensors)


def _plain(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON, in which a list names a kind and holds its parts; tensors are put aside."""
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
        f"the state '{name}' holds {shown(value)}, of type {type(value).__name__}. A checkpoint keeps tensors, arrays, "
        "numbers, texts, None, and lists, tuples and dicts of them: give it as one of these."
    )


def _whole(rest: Any, tensors: Mapping[str, Tensor]) -> Any:
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
