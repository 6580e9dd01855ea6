"""Finds volumes whose intensities are far from those of the other volumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from atrous.data.dataset import Dataset
from atrous.data.doctor.judge import SHOWN, Finding, shown
from atrous.data.doctor.outliers import outliers
from atrous.data.doctor.scan import Pair
from atrous.data.volume_items import input_of_slices

#: A position is an outlier only if it differs from the median of all positions by more than this number. The unit is
#: the size of the volume's own intensity range.
_SHIFT = 0.5
#: The size of a range is an outlier only if it is more than this many times larger or smaller than the median size.
_RATIO = 4.0


def find_unusual_intensities(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    """Yields a warning of volumes with a single value, and a warning of volumes whose percentiles are robust outliers.

    The range of a volume extends from percentile 1 to 99. Three numbers of each volume are compared: the position of
    the range (its middle divided by its size), the position of the median in the range, and the size of the range. The
    first two do not depend on the scale of the intensities. The size is compared only if training keeps the scale of
    the contrast. Training does not keep the scale of contrasts that are divided by their own standard deviation, such
    as contrasts of MRI, which have no common scale.

    Args:
        dataset: the dataset, whose first input determines the normalisation.
        pairs: its volumes, each once.
    """
    known = [(pair, pair.volume.percentiles) for pair in pairs if pair.volume]
    blank = [shown(dataset, pair.item.image) for pair, found in known if (found[:, 0] == found[:, 2]).all()]
    if blank:
        yield Finding(
            "blank_volume",
            "Volumes in which nearly all voxels that are not 0 have one value, so nothing can be learned from them. "
            "Remove them or write them again.",
            len(blank),
            tuple(blank[:SHOWN]),
        )
    examples: dict[Path, str] = {}
    by_contrasts: dict[int, list[tuple[Pair, np.ndarray]]] = {}
    for pair, found in known:
        by_contrasts.setdefault(len(found), []).append((pair, found))
    for contrasts, part in by_contrasts.items():
        keeps = input_of_slices(dataset).keeps_scale(contrasts)
        for contrast in range(contrasts):
            one = [(pair, found[contrast]) for pair, found in part if found[contrast, 2] > found[contrast, 0]]
            for pair, text in _outliers([pair for pair, _ in one], np.array([row for _, row in one]), keeps[contrast]):
                named = f"contrast {contrast}: " if contrasts > 1 else ""
                examples.setdefault(pair.item.image, f"{shown(dataset, pair.item.image)}: {named}{text}")
    if examples:
        yield Finding(
            "intensity_outlier",
            "Volumes whose intensities (percentiles 1, 50 and 99 of the voxels that are not 0) are far from those of "
            "the other volumes. Check their unit, offset and scale: the rescale intercept of a CT may be missing. Also "
            "check whether they show the same kind of scan.",
            len(examples),
            tuple(list(examples.values())[:SHOWN]),
        )


def _outliers(pairs: list[Pair], percentiles: np.ndarray, scaled: bool) -> Iterator[tuple[Pair, str]]:
    """Yields the volumes that are outliers in one contrast, each with its percentiles as words.

    Args:
        pairs: N volumes.
        percentiles: N×3, percentiles 1, 50 and 99 of one contrast.
        scaled: whether the size of the range is also compared.
    """
    if not pairs:
        return
    low, median, high = percentiles.T
    far = outliers((low + high) / 2 / (high - low), _SHIFT) | outliers((median - low) / (high - low), _SHIFT)
    if scaled:
        far |= outliers(np.log(high - low), float(np.log(_RATIO)))
    usual = _written(np.median(percentiles, axis=0))
    for index in np.flatnonzero(far):
        yield pairs[index], f"{_written(percentiles[index])}, usually {usual}"


def _written(percentiles: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in percentiles)
