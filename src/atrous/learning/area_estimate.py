"""Estimates the area of each class from a map and the errors of the map, with intervals by a cluster bootstrap.

In an error matrix of this file, row i is the class on the map, and column j is the true class (the reference). The area
of each class on the map comes from the map itself, and not from the sample.

Source: Olofsson et al., Good practices for estimating area and assessing accuracy of land change, Remote Sensing of
Environment 148, 2014: accuracies in equations 1–4, areas and their standard errors in equations 9–11. The paper assumes
that the sampled pixels are independent. Pixels of one picture are not independent, so `area_intervals` draws whole
groups of pictures; see `bootstrap`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atrous.learning.bootstrap import DRAWS, SEED, Interval, percentile_interval, resampled

Values = NDArray[np.float64]


@dataclass(frozen=True)
class AreaEstimate:
    """Areas and accuracies from one error matrix, or from many; … are the dimensions of the matrices.

    Attributes:
        area: … × K, estimated area of each class, in the unit of the mapped areas; NaN if a class of the map has no
            sample.
        pixel_error: … × K, standard error of the area if all sampled pixels were independent, in the same unit.
        users: … × K, user's accuracy, 0–1: the share of the class on the map that is correct; NaN without a sample.
        producers: … × K, producer's accuracy, 0–1: the share of the class's estimated area that is mapped as the class;
            NaN if the estimated area is 0 or NaN.
        overall: …, overall accuracy, 0–1: the share of the mapped area that is correct; NaN if a class of the map has
            no sample.
    """

    area: Values
    pixel_error: Values
    users: Values
    producers: Values
    overall: Values


@dataclass(frozen=True)
class AreaIntervals:
    """95 % intervals of an `AreaEstimate`, by a bootstrap over groups of pictures.

    Attributes:
        area: interval of the area of each class; None if there are fewer than two groups or no defined draw.
        users: interval of each user's accuracy, or None.
        producers: interval of each producer's accuracy, or None.
        overall: interval of the overall accuracy, or None.
        error: K, standard error of each area by the bootstrap; NaN if there is no interval.
        undefined: share of the draws in which a class of the map has no sample, 0–1. These draws are left out.
    """

    area: list[Interval | None]
    users: list[Interval | None]
    producers: list[Interval | None]
    overall: Interval | None
    error: Values
    undefined: float


def estimate_areas(counts: NDArray, mapped: NDArray) -> AreaEstimate:
    """Estimates the area of each class by the stratified estimator, in which the classes of the map are the strata.

    Args:
        counts: … × K × K sampled pixels; row = class on the map, column = true class.
        mapped: K, area of each class on the map, ≥ 0 and not all 0, in any unit.

    Returns:
        The estimates. A class without area on the map needs no sample.
    """
    counts, mapped = np.asarray(counts, np.float64), np.asarray(mapped, np.float64)
    sampled = counts.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = counts / sampled  # n_ij / n_i·
        strata = np.where(mapped[:, None] > 0, mapped[:, None] * shares, 0)  # A · p_ij, by equation 4
        variances = mapped[:, None] ** 2 * shares * (1 - shares) / (sampled - 1)
        area, correct = strata.sum(-2), np.diagonal(strata, axis1=-2, axis2=-1)
        return AreaEstimate(
            area,
            np.sqrt(np.where(mapped[:, None] > 0, variances, 0).sum(-2)),
            np.diagonal(shares, axis1=-2, axis2=-1),
            correct / area,
            correct.sum(-1) / mapped.sum(),
        )


def area_intervals(
    counts: NDArray[np.int64], mapped: NDArray, *, draws: int = DRAWS, seed: int = SEED
) -> AreaIntervals:
    """Computes 95 % intervals: each draw sums the error matrices of G groups, drawn with replacement.

    The mapped areas are the same in all draws, because the whole area is mapped.

    Args:
        counts: G×K×K sampled pixels of each group; row = class on the map, column = true class.
        mapped: K, area of each class on the map, as in `estimate_areas`.
        draws: number of draws, ≥ 1.
        seed: random seed of the draws, ≥ 0.
    """
    classes = len(mapped)
    if len(counts) < 2:
        none: list[Interval | None] = [None] * classes
        return AreaIntervals(none, none, none, None, np.full(classes, np.nan), 0.0)
    parts = [estimate_areas(part, mapped) for part in resampled(counts, draws, seed)]
    area, users, producers = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("area", "users", "producers")
    )
    overall = np.concatenate([part.overall for part in parts])
    defined = ~np.isnan(overall)
    error = area[defined].std(0) if defined.any() else np.full(classes, np.nan)
    return AreaIntervals(
        _intervals(area),
        _intervals(users),
        _intervals(producers),
        percentile_interval(overall),
        error,
        float(1 - defined.mean()),
    )


def _intervals(draws: Values) -> list[Interval | None]:
    return [percentile_interval(column) for column in draws.T]
