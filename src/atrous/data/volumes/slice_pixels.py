"""Reads slices of volumes: with stored values, as the input of a model, and as masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atrous.data.mask_value_map import ClassTable
from atrous.data.pixels import PictureKind, StoredPixels
from atrous.data.volumes.dicom_labels import read_mask_volume
from atrous.data.volumes.read_volume import read_volume, volume_shape
from atrous.data.volumes.slices import SlicePlace, pictures_of, with_neighbours
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError, counted
from atrous.input_spec import Input, Spacing

#: Whole numbers below this number are exact in float32.
EXACT = 2**24


def slice_kind(place: SlicePlace) -> PictureKind:
    """Returns the channels and the type of a slice: one channel per contrast, float32.

    Args:
        place: place of the slice.

    Raises:
        AtrousError: as for `volume_shape`.
    """
    contrasts = volume_shape(place.file)[1]
    return PictureKind(contrasts, "float32", contrasts)


def slice_pixels(place: SlicePlace, spacing: Spacing | None = None, missing: Sequence[float] = ()) -> StoredPixels:
    """Reads a slice with the values of its file, in the units of the file (such as Hounsfield units).

    Args:
        place: place of the slice.
        spacing: as for `read_volume`; the index of the slice then counts the slices of the resampled volume.
        missing: as for `read_volume`.

    Raises:
        AtrousError: as for `read_volume`, or there is no such slice.
    """
    return StoredPixels(_slices(place, spacing, missing).astype(np.float32))


def read_slice(place: SlicePlace, one: Input) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads a slice and its neighbours as the input of a model.

    Args:
        place: place of the middle slice.
        one: input of the model. If a contrast is normalised by its own values, its mean and standard deviation are
            computed over all voxels of the volume that are not 0. With a spacing, the volume is resampled first, and
            the index of the slice counts the slices of the resampled volume.

    Returns:
        H×W×C float32, and H×W booleans, False where the middle slice holds no data, or None if it has data everywhere.
        Voxels without data have the mean of the input as their value.

    Raises:
        AtrousError: as for `read_volume`, there is no such slice, or the volume has another number of contrasts than
            the model takes.
    """
    try:
        volume = read_volume(place.file, one.spacing, one.missing)
        return volume_pixels(volume, place.plane, place.index, one)
    except AtrousError as error:
        raise error if str(place.file) in str(error) else AtrousError(f"{place.file}: {error}") from error


def volume_pixels(volume: Volume, plane: str, index: int, one: Input) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns a slice of a volume and its neighbours as the input of a model.

    Args:
        volume: the volume.
        plane: plane of the slice.
        index: index of the middle slice, from 0.
        one: input of the model, as for `read_slice`.

    Returns:
        As for `read_slice`.

    Raises:
        AtrousError: there is no such slice, or the volume has another number of contrasts than the model takes.
    """
    check_contrasts(volume.values.shape[3], one)
    values = with_neighbours(pictures_of(volume.values, plane), index, one.slices).astype(np.float32)
    finite = np.isfinite(values)
    if one.missing:
        finite &= ~np.isin(values, np.asarray(one.missing, np.float32))
    contrasts = one.channels // one.slices
    middle = slice(one.slices // 2 * contrasts, (one.slices // 2 + 1) * contrasts)
    valid = np.asarray(finite[:, :, middle].all(axis=2))
    if any(one.standardised):
        mean, std = (np.tile(part, one.slices).astype(np.float32) for part in volume.mean_and_std(one.missing))
        own = one.standardised
        values = (values - np.where(own, mean, np.float32(0))) / np.where(own, std, np.float32(1))
    if not finite.all():
        values = np.where(finite, values, np.array(one.mean, np.float32))  # the model normalises the mean to 0
    return values, None if valid.all() else valid


def check_contrasts(contrasts: int, one: Input) -> None:
    """Checks that a volume has the number of contrasts that a model takes.

    Args:
        contrasts: number of contrasts or points in time of the volume, ≥ 1.
        one: input of the model.

    Raises:
        AtrousError: the numbers differ; the message states both.
    """
    takes = one.channels // one.slices
    if contrasts == takes:
        return
    cure = (
        f"give the {takes} contrasts of the training in the same order, as one 4-D file or as files case_0000.nii.gz "
        f"to case_{takes - 1:04d}.nii.gz."
    )
    if takes == 1:
        cure = "a fourth dimension is read as contrasts, so give one contrast, or one point in time, as a 3-D file."
    if not one.planes:
        cure = "it was trained on pictures, whose channels are not contrasts of a volume."
    raise AtrousError(f"the volume has {counted(contrasts, 'contrast')}, and the model takes {takes}: {cure}")


def read_slice_mask(place: SlicePlace) -> np.ndarray:
    """Reads the stored values of one slice of a mask.

    Args:
        place: place of the slice.

    Raises:
        AtrousError: as for `read_volume` and `mask_values`, or there is no such slice.
    """
    return mask_values(_slices(place), place.file)


def read_label_slice(place: SlicePlace, scan: Path, classes: ClassTable | None) -> np.ndarray:
    """Reads the raw values of one slice of a DICOM-SEG or RT-STRUCT.

    Args:
        place: place of the slice.
        scan: the scan of the mask, as for `read_mask_volume`.
        classes: as for `read_mask_volume`.

    Raises:
        AtrousError: as for `read_mask_volume`, or there is no such slice.
    """
    values = read_mask_volume(place.file, scan, classes).values
    return with_neighbours(pictures_of(values, place.plane), place.index, 1)[..., 0]


def mask_values(values: np.ndarray, file: Path) -> np.ndarray:
    """Returns the values of a mask without the axis of contrasts.

    Args:
        values: H×W×C or X×Y×Z×C values of a mask, as they were read.
        file: the mask's file, for messages.

    Returns:
        H×W or X×Y×Z.

    Raises:
        AtrousError: there are several values per voxel, or floats of `EXACT` or more, which are not exact.
    """
    if values.shape[-1] != 1:
        raise AtrousError(f"{file}: a mask has one value per voxel, but the file has {values.shape[-1]}.")
    if values.dtype.kind == "f" and (np.abs(values[np.isfinite(values)]) >= EXACT).any():
        raise AtrousError(
            f"{file}: the mask holds numbers of {EXACT} or more as floats, or with a slope or an intercept, so "
            "they are not exact. Save the mask as integers (int32) without slope and intercept."
        )
    return values[..., 0]


def _slices(place: SlicePlace, spacing: Spacing | None = None, missing: Sequence[float] = ()) -> np.ndarray:
    """Reads a slice as H×W×C, with C contrasts."""
    try:
        volume = read_volume(place.file, spacing, missing)
        return with_neighbours(pictures_of(volume.values, place.plane), place.index, 1)
    except AtrousError as error:
        raise error if str(place.file) in str(error) else AtrousError(f"{place.file}: {error}") from error
