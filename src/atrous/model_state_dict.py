"""Returns the weights of a module for a model file, after checks that a model can be rebuilt from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from atrous.errors import AtrousError
from atrous.models.info import Info
from atrous.models.wrapper_prefixes import without_wrappers

if TYPE_CHECKING:
    from torch import Tensor

#: Floating-point types that a model file stores unchanged; other floating-point types become float32.
KEPT = ("torch.float16", "torch.float32")


def kept_state(model: Any, info: Info) -> dict[str, Tensor]:
    """Returns the weights of a module under the names that they have in the network of a record.

    Prefixes of wrappers are removed from the names; pruned and otherwise parametrised weights are computed.

    Args:
        model: a module of one of the papers' models.
        info: the record of the module.

    Returns:
        Contiguous tensors on the CPU, which share no memory with each other.

    Raises:
        AtrousError: a weight is not in the record's network, is missing, has another shape or another type, has no
            values (meta device), or is not finite.
    """
    import torch

    from atrous import models
    from atrous.models.meta_device import on_meta_device

    with on_meta_device():
        expected = models.build(info.architecture, info.arguments).state_dict()
    with torch.no_grad(), in_evaluation(model):
        found = plain_weights(model)
    _compare(found, expected, info)
    taken: set[int] = set()
    kept = {}
    for name, wanted in expected.items():
        tensor = _checked(name, found[name], wanted)
        kept[name] = tensor.clone() if tensor.data_ptr() in taken else tensor
        taken.add(tensor.data_ptr())
    return kept


@contextmanager
def in_evaluation(model: Any) -> Iterator[None]:
    """Sets a module to evaluation mode during the context, and restores the mode of each submodule afterwards.

    Args:
        model: a module; its method `train` is not called.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def plain_weights(model: Any) -> dict[str, Tensor]:
    """Returns every weight and buffer by its name without prefixes of wrappers; parametrised weights are computed.

    Args:
        model: a module of one of the papers' models.

    Returns:
        Detached tensors on their own devices; most of them share the module's memory.
    """
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        computed = {}
        for name in getattr(module, "parametrizations", {}):
            computed[name] = getattr(module, name)
        for name in [key.removesuffix("_orig") for key in module._parameters if key.endswith("_orig")]:
            mask = module._buffers.get(f"{name}_mask")
            if mask is not None:
                computed[name] = module._parameters[f"{name}_orig"] * mask
        found |= {without_wrappers(f"{prefix}{name}"): tensor.detach() for name, tensor in computed.items()}
    for key, tensor in model.state_dict().items():
        bare = without_wrappers(key)
        whole = bare.removesuffix("_orig").removesuffix("_mask")
        part, inside, rest = bare.partition("parametrizations.")
        if not (whole != bare and whole in found) and not (inside and part + rest.partition(".")[0] in found):
            found[bare] = tensor.detach()
    return found


def _compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], info: Info) -> None:
    """Checks that the names and shapes of the weights are those of the record's network."""
    cure = "A file of this model could not be read again; nothing was written."
    built = f"a {info.architecture} over {info.arguments.get('backbone')}"
    for words, names in (
        ("has weights that are not in the network of its record", found.keys() - expected.keys()),
        ("lacks weights", expected.keys() - found.keys()),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise AtrousError(f"this model {words}: '{min(names)}'{more} ({built}). {cure}")
    for name, wanted in expected.items():
        if found[name].shape != wanted.shape:
            raise AtrousError(
                f"'{name}' has the shape {tuple(found[name].shape)}, but {tuple(wanted.shape)} in the model's record "
                f"({built}): a part was replaced. Build the model with other arguments (such as num_classes) instead. "
                f"{cure}"
            )


def _checked(name: str, tensor: Tensor, wanted: Tensor) -> Tensor:
    """Checks the values of a weight, and converts them to a type of the file."""
    import torch

    if tensor.is_meta:
        raise AtrousError(f"'{name}' is on the meta device and has no values; nothing was written.")
    same_kind = tensor.is_floating_point() == wanted.is_floating_point()
    if tensor.layout != torch.strided or tensor.is_quantized or not same_kind:
        raise AtrousError(f"'{name}' holds {tensor.dtype}, not plain floating-point numbers; nothing was written.")
    tensor = tensor.cpu().contiguous()
    if tensor.is_floating_point() and str(tensor.dtype) not in KEPT:
        tensor = tensor.float()
    if not tensor.isfinite().all():
        raise AtrousError(f"'{name}' has values that are not finite: the training diverged. Nothing was written.")
    return tensor
