"""The version of a file, as a key for caches: a changed file has another version."""

from __future__ import annotations

import os
from pathlib import Path

from atrous.errors import AtrousError

#: Largest number of files of which caches keep a small record, such as their grid.
MOST_FILES = 2**16

#: A file's inode, time of the last change in ns, and size in bytes. The inode is needed because a copy of a file often
#: has the same time and size.
Version = tuple[int, int, int]
#: Version of a raster, and of each file that GDAL may store beside it; None for a file that is missing.
RasterVersion = tuple[Version | None, ...]
#: Suffixes that GDAL appends to the name of a raster, for the file of its metadata and for the file of its mask.
_BESIDE = (".aux.xml", ".msk")


def file_version(path: str | Path) -> Version:
    """Returns the version of a file.

    Args:
        path: a file.

    Raises:
        AtrousError: the file is missing.
    """
    try:
        return version_from(Path(path).stat())
    except OSError as error:
        raise AtrousError(f"{path}: cannot be read ({error.strerror}).") from error


def raster_version(path: str | Path) -> RasterVersion:
    """Returns the version of a raster file and of the files in which GDAL stores its metadata and its mask.

    Args:
        path: the raster; ``PATH.aux.xml`` and ``PATH.msk`` may be missing.

    Raises:
        AtrousError: the raster is missing.
    """
    return file_version(path), *(_version_or_none(f"{path}{suffix}") for suffix in _BESIDE)


def _version_or_none(path: str) -> Version | None:
    try:
        return version_from(Path(path).stat())
    except OSError:
        return None


def version_from(found: os.stat_result) -> Version:
    """Returns the version of a file from its status.

    Args:
        found: status of the file.
    """
    return found.st_ino, found.st_mtime_ns, found.st_size
