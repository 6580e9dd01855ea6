"""Optimisers and their parameter groups; norms and biases have no weight decay."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from atrous.errors import unknown_name
from atrous.learning.low_rank import LowRank
from atrous.learning.recipe import Recipe


def parameter_groups(model: nn.Module, *, lr: float, weight_decay: float, backbone_lr: float) -> list[dict]:
    """Splits trainable parameters into up to four groups: backbone and head, each with and without weight decay.

    Norm parameters and biases (all one-dimensional parameters) get no weight decay, because shrinking a scale or a
    shift does not regularise.

    Args:
        model: model with a `.backbone`.
        lr: learning rate of the head, > 0.
        weight_decay: weight decay of convolution weights, ≥ 0.
        backbone_lr: factor on `lr` for the backbone, ≥ 0.

    Returns:
        Groups for a torch optimiser. "base_lr" is the learning rate that the schedule multiplies; "part" is "backbone"
        or "head".
    """
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_backbone, decayed = name.startswith("backbone."), parameter.ndim > 1
        rate = lr * (backbone_lr if in_backbone else 1.0)
        group = {"params": [], "lr": rate, "base_lr": rate, "weight_decay": weight_decay if decayed else 0.0}
        group["part"] = "backbone" if in_backbone else "head"
        groups.setdefault((in_backbone, decayed), group)["params"].append(parameter)
    return list(groups.values())


def crf_group(crf: nn.Module, *, lr: float) -> dict:
    """Returns the parameters of a trainable CRF as one group without weight decay; `lr` is the learning rate, > 0."""
    return {"params": list(crf.parameters()), "lr": lr, "base_lr": lr, "weight_decay": 0.0, "part": "crf"}


def term_groups(terms: Iterable[nn.Module], model: nn.Module, *, lr: float, weight_decay: float) -> list[dict]:
    """Returns the parameters of a loss's terms, without those of the model, in groups with and without weight decay.

    Args:
        terms: terms of the loss that are modules; a term may contain the model.
        model: model whose parameters are left out, because they are in other groups.
        lr: learning rate, > 0.
        weight_decay: weight decay, ≥ 0.
    """
    known, found = {id(parameter) for parameter in model.parameters()}, list[dict]()
    for group in parameter_groups(nn.ModuleList(terms), lr=lr, weight_decay=weight_decay, backbone_lr=1.0):
        own = [parameter for parameter in group["params"] if id(parameter) not in known]
        if own:
            found.append({**group, "params": own, "part": "terms"})
    return found


def make_optimizer(name: str, groups: list[dict], *, momentum: float = 0.9) -> torch.optim.Optimizer:
    """Makes an optimiser by its lower-case name.

    Args:
        name: "sgd", "adam" or "adamw".
        groups: groups from `parameter_groups`.
        momentum: momentum of SGD, or first β of Adam and AdamW, 0–1.

    Raises:
        AtrousError: the name is unknown.
    """
    makers = {
        "sgd": lambda: torch.optim.SGD(groups, momentum=momentum),
        "adam": lambda: torch.optim.Adam(groups, betas=(momentum, 0.999)),
        "adamw": lambda: torch.optim.AdamW(groups, betas=(momentum, 0.999)),
    }
    if name not in makers:
        raise unknown_name("optimiser", name, makers)
    return makers[name]()


def low_rank_groups(low_rank: LowRank, *, lr: float, backbone_lr: float) -> list[dict]:
    """Returns the factors of low-rank changes in groups of backbone and head, without weight decay.

    Weight decay would pull W + B·A towards the base instead of towards 0.

    Args:
        low_rank: the low-rank changes of a model.
        lr: learning rate of the head, > 0.
        backbone_lr: factor on `lr` for the backbone, ≥ 0.
    """
    groups: dict[str, dict] = {}
    for name, factors in zip(low_rank.names, low_rank.factors, strict=True):
        part = "backbone" if name.startswith("backbone.") else "head"
        rate = lr * (backbone_lr if part == "backbone" else 1.0)
        group = {"params": [], "lr": rate, "base_lr": rate, "weight_decay": 0.0, "part": part}
        groups.setdefault(part, group)["params"].extend(factors.parameters())
    return list(groups.values())


def optimizer_for(
    recipe: Recipe,
    model: nn.Module,
    crf: nn.Module | None = None,
    terms: Iterable[nn.Module] = (),
    low_rank: LowRank | None = None,
) -> torch.optim.Optimizer:
    """Makes the recipe's optimiser for a model and for further parts with parameters.

    Args:
        recipe: recipe with the settings.
        model: model to train.
        crf: trainable CRF; None for no CRF.
        terms: terms of the loss that are modules.
        low_rank: low-rank changes of the model's weights; None for no such changes.
    """
    optim = recipe.optim
    groups = parameter_groups(model, lr=optim.lr, weight_decay=optim.weight_decay, backbone_lr=optim.backbone_lr)
    if crf is not None:
        groups.append(crf_group(crf, lr=optim.lr * recipe.crf.lr))
    if low_rank is not None:
        groups += low_rank_groups(low_rank, lr=optim.lr, backbone_lr=optim.backbone_lr)
    groups += term_groups(terms, model, lr=optim.lr, weight_decay=optim.weight_decay)
    return make_optimizer(optim.name, groups, momentum=optim.momentum)
