"""Finds volumes whose voxels are much larger or smaller than those of the other volumes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from atrous.data.dataset import Dataset
from atrous.data.doctor.judge import SHOWN, Finding, shown
from atrous.data.doctor.scan import Pair

#: A volume is reported only if a voxel side is more than this many times larger or smaller than the median side along
#: the same axis.
MOST = 2.0
_FEWEST = 3  # smallest number of volumes for which a usual voxel size is computed
_AXES = ("left–right", "front–back", "head–foot")


def find_unusual_spacing(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    """Yields a warning of volumes whose spacing differs from the median by more than the factor `MOST` along an axis.

    Args:
        dataset: the dataset.
        pairs: its volumes, each once.
    """
    known = [(pair, pair.volume.grid.spacing) for pair in pairs if pair.volume]
    if len(known) < _FEWEST:
        return
    usual = np.median([spacing for _, spacing in known], axis=0)
    examples = []
    for pair, spacing in known:
        ratios = np.array(spacing) / usual
        axis = int(np.abs(np.log(ratios)).argmax())
        if max(ratios[axis], 1 / ratios[axis]) > MOST:
            examples.append(
                f"{shown(dataset, pair.item.image)}: {spacing[axis]:.4g} mm {_AXES[axis]}, usually {usual[axis]:.4g} mm"
            )
    if examples:
        yield Finding(
            "spacing_outlier",
            f"Volumes whose voxels differ in size from the median size by more than a factor of {MOST:g}. Without "
            "resampling, the same anatomy has another size in pixels in these volumes. Check the spacing and its unit "
            "in the header, or set data.spacing in the recipe to resample volumes and masks.",
            len(examples),
            tuple(examples[:SHOWN]),
        )
