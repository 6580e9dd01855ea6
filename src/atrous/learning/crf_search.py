"""Searches a CRF's parameters on labelled pictures, first on a coarse grid and then on a finer grid, as in the papers.

arXiv:1412.7062 §5 fixes w2 and σγ (gaussian_weight and gaussian_xy) at 3, with ten mean-field iterations. It finds w1,
σα and σβ (bilateral_weight, bilateral_xy and bilateral_rgb) by cross-validation on 100 validation pictures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

#: Parameters that are not searched, with their values.
FIXED: dict[str, Any] = {"gaussian_weight": 3, "gaussian_xy": 3, "iterations": 10}
#: The first round's grid: the ranges of arXiv:1606.00915 §4.1.
GRID: dict[str, Sequence[float]] = {
    "bilateral_weight": range(3, 7),
    "bilateral_xy": range(30, 101, 10),
    "bilateral_rgb": range(3, 7),
}

Picked = TypeVar("Picked")


@dataclass(frozen=True)
class Trial:
    """Settings of a CRF, and the score that they reach.

    Args:
        settings: settings of a DenseCRF, by name.
        miou: mean IoU on the pictures of the search, 0–1; NaN if no pixel is labelled.
    """

    settings: Mapping[str, Any]
    miou: float


def coarse_to_fine(
    score: Callable[[Mapping[str, Any]], float], grid: Mapping[str, Sequence[float]] = GRID
) -> Iterator[Trial]:
    """Tries every point of a grid, then the neighbours of the best point at half the grid step.

    There are 26 such neighbours for three parameters.

    Args:
        score: function that returns the mean IoU of a CRF with the given settings, 0–1.
        grid: values of each parameter, ascending and evenly spaced; a parameter with one value is not varied.

    Yields:
        Each trial, `trials_of(grid)` in total; `best_of` returns the best one.
    """
    coarse = []
    for values in itertools.product(*grid.values()):
        coarse.append(_try(score, dict(zip(grid, values, strict=True))))
        yield coarse[-1]
    centre = best_of(coarse)
    around = [
        [centre.settings[name] + shift * (values[1] - values[0]) / 2 for shift in (-1, 0, 1)]
        if len(values) > 1
        else list(values)
        for name, values in grid.items()
    ]
    for values in itertools.product(*around):
        point = dict(zip(grid, values, strict=True))
        if any(point[name] != centre.settings[name] for name in grid):
            yield _try(score, point)


def trials_of(grid: Mapping[str, Sequence[float]] = GRID) -> int:
    """Returns the number of trials that `coarse_to_fine` makes."""
    return math.prod(map(len, grid.values())) + 3 ** sum(len(values) > 1 for values in grid.values()) - 1


def best_of(trials: Sequence[Trial]) -> Trial:
    """Returns the first trial with the highest score; NaN counts as the lowest score."""
    return max(trials, key=lambda trial: -1.0 if math.isnan(trial.miou) else trial.miou)


def evenly(items: Sequence[Picked], count: int) -> list[Picked]:
    """Returns at most `count` items at even distances in the sequence; the choice is deterministic."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _try(score: Callable[[Mapping[str, Any]], float], point: Mapping[str, Any]) -> Trial:
    settings = {**point, **FIXED}
    return Trial(settings, score(settings))
