"""Finds the folders of a dataset that contain pictures but are not read, and states how to read them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from atrous.data.layouts.folder_names import IMAGE_FOLDERS, MASK_FOLDERS
from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.data.splits.split_names import SPELLINGS, canonical_split
from atrous.errors import counted

_DEPTH = 4  # levels of folders below the dataset's folder, as in gtFine/train/aachen
_SHOWN = 8
#: What may follow a path in a sentence. It is part of the search, so that a longer path with the same start is not
#: found.
_END_OF_PATH = r"(?=[\s,;:]|\.(?:\s|$)|/\*|$)"


def unread_folder_notes(root: Path, used: Iterable[Path], notes: Iterable[str]) -> tuple[str, ...]:
    """Returns sentences that name the unread folders with pictures.

    Args:
        root: the dataset's folder.
        used: the folders whose pictures and masks are read.
        notes: earlier sentences; a folder that they name is not named again.

    Returns:
        One sentence for each folder that is not read because a folder with the same meaning is read. For example,
        ``valid`` is not read if ``val`` is read. If there are other unread folders, one more sentence names at most 8
        of them.
    """
    read = {path for folder in used for path in (folder, *folder.parents)}
    unread = {folder: count for folder, count in folders_with_pictures(root) if folder not in set(used)}
    unread = {folder: count for folder, count in unread.items() if not _is_named(root, folder, notes)}
    sentences: list[str] = []
    others: list[str] = []
    hidden: dict[Path, Path] = {}
    for folder, count in unread.items():
        pair = _hidden_by(root, folder, read)
        if pair is None:
            others.append(f"{_shown(root, folder)} ({count})")
        else:
            hidden.setdefault(*pair)
    for folder, rival in hidden.items():
        count = sum(number for path, number in unread.items() if path.is_relative_to(folder))
        sentences.append(
            f"{_shown(root, folder)} ({counted(count, 'picture')}) is not read, because {_shown(root, rival)} is "
            f'read. To read {_shown(root, folder)} instead, run: mv "{rival}" "{rival}_unused". To read both, move the '
            f"files of {_shown(root, folder)} into {_shown(root, rival)}."
        )
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        sentences.append(f"Folders with pictures that are not read: {', '.join(others[:_SHOWN])}{more}.")
    return tuple(sentences)


def folders_with_pictures(
    folder: Path, counts: Callable[[Path], bool] = lambda path: True, depth: int = _DEPTH
) -> Iterator[tuple[Path, int]]:
    """Yields each folder that contains pictures, and its number of pictures.

    Hidden folders, links and folders without read permission are skipped.

    Args:
        folder: the folder in which the search begins.
        counts: function that returns whether a picture is counted, given its path.
        depth: levels of folders below ``folder`` to search, 0 or more.
    """
    count = 0
    below: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                below.append(Path(entry.path))
            elif entry.name[entry.name.rfind(".") :].lower() in PICTURE_SUFFIXES and counts(Path(entry.path)):
                count += 1
    if count:
        yield folder, count
    for path in sorted(below) if depth else ():
        if os.access(path, os.R_OK | os.X_OK) and not path.is_symlink():
            yield from folders_with_pictures(path, counts, depth - 1)


def _hidden_by(root: Path, folder: Path, read: set[Path]) -> tuple[Path, Path] | None:
    """Returns an unread folder (``folder`` or a folder above it) and the folder that is read in its place, or None."""
    for path in (folder, *folder.parents):
        if path == root or not path.is_relative_to(root):
            return None
        meaning = _meaning(path.name)
        rivals = [other for other in read if other.parent == path.parent and _meaning(other.name) == meaning]
        if meaning and path not in read and rivals:
            return path, rivals[0]
    return None


def _meaning(name: str) -> str | None:
    """Returns the split that a folder's name means, or "images" or "masks"; None for other names."""
    lowered = name.lower()
    if (split := canonical_split(lowered)) in SPELLINGS:
        return split
    return "images" if lowered in IMAGE_FOLDERS else "masks" if lowered in MASK_FOLDERS else None


def _is_named(root: Path, folder: Path, notes: Iterable[str]) -> bool:
    named = [path for path in (folder, *folder.parents) if path.is_relative_to(root) and path != root]
    return any(re.search(re.escape(str(path)) + _END_OF_PATH, note) for path in named for note in notes)


def _shown(root: Path, folder: Path) -> str:
    return "the folder itself" if folder == root else f"{folder.relative_to(root)}{os.sep}"
