"""Fine-tuning a part of a network: the head alone, the norms alone, or all but some layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from atrous.errors import AtrousError, unknown_name
from atrous.learning.transfer_weights import classwise_names
from atrous.models import SegmentationModel
from atrous.models.layers import is_batch_norm

#: What may learn.
Learn = Literal["all", "head", "norms"]


def freeze(model: SegmentationModel, learn: Learn = "all", frozen: Sequence[str] = ()) -> str:
    """Leaves only some of a model's parameters to learn.

    Args:
        model: its parameters' `requires_grad` is set.
        learn: all; head, everything but the backbone; norms, the scales and shifts of the batch norms and, because
            new classes need them, the last layer's rows per class.
        frozen: names of modules that do not learn either, such as backbone.net.blocks.0.

    Returns:
        A sentence with the number of parameters that learn.

    Raises:
        AtrousError: no module of such a name (with the nearest match), or nothing left to learn.
    """
    modules = dict(model.named_modules())
    for name in frozen:
        if name not in modules:
            raise unknown_name("module in train.frozen", name, modules)
    norms = {name for name, module in modules.items() if is_batch_norm(module)}
    last = classwise_names(model) if learn == "norms" else set()
    for name, parameter in model.named_parameters():
        kept = {
            "all": True,
            "head": not name.startswith("backbone."),
            "norms": name.rpartition(".")[0] in norms or name in last,
        }[learn]
        parameter.requires_grad_(kept and not any(name.startswith(f"{module}.") for module in frozen))
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if not learning:
        raise AtrousError(f"nothing is left to learn with train.learn {learn} and train.frozen {', '.join(frozen)}.")
    whole = sum(parameter.numel() for parameter in model.parameters())
    return f"{learning:,} of {whole:,} parameters learn ({100 * learning / whole:.1f} %)"


def keep_frozen_statistics(model: nn.Module) -> None:
    """Batch norms whose scale and shift do not learn keep their statistics too; `model.train()` undoes it.

    Args:
        model: in training mode; changed in place.
    """
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if is_batch_norm(module) and own and not any(parameter.requires_grad for parameter in own):
            module.eval()
