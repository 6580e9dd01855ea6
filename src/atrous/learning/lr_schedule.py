"""Learning rate schedules as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from atrous.learning.recipe_sections import Schedule


def learning_rate_factor(step: int, total: int, schedule: Schedule) -> float:
    """Returns the factor on the learning rate: linear warm-up, then the schedule's curve.

    Args:
        step: index of the optimiser step, 0 … total − 1; larger indices get the final factor.
        total: number of optimiser steps, ≥ 1.
        schedule: schedule of the recipe.
    """
    warmup = int(schedule.warmup * total)
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / (total - warmup))
    curves = {
        "poly": lambda: poly(done, schedule.power),
        "cosine": lambda: cosine(done),
        "step": lambda: stepwise(done, schedule.steps, schedule.fall),
    }
    return max(schedule.floor, curves[schedule.name]())


def poly(done: float, power: float = 0.9) -> float:
    """Returns (1 − done)^power; `done` is the share of the training done, 0–1 (arXiv:1606.00915 §4.1)."""
    return (1 - done) ** power


def cosine(done: float) -> float:
    """Returns half a cosine wave from 1 to 0; `done` is the share of the training done, 0–1.

    This is the schedule of arXiv:1608.03983 without restarts.
    """
    return (1 + math.cos(math.pi * done)) / 2


def stepwise(done: float, steps: Sequence[float], fall: float) -> float:
    """Returns `fall`^n for n passed steps.

    Args:
        done: share of the training done, 0–1.
        steps: shares of the training, 0–1; a step is passed if it is at most `done`.
        fall: factor of each step.
    """
    return fall ** sum(done >= step for step in steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets each group's learning rate to its base rate times the schedule's factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Returns the current learning rates by name: "lr" (head), "lr_backbone", "lr_crf" and "lr_terms", if present."""
    rates = {group["part"]: group["lr"] for group in optimizer.param_groups}
    return {"lr" if part == "head" else f"lr_{part}": rate for part, rate in sorted(rates.items())}
