"""Test-time augmentation for slices of volumes: sagittal slices are not mirrored."""

from __future__ import annotations

from pathlib import Path

from atrous.data.volumes.slices import slice_place
from atrous.inference.whole_or_tiled import AnySize


def for_plane(any_size: AnySize, plane: str) -> AnySize:
    """Returns an object that segments the slices of a plane, without mirrored views if the plane is sagittal.

    The columns of a sagittal slice run from anterior to posterior. A mirror image would exchange anterior and
    posterior, which occurs in no patient. Axial and coronal slices are mirrored from left to right. Training follows
    the same rule.

    Args:
        any_size: object that runs the network, with its views.
        plane: "axial", "coronal" or "sagittal"; "" for a picture.
    """
    if plane != "sagittal" or not any_size.whole.flip:
        return any_size
    return any_size.looking(any_size.whole.without_flip())


def for_picture(any_size: AnySize, path: Path) -> AnySize:
    """Returns the object of `for_plane` for a path.

    Args:
        any_size: as for `for_plane`.
        path: path of a picture or of a slice, such as ``scan.nii.gz/sagittal/0012``.
    """
    place = slice_place(path)
    return any_size if place is None else for_plane(any_size, place.plane)
