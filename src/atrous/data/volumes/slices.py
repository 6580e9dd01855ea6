"""Slices of a volume as pictures: their paths, their direction of view, and their neighbours as channels.

The path of a slice is the path of its volume, its plane and its index: ``scan.nii.gz/axial/0012`` is the axial slice 12
of ``scan.nii.gz``, counted from 0 at the inferior end. The volume may also be a DICOM series, which is a folder or a
ZIP file. With such a path, functions that read pictures also read slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atrous.data.volumes.contrast_files import ANY_NUMBER, is_place_of_contrasts
from atrous.data.volumes.series_places import is_series, series_name
from atrous.data.volumes.volume_files import SUFFIXES, suffix_of_volume
from atrous.errors import AtrousError

#: The axis (right, anterior, superior) along which the slices of each plane are counted.
AXES = {"axial": 2, "coronal": 1, "sagittal": 0}


@dataclass(frozen=True)
class SlicePlace:
    """The volume, the plane and the index of a slice.

    Attributes:
        file: the volume's file, or the place of a DICOM series.
        plane: "axial", "coronal" or "sagittal".
        index: index of the slice, from 0 at the inferior, posterior or left end.
    """

    file: Path
    plane: str
    index: int

    @property
    def path(self) -> Path:
        """The path that names the slice."""
        return self.file / self.plane / f"{self.index:04d}"


def is_volume(path: Path) -> bool:
    """Returns whether a file name has the suffix of a volume in NIfTI, NRRD or MetaImage.

    Args:
        path: any path.
    """
    return path.name.lower().endswith(SUFFIXES)


def is_dicom_label(path: Path) -> bool:
    """Returns whether the mask of a volume is a DICOM file: a ``.dcm`` file, or a folder that contains one file.

    Args:
        path: path of a mask.
    """
    return path.suffix.lower() == ".dcm" or path.is_dir()


def is_volume_place(path: Path) -> bool:
    """Returns whether a path is read as a volume: a file for which `is_volume` is true, or a DICOM series.

    Args:
        path: any path.
    """
    return is_volume(path) or is_series(path)


def volume_name(path: Path) -> str:
    """Returns the name of a volume, a slice or a picture for file names and messages.

    The name is the file name without its suffix; for a DICOM series, see `series_name`. The name of a slice contains
    the name of its volume, its plane and its index, such as ``scan_axial_0012``.

    Args:
        path: path of a volume, a slice or a picture.
    """
    if (place := slice_place(path)) is not None:
        return f"{volume_name(place.file)}_{place.plane}_{place.index:04d}"
    return series_name(path) if is_series(path) else volume_stem(path)


def volume_stem(path: Path) -> str:
    """Returns a file name without its suffix, and without the part ``_????`` that stands for the number of a contrast.

    ``.nii.gz`` is one suffix.

    Args:
        path: path of a file, which need not exist.
    """
    suffix = suffix_of_volume(path)
    stem = path.name.removesuffix(suffix) if suffix else path.stem
    return stem.removesuffix(ANY_NUMBER) if is_place_of_contrasts(path) else stem


def slice_place(path: Path) -> SlicePlace | None:
    """Returns the volume, plane and index of the slice that a path names; None for any other path.

    Args:
        path: any path.
    """
    file = path.parent.parent
    if not (path.parent.name in AXES and path.name.isascii() and path.name.isdigit()):
        return None
    if is_volume(file) or ((is_series(file) or is_dicom_label(file)) and not path.exists()):
        return SlicePlace(file, path.parent.name, int(path.name))
    return None


def pictures_of(values: np.ndarray, plane: str) -> np.ndarray:
    """Returns all slices of a plane as a view of the volume, so writing to a slice changes the volume.

    The view is in radiological convention: the patient's right is at the left of axial and coronal pictures, and
    anterior is at the left of sagittal pictures. Anterior is at the top of axial pictures. Superior is at the top of
    coronal and sagittal pictures.

    Args:
        values: X×Y×Z or X×Y×Z×C, along right, anterior and superior.
        plane: "axial", "coronal" or "sagittal".

    Returns:
        S×H×W or S×H×W×C, with S slices.
    """
    return np.moveaxis(values, AXES[plane], 0).swapaxes(1, 2)[:, ::-1, ::-1]


def with_neighbours(pictures: np.ndarray, index: int, slices: int) -> np.ndarray:
    """Returns a slice and its neighbours as channels; the first and the last slice are repeated beyond the volume.

    Args:
        pictures: S×H×W×C slices.
        index: index of the middle slice, 0 to S − 1.
        slices: odd number of slices, 2k + 1.

    Returns:
        H×W×((2k+1)·C): the C channels of slice index − k, then of slice index − k + 1, and so on.

    Raises:
        AtrousError: there is no such slice.
    """
    count = len(pictures)
    if not 0 <= index < count:
        raise AtrousError(f"there is no slice {index}; the volume has the slices 0 to {count - 1}.")
    half = slices // 2
    near = [pictures[min(max(one, 0), count - 1)] for one in range(index - half, index + half + 1)]
    return np.ascontiguousarray(np.concatenate(near, axis=2))
