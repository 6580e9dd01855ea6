"""Builds networks on the meta device, which gives names, shapes and settings without memory for values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

#: Functions whose result has the shape of their first argument, which they fill with random values or normalise.
_SKIPPED = {
    nn.functional.batch_norm,
    Tensor.normal_,
    Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
}


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Creates all tensors on the meta device, and skips functions that change nothing but values.

    These functions are the random initialisation and batch normalisation. On the meta device, torch runs them in Python
    to find the shape of their result. Without this function, they would take a third of the time for building a
    network, and most of the time of a forward pass.
    """
    with torch.device("meta"), _WithoutValues():
        yield


def meta_copy(net: nn.Module) -> nn.Module:
    """Returns a copy of a network in evaluation mode whose weights are on the meta device.

    Args:
        net: any network; not changed.
    """
    tensors = (*net.parameters(), *net.buffers())
    memo: dict[int, Any] = {
        id(tensor): torch.empty_like(tensor, dtype=torch.float32, device="meta") for tensor in tensors
    }
    return copy.deepcopy(net, memo).eval()


class _WithoutValues(TorchFunctionMode):
    """Mode in which random initialisation and batch normalisation return tensors on the meta device as they are."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _SKIPPED:
            tensor = args[0] if args else kwargs.get("tensor", kwargs.get("input"))
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
