"""Reads volumes of any format, and keeps the last ones in memory, because their slices are read one by one.

If the volumes do not fit into memory together, a volume that was read before gets a scratch file (see `scratch`).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from threading import Lock

import numpy as np

from atrous.data.volumes.contrast_files import contrasts_shape, is_place_of_contrasts, read_contrasts, stored_files
from atrous.data.volumes.dicom_series import read_series, series_shape
from atrous.data.volumes.grid import Grid
from atrous.data.volumes.nifti import nifti_shape, read_nifti
from atrous.data.volumes.scratch import open_scratch, with_scratch
from atrous.data.volumes.series_places import chosen_series, is_series
from atrous.data.volumes.volume import Volume

#: Number of bytes of volumes that stay in memory in each process.
KEPT = 2**29

Key = tuple[str, int, int]

_kept: OrderedDict[Key, Volume] = OrderedDict()
#: Volumes that were decoded before; a second decoding shows that memory cannot keep the volumes in use.
_decoded: set[Key] = set()
#: One lock per volume, so that threads do not decode it at the same time.
_decoding: dict[Key, Lock] = {}
_lock = Lock()


def read_volume(path: Path) -> Volume:
    """Reads a volume.

    Args:
        path: a NIfTI file; the place of contrasts in several files, such as ``case_????.nii.gz``; or a DICOM series: a
            folder of slices or a ``.zip`` of one; if it holds several series, one of them as
            ``folder/SeriesInstanceUID`` or ``file.zip/SeriesInstanceUID``.

    Returns:
        The volume. Do not change its values: it may be read again.

    Raises:
        AtrousError: the file is missing, damaged, or in no known format.
    """
    try:
        key = (str(path), *_stamp(path))
    except OSError:
        return decode_volume(path)  # raises the error
    with _lock:
        decoding = _decoding.setdefault(key, Lock())
    with decoding:
        volume = _in_memory(key)
        if volume is None:
            volume = open_scratch(key) or _decode(path, key)
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
    return read_series(*chosen_series(path)) if is_series(path) else read_nifti(path)


def _in_memory(key: Key) -> Volume | None:
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
        return _kept.get(key)


def _decode(path: Path, key: Key) -> Volume:
    volume = decode_volume(path)
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


def _stamp(path: Path) -> tuple[int, int]:
    """Returns the time of the last change, in ns, and the number of bytes of all files of a volume."""
    places = stored_files(path)
    inside = (one for place in places if place.is_dir() for one in place.rglob("*") if one.is_file())
    found = [one.stat() for one in (*places, *inside)]
    return max(one.st_mtime_ns for one in found), sum(one.st_size for one in found)


def volume_shape(path: Path) -> tuple[Grid, int]:
    """Returns the grid of a volume and its number of contrasts, from the header of the file or of the series.

    Args:
        path: as for `read_volume`.

    Returns:
        The grid with RAS axes, as of `Volume.grid`, and the number of contrasts.

    Raises:
        AtrousError: as for `read_volume`.
    """
    if is_place_of_contrasts(path):
        return contrasts_shape(path)
    return series_shape(*chosen_series(path)) if is_series(path) else nifti_shape(path)


def forget_in_child() -> None:
    """Replaces the locks, which other threads of the parent may have held when the process forked."""
    global _lock
    _lock = Lock()
    _decoding.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_in_child)
