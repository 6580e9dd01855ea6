"""The places of DICOM series: the path by which each series is named.

The place of a single series is its folder or ZIP file. If a folder or ZIP file contains several series, the place of a
series is that path followed by its SeriesInstanceUID: ``study/1.2.840.113`` is the series 1.2.840.113 of ``study``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from atrous.data.volumes.dicom_files import ZIP_ERRORS, SeriesFile, pydicom_module, read_dataset, series_files
from atrous.data.volumes.dicom_series import is_scan
from atrous.errors import AtrousError

#: Number of characters at the end of a SeriesInstanceUID that file names contain, to distinguish the series of a study.
_ENDING = 8
_TAGS = ["SOPClassUID", "SeriesInstanceUID", "Rows", "Columns", "BitsStored"]
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")


def is_series(path: Path) -> bool:
    """Returns whether a path is read as a DICOM series: a folder or a ZIP file, with or without a SeriesInstanceUID.

    Args:
        path: any path.
    """
    return _holds_files(path) or chosen_series(path)[1] is not None


def chosen_series(path: Path) -> tuple[Path, str | None]:
    """Splits the place of a series into its folder or ZIP file and its SeriesInstanceUID.

    Args:
        path: any path.

    Returns:
        The folder or ZIP file, and the UID; for a path without a UID, the path and None.
    """
    if _UID.fullmatch(path.name) and _holds_files(path.parent) and not path.exists():
        return path.parent, path.name
    return path, None


def series_name(path: Path) -> str:
    """Returns a name of a series for file names: the name of its folder or ZIP file, and the end of its UID if given.

    Args:
        path: place of a series.
    """
    folder, uid = chosen_series(path)
    name = folder.stem if folder.suffix.lower() == ".zip" else folder.resolve().name
    return name if uid is None else f"{name}_{uid[-_ENDING:].lstrip('.')}"


def holds_dicom(path: Path, *, below: bool, skipped: frozenset[str] = frozenset()) -> bool:
    """Returns whether a folder or a ZIP file contains a DICOM file, judged by the first 132 bytes of its files.

    Args:
        path: folder or ZIP file.
        below: whether to search the subfolders of the folder.
        skipped: suffixes, in lower case, of files that are not opened because their format is known.
    """
    return any(_is_dicom(file) for file in _openers(path, below, skipped))


def is_dicom_file(path: Path) -> bool:
    """Returns whether a file exists and starts with the preamble of DICOM.

    Args:
        path: the file.
    """
    return path.is_file() and _is_dicom(SeriesFile(0, path.parent, lambda: path.open("rb")))


def series_in(path: Path) -> list[Path]:
    """Lists the DICOM series in a folder or a ZIP file, from the headers of all files; segmentations are not listed.

    Args:
        path: folder, which is searched with its subfolders, or ZIP file.

    Returns:
        The sorted places of the series. The place of a series is the deepest folder that contains all its slices. If
        this folder also contains slices of another series, the SeriesInstanceUID is added. A folder with a damaged file
        is also listed, so that the error is raised when it is read.

    Raises:
        AtrousError: pydicom is not installed, the ZIP file is damaged or expands too much, or there are too many files.
    """
    pydicom_module()
    folders: dict[str, set[Path]] = {}
    damaged: set[Path] = set()
    with series_files(path) as files:
        for number, file in enumerate(files):
            try:
                uid = _uid(path, files, number)
            except Exception:  # pydicom raises many types, also when a tag is accessed
                damaged.add(file.folder)
                continue
            if uid is not None:
                folders.setdefault(uid, set()).add(file.folder)
    common = {uid: Path(os.path.commonpath(found)) for uid, found in folders.items()}
    unread = {one for one in damaged if not any(one.is_relative_to(folder) for folder in common.values())}
    return sorted({_place(folder, uid, folders) for uid, folder in common.items()} | unread)


def _place(folder: Path, uid: str, folders: dict[str, set[Path]]) -> Path:
    """Returns the place of a series whose slices are in a folder and its subfolders."""
    others = (one for other, found in folders.items() if other != uid for one in found)
    if any(one == folder or one.is_relative_to(folder) for one in others) and _UID.fullmatch(uid):
        return folder / uid
    return folder


def _uid(path: Path, files: list[SeriesFile], number: int) -> str | None:
    """Returns the SeriesInstanceUID of a file; None for a file that is not an image of a scan.

    Images without a UID belong to one series if they are in the same folder.
    """
    dataset = read_dataset(path, files, number, _TAGS)
    if dataset is None or not is_scan(dataset):
        return None
    return str(dataset.get("SeriesInstanceUID") or files[number].folder)


def _holds_files(path: Path) -> bool:
    """Returns whether a path is a folder, or has the suffix of a ZIP file."""
    return path.suffix.lower() == ".zip" or path.is_dir()


def _openers(path: Path, below: bool, skipped: frozenset[str]) -> Iterator[SeriesFile]:
    """Yields the files of a folder or a ZIP file one after the other, so that a search can stop early."""
    if not path.is_dir():
        try:
            with series_files(path) as files:
                yield from files
        except AtrousError:  # the error is raised when the ZIP file is read
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
