"""Joins the files of a volume's contrasts to one input, for a model of several contrasts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atrous.data.volumes.contrast_files import place_of_contrasts
from atrous.data.volumes.volume_files import file_shape
from atrous.errors import AtrousError
from atrous.input_spec import Input
from atrous.paths import Place


def with_joined_contrasts(pictures: Sequence[Place], one: Input) -> list[Place]:
    """Returns the pictures; files of contrasts such as ``case_0000.nii.gz`` and ``case_0001.nii.gz`` become one volume.

    Each volume is returned once. Nothing is joined for a model of one contrast or of pictures. A file with several
    values per voxel is a volume of its own, even if its name has a number.

    Args:
        pictures: paths and URLs of pictures and volumes.
        one: first input of the model.
    """
    if not one.planes or one.channels == one.slices:
        return list(pictures)
    return list(dict.fromkeys(_joined(place) if isinstance(place, Path) else place for place in pictures))


def _joined(path: Path) -> Path:
    """Returns the place of all contrasts for the file of one contrast; the given path for any other file."""
    place = place_of_contrasts(path)
    if place is None:
        return path
    try:
        return place if file_shape(path)[1] == 1 else path
    except AtrousError:  # the file is damaged; the error is reported when the volume is read
        return place
