"""Finding the split lists of a dataset among its files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from atrous.data.split_lists import (
    LIST_NAME,
    LIST_SUFFIXES,
    SPLIT_HEADS,
    TABLES,
    TEXTS,
    VAL_HEADS,
    read_list,
    stem_of,
    table_of,
)
from atrous.data.text_files import decodings
from atrous.errors import AtrousError
from atrous.outputs import is_our_json

# named like a list, these hold one that cannot be read
_UNREAD_SUFFIXES = frozenset(
    {".xlsx", ".xls", ".ods", ".yaml", ".yml", ".toml", ".xml", ".jsonl", ".pkl", ".parquet", ".npy", ".mat"}
)
_SETTINGS = frozenset({".yaml", ".yml", ".toml", ".xml"})
_FOLDERS = ("splits", "split", "lists", "ImageSets/Segmentation", "ImageSets")


def find_lists(root: Path, images: Mapping[str, Path] | None = None) -> tuple[list[Path], tuple[str, ...]]:
    """Find the split lists of a dataset: those in ``splits/`` or a folder of such a name, else those in ``root``.

    Args:
        root: the dataset's folder.
        images: the pictures by stem; a file that has no list's name and names none of them is no list.

    Returns:
        The lists, sorted, and sentences that name lists which are not used.

    Raises:
        AtrousError: a list is of a kind that cannot be read.
    """
    found: list[Path] = []
    notes: list[str] = []
    for lists in _named_as_lists(root):
        others = [path for path in lists if images is not None and _is_other_text(path, images)]
        lists = [path for path in lists if path not in others]
        notes += [f"{path} is not read: it names no picture." for path in others]
        if found and lists:
            names = ", ".join(str(path.relative_to(root)) for path in lists)
            notes.append(f"The splits are read from {found[0].parent}; not used: {names}.")
        found = found or lists
    for path in found:
        if path.suffix.lower() not in LIST_SUFFIXES:
            raise AtrousError(
                f"{path}: a split list is read as .txt, .csv, .tsv or .json. Save it as one of these, or move it away "
                "to have a split made."
            )
    return found, tuple(notes)


def unused_lists_note(root: Path, used: Iterable[Path] = ()) -> list[str]:
    """A sentence that names the split lists of a dataset whose splits are its folders, or none.

    Args:
        root: the dataset's folder.
        used: the lists that are read all the same.
    """
    first = next((lists for lists in _named_as_lists(root) if lists), [])
    names = ", ".join(str(path.relative_to(root)) for path in first if path not in set(used))
    return [f"The splits are the folders; these lists are not used: {names}."] if names else []


def _named_as_lists(root: Path) -> Iterator[list[Path]]:
    """The files that are lists by their names or heads, of each folder that may hold some."""
    for folder in (*(_in_any_case(root, name) for name in _FOLDERS), root):
        yield [path for path in _files(folder) if _is_list(path, in_root=folder == root)]


def _in_any_case(root: Path, name: str) -> Path:
    """The folder of a name, or one whose name differs in capitals only."""
    folder = root
    for part in Path(name).parts:
        found = folder / part
        if not found.is_dir() and folder.is_dir() and os.access(folder, os.R_OK | os.X_OK):
            found = next((path for path in sorted(folder.iterdir()) if path.name.lower() == part.lower()), found)
        folder = found
    return folder


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith((".", "~")))


def _is_list(path: Path, in_root: bool) -> bool:
    suffix = path.suffix.lower()
    if suffix not in LIST_SUFFIXES | _UNREAD_SUFFIXES:
        return False
    if suffix == ".json" and is_our_json(path):  # such as the scores of a split, val.json
        return False
    if not in_root:
        return suffix != "" or LIST_NAME.fullmatch(path.stem.lower()) is not None
    if LIST_NAME.fullmatch(path.stem.lower()):
        # train.yaml may be a recipe
        return suffix not in _SETTINGS or path.stem.lower().startswith("split") or _begins_as_list(path)
    return suffix in TABLES and os.access(path, os.R_OK) and _has_split_column(path)


def _is_other_text(path: Path, images: Mapping[str, Path]) -> bool:
    if path.suffix.lower() not in LIST_SUFFIXES or LIST_NAME.fullmatch(path.stem.lower()):
        return False
    try:
        return not any(stem_of(row.image, images) in images for row in read_list(path, images))
    except AtrousError:
        return path.suffix.lower() in TEXTS


def _has_split_column(path: Path) -> bool:
    head = next(iter(table_of(path, next(iter(decodings(path))))), [])
    return any(cell.lower() in SPLIT_HEADS | VAL_HEADS for cell in head) and len(head) > 1


def _begins_as_list(path: Path) -> bool:
    return re.match(r"\ufeff?\s*(#.*\s+)*(-\s|\[)", next(iter(decodings(path)))) is not None
