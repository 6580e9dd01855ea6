"""The check of a network that is given from outside: what it is, and what to give instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atrous.checked_arguments import attribute_of
from atrous.errors import AtrousError, shown
from atrous.models.info import Info
from atrous.models.wrapper_names import ATTRIBUTES, unwrapped

if TYPE_CHECKING:
    from atrous.models import SegmentationModel


def check_model(model: Any, *, weights: bool = False, wrapped: bool = False) -> SegmentationModel:
    """A network of this package, in memory.

    Args:
        model: whatever was given as a model.
        weights: whether its weights must be there, and in float32.
        wrapped: whether it may be wrapped by DataParallel, torch.compile and the like, which are taken off.

    Returns:
        The network.

    Raises:
        AtrousError: a path, a state dict, a wrapper, another library's module, weights of another type or none yet.
    """
    import torch

    if isinstance(model, str | Path):
        raise AtrousError(f"a model in memory is wanted, got a path: give atrous.load({str(model)!r}).")
    if isinstance(model, Mapping):
        raise AtrousError(
            f"{shown(model)} is no model; a state dict holds weights alone. Of a network of atrous: "
            "model = atrous.create_model(…); model.load_state_dict(weights). Of another library: "
            "model = atrous.convert(weights)."
        )
    if isinstance(model, type) and issubclass(model, torch.nn.Module):
        raise AtrousError(f"a model is wanted, got the class {model.__name__}: give atrous.create_model(…).")
    if not isinstance(model, torch.nn.Module):
        raise AtrousError(f"a model is what atrous.create_model, load or convert return, got {shown(model)[:200]}.")
    try:
        inside = unwrapped(model)
        parts = dict(model.named_children())
    except AttributeError as error:  # its constructor did not call that of torch.nn.Module
        raise AtrousError(f"{type(model).__name__} is a module that was not built: {error}.") from error
    if inside is not model and not wrapped:
        name = next(name for name in ATTRIBUTES if name in parts)
        raise AtrousError(f"a {type(model).__name__} wraps the model: give the model in it, .{name}.")
    if not isinstance(attribute_of(inside, "info"), Info) or not callable(attribute_of(inside, "scores")):
        raise AtrousError(
            f"{type(inside).__name__} is no model of atrous: it has no record of its classes and pictures (.info). "
            "Weights of other libraries become one by atrous.convert(module.state_dict()); atrous.create_model builds "
            "a new one."
        )
    if weights:
        _check_weights(inside)
    return inside


def _check_weights(model: Any) -> None:
    import torch

    for name, tensor in model.state_dict().items():
        if tensor.is_meta:
            raise AtrousError(f"the model has no weights yet ('{name}' is on the device meta): load them first.")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise AtrousError(
                f"the model's weights are {str(tensor.dtype).removeprefix('torch.')} ('{name}'), not float32: give "
                "model.float(). Segmenter(precision='bfloat16') computes in 16 bits, save(half=True) stores 16 bits."
            )
