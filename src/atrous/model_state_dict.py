"""The weights of a module as a model file keeps them, or why a file of them would not be read again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from atrous.errors import AtrousError
from atrous.models.info import Info
from atrous.models.wrapper_names import without_wrappers

if TYPE_CHECKING:
    from torch import Tensor

#: Kinds of floating-point numbers that a model file keeps as they are; others become single precision.
KEPT = ("torch.float16", "torch.float32")


def kept_state(model: Any, info: Info) -> dict[str, Tensor]:
    """The weights under the names that a file of this record has.

    Names lose what wrappers around parts put into them; pruned and otherwise parametrised weights are computed.

    Args:
        model: a paper's module.
        info: its record.

    Returns:
        On the CPU, contiguous, each with numbers of its own.

    Raises:
        AtrousError: weights that the record does not speak of, that it speaks of and are not there, of another shape,
            of no floating-point numbers, without values, or not finite.
    """
    import torch

    from atrous import models

    with torch.device("meta"):
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
    """While active, a module is in evaluation mode; each of its parts is afterwards in the mode that it had.

    Args:
        model: a module; its own `train` is not called.
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
    """Every weight and buffer by its name without wrappers, with parametrised ones as the weights they stand for.

    Args:
        model: a paper's module.

    Returns:
        Detached, on their own devices; most share the module's memory.
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
    """Whether the weights are those that the record speaks of."""
    cure = "A file of it could not be read again; nothing was written."
    built = f"a {info.architecture} over {info.arguments.get('backbone')}"
    for words, names in (
        ("has weights that its record does not speak of", found.keys() - expected.keys()),
        ("lacks weights", expected.keys() - found.keys()),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise AtrousError(f"this model {words}: '{min(names)}'{more} ({built}). {cure}")
    for name, wanted in expected.items():
        if found[name].shape != wanted.shape:
            raise AtrousError(
                f"'{name}' has the shape {tuple(found[name].shape)}, by the model's record ({built}) "
                f"{tuple(wanted.shape)}: a part was replaced. Build the model with other arguments (num_classes) "
                f"instead. {cure}"
            )


def _checked(name: str, tensor: Tensor, wanted: Tensor) -> Tensor:
    """A weight's numbers, as they are kept."""
    import torch

    if tensor.is_meta:
        raise AtrousError(f"'{name}' is on the meta device, a shape without values; nothing was written.")
    same_kind = tensor.is_floating_point() == wanted.is_floating_point()
    if tensor.layout != torch.strided or tensor.is_quantized or not same_kind:
        raise AtrousError(f"'{name}' holds {tensor.dtype}, not plain floating-point numbers; nothing was written.")
    tensor = tensor.cpu().contiguous()
    if tensor.is_floating_point() and str(tensor.dtype) not in KEPT:
        tensor = tensor.float()
    if not tensor.isfinite().all():
        raise AtrousError(f"'{name}' has values that are not finite: the training diverged. Nothing was written.")
    return tensor
