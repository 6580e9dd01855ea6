"""Writes the mask of a volume on the grid of the segmented file or DICOM series."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np

from atrous.data.mask_value_map import ClassTable
from atrous.data.volumes.contrast_files import stored_files
from atrous.data.volumes.dicom_seg_write import check_classes, write_dicom_seg
from atrous.data.volumes.dicom_series import stored_grid
from atrous.data.volumes.itk_files import is_itk, itk_grid
from atrous.data.volumes.nifti import write_nifti_mask, write_nifti_on_grid
from atrous.data.volumes.series_places import chosen_series, is_series
from atrous.errors import AtrousError, unknown_name
from atrous.paths import Place, shown_place

#: Formats of the masks of volumes.
MaskFormat: TypeAlias = Literal["nifti", "dicom-seg"]


def check_mask_format(format: MaskFormat, pictures: Iterable[Place], classes: ClassTable, *, raw: bool) -> None:
    """Checks that all masks can be written in a format; it is called before any mask is computed.

    Args:
        format: format of the masks of volumes.
        pictures: the pictures and volumes to segment.
        classes: classes of the masks.
        raw: whether masks hold the values of the training masks.

    Raises:
        AtrousError: the format is unknown. For DICOM-SEG also: ``raw`` is set, a picture is not a DICOM series, the
            classes cannot be segments, or highdicom is not installed.
    """
    if format not in get_args(MaskFormat):
        raise unknown_name("format", format, get_args(MaskFormat))
    if format == "nifti":
        return
    if raw:
        raise AtrousError(
            "raw values cannot be written as DICOM-SEG, because its segments are numbered 1, 2, 3 … Use the format "
            "nifti."
        )
    for place in pictures:
        if not (isinstance(place, Path) and is_series(place)):
            raise AtrousError(
                f"DICOM-SEG is written only for DICOM series, but {shown_place(place)} is not a DICOM series. Use the "
                "format nifti."
            )
    check_classes(classes)


def write_volume_mask(
    path: Path, labels: np.ndarray, like: Path, classes: ClassTable, *, format: MaskFormat, raw: bool
) -> None:
    """Writes a mask with the affine and the axes of the segmented volume.

    Args:
        path: file to write, atomically.
        labels: X×Y×Z uint8 class indices along right, anterior and superior, as in `Volume`.
        like: the segmented volume: a NIfTI, NRRD or MetaImage file, the place of contrasts in several files, or the
            place of a DICOM series.
        classes: classes of the mask.
        format: "nifti" for ``.nii.gz``; "dicom-seg" for one segment per class, which needs a DICOM series.
        raw: whether to write the values of the training masks and not class indices; has no effect on DICOM-SEG.

    Raises:
        AtrousError: the mask does not have the shape of the volume, or a file cannot be read or written.
    """
    if format == "dicom-seg":
        write_dicom_seg(path, labels, like, classes)
        return
    values = classes.decode(labels.reshape(len(labels), -1)).reshape(labels.shape) if raw else labels
    if is_series(like):
        write_nifti_on_grid(path, values, stored_grid(*chosen_series(like)), packed=True)
    elif is_itk(file := stored_files(like)[0]):
        write_nifti_on_grid(path, values, itk_grid(file)[0], packed=True)
    else:
        write_nifti_mask(path, values, file, packed=True)
