"""Windows of large scenes as pictures: their paths, and the pixels in a window.

The path of a window is the path of its scene, the word ``window``, and the window's top, left, height and width in
pixels: ``scene.tif/window/1024_2048_512_512``. With such a path, functions that read pictures also read windows, so
training on a scene of any size needs only the memory for its windows. The window of a mask refers to the pixels of the
scene.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

import numpy as np

from atrous.data.file_version import raster_version
from atrous.data.formats.tiff import TiffPicture
from atrous.data.pixels import PictureKind, StoredPixels
from atrous.data.rasters.gdal_picture import GdalPicture
from atrous.data.rasters.open_raster import GDAL_SUFFIXES, VRT_SUFFIX
from atrous.data.sources.source import Window
from atrous.errors import AtrousError
from atrous.fork_safety import ForkLock

#: Name of the folder between a scene and the numbers of a window.
FOLDER = "window"
#: Suffixes of TIFF files.
TIFF_SUFFIXES = (".tif", ".tiff")
#: Suffixes of scenes, which are read window by window. Scenes that are not TIFFs are read through GDAL.
SCENE_SUFFIXES = (*TIFF_SUFFIXES, *GDAL_SUFFIXES)
#: Number of scenes that the threads of a process keep open together; each thread may always have one. Opening a scene
#: reads the positions of all its tiles.
KEPT_OPEN = 64
#: An open scene.
ScenePicture = TiffPicture | GdalPicture
_NUMBERS = re.compile(r"(\d+)_(\d+)_(\d+)_(\d+)")


@dataclass(frozen=True)
class WindowPlace:
    """A window of a scene.

    Attributes:
        file: the file of the scene, or of its labels.
        window: the rectangle in pixels of the scene.
    """

    file: Path
    window: Window

    @property
    def path(self) -> Path:
        """The path that names the window."""
        return self.file / FOLDER / "_".join(map(str, self.window))


def window_place(path: Path) -> WindowPlace | None:
    """Returns the scene and the rectangle of the window that a path names; None for any other path.

    Args:
        path: any path.
    """
    if path.parent.name != FOLDER or (numbers := _NUMBERS.fullmatch(path.name)) is None:
        return None
    return WindowPlace(path.parent.parent, Window(*map(int, numbers.groups())))


def window_to_read(path: Path) -> WindowPlace | None:
    """Returns the window that a path names, or the window of a whole VRT; None for a path that is read in another way.

    Args:
        path: any path.

    Raises:
        AtrousError: as for `scene_size`, for a VRT.
    """
    if path.suffix.lower() == VRT_SUFFIX:
        return WindowPlace(path, Window(0, 0, *scene_size(path)))
    return window_place(path)


def scene_size(file: Path) -> tuple[int, int]:
    """Returns (H, W) of a scene in pixels, from its header.

    Args:
        file: the file of the scene.

    Raises:
        AtrousError: the file is missing or damaged, or in no format of scenes.
    """
    height, width, _ = _opened(file, "first").shape
    return height, width


def window_kind(place: WindowPlace, pages: str = "first") -> PictureKind:
    """Returns the channels and the type of a window, from the header of the scene.

    Args:
        place: the window.
        pages: pages of a TIFF to read, "first" or "channels"; see `read_picture`.

    Raises:
        AtrousError: as for `scene_size`.
    """
    return _opened(place.file, pages).kind


def window_pixels(place: WindowPlace, pages: str = "first") -> StoredPixels:
    """Reads a window with the values that `read_pixels` returns for the whole scene.

    Args:
        place: the window.
        pages: as for `window_kind`.

    Raises:
        AtrousError: the file is missing, damaged or in no format of scenes, or the window is not inside the scene.
    """
    picture = _opened(place.file, pages)
    _check_inside(place, picture)
    return picture.pixels(place.window)


def window_mask(place: WindowPlace, *, any_format: bool = False) -> tuple[np.ndarray, ScenePicture]:
    """Reads the stored values in a window of a mask.

    Args:
        place: the window, here in pixels of the mask's own file (not of the scene, as elsewhere in this module).
        any_format: whether the mask may have any format that GDAL reads, besides the formats of scenes.

    Returns:
        H×W×C in the type of the file, and the open file, which has the palette and the nodata value.

    Raises:
        AtrousError: as for `window_pixels`.
    """
    picture = _opened(place.file, "first", any_format)
    _check_inside(place, picture)
    return picture.raw_mask(place.window), picture


class _Scenes:
    """The scenes that a thread keeps open; they are closed when the thread ends."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.pictures: OrderedDict[tuple[object, ...], ScenePicture] = OrderedDict()
        with _all_scenes_lock:
            _all_scenes.add(self)

    def close(self, kept: int = 0) -> None:
        """Closes scenes until only a number of them is open, which were used last.

        Args:
            kept: the number.
        """
        while len(self.pictures) > kept:
            self.pictures.popitem(last=False)[1].close()

    def __del__(self) -> None:
        self.close()


class _OpenScenes(threading.local):
    """The scenes of this thread.

    A forked process opens the scenes again, because parent and child would share the read offset of each open file.
    """

    def __init__(self) -> None:
        self.scenes = _Scenes()


_all_scenes: WeakSet[_Scenes] = WeakSet()
_all_scenes_lock = ForkLock()
_open = _OpenScenes()


def _opened(file: Path, pages: str, any_format: bool = False) -> ScenePicture:
    """Returns an open scene; a changed file is opened again."""
    key = (str(file), pages, *raster_version(file))
    if _open.scenes.process != os.getpid():
        _open.scenes = _Scenes()
    pictures = _open.scenes.pictures
    picture = pictures.get(key)
    if isinstance(picture, GdalPicture) and picture.sources_changed():
        pictures.pop(key).close()
        picture = None
    if picture is None:
        if not any_format and file.suffix.lower() not in SCENE_SUFFIXES:
            raise AtrousError(
                f"{file}: windows are read from {', '.join(SCENE_SUFFIXES)} files: convert the scene to a GeoTIFF."
            )
        with _all_scenes_lock:
            others = sum(len(scenes.pictures) for scenes in _all_scenes if scenes is not _open.scenes)
        _open.scenes.close(kept=max(0, min(len(pictures), KEPT_OPEN - others - 1)))
        is_tiff = file.suffix.lower() in TIFF_SUFFIXES
        picture = pictures[key] = TiffPicture(file, pages=pages) if is_tiff else GdalPicture(file)
    pictures.move_to_end(key)
    return picture


def close_scenes() -> None:
    """Closes the scenes that this thread has open, which frees the memory of their tiles; reading opens them again."""
    if _open.scenes.process == os.getpid():
        _open.scenes.close()


def _check_inside(place: WindowPlace, picture: ScenePicture) -> None:
    height, width, _ = picture.shape
    top, left, rows, columns = place.window
    if not (rows and columns and top + rows <= height and left + columns <= width):
        raise AtrousError(
            f"{place.file}: the window of {columns}×{rows} pixels at x={left}, y={top} is not inside the scene, which "
            f"has {width}×{height} pixels."
        )
