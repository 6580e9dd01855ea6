"""Paths and URLs of masks: all masks are in one folder, and their names follow the names of the pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from atrous.console import note
from atrous.data.file_of_picture import file_of_picture
from atrous.data.remote.transfer import as_path, below, identity
from atrous.data.volumes.series_places import chosen_series
from atrous.data.volumes.slices import is_volume_place, volume_name
from atrous.errors import AtrousError, counted
from atrous.paths import Place, shown_place


def mask_places(suffixes: Mapping[Place, str], out: Place) -> dict[Place, Place]:
    """Returns the path or URL of each picture's mask.

    If several pictures have the same name, the name of each mask begins with the name of its picture's folder. A note
    on the console then states this.

    Args:
        suffixes: path or URL of each picture → file name suffix of its mask, such as ".png".
        out: folder of the masks.

    Returns:
        Path or URL of each picture → that of its mask. All masks and overlays differ from each other and from all
        pictures.

    Raises:
        AtrousError: a mask would overwrite its picture.
    """
    stems = Counter(volume_name(as_path(place)) for place in suffixes)
    targets, taken = {}, {identity(place) for place in suffixes}
    for place, suffix in suffixes.items():
        path = as_path(place)
        stem = volume_name(path)
        name = stem if stems[stem] == 1 else _with_folder(path, stem)
        if identity(below(out, f"{name}{suffix}")) == identity(place):
            raise AtrousError(
                f"the mask of {shown_place(place)} would overwrite that picture: give another folder with --out."
            )
        while not taken.isdisjoint(files := _identities(below(out, f"{name}{suffix}"))):
            name += "_"
        targets[place] = below(out, f"{name}{suffix}")
        taken |= files
    if several := [place for place in suffixes if stems[volume_name(as_path(place))] > 1]:
        note(
            f"{counted(len(several), 'picture')} have the name of another picture, so the names of their masks begin "
            f"with the folder, such as {as_path(targets[several[0]]).name}"
        )
    return targets


def overlay_of(target: Place) -> Place:
    """Returns the path or URL of the overlay of a mask; it is in the same folder as the mask.

    Args:
        target: path or URL of the mask.
    """
    if isinstance(target, Path):
        return target.with_suffix(".overlay.png")
    return f"{target.rpartition('.')[0]}.overlay.png"


def _with_folder(path: Path, stem: str) -> str:
    """Returns a name of a mask that begins with the folder; pictures keep their suffix, which may distinguish them."""
    file = chosen_series(file_of_picture(path))[0]
    return f"{file.parent.name}_{stem if is_volume_place(file) else path.name}"


def _identities(target: Place) -> set[str]:
    return {identity(target), identity(overlay_of(target))}
