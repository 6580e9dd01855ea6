"""Optimisers with no decay on norms and biases, and the learning rate as a pure function of the step."""

from __future__ import annotations

import torch
from torch import nn

from atrous.errors import AtrousError, unknown_name
from atrous.learning.recipe import Recipe


def parameter_groups(model: nn.Module, *, lr: float, weight_decay: float, backbone_lr: float) -> list[dict]:
    """Parameters in four groups: backbone and head, each with and without weight decay.

    Norm parameters and biases (all one-dimensional ones) are not decayed: shrinking a scale or a shift regularises
    nothing.

    Args:
        model: with a `.backbone`.
        lr: of the head, > 0.
        weight_decay: ≥ 0, on convolution weights.
        backbone_lr: factor on `lr` for the backbone, ≥ 0.

    Returns:
        Groups for a torch optimiser; "base_lr" is what the schedule multiplies.
    """
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_backbone, decayed = name.startswith("backbone."), parameter.ndim > 1
        rate = lr * (backbone_lr if in_backbone else 1.0)
        group = {"params": [], "lr": rate, "base_lr": rate, "weight_decay": weight_decay if decayed else 0.0}
        groups.setdefault((in_backbone, decayed), group)["params"].append(parameter)
    return list(groups.values())


def crf_group(crf: nn.Module, *, lr: float) -> dict:
    """A trainable CRF's weights and compatibility as one more group, never decayed; `lr` > 0."""
    return {"params": list(crf.parameters()), "lr": lr, "base_lr": lr, "weight_decay": 0.0}


def make_optimizer(name: str, groups: list[dict], *, momentum: float = 0.9) -> torch.optim.Optimizer:
    """An optimiser by its lower-case name.

    Args:
        name: "sgd", "adam" or "adamw".
        groups: from `parameter_groups`.
        momentum: of SGD, 0–1; also Adam's first β.

    Raises:
        AtrousError: unknown name.
    """
    makers = {
        "sgd": lambda: torch.optim.SGD(groups, momentum=momentum),
        "adam": lambda: torch.optim.Adam(groups, betas=(momentum, 0.999)),
        "adamw": lambda: torch.optim.AdamW(groups, betas=(momentum, 0.999)),
    }
    if name not in makers:
        raise unknown_name("optimiser", name, makers)
    return makers[name]()


def optimizer_for(recipe: Recipe, model: nn.Module, crf: nn.Module | None = None) -> torch.optim.Optimizer:
    """The recipe's optimiser over a model, and over a CRF that is trained with it."""
    optim = recipe.optim
    groups = parameter_groups(model, lr=optim.lr, weight_decay=optim.weight_decay, backbone_lr=optim.backbone_lr)
    if crf is not None:
        groups.insert(0, crf_group(crf, lr=optim.lr * recipe.crf.lr))  # the last is the head's, whose rate is logged
    return make_optimizer(optim.name, groups, momentum=optim.momentum)


def poly(step: int, total: int, *, power: float = 0.9, warmup: int = 0, floor: float = 0.0) -> float:
    """Factor on the learning rate: linear warm-up, then (1 − step/total)^power (arXiv:1606.00915 §4.1).

    Args:
        step: 0 … total − 1; beyond it the factor is the floor.
        total: number of optimiser steps, ≥ 1.
        power: 0.9 in the papers.
        warmup: steps of linear increase, < total.
        floor: the factor never falls below it after the warm-up, 0–1.

    Raises:
        AtrousError: a warm-up as long as the training.
    """
    if warmup and warmup >= total:
        raise AtrousError(f"warm-up of {warmup} steps is not shorter than the training of {total} steps.")
    if step < warmup:
        return (step + 1) / warmup
    return max(floor, max(0.0, 1 - (step - warmup) / (total - warmup)) ** power)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets each group's rate to its base rate times the schedule's factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
