"""How far scores can be trusted: bootstrap intervals and paired tests over groups of pictures.

Groups are what was sampled: patients, scenes or recordings. Pictures of one group resemble each other, so drawing
pictures as if they were independent gives intervals that are too narrow. Of each group only true positives, true pixels
and predicted pixels of each class are kept, and the groups' counts are summed before a score is computed.

Percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, §13. Permutation test of pairs: §15.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
DRAWS = 10_000
SEED = 0
#: Groups below which percentile intervals cover clearly less than they say. Of 1500 sets of made-up groups of one size
#: (Beta(8, 2)) 95 % intervals of the mean held the truth in 74 % at 3 groups, 82 % at 5, 87 % at 8, 88 % at 10, 92 % at
#: 20, 94 % at 40.
FEW = 10
#: Groups up to which all ways of swapping two models are counted, 2^12 = 4096.
ENUMERATED = 12
#: Standard errors that a difference must have to be found in 80 % of sets at 5 %, two-sided: 1.96 + 0.84.
DETECTABLE = 1.959964 + 0.841621
_AT_ONCE = 4_000_000  # numbers of weights that are in memory at once
_TIED = 1e-12  # differences that rounding alone tells apart

Interval = tuple[float, float]


@dataclass(frozen=True)
class Scores:
    """Scores of one summed or many resampled sets of counts.

    Attributes:
        iou: … × K, NaN for a class that is in neither truth nor prediction.
        miou: … mean over the classes that are there.
        pixel_accuracy: … share of labelled pixels that are right.
    """

    iou: NDArray[np.float64]
    miou: NDArray[np.float64]
    pixel_accuracy: NDArray[np.float64]

    @property
    def columns(self) -> NDArray[np.float64]:
        """All of them side by side, … × (2 + K): mIoU, pixel accuracy, and the IoU of each class."""
        return np.concatenate([self.miou[..., None], self.pixel_accuracy[..., None], self.iou], axis=-1)


@dataclass(frozen=True)
class Difference:
    """How two models that were measured on the same groups differ, second minus first.

    Attributes:
        change: of the score itself; NaN where one of them has none.
        interval: 95 % bootstrap interval of the change; None where fewer than two groups have the class.
        error: standard error of the change, by the bootstrap; None as the interval.
        p: the chance that swapping the models at random in each group changes the score at least as much.
    """

    change: float
    interval: Interval | None
    error: float | None
    p: float | None

    @property
    def detectable(self) -> float | None:
        """The smallest true change that such a set shows in 80 % of cases, at 5 %, two-sided."""
        return None if self.error is None else DETECTABLE * self.error


def class_counts(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """What intervals need of a confusion matrix.

    Args:
        confusion: K×K, row = truth, column = prediction.

    Returns:
        3×K: true positives, pixels of the truth, pixels of the prediction.
    """
    return np.stack([np.diag(confusion), confusion.sum(1), confusion.sum(0)])


def grouped_counts(counts: Sequence[NDArray[np.int64]], groups: Sequence[Hashable | None]) -> NDArray[np.int64]:
    """The counts of pictures summed by group, in the order in which the groups come.

    Args:
        counts: 3×K of each picture.
        groups: the group of each picture; None for a picture that is a group of its own.

    Returns:
        G×3×K.
    """
    rows: dict[tuple[bool, Hashable], int] = {}
    keys = [(group is None, number if group is None else group) for number, group in enumerate(groups)]
    of_picture = [rows.setdefault(key, len(rows)) for key in keys]
    summed = np.zeros((len(rows), *counts[0].shape), np.int64)
    np.add.at(summed, of_picture, np.stack(list(counts)))
    return summed


def scores_of(counts: NDArray) -> Scores:
    """The scores of counts, as `ConfusionMatrix` computes them.

    Args:
        counts: … × 3 × K, summed over groups.
    """
    hits, true, predicted = (counts[..., row, :].astype(np.float64) for row in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = hits / (true + predicted - hits)
        accuracy = hits.sum(-1) / true.sum(-1)
        there = ~np.isnan(iou)
        miou = np.where(there, iou, 0).sum(-1) / there.sum(-1)
    return Scores(iou, miou, accuracy)


def groups_with_class(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """In how many groups each class is in truth or prediction, K.

    Args:
        counts: G×3×K.
    """
    return (counts[:, 1:].sum(1) > 0).sum(0)


def listed_counts(confusion: NDArray[np.int64]) -> list[list[int]]:
    """What a picture adds to intervals: [class, true positives, true pixels, predicted pixels] of each class in it.

    Args:
        confusion: K×K of the picture, row = truth, column = prediction.
    """
    counts = class_counts(confusion)
    return [[index, *counts[:, index].tolist()] for index in np.flatnonzero(counts.any(0)).tolist()]


def bootstrap_intervals(
    counts: NDArray[np.int64], *, draws: int = DRAWS, seed: int = SEED
) -> tuple[list[Interval | None], list[Interval | None]]:
    """95 % intervals: groups are drawn with replacement, as many as there are, and their counts summed.

    Args:
        counts: G×3×K of G groups.
        draws: how often, ≥ 1.
        seed: of the draws, ≥ 0.

    Returns:
        The intervals of mIoU and of pixel accuracy, and those of the IoU of each class; None where fewer than two
        groups say anything.
    """
    columns = np.concatenate([scores_of(part).columns for part in _resampled(counts, draws, seed)])
    says = _groups_that_say(counts)
    found = [_percentiles(column) if groups > 1 else None for column, groups in zip(columns.T, says, strict=True)]
    return found[:2], found[2:]


def paired_differences(
    first: NDArray[np.int64], second: NDArray[np.int64], *, draws: int = DRAWS, seed: int = SEED
) -> list[Difference]:
    """How two models differ on the same groups, with intervals and a permutation test of pairs.

    Args:
        first: G×3×K of the first model.
        second: G×3×K of the second model, of the same groups in the same order.
        draws: of groups, and of swaps where there are more than 12 groups; ≥ 1.
        seed: of the draws, ≥ 0.

    Returns:
        2 + K differences, second minus first: of mIoU, of pixel accuracy, and of the IoU of each class.
    """
    both = np.concatenate([first, second], axis=1)
    parts = _resampled(both, draws, seed)
    columns = np.concatenate([scores_of(part[:, 3:]).columns - scores_of(part[:, :3]).columns for part in parts])
    changes = scores_of(second.sum(0)).columns - scores_of(first.sum(0)).columns
    says = _groups_that_say(first + second)
    chances = _chances(first, second, changes, draws, seed)
    found = []
    for column, change, groups, p in zip(columns.T, changes, says, chances, strict=True):
        known = column[~np.isnan(column)]
        if groups < 2 or np.isnan(change) or not known.size:
            found.append(Difference(float(change), None, None, None))
        else:
            found.append(Difference(float(change), _percentiles(column), float(known.std()), float(p)))
    return found


def _groups_that_say(counts: NDArray[np.int64]) -> list[int]:
    """The groups behind each column of scores: those with any pixel, twice, and those with each class."""
    any_pixel = int((counts[:, 1].sum(-1) > 0).sum())
    return [any_pixel, any_pixel, *groups_with_class(counts).tolist()]


def _percentiles(values: NDArray[np.float64]) -> Interval | None:
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _resampled(counts: NDArray[np.int64], draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """The summed counts of drawn groups, in parts of n×R×K; sums of whole numbers are exact in float64 below 2^53."""
    generator, groups = np.random.default_rng(seed), len(counts)

    def weights(number: int) -> NDArray[np.float64]:
        drawn = generator.integers(groups, size=(number, groups)) + groups * np.arange(number)[:, None]
        return np.bincount(drawn.ravel(), minlength=number * groups).reshape(number, groups).astype(np.float64)

    yield from _weighted(counts, draws, weights)


def _weighted(
    counts: NDArray[np.int64], draws: int, weights: Callable[[int], NDArray[np.float64]]
) -> Iterator[NDArray[np.float64]]:
    """The sums of the groups' counts under `draws` rows of weights, in parts that bound the memory."""
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    at_once = max(1, _AT_ONCE // (len(counts) + flat.shape[1]))
    for start in range(0, draws, at_once):
        number = min(at_once, draws - start)
        yield (weights(number) @ flat).reshape(number, *counts.shape[1:])


def _chances(
    first: NDArray[np.int64], second: NDArray[np.int64], changes: NDArray[np.float64], draws: int, seed: int
) -> NDArray[np.float64]:
    """The share of ways to swap the models in each group that change a score at least as much as was found, 2 + K.

    All ways are counted for at most 12 groups in which the models differ; else `draws` are drawn, and what was found
    counts as one of them.
    """
    differ = (first != second).any((1, 2))
    total, swap = (first + second).sum(0), (second - first)[differ]
    groups = len(swap)
    exact = groups <= ENUMERATED
    number = 2**groups if exact else draws
    generator, place = np.random.default_rng(seed), 0

    def swaps(rows: int) -> NDArray[np.float64]:
        nonlocal place
        if not exact:
            return generator.integers(2, size=(rows, groups)).astype(np.float64)
        codes = np.arange(place, place + rows)[:, None]
        place += rows
        return (codes >> np.arange(groups) & 1).astype(np.float64)

    extreme = np.zeros(len(changes), np.int64)
    base = first.sum(0)
    for part in _weighted(swap, number, swaps) if groups else ():
        one = base + part
        moved = np.abs(scores_of(total - one).columns - scores_of(one).columns)
        extreme += (~(moved < np.abs(changes) - _TIED)).sum(0)  # where a class vanished, NaN, too
    if not groups:
        return np.ones(len(changes))
    return extreme / number if exact else (extreme + 1) / (number + 1)
