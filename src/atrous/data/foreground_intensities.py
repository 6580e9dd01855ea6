"""Measures the intensities of the labelled voxels of a dataset, which normalise values such as Hounsfield units.

Source: nnU-Net, github.com/MIC-DKFZ/nnUNet, ``fingerprint_extractor.py`` and ``CTNormalization``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from atrous.data.dataset import Dataset
from atrous.data.input_files import FOREGROUND, INPUTS_FILE, InputFiles
from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.data.volume_items import labelled_volumes, volume_labels
from atrous.data.volumes.read_volume import read_volume
from atrous.data.volumes.slice_pixels import check_contrasts
from atrous.errors import AtrousError
from atrous.input_spec import Input

#: Number of voxels that are drawn from all volumes together, the same number from each.
SAMPLES = 10**7
#: Seed of the drawing, the same for each volume.
SEED = 1234
#: Percentiles of the voxels' values that become the window.
PERCENTILES = (0.5, 99.5)


class Intensities(NamedTuple):
    """The intensities of the labelled voxels of one contrast.

    Attributes:
        window: percentiles 0.5 and 99.5.
        mean: mean, before values are clipped to the window.
        std: standard deviation, before values are clipped to the window, > 0.
    """

    window: tuple[float, float]
    mean: float
    std: float


def with_foreground_windows(dataset: Dataset, split: str, one: Input, files: InputFiles) -> Input:
    """Returns an input whose windows "foreground", with their mean and standard deviation, are measured.

    Args:
        dataset: the dataset, whose items are slices of volumes.
        split: name of the training split.
        one: input of the model, with any window for the contrasts to measure.
        files: description of the files of this input.

    Raises:
        AtrousError: as for `foreground_intensities`.
    """
    described = files.windows_of(one.channels // one.slices)
    if FOREGROUND not in described:
        return one
    measured = foreground_intensities(dataset, split, one)
    windows = [
        found.window if window == FOREGROUND else window for window, found in zip(described, measured, strict=True)
    ]
    taken = [window == FOREGROUND for window in described] * one.slices
    means, stds = ([getattr(found, name) for found in measured] * one.slices for name in ("mean", "std"))
    return replace(
        one,
        window=windows[0] if len(set(windows)) == 1 else tuple(windows),
        mean=tuple(np.where(taken, means, one.mean).tolist()),
        std=tuple(np.where(taken, stds, one.std).tolist()),
    )


def foreground_intensities(dataset: Dataset, split: str, one: Input) -> list[Intensities]:
    """Measures the intensities of the labelled voxels of a split: those of all classes but the first.

    As in nnU-Net, the same number of voxels is drawn from each volume, with replacement, so that each volume counts
    equally. Voxels without data are left out. The same dataset always has the same result.

    Args:
        dataset: the dataset, whose items are slices of volumes.
        split: name of the training split.
        one: input of the model, which defines the number of contrasts and the values that mean "no data".

    Returns:
        The intensities of each contrast.

    Raises:
        AtrousError: no voxel of the split belongs to such a class, or nearly all of them have one value.
    """
    volumes = labelled_volumes(dataset.split(split))
    count, drawn = max(1, SAMPLES // max(1, len(volumes))), []
    for file, (_, mask) in volumes.items():
        volume = read_volume(file, one.spacing, one.missing)
        try:
            check_contrasts(volume.values.shape[3], one)
        except AtrousError as error:
            raise AtrousError(f"{file}: {error}") from error
        labels = volume_labels(dataset, mask, file, volume.grid.shape)
        values = volume.values[(labels != 0) & (labels != IGNORE_INDEX) & volume.valid(one.missing)]
        if len(values):
            drawn.append(values[np.random.default_rng(SEED).integers(len(values), size=count)].astype(np.float32))
    cure = f"Give the window in {INPUTS_FILE}: window: [LOW, HIGH]."
    if not drawn:
        raise AtrousError(
            f"{dataset.root}: the window cannot be measured, because no voxel of the split {split} belongs to a class "
            f"other than {dataset.classes.names[0]}. {cure}"
        )
    joined = np.concatenate(drawn)
    low, high = np.percentile(joined, PERCENTILES, axis=0).tolist()
    if flat := [index for index, ends in enumerate(zip(low, high, strict=True)) if ends[0] >= ends[1]]:
        raise AtrousError(
            f"{dataset.root}: the window cannot be measured, because nearly all labelled voxels of contrast {flat[0]} "
            f"in the split {split} have the value {low[flat[0]]:g}. {cure}"
        )
    mean, std = joined.mean(axis=0, dtype=np.float64), joined.std(axis=0, dtype=np.float64)
    return [
        Intensities((float(a), float(b)), float(center), float(spread))
        for a, b, center, spread in zip(low, high, mean, std, strict=True)
    ]
