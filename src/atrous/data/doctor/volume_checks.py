"""Runs the checks that are made only on datasets of volumes."""

from __future__ import annotations

from collections.abc import Mapping

from atrous.data.dataset import Dataset
from atrous.data.doctor.judge import Finding
from atrous.data.doctor.scan import Pair
from atrous.data.doctor.volume_grids import find_other_grids
from atrous.data.doctor.volume_intensities import find_unusual_intensities
from atrous.data.doctor.volume_masks import find_misplaced_masks
from atrous.data.doctor.volume_spacing import find_unusual_spacing
from atrous.data.volumes.slices import AXES


def find_volume_problems(dataset: Dataset, pairs: list[Pair]) -> tuple[list[Finding], list[Finding]]:
    """Finds problems of volumes: their spacing, intensities and grids, and the positions of their masks.

    Args:
        dataset: the dataset, whose items are volumes.
        pairs: its volumes, each once.

    Returns:
        Errors, which would stop training, and warnings.
    """
    warnings = [
        *find_unusual_spacing(dataset, pairs),
        *find_unusual_intensities(dataset, pairs),
        *find_misplaced_masks(dataset, pairs),
    ]
    return list(find_other_grids(dataset, pairs)), warnings


def slices_by_split(by_split: Mapping[str, list[Pair]], planes: tuple[str, ...]) -> dict[str, int]:
    """Returns the number of slices in each split, summed over all planes.

    Args:
        by_split: the volumes of each split.
        planes: planes of the slices: "axial", "coronal" or "sagittal".
    """
    return {
        name: sum(pair.volume.grid.shape[AXES[plane]] for pair in pairs if pair.volume for plane in planes)
        for name, pairs in by_split.items()
    }
