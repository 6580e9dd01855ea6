"""Freezes parts of a network for fine-tuning: the backbone, all except batch norms and last layer, or named modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from atrous.errors import AtrousError, unknown_name
from atrous.learning.low_rank import LowRank
from atrous.learning.transfer_weights import classwise_names
from atrous.models import SegmentationModel
from atrous.models.layers import is_batch_norm

#: Parameters to train.
Learn = Literal["all", "head", "norms", "lora"]


def freeze(
    model: SegmentationModel, learn: Learn = "all", frozen: Sequence[str] = (), low_rank: LowRank | None = None
) -> str:
    """Sets which parameters of a model are trained, and freezes the rest.

    Args:
        model: model whose parameters get `requires_grad` True or False, in place.
        learn: parameters to train: all; head, which is everything except the backbone; norms, which is the scales and
            shifts of the batch norms, and the last layer, because new classes need new weights there; lora, which is
            the factors of `low_rank` and all weights that it does not change.
        frozen: names of further modules to freeze, such as backbone.net.blocks.0.
        low_rank: low-rank changes of the model's weights, for lora.

    Returns:
        A sentence with the number of parameters that are trained.

    Raises:
        AtrousError: a name in `frozen` is not a module (the message names the nearest one), or all parameters are
            frozen.
    """
    modules = dict(model.named_modules())
    for name in frozen:
        if name not in modules:
            raise unknown_name("module in train.frozen", name, modules)
    norms = {name for name, module in modules.items() if is_batch_norm(module)}
    last = classwise_names(model) if learn == "norms" else set()
    changed = set() if low_rank is None else set(low_rank.names)
    for name, parameter in model.named_parameters():
        trained = {
            "all": True,
            "head": not name.startswith("backbone."),
            "norms": name.rpartition(".")[0] in norms or name in last,
            "lora": name not in changed,
        }[learn]
        parameter.requires_grad_(trained and not any(name.startswith(f"{module}.") for module in frozen))
    factors = () if low_rank is None else low_rank.parameters()
    learning = sum(one.numel() for one in (*model.parameters(), *factors) if one.requires_grad)
    if not learning:
        raise AtrousError(
            f"no parameter is left to train with train.learn {learn} and train.frozen {', '.join(frozen)}."
        )
    whole = sum(parameter.numel() for parameter in model.parameters())
    return f"{learning:,} of {whole:,} parameters are trained ({100 * learning / whole:.1f} %)"


def keep_frozen_statistics(model: nn.Module) -> None:
    """Freezes the running statistics of batch norms whose scale and shift are frozen; `model.train()` undoes it.

    Args:
        model: model in training mode; changed in place.
    """
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if is_batch_norm(module) and own and not any(parameter.requires_grad for parameter in own):
            module.eval()
