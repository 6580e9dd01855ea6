"""Measures the intensities of the labelled voxels of a dataset; values such as Hounsfield units are normalised by them.

Source: nnU-Net, github.com/MIC-DKFZ/nnUNet, ``fingerprint_extractor.py`` and ``CTNormalization``.
"""

from __future__ import annotations

from collections.abc import Sequence
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

#: Number of voxels that are drawn from all volumes together. Each volume gives the same number of voxels.
SAMPLES = 10**7
#: Number of voxels that are converted to float64 at once.
BLOCK = 2**18
#: Seed of the random choice of voxels, the same for each volume.
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
    """Returns an input in which the window, mean and standard deviation of each window "foreground" are measured.

    Args:
        dataset: the dataset, whose items are slices of volumes.
        split: name of the training split.
        one: input of the model, with any window for the contrasts to measure.
        files: description of the files of this input.

    Raises:
        AtrousError: as for `foreground_intensities`.
    """
    described = files.windows_of(one.channels // one.slices)
    contrasts = [index for index, window in enumerate(described) if window == FOREGROUND]
    if not contrasts:
        return one
    measured = foreground_intensities(dataset, split, one, contrasts)
    windows = [measured[index].window if index in measured else window for index, window in enumerate(described)]
    means, stds = list(one.mean), list(one.std)
    for channel in range(one.channels):
        if found := measured.get(channel % len(described)):
            means[channel], stds[channel] = found.mean, found.std
    return replace(
        one,
        window=windows[0] if len(set(windows)) == 1 else tuple(windows),
        mean=tuple(means),
        std=tuple(stds),
    )


def foreground_intensities(
    dataset: Dataset, split: str, one: Input, contrasts: Sequence[int] = (0,)
) -> dict[int, Intensities]:
    """Measures the intensities of the labelled voxels of a split: the voxels of all classes but the first.

    As in nnU-Net, the same number of voxels is drawn from each volume, with replacement, so that each volume counts
    equally. Voxels without data are left out. The same dataset always has the same result.

    Args:
        dataset: the dataset, whose items are slices of volumes.
        split: name of the training split.
        one: input of the model, which defines the number of contrasts and the values that mean "no data".
        contrasts: numbers of the contrasts to measure, from 0.

    Returns:
        The intensities by number of the contrast.

    Raises:
        AtrousError: the split has no labelled voxel, or nearly all labelled voxels have the same value in a contrast.
    """
    volumes = labelled_volumes(dataset.split(split))
    count = max(1, SAMPLES // max(1, len(volumes)))
    drawn: list[list[np.ndarray]] = [[] for _ in contrasts]
    for file, (_, mask) in volumes.items():
        volume = read_volume(file, one.spacing, one.missing)
        try:
            check_contrasts(volume.values.shape[3], one)
        except AtrousError as error:
            raise AtrousError(f"{file}: {error}") from error
        labels = volume_labels(dataset, mask, file, volume.grid.shape)
        values = volume.values[(labels != 0) & (labels != IGNORE_INDEX) & volume.valid(one.missing)]
        if len(values):
            chosen = np.random.default_rng(SEED).integers(len(values), size=count)
            for contrast, own in zip(contrasts, drawn, strict=True):
                own.append(values[chosen, contrast].astype(np.float32))
    cure = f"Give the window in {INPUTS_FILE}: window: [LOW, HIGH]."
    if not any(drawn):
        raise AtrousError(
            f"{dataset.root}: the window cannot be measured, because no voxel of the split {split} belongs to a class "
            f"other than {dataset.classes.names[0]}. {cure}"
        )
    found: dict[int, Intensities] = {}
    for contrast, own in zip(contrasts, drawn, strict=True):
        joined = np.concatenate(own)
        own.clear()
        measured = _measured(joined)
        if measured.window[0] >= measured.window[1]:
            raise AtrousError(
                f"{dataset.root}: the window cannot be measured, because nearly all labelled voxels of contrast "
                f"{contrast} in the split {split} have the value {measured.window[0]:g}. {cure}"
            )
        found[contrast] = measured
    return found


def _measured(values: np.ndarray) -> Intensities:
    """Returns the intensities of the voxels of one contrast, N float32; the order of this array is changed."""
    mean = float(values.mean(dtype=np.float64))
    blocks = (values[at : at + BLOCK].astype(np.float64) for at in range(0, len(values), BLOCK))
    squares = sum(float(np.square(block - mean).sum()) for block in blocks)
    low, high = np.percentile(values, PERCENTILES, overwrite_input=True).tolist()
    return Intensities((low, high), mean, (squares / len(values)) ** 0.5)
