"""Whether the model that a file's record and weights give does what the given one does: one small picture through both.

What a small picture does not show, such as an atrous rate wider than its features, is compared by the layers' settings.
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
from atrous.models.wrapper_names import without_wrappers

#: Sides of the picture in pixels; a larger one where a backbone does not take the one before.
SIDES = (MINIMUM_SIDE_OF_ONE, 65, 129)
#: What layers of the same weights may do differently.
SETTINGS = ("stride", "padding", "dilation", "groups", "padding_mode", "eps")
#: By what share of the scores' range both may differ. On a CPU the same layers give the same bits; on a GPU another
#: algorithm may be taken for them.
SHARE, SHARE_OF_GPU, SHARE_OF_16_BITS = 1e-5, 1e-3, 2e-2

CURE = (
    "A file keeps the record (model.info) and the weights alone, so it would give another network; nothing was "
    "written. Build the model with other arguments (atrous.create_model), take off what was put in, or keep a network "
    "of your own with torch.save(model.state_dict(), path)."
)


def check_rebuilt(model: SegmentationModel) -> None:
    """Compares a model with the one that `load` would make of its record and weights.

    Args:
        model: a paper's module, out of its wrappers, whose weights fit its record; on any device, of any precision. Its
            mode, gradients and buffers stay as they are, and so do the global random states.

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
    """What the record builds, with the model's own weights, not copied."""
    with torch.device("cpu"):
        rebuilt = models.build(model.info.architecture, model.info.arguments).eval().requires_grad_(False)
    weights = plain_weights(model)
    rebuilt.load_state_dict({name: weights[name] for name in rebuilt.state_dict()}, assign=True)
    for module in rebuilt.modules():
        for name in module._non_persistent_buffers_set:  # which no state dict has
            buffer = module._buffers[name]
            if buffer is not None:
                module._buffers[name] = buffer.to(device, dtype if buffer.is_floating_point() else None)
    return rebuilt


def _compare_settings(model: nn.Module, rebuilt: nn.Module) -> None:
    """Whether layers of the same name have the same settings."""
    given = {without_wrappers(f"{path}.x"): module for path, module in model.named_modules()}
    for path, module in rebuilt.named_modules():
        for setting in SETTINGS:
            expected, found = (getattr(one, setting, None) for one in (module, given.get(f"{path}.x")))
            if expected is not None and found is not None and _plain(expected) != _plain(found):
                raise AtrousError(
                    f"'{path}' has {setting} {_plain(found)}, by the model's record {_plain(expected)}. {CURE}"
                )


def _plain(setting: Any) -> Any:
    return tuple(setting) if isinstance(setting, list | tuple) else setting


def _compare_scores(model: SegmentationModel, rebuilt: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Whether both give the same of one picture."""
    expected = None
    for side in SIDES:
        generator = torch.Generator().manual_seed(0)
        picture = torch.randn(1, model.info.preprocessing.channels, side, side, generator=generator, device="cpu")
        picture = picture.to(device, dtype)
        try:
            expected = rebuilt(picture)
            break
        except Exception:  # a backbone that takes no picture so small, or a device that does not have the precision
            continue
    else:
        return
    try:
        found = model(picture)
    except Exception as error:
        said = str(error).partition("\n")[0][:200]
        raise AtrousError(f"this model fails where what its record builds runs ({said}). {CURE}") from error
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
        raise AtrousError(
            f"this model gives {shown(found)}, what its record builds a tensor of {tuple(expected.shape)}. {CURE}"
        )
    _compare(found.cpu().double(), expected.cpu().double(), _share(device, dtype))


def _share(device: torch.device, dtype: torch.dtype) -> float:
    if dtype.itemsize < 4:
        return SHARE_OF_16_BITS
    return SHARE if device.type == "cpu" else SHARE_OF_GPU


def _compare(found: Tensor, expected: Tensor, share: float) -> None:
    """Whether two maps of scores are the same, up to a share of how much they vary from place to place."""
    finite = expected.isfinite()
    same = bool((finite == found.isfinite()).all())
    if same and finite.any():
        values, others = expected[finite], found[finite]
        varied = (expected - expected.mean((2, 3), keepdim=True)).abs()[finite].max() if finite.all() else 0.0
        same = bool((values - others).abs().max() <= share * (varied + 0.1 * values.abs().max()))
    if not same:
        raise AtrousError(
            f"this model gives other scores than what its record builds with the same weights (on one picture up to "
            f"{(found - expected).abs().nan_to_num().max():.2g} apart): a layer was replaced, or a hook or a setting "
            f"changes what it gives. {CURE}"
        )


@contextmanager
def _uncompiled() -> Iterator[None]:
    """While active, what torch.compile wraps runs as it is written; a picture of a new size would be compiled for."""
    if "torch._dynamo" not in sys.modules:  # takes seconds to import, and nothing is compiled without it
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _one_algorithm(devices: list[torch.device]) -> AbstractContextManager[object]:
    """While active, a GPU takes the same algorithm for the same layer."""
    if not devices:
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
