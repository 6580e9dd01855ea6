"""Finds the file of a picture that is a part of a larger file: a slice of a volume, or a window of a scene."""

from __future__ import annotations

from pathlib import Path

from atrous.data.rasters.scene_windows import window_place
from atrous.data.volumes.slices import slice_place


def word_of_picture(path: Path | str) -> str:
    """Returns the word for a picture in counts: "window" for a window of a scene, else "picture".

    Args:
        path: path of a picture, a slice or a window.
    """
    return "picture" if window_place(Path(path)) is None else "window"


def file_of_picture(path: Path) -> Path:
    """Returns the volume of a slice, the scene of a window, and for any other picture the path itself.

    Args:
        path: path of a picture, a slice or a window.
    """
    place = slice_place(path) or window_place(path)
    return path if place is None else place.file
