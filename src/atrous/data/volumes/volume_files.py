"""Reads one file of a volume in any format: NIfTI, NRRD or MetaImage."""

from __future__ import annotations

from pathlib import Path

from atrous.data.volumes import itk_files, nifti
from atrous.data.volumes.grid import Grid, reorientation
from atrous.data.volumes.itk_files import is_itk, itk_grid, itk_notes, read_itk
from atrous.data.volumes.nifti import nifti_notes, nifti_shape, read_nifti
from atrous.data.volumes.volume import Volume

#: File name suffixes of volumes.
SUFFIXES = (*nifti.SUFFIXES, *itk_files.SUFFIXES)


def suffix_of_volume(path: Path) -> str:
    """Returns the suffix of a file of a volume as it is written, such as ".nii.gz"; "" for any other file.

    Args:
        path: any path.
    """
    longest = max((one for one in SUFFIXES if path.name.lower().endswith(one)), key=len, default="")
    return path.name[len(path.name) - len(longest) :]


def read_file(path: Path) -> Volume:
    """Reads the file of a volume.

    Args:
        path: a file with one of `SUFFIXES`.

    Raises:
        AtrousError: as for `read_nifti` and `read_itk`.
    """
    return read_itk(path) if is_itk(path) else read_nifti(path)


def file_shape(path: Path) -> tuple[Grid, int]:
    """Reads the grid of a file and its number of contrasts, from its header.

    Args:
        path: as for `read_file`.

    Returns:
        The grid with RAS axes, as of `Volume.grid`, and the number of contrasts.

    Raises:
        AtrousError: as for `read_file`.
    """
    if not is_itk(path):
        return nifti_shape(path)
    grid, contrasts = itk_grid(path)
    return reorientation(grid).ras_grid(grid), contrasts


def file_notes(path: Path) -> tuple[str, ...]:
    """Returns sentences for the user about properties that a file's header does not state, such as its orientation.

    Args:
        path: as for `read_file`.

    Raises:
        AtrousError: as for `read_file`.
    """
    return itk_notes(path) if is_itk(path) else nifti_notes(path)
