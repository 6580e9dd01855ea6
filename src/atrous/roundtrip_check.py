"""Checks that a model rebuilt from its record and weights gives the scores of the original on one small picture.

A small picture does not reveal every difference, such as an atrous rate larger than the feature map. Therefore the
settings of the layers are compared, too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from atrous import models
from atrous.errors import AtrousError, shown
from atrous.model_state_dict import in_evaluation, plain_weights
from atrous.models import SegmentationModel
from atrous.models.layers import MINIMUM_SIDE_OF_ONE
from atrous.models.wrapper_prefixes import without_wrappers

#: Sides of the picture in pixels. If a backbone needs a larger picture, the next side is tried.
SIDES = (MINIMUM_SIDE_OF_ONE, 65, 129)
#: Settings of layers that change the scores and that a state dict does not contain.
SETTINGS = ("stride", "padding", "dilation", "groups", "padding_mode", "eps")
#: Largest allowed difference of two scores as a share of their variation: on a CPU, on a GPU, and in 16 bits. A CPU
#: computes equal bits for equal layers; a GPU may use a different algorithm each time.
SHARE, SHARE_OF_GPU, SHARE_OF_16_BITS = 1e-5, 1e-3, 2e-2

CURE = (
    "A model file stores only the record (model.info) and the weights, so `load` would build another network. Nothing "
    "was written. Build the model with other arguments (atrous.create_model), remove the added parts, or store your "
    "own network with torch.save(model.state_dict(), path)."
)


def check_rebuilt(model: SegmentationModel) -> None:
    """Compares a model with the model that `load` would build from its record and weights.

    Args:
        model: one of the papers' models, not in a wrapper such as DDP, with weights that fit its record; on any
            device and in any precision. Its mode, gradients and buffers, and the global random states, do not change.

    Raises:
        AtrousError: a layer has another setting, or the scores of a small picture differ.
    """
    first = next(tensor for tensor in model.parameters() if tensor.is_floating_point())
    devices = [first.device] if first.device.type == "cuda" else []
    with torch.random.fork_rng(devices), in_evaluation(model), torch.no_grad(), _uncompiled(), _one_algorithm(devices):
        rebuilt = _rebuilt(model, first.device, first.dtype)
        _compare_settings(model, rebuilt)
        _compare_scores(model, rebuilt, first.device, first.dtype)


def _rebuilt(model: SegmentationModel, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Builds the network of the record with the model's own weights, without copying them."""
    with torch.device("cpu"):
        rebuilt = models.build(model.info.architecture, model.info.arguments).eval().requires_grad_(False)
    weights = plain_weights(model)
    rebuilt.load_state_dict({name: weights[name] for name in rebuilt.state_dict()}, assign=True)
    for module in rebuilt.modules():
        for name in module._non_persistent_buffers_set:  # a state dict does not contain these buffers
            buffer = module._buffers[name]
            if buffer is not None:
                module._buffers[name] = buffer.to(device, dtype if buffer.is_floating_point() else None)
    return rebuilt


def _compare_settings(model: nn.Module, rebuilt: nn.Module) -> None:
    """Checks that layers of the same name have the same settings."""
    given = {without_wrappers(f"{path}.x"): module for path, module in model.named_modules()}
    for path, module in rebuilt.named_modules():
        for setting in SETTINGS:
            expected, found = (getattr(one, setting, None) for one in (module, given.get(f"{path}.x")))
            if expected is not None and found is not None and _plain(expected) != _plain(found):
                raise AtrousError(
                    f"'{path}' has {setting} {_plain(found)}, but {_plain(expected)} in the model's record. {CURE}"
                )


def _plain(setting: Any) -> Any:
    return tuple(setting) if isinstance(setting, list | tuple) else setting


def _compare_scores(model: SegmentationModel, rebuilt: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Checks that both models give the same scores for one picture."""
    expected = None
    for side in SIDES:
        generator = torch.Generator().manual_seed(0)
        picture = torch.randn(1, model.info.preprocessing.channels, side, side, generator=generator, device="cpu")
        picture = picture.to(device, dtype)
        try:
            expected = rebuilt(picture)
            break
        except Exception:  # the backbone needs a larger picture, or the device lacks the precision
            continue
    else:
        return
    try:
        found = model(picture)
    except Exception as error:
        said = str(error).partition("\n")[0][:200]
        raise AtrousError(
            f"this model fails ({said}), but the network built from its record does not. {CURE}"
        ) from error
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
        raise AtrousError(
            f"this model gives {shown(found)}, but the network built from its record gives a tensor of shape "
            f"{tuple(expected.shape)}. {CURE}"
        )
    _compare(found.cpu().double(), expected.cpu().double(), _share(device, dtype))


def _share(device: torch.device, dtype: torch.dtype) -> float:
    if dtype.itemsize < 4:
        return SHARE_OF_16_BITS
    return SHARE if device.type == "cpu" else SHARE_OF_GPU


def _compare(found: Tensor, expected: Tensor, share: float) -> None:
    """Checks that two score maps are equal, up to a share of their variation between pixels."""
    finite = expected.isfinite()
    same = bool((finite == found.isfinite()).all())
    if same and finite.any():
        values, others = expected[finite], found[finite]
        varied = (expected - expected.mean((2, 3), keepdim=True)).abs()[finite].max() if finite.all() else 0.0
        same = bool((values - others).abs().max() <= share * (varied + 0.1 * values.abs().max()))
    if not same:
        raise AtrousError(
            f"this model gives other scores than the network built from its record with the same weights (difference "
            f"up to {(found - expected).abs().nan_to_num().max():.2g} on one picture): a layer was replaced, or a hook "
            f"or a setting changes the result. {CURE}"
        )


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Runs compiled modules in eager mode during the context, because a new picture size would start a compilation."""
    # importing this module takes seconds; if it is not imported, no module is compiled
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _one_algorithm(devices: list[torch.device]) -> AbstractContextManager[object]:
    """Returns a context in which a GPU uses the same algorithm for the same layer."""
    if not devices:
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
