"""Reads volumes of any format, and keeps the last volumes in memory, because their slices are read one by one.

If the volumes do not fit into memory together, a volume that was read before gets a scratch file (see `scratch`).
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import NamedTuple

import numpy as np

from atrous.data.file_version import version_from
from atrous.data.volumes.contrast_files import contrasts_shape, is_place_of_contrasts, read_contrasts, stored_files
from atrous.data.volumes.dicom_series import read_series, series_shape
from atrous.data.volumes.grid import Grid
from atrous.data.volumes.itk_files import voxel_file
from atrous.data.volumes.resampling import resampled, target_grid
from atrous.data.volumes.scratch import open_scratch, with_scratch
from atrous.data.volumes.series_places import chosen_series, is_series
from atrous.data.volumes.volume import Volume
from atrous.data.volumes.volume_files import file_shape, read_file
from atrous.input_spec import Spacing

#: Number of bytes of volumes that stay in memory in each process.
KEPT = 2**29
#: Time in seconds after which the files of a folder are checked for changes again.
TRUSTED = 2.0

Key = tuple[str | int, ...]
#: Version of the files of a volume.
Stamp = tuple[str | int, ...]


class _FolderStamp(NamedTuple):
    """The stamp of a folder, the times of its subfolders, and the time at which its files were last checked."""

    folders: dict[str, int]
    stamp: Stamp
    seen: float


_stamps: dict[Path, _FolderStamp] = {}
_kept: OrderedDict[Key, Volume] = OrderedDict()
#: Volumes that were decoded before; a second decoding shows that memory cannot keep the volumes in use.
_decoded: set[Key] = set()
#: One lock per volume, so that threads do not decode it at the same time.
_decoding: dict[Key, Lock] = {}
_lock = Lock()


def read_volume(path: Path, spacing: Spacing | None = None, missing: Sequence[float] = ()) -> Volume:
    """Reads a volume.

    Args:
        path: a NIfTI, NRRD or MetaImage file; the place of contrasts in several files, such as
            ``case_????.nii.gz``; or a DICOM series: a folder of slices or a ``.zip`` of one; if it holds several
            series, one of them as ``folder/SeriesInstanceUID`` or ``file.zip/SeriesInstanceUID``.
        spacing: voxel sides to which the volume is resampled, in millimetres; None for the volume as it is stored.
        missing: as in `resampled`.

    Returns:
        The volume. Do not change its values: it may be read again. A changed file is read again at the next call; a
        file that was changed in place in a folder, at the latest after `TRUSTED` seconds.

    Raises:
        AtrousError: the file is missing, damaged, or in no known format.
    """
    try:
        key = (str(path), *stamp(path))
    except OSError:
        return decode_volume(path)  # raises the error
    if spacing is None or target_grid(grid := volume_shape(path)[0], spacing) is grid:
        return kept(key, lambda: decode_volume(path))
    numbers = (*map(float, spacing), *map(float, missing))  # -1000 and -1000.0 are one key
    return kept((*key, repr(numbers)), lambda: resampled(decode_volume(path), spacing, missing))


def kept(key: Key, decode: Callable[[], Volume]) -> Volume:
    """Returns a volume from memory or its scratch file; decodes and keeps it if it is in neither.

    Args:
        key: path and version of every file on which the volume depends.
        decode: reads the volume.
    """
    with _lock:
        decoding = _decoding.setdefault(key, Lock())
    with decoding:
        volume = _in_memory(key)
        if volume is None:
            volume = open_scratch(key) or _decode(key, decode)
            _keep(key, volume)
    return volume


def decode_volume(path: Path) -> Volume:
    """Reads a volume without keeping it in memory.

    Args:
        path: as for `read_volume`.

    Raises:
        AtrousError: as for `read_volume`.
    """
    if is_place_of_contrasts(path):
        return read_contrasts(path)
    return read_series(*chosen_series(path)) if is_series(path) else read_file(path)


def _in_memory(key: Key) -> Volume | None:
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
        return _kept.get(key)


def _decode(key: Key, decode: Callable[[], Volume]) -> Volume:
    volume = decode()
    if key in _decoded:
        volume = with_scratch(key, volume)
    _decoded.add(key)
    volume.values.flags.writeable = False
    return volume


def _keep(key: Key, volume: Volume) -> None:
    with _lock:
        _kept[key] = volume
        while len(_kept) > 1 and sum(map(_bytes_in_memory, _kept.values())) > KEPT:
            _kept.popitem(last=False)


def _bytes_in_memory(volume: Volume) -> int:
    return 0 if isinstance(volume.values, np.memmap) else volume.values.nbytes


def stamp(path: Path) -> Stamp:
    """Returns the version of a volume: for each of its files, the inode, the time of the last change and the size.

    The files are in the order of the contrasts, so exchanged contrasts have another version.

    Args:
        path: as for `read_volume`.

    Raises:
        OSError: there is no such file.
        AtrousError: as for `voxel_file`.
    """
    files = (file for place in stored_files(path) for file in dict.fromkeys((place, voxel_file(place))))
    return tuple(part for file in files for part in _stamp(file))


def _stamp(path: Path) -> Stamp:
    """Returns the stamp of a file, or of all files of a folder.

    This function is called for each slice of a volume, and a folder has a file per slice. So the files of a folder are
    checked again only after `TRUSTED` seconds, or if a file was added, removed or renamed, which changes the time of
    the folder.
    """
    if not path.is_dir():
        return version_from(path.stat())
    known = _stamps.get(path)
    if known is None or monotonic() - known.seen > TRUSTED or known.folders != _changed(known.folders):
        known = _stamps[path] = _folder_stamp(path)
    return known.stamp


def _folder_stamp(path: Path) -> _FolderStamp:
    seen, versions = monotonic(), []
    # read before the files, because files may change meanwhile
    folders = _changed([folder for folder, _, _ in os.walk(path)])
    for folder in folders:
        with os.scandir(folder) as entries:
            versions += [(entry.path, *version_from(entry.stat())) for entry in entries if entry.is_file()]
    digest = hashlib.blake2b(repr((folders, sorted(versions))).encode(), digest_size=16).hexdigest()
    return _FolderStamp(folders, (digest,), seen)


def _changed(folders: Iterable[str]) -> dict[str, int]:
    """Returns the time of the last change of each folder that exists, in ns."""
    found = {}
    for folder in folders:
        with suppress(FileNotFoundError):
            found[folder] = Path(folder).stat().st_mtime_ns
    return found


def volume_shape(path: Path) -> tuple[Grid, int]:
    """Returns the grid of a volume and its number of contrasts, from the header of the file or of the series.

    Args:
        path: as for `read_volume`.

    Returns:
        The grid with RAS axes, as of `Volume.grid`, and the number of contrasts.

    Raises:
        AtrousError: as for `read_volume`.
    """
    try:
        return _shape(path, stamp(path))
    except OSError:
        return _read_shape(path)  # raises the error


@lru_cache(maxsize=4096)
def _shape(path: Path, stamp: Stamp) -> tuple[Grid, int]:
    """Reads the headers of a volume once: each of its slices needs them, and a series has one header per slice."""
    return _read_shape(path)


def _read_shape(path: Path) -> tuple[Grid, int]:
    if is_place_of_contrasts(path):
        return contrasts_shape(path)
    return series_shape(*chosen_series(path)) if is_series(path) else file_shape(path)


def forget_in_child() -> None:
    """Replaces the locks, which other threads of the parent may have held when the process forked."""
    global _lock
    _lock = Lock()
    _decoding.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_in_child)
