"""Paths and URLs of masks: a folder for all, and file names that follow the names of the pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from atrous.console import note
from atrous.data.remote.transfer import as_path, below, identity
from atrous.data.volumes.series_places import is_series, series_name
from atrous.data.volumes.slices import slice_place, volume_stem
from atrous.errors import AtrousError, counted
from atrous.paths import Place, shown_place


def mask_places(suffixes: Mapping[Place, str], out: Place) -> dict[Place, Place]:
    """Returns the path or URL of each picture's mask.

    If several pictures have one name, their masks' names begin with the folder's name; a line on the console states it.

    Args:
        suffixes: file name suffix of each picture's mask, such as ".png".
        out: folder of the masks.

    Returns:
        One file per picture; it differs from all pictures and from all other masks and overlays.

    Raises:
        AtrousError: a mask would overwrite its picture.
    """
    stems = Counter(_stem(as_path(place)) for place in suffixes)
    targets, taken = {}, {identity(place) for place in suffixes}
    for place, suffix in suffixes.items():
        path = as_path(place)
        stem = _stem(path)
        name = stem if stems[stem] == 1 else f"{path.parent.name}_{path.name}"
        if identity(below(out, f"{name}{suffix}")) == identity(place):
            raise AtrousError(f"the mask of {shown_place(place)} would overwrite it: give another folder with --out.")
        while not taken.isdisjoint(files := _identities(below(out, f"{name}{suffix}"))):
            name += "_"
        targets[place] = below(out, f"{name}{suffix}")
        taken |= files
    if several := [place for place in suffixes if stems[_stem(as_path(place))] > 1]:
        note(
            f"{counted(len(several), 'picture')} have the name of another picture, so the names of their masks begin "
            f"with the folder, such as {as_path(targets[several[0]]).name}"
        )
    return targets


def overlay_of(target: Place) -> Place:
    """Returns the path or URL of an overlay, which is in the same folder as its mask.

    Args:
        target: path or URL of the mask.
    """
    if isinstance(target, Path):
        return target.with_suffix(".overlay.png")
    return f"{target.rpartition('.')[0]}.overlay.png"


def _stem(path: Path) -> str:
    """Returns the name of a mask without its suffix: of the picture, of the series, or of the slice and its volume."""
    if (place := slice_place(path)) is not None:
        return f"{_stem(place.file)}_{place.plane}_{path.name}"
    return series_name(path) if is_series(path) else volume_stem(path)


def _identities(target: Place) -> set[str]:
    return {identity(target), identity(overlay_of(target))}
