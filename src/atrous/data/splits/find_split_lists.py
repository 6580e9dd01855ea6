"""Finds the split lists of a dataset among its files."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path

from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.data.splits.split_lists import LIST_NAME, LIST_SUFFIXES, TABLES, TEXTS, read_list
from atrous.data.splits.split_names import canonical_split
from atrous.data.splits.split_records import RECORD_SUFFIXES, YAML, is_too_large, tells_splits
from atrous.data.splits.split_rows import SPLIT_HEADS, VAL_HEADS, stem_of
from atrous.data.text_files import decodings, table_of
from atrous.errors import AtrousError
from atrous.overwrite_checks import is_our_json

# a file with one of these suffixes in a folder for lists counts as a split list that cannot be read
_UNREAD_SUFFIXES = frozenset({".xlsx", ".xls", ".ods", ".xml", ".pkl", ".parquet", ".npy", ".npz", ".mat"})
_SETTINGS = YAML | {".toml", ".xml", ".cfg", ".ini", ".conf"}
# programs, archives, logs and models may be named train or test, but are not split lists
_OTHERS = """
.py .sh .bat .ps1 .ipynb .m .r .c .cpp .h .md .rst .html .htm .pdf .zip .tar .tgz .7z .rar .log .out .err .cache .lock
.pt .pth .pt2 .ckpt .safetensors .onnx .bin .weights .h5 .hdf5 .mp4 .avi .mov .mkv .tfrecord
"""
_OTHER_SUFFIXES = frozenset(_OTHERS.split())
_RESULT_WORDS = """
log logs loss losses metrics history results prediction predictions predicted pred preds score scores result metric iou
miou dice accuracy errors report stats statistics
"""
#: A file with one of these words in its name contains results, such as scores of pictures, and no split.
RESULTS = frozenset(_RESULT_WORDS.split())
# if a folder has more text files than this, they are skipped, because each of them probably labels one picture
_RECORD_FILES = 100
_FOLDERS = ("splits", "split", "lists", "ImageSets/Segmentation", "ImageSets")


def find_lists(
    root: Path, images: Mapping[str, Path] | None = None, no_lists: Container[Path] = ()
) -> tuple[list[Path], tuple[str, ...]]:
    """Returns the split lists in ``splits/`` or in a folder with a similar name, else the split lists in ``root``.

    Args:
        root: the dataset's folder.
        images: the pictures by stem. If the name of a file is unusual for a list, the file counts as a list only if it
            names a picture.
        no_lists: files that are not split lists, whatever their names are.

    Returns:
        The lists, sorted by path, and sentences about the lists that are not used.

    Raises:
        AtrousError: a list has a file format that cannot be read.
    """
    found: list[Path] = []
    notes: list[str] = list(_unread_record_notes(root, images or {}))
    for named in _named_as_lists(root, images or {}):
        lists = [path for path in named if path not in no_lists]
        others = [path for path in lists if images is not None and _is_other_text(path, images)]
        whole = [path for path in lists if images and path not in others and is_all_training(path, images)]
        notes += [f"{path} assigns every picture to training, so a random split is made instead." for path in whole]
        lists = [path for path in lists if path not in others and path not in whole]
        read = {_list_stem(path) for path in lists if _is_readable(path)}
        doubles = [path for path in lists if not _is_readable(path) and _list_stem(path) in read]
        notes += [f"{path} is not read, because another list of the same name is read." for path in doubles]
        lists = [path for path in lists if path not in doubles]
        notes += [f"{path} is not read: it names no picture." for path in others]
        if found and lists:
            names = ", ".join(str(path.relative_to(root)) for path in lists)
            notes.append(f"The splits are read from {found[0].parent}; these lists are not used: {names}.")
        found = found or lists
    for path in found:
        if not _is_readable(path):
            stem = path.parent / _list_stem(path)
            whole = stem.name.lower().startswith("split")
            written = "splits.csv with the columns image and split" if whole else f"{stem}.txt with one name per line"
            raise AtrousError(
                f"{path}: a split list must be .txt, .csv, .tsv, .json, .jsonl, .yaml or .toml. Write {written}, or "
                "move the file away to get a random split."
            )
    return found, tuple(notes)


def unused_lists_note(
    root: Path, used: Iterable[Path] = (), where: str = "The splits are defined by the folders"
) -> list[str]:
    """Returns a sentence that names the unused split lists of a dataset; its splits come from another source.

    Args:
        root: the dataset's folder.
        used: the lists that are read; they are not named.
        where: the source of the splits, as a sentence without the full stop.

    Returns:
        A list with one sentence, or an empty list if there is no unused split list.
    """
    first = next((lists for lists in _named_as_lists(root, {}) if set(lists) - set(used)), [])
    names = ", ".join(str(path.relative_to(root)) for path in first if path not in set(used))
    return [f"{where}; these lists are not used: {names}."] if names else []


def _named_as_lists(root: Path, images: Mapping[str, Path]) -> Iterator[list[Path]]:
    """Yields, for each folder that may contain lists, the files that are lists by name, header or records."""
    for folder in (*(_in_any_case(root, name) for name in _FOLDERS), root):
        files = _files(folder)
        records = [path for path in files if _is_unnamed_record_file(path)]
        if folder == root and len(records) > _RECORD_FILES:
            files = [path for path in files if path not in set(records)]
        yield [path for path in files if _is_list(path, images, in_root=folder == root)]


def _in_any_case(root: Path, name: str) -> Path:
    """Returns the folder of this name; if it is missing, a folder whose name differs only in upper and lower case."""
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


def _is_list(path: Path, images: Mapping[str, Path], *, in_root: bool) -> bool:
    suffix = path.suffix.lower()
    unread = is_unread_list(path, images) or (not in_root and suffix in _UNREAD_SUFFIXES)
    if suffix not in LIST_SUFFIXES and not unread:
        return False
    if suffix == ".json" and is_our_json(path):  # for example val.json, to which atrous wrote the scores of a split
        return False
    if not in_root:
        return suffix != "" or LIST_NAME.fullmatch(path.stem.lower()) is not None
    if unread or LIST_NAME.fullmatch(path.stem.lower()):
        # a file such as train.yaml may be a recipe
        sure = suffix not in _SETTINGS or path.stem.lower().startswith("split")
        if sure or not os.access(path, os.R_OK):
            return sure
        if suffix not in RECORD_SUFFIXES:
            return _names_picture(path, images)
        return (suffix in YAML and _begins_as_list(path)) or tells_splits(path, images)
    if not os.access(path, os.R_OK):
        return False
    if suffix in RECORD_SUFFIXES:
        return path.stem not in images and not _holds_results(path) and tells_splits(path, images)
    return suffix in TABLES and _has_split_column(path)


def is_unread_list(path: Path, images: Mapping[str, Path]) -> bool:
    """Returns whether a file is named like a split list but has a format that is not read (splits.psv, train.npz).

    Args:
        path: the file.
        images: the pictures by stem; a file that belongs to a picture, such as its world file, is not a list.
    """
    endings = {suffix.lower() for suffix in path.suffixes}
    if _is_readable(path) or endings & (PICTURE_SUFFIXES | _OTHER_SUFFIXES) or _list_stem(path) in images:
        return False
    stem = _list_stem(path).lower()
    return LIST_NAME.fullmatch(stem) is not None or re.match(r"splits?[_-]", stem) is not None  # splits_final.pkl


def _list_stem(path: Path) -> str:
    """Returns the file name up to its first dot: "splits" for splits.csv.gz."""
    return path.name.split(".")[0]


def _is_readable(path: Path) -> bool:
    return path.suffix.lower() in LIST_SUFFIXES


def _is_unnamed_record_file(path: Path) -> bool:
    return path.suffix.lower() in RECORD_SUFFIXES and not LIST_NAME.fullmatch(path.stem.lower())


def _holds_results(path: Path) -> bool:
    return bool(RESULTS.intersection(re.findall(r"[a-z]+", path.stem.lower())))


def _unread_record_notes(root: Path, images: Mapping[str, Path]) -> Iterator[str]:
    """Yields a sentence for each file of records in the dataset's folder that may contain splits but is not read."""
    files = [path for path in _files(root) if _is_unnamed_record_file(path) and os.access(path, os.R_OK)]
    for path in files if len(files) <= _RECORD_FILES else ():
        if is_too_large(path):
            yield f"{path} is too large to be searched for splits."
        elif _holds_results(path) and tells_splits(path, images):
            yield (
                f"{path} assigns pictures to splits but is not read, because its name is usual for a file of results. "
                "If it is the split list, rename it to splits" + path.suffix + "."
            )


def is_all_training(path: Path, images: Mapping[str, Path]) -> bool:
    """Returns whether a file assigns every picture to training and is not named like a list.

    nnU-Net's dataset.json is such a file.

    Args:
        path: the file.
        images: the pictures by stem.
    """
    if not _is_unnamed_record_file(path):
        return False
    try:
        rows = [row for row in read_list(path, images) if stem_of(row.image, images) in images]
    except AtrousError:
        return False
    named = {stem_of(row.image, images) for row in rows}
    return {canonical_split(row.split or "") for row in rows} == {"train"} and named == images.keys()


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


def _names_picture(path: Path, images: Mapping[str, Path]) -> bool:
    words = re.findall(r"""[^\s"'<>,;=\[\]]+""", next(iter(decodings(path))))
    return any(not word.isdigit() and stem_of(word, images) in images for word in words)


def _begins_as_list(path: Path) -> bool:
    return re.match(r"\ufeff?\s*(#.*\s+)*(-\s|\[)", next(iter(decodings(path)))) is not None
