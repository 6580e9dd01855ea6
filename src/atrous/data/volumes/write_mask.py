"""Writes the mask of a volume on the grid of the volume's own file or series."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atrous.data.volumes.dicom_series import stored_grid
from atrous.data.volumes.nifti import write_nifti_mask, write_nifti_on_grid
from atrous.data.volumes.series_places import chosen_series, is_series


def write_volume_mask(path: Path, labels: np.ndarray, like: Path) -> None:
    """Writes a mask as ``.nii.gz`` with the affine and the axes of the volume that was segmented.

    Args:
        path: file to write, atomically.
        labels: X×Y×Z whole numbers along right, anterior and superior, as in `Volume`.
        like: the volume: a NIfTI file, or the place of a DICOM series.

    Raises:
        AtrousError: the mask does not have the shape of the volume, or a file cannot be read or written.
    """
    if is_series(like):
        write_nifti_on_grid(path, labels, stored_grid(*chosen_series(like)), packed=True)
    else:
        write_nifti_mask(path, labels, like, packed=True)
