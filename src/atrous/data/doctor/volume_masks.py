"""Finds masks that lie outside the body or on other tissue, for example because left and right are exchanged."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from atrous.data.dataset import Dataset
from atrous.data.doctor.judge import SHOWN, Finding, shown
from atrous.data.doctor.outliers import is_usual, outliers
from atrous.data.doctor.scan import Pair

#: A mask is an outlier only if its share of foreground on dark voxels differs from the median share by more than this.
_OUTSIDE = 0.5
#: For masks that would fit if they were mirrored, a smaller difference is enough. It applies to the share on dark
#: voxels and to the standard deviation.
_MIRRORED = (0.05, 0.04)
_DIRECTIONS = ("left and right", "front and back", "head and foot")


def find_misplaced_masks(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    """Yields a warning of masks whose share of foreground on dark voxels is far from that of the other volumes.

    The foreground itself may be dark, such as lungs, so the masks are compared with each other. A smaller difference,
    in the share on dark voxels or in the standard deviation of the intensities, is reported if the mirrored mask would
    have usual values of both measures.

    Args:
        dataset: the dataset.
        pairs: its volumes, each once.
    """
    known = [(pair, pair.volume.fits) for pair in pairs if pair.volume and pair.volume.fits is not None]
    if not known:
        return
    fits = np.array([found for _, found in known])
    here, usual = fits[:, 0], np.median(fits[:, 0], axis=0)
    outside = outliers(here[:, 0], _OUTSIDE)
    doubtful = outliers(here[:, 0], _MIRRORED[0]) | outliers(here[:, 1], _MIRRORED[1])
    examples = []
    for index in np.flatnonzero(outside | doubtful):
        axes = [
            axis
            for axis, found in enumerate(fits[index, 1:])
            if all(is_usual(found[column], here[:, column], _MIRRORED[column]) for column in (0, 1))
        ]
        if outside[index] or axes:
            text = f"{shown(dataset, known[index][0].item.mask)}: {_written(here[index])}, usually {_written(usual)}"
            if axes:
                text += f"; it fits with {' or with '.join(_DIRECTIONS[axis] for axis in axes)} exchanged"
            examples.append(text)
    if examples:
        yield Finding(
            "misplaced_mask",
            "Masks that may not fit their volumes. The share of their foreground on dark voxels, such as air, or the "
            "standard deviation of the intensities under their foreground is far from that of the other volumes. Check "
            "whether each mask belongs to its volume, and whether the mask or the volume is mirrored.",
            len(examples),
            tuple(examples[:SHOWN]),
        )


def _written(fit: np.ndarray) -> str:
    """Returns the two measures of a row of `VolumeFacts.fits` as words."""
    return f"{fit[0]:.0%} on dark voxels, deviation {fit[1]:.0%} of the range"
