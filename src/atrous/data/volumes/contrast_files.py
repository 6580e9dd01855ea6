"""Reads volumes with one file per contrast, numbered as in nnU-Net: ``case_0000.nii.gz``, ``case_0001.nii.gz``.

The path ``case_????.nii.gz`` stands for all files of a volume. This module calls it the place of the contrasts.
Functions that read volumes accept the place of contrasts like the path of any other volume.
"""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

import numpy as np

from atrous.data.volumes.grid import Grid, check_same_grid
from atrous.data.volumes.series_places import chosen_series
from atrous.data.volumes.volume import Volume
from atrous.data.volumes.volume_files import SUFFIXES, file_shape, read_file, suffix_of_volume
from atrous.errors import AtrousError, counted

#: Part of the place of contrasts that stands for the number of a contrast.
ANY_NUMBER = "_????"
_NUMBERED = re.compile(rf"(.+)_[0-9]{{4}}({'|'.join(map(re.escape, SUFFIXES))})", re.IGNORECASE)


def place_of_contrasts(file: Path) -> Path | None:
    """Returns the place of all contrasts of a volume; None if the file's name has no number of a contrast.

    Args:
        file: file of one contrast, such as ``case_0001.nii.gz``.
    """
    found = _NUMBERED.fullmatch(file.name)
    return None if found is None else file.with_name(f"{found[1]}{ANY_NUMBER}{found[2]}")


def is_place_of_contrasts(path: Path) -> bool:
    """Returns whether a path is the place of contrasts in several files.

    Args:
        path: any path.
    """
    return _parts(path) is not None


def contrast_files(place: Path) -> list[Path]:
    """Returns the files of the contrasts at a place, in the order of their numbers.

    Args:
        place: place of the contrasts, such as ``case_????.nii.gz``.

    Raises:
        AtrousError: there is no file with the number 0.
    """
    check_contrasts_exist(place, 1)
    return _found(place)


def read_contrasts(place: Path) -> Volume:
    """Reads the contrasts of a volume from their files.

    Args:
        place: place of the contrasts.

    Returns:
        The volume, with the position and the axes of the first file. The type of its values can represent the values of
        all files, but float32 is used instead of float64.

    Raises:
        AtrousError: as for `contrasts_shape`, or a file is damaged.
    """
    contrasts_shape(place)
    parts = [read_file(file) for file in contrast_files(place)]
    dtype = np.result_type(*(part.values.dtype for part in parts))
    dtype = np.float32 if dtype == np.float64 else dtype  # int32 and float32 give float64
    values = np.empty((*parts[0].values.shape[:3], len(parts)), dtype, order="F")
    for contrast, part in enumerate(parts):
        values[..., contrast] = part.values[..., 0]
    return Volume(values, parts[0].stored, tuple(dict.fromkeys(note for part in parts for note in part.notes)))


def contrasts_shape(place: Path) -> tuple[Grid, int]:
    """Reads the grid of a volume, with RAS axes, and its number of contrasts from the headers of the files.

    Args:
        place: place of the contrasts.

    Raises:
        AtrousError: a file is missing or damaged, has several values per voxel, or is on another grid than the first
            file.
    """
    files = contrast_files(place)
    grid, _ = file_shape(files[0])
    for file in files:
        other, values = file_shape(file)
        if values != 1:
            raise AtrousError(f"{file}: a file of one contrast has one value per voxel, but this file has {values}.")
        check_same_grid(grid, other, str(files[0]), str(file))
    return grid, len(files)


def check_contrasts_exist(place: Path, contrasts: int) -> None:
    """Checks that a file exists for each contrast that a model takes.

    Args:
        place: any path; paths that are not the place of contrasts are not checked.
        contrasts: number of contrasts that are needed, ≥ 1; the contrasts 0 to ``contrasts`` − 1 are checked.

    Raises:
        AtrousError: a file is missing; the message names all missing files.
    """
    if not is_place_of_contrasts(place):
        return
    files = [contrast_file(place, number) for number in range(contrasts)]
    if missing := [file.name for file in files if not file.exists()]:
        raise AtrousError(
            f"{place}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. "
            f"{counted(contrasts, 'contrast')} {'is' if contrasts == 1 else 'are'} needed: "
            f"{', '.join(file.name for file in files)}."
        )


def contrast_file(place: Path, number: int) -> Path:
    """Returns the file of one contrast, which need not exist.

    Args:
        place: place of the contrasts.
        number: number of the contrast, from 0.
    """
    parts = _parts(place)
    assert parts is not None
    return place.with_name(f"{parts[0]}_{number:04d}{parts[1]}")


def stored_files(place: Path) -> list[Path]:
    """Returns the files, the folder or the ZIP file that hold a volume or picture; they need not exist.

    Args:
        place: path of a picture, a file of a volume, the place of a DICOM series, or the place of contrasts.
    """
    if is_place_of_contrasts(place):
        return _found(place) or [place]
    return [chosen_series(place)[0]]


def exists(place: Path) -> bool:
    """Returns whether a volume or picture is on disk.

    Args:
        place: as for `stored_files`.
    """
    return stored_files(place)[0].exists()


def _found(place: Path) -> list[Path]:
    """Returns the files of the contrasts 0, 1, 2 … up to the first number that has no file."""
    return list(takewhile(Path.exists, (contrast_file(place, number) for number in range(10_000))))


def _parts(path: Path) -> tuple[str, str] | None:
    """Returns the name of the volume and the suffix of a place of contrasts; None for any other path."""
    suffix = suffix_of_volume(path)
    stem = path.name.removesuffix(suffix)
    if not suffix or not stem.endswith(ANY_NUMBER):
        return None
    return stem.removesuffix(ANY_NUMBER), suffix
