"""The places of DICOM series: the folder or the zip of a series, or the place of one series among several.

A folder or a zip with one series is the place of that series. One of several series has a path below the folder or the
zip, as a slice has one below its volume: ``study/1.2.840.113`` is the series of ``study`` with this SeriesInstanceUID.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from atrous.data.volumes.dicom_files import ZIP_ERRORS, SeriesFile, pydicom_module, read_dataset, series_files
from atrous.data.volumes.dicom_series import is_scan
from atrous.errors import AtrousError

#: Characters at the end of a SeriesInstanceUID by which file names distinguish the series of a study.
_ENDING = 8
_TAGS = ["SOPClassUID", "SeriesInstanceUID", "Rows", "Columns", "BitsStored"]
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")


def is_series(path: Path) -> bool:
    """Returns whether a path is read as a DICOM series: a folder, a zip, or a SeriesInstanceUID below one of them.

    Args:
        path: any path.
    """
    return _holds_files(path) or chosen_series(path)[1] is not None


def chosen_series(path: Path) -> tuple[Path, str | None]:
    """Splits the place of a series into its folder or zip and its SeriesInstanceUID.

    Args:
        path: any path.

    Returns:
        The folder or zip and the UID; for a path that names no UID, the path and None.
    """
    if _UID.fullmatch(path.name) and _holds_files(path.parent) and not path.exists():
        return path.parent, path.name
    return path, None


def series_name(path: Path) -> str:
    """Returns the name of a series for file names: of its folder or zip, and the end of its UID if the path has one.

    Args:
        path: place of a series.
    """
    folder, uid = chosen_series(path)
    name = folder.stem if folder.suffix.lower() == ".zip" else folder.resolve().name
    return name if uid is None else f"{name}_{uid[-_ENDING:].lstrip('.')}"


def holds_dicom(path: Path, *, below: bool, skipped: frozenset[str] = frozenset()) -> bool:
    """Returns whether a folder or a zip holds a DICOM file, from the first 132 bytes of its files.

    Args:
        path: folder or zip.
        below: whether to search the folder's subfolders.
        skipped: suffixes of files that are not opened, because their format is known.
    """
    return any(_is_dicom(file) for file in _openers(path, below, skipped))


def is_dicom_file(path: Path) -> bool:
    """Returns whether a file starts as DICOM files do.

    Args:
        path: file.
    """
    return path.is_file() and _is_dicom(SeriesFile(0, path.parent, lambda: path.open("rb")))


def series_in(path: Path) -> list[Path]:
    """Lists the DICOM series of a folder or a zip, from the headers of all files; segmentations are not listed.

    Args:
        path: folder, listed with its subfolders, or zip.

    Returns:
        The place of each series, sorted. It is the deepest folder that holds all its slices, if no other series has
        slices there. A folder with a damaged file is listed, too, so that reading it names the damage.

    Raises:
        AtrousError: pydicom is not installed, the zip is damaged or expands too much, or there are too many files.
    """
    pydicom_module()
    folders: dict[str, set[Path]] = {}
    damaged: set[Path] = set()
    with series_files(path) as files:
        for number, file in enumerate(files):
            try:
                uid = _uid(path, files, number)
            except Exception:  # pydicom decodes a tag when it is read
                damaged.add(file.folder)
                continue
            if uid is not None:
                folders.setdefault(uid, set()).add(file.folder)
    common = {uid: Path(os.path.commonpath(found)) for uid, found in folders.items()}
    unread = {one for one in damaged if not any(one.is_relative_to(folder) for folder in common.values())}
    return sorted({_place(folder, uid, folders) for uid, folder in common.items()} | unread)


def _place(folder: Path, uid: str, folders: dict[str, set[Path]]) -> Path:
    """Returns the place of a series whose slices lie in a folder and its subfolders."""
    others = (one for other, found in folders.items() if other != uid for one in found)
    if any(one == folder or one.is_relative_to(folder) for one in others) and _UID.fullmatch(uid):
        return folder / uid
    return folder


def _uid(path: Path, files: list[SeriesFile], number: int) -> str | None:
    """Returns the SeriesInstanceUID of a file; None for a file that is not an image of a scan.

    Images without a UID belong to one series if they are in one folder.
    """
    dataset = read_dataset(path, files, number, _TAGS)
    if dataset is None or not is_scan(dataset):
        return None
    return str(dataset.get("SeriesInstanceUID") or files[number].folder)


def _holds_files(path: Path) -> bool:
    return path.suffix.lower() == ".zip" or path.is_dir()


def _openers(path: Path, below: bool, skipped: frozenset[str]) -> Iterator[SeriesFile]:
    """Yields the files of a folder or a zip one after the other, so that a search can stop early."""
    if not path.is_dir():
        try:
            with series_files(path) as files:
                yield from files
        except AtrousError:  # reading it names the damage
            return
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(one for one in folders if below and not one.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and file.suffix.lower() not in skipped and file.is_file():
                yield SeriesFile(0, file.parent, lambda file=file: file.open("rb"))


def _is_dicom(file: SeriesFile) -> bool:
    try:
        with file.reader() as content:
            return content.read(132)[128:] == b"DICM"
    except ZIP_ERRORS:
        return False
