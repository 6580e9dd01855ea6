"""Reads the masks of resampled volumes as class indices on the resampled grid of the scan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from atrous.data.mask_value_map import ClassTable
from atrous.data.volumes.dicom_labels import label_key
from atrous.data.volumes.read_volume import kept, volume_shape
from atrous.data.volumes.resampling import nearest_axis, resampled_labels, target_grid
from atrous.data.volumes.slices import SlicePlace, pictures_of, with_neighbours
from atrous.data.volumes.volume import Volume
from atrous.input_spec import Spacing

#: Function that reads a slice of a mask as H×W class indices. Its arguments are the path of the slice of the mask, and
#: the path of the same slice of the scan.
ReadSlice = Callable[[Path, Path], np.ndarray]


def read_resampled_label(
    place: SlicePlace, scan: Path, spacing: Spacing, classes: ClassTable, read: ReadSlice
) -> np.ndarray:
    """Reads a slice of a mask on the target grid of its scan.

    Args:
        place: place of the slice; its index counts the slices of the target grid.
        scan: file or DICOM series of the scan.
        spacing: target spacing along right, anterior and superior, in millimetres.
        classes: class table of the dataset.
        read: function that reads slices of the mask on the grid of its file.

    Returns:
        H×W uint8 class indices, 255 = ignore.

    Raises:
        AtrousError: as for `read`, or there is no such slice.
    """
    grid = volume_shape(scan)[0]
    target = target_grid(grid, spacing)
    if target is grid:
        return read(place.path, SlicePlace(scan, place.plane, place.index).path)

    def decode() -> Volume:
        labels = mask_labels(place.file, scan, grid.shape, read)
        return Volume(resampled_labels(labels, target.shape, nearest_axis(grid, spacing))[..., None], target)

    try:
        key = (*label_key(place.file, scan, classes), repr(spacing))
    except OSError:
        return read(place.path, SlicePlace(scan, place.plane, place.index).path)  # raises the error of the file
    return with_neighbours(pictures_of(kept(key, decode).values, place.plane), place.index, 1)[..., 0]


def mask_labels(mask: Path, scan: Path, shape: tuple[int, int, int], read: ReadSlice) -> np.ndarray:
    """Returns the X×Y×Z uint8 class indices of a mask, read slice by slice.

    Args:
        mask: file of the mask.
        scan: file of the scan; a mask in DICOM is read on its grid.
        shape: number of voxels of the volume along right, anterior and superior.
        read: function that reads a slice of the mask.
    """
    labels = np.empty(shape, np.uint8)
    for index, picture in enumerate(pictures_of(labels, "axial")):
        picture[:] = read(SlicePlace(mask, "axial", index).path, SlicePlace(scan, "axial", index).path)
    return labels
