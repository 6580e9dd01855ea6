"""Checks a model that a caller gives; the messages state the kind of the value and which value to give instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atrous.checked_arguments import attribute_of
from atrous.errors import AtrousError, shown
from atrous.models.info import Info
from atrous.models.wrapper_prefixes import ATTRIBUTES, unwrapped

if TYPE_CHECKING:
    from atrous.models import SegmentationModel


def check_model(model: Any, *, weights: bool = False, wrapped: bool = False) -> SegmentationModel:
    """Checks that a value is a model of this package.

    Args:
        model: the value given as a model.
        weights: whether the model must have its weights, in float32.
        wrapped: whether DataParallel, torch.compile and similar tools may wrap the model; the wrappers are removed.

    Returns:
        The model, without wrappers.

    Raises:
        AtrousError: the value is a path, a state dict, a wrapper or a module of another library, or the weights are
            missing or not float32.
    """
    import torch

    if isinstance(model, str | Path):
        raise AtrousError(f"a model in memory is needed, got a path: give atrous.load({str(model)!r}).")
    if isinstance(model, Mapping):
        raise AtrousError(
            f"{shown(model)} is not a model; a state dict contains only weights. For weights of an atrous model: "
            "model = atrous.create_model(…); model.load_state_dict(weights). For weights of another library: "
            "model = atrous.convert(weights)."
        )
    if isinstance(model, type) and issubclass(model, torch.nn.Module):
        raise AtrousError(f"a model is needed, got the class {model.__name__}: give atrous.create_model(…).")
    if not isinstance(model, torch.nn.Module):
        raise AtrousError(f"a model must come from atrous.create_model, load or convert, got {shown(model)[:200]}.")
    try:
        inside = unwrapped(model)
        parts = dict(model.named_children())
    except AttributeError as error:  # the constructor of the class did not call torch.nn.Module's constructor
        raise AtrousError(f"{type(model).__name__} is a module whose __init__ was not run: {error}.") from error
    if inside is not model and not wrapped:
        name = next(name for name in ATTRIBUTES if name in parts)
        raise AtrousError(f"a {type(model).__name__} wraps the model: give the model in its attribute .{name}.")
    if not isinstance(attribute_of(inside, "info"), Info) or not callable(attribute_of(inside, "scores")):
        raise AtrousError(
            f"{type(inside).__name__} is not a model of atrous: it has no record of its classes and pictures (.info). "
            "Convert weights of other libraries with atrous.convert(module.state_dict()), or build a new model with "
            "atrous.create_model."
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
