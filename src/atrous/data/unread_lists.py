"""Files that tell which picture belongs to which split, and that are not read as lists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from atrous.data.split_lists import stem_of
from atrous.data.split_names import SPELLINGS
from atrous.data.text_files import decodings
from atrous.errors import AtrousError

_SUFFIXES = frozenset({".txt", ".csv", ".tsv", ".json", ".jsonl", ".lst", ".list", ".md", ".yaml", ".yml", ".xml", ""})
_WORDS = frozenset(
    [
        "split",
        "splits",
        "fold",
        "folds",
        "kfold",
        "partition",
        "partitions",
        "subset",
        "subsets",
        "trainval",
    ]
).union(*SPELLINGS.values())
_COLUMNS = frozenset(["fold", "kfold", "folds", "is_train", "is_training", "is_test", "train", "val", "test"])
_OTHER_THINGS = frozenset(
    ["log", "logs", "loss", "losses", "metrics", "history", "results", "recipe", "config", "readme"]
)
_BYTES = 1 << 20  # of a file that is looked through
_FILES = 100  # in a folder; more are labels of single pictures


def check_no_list_is_unread(root: Path, images: Mapping[str, Path]) -> None:
    """Refuse to make a split at random where a file seems to tell one.

    Args:
        root: the dataset's folder, in which no split list was found.
        images: the pictures by stem.

    Raises:
        AtrousError: a file is named like a split, or has such a column, and names pictures of the dataset.
    """
    for path in _texts(root):
        if _tells_of_splits(path, root) and _names_pictures(path, images):
            raise AtrousError(
                f"{path} names pictures and seems to tell their split, and is in no form that is read. Write "
                f"{root / 'splits'}/train.txt and val.txt with one name a line, or a table splits.csv with the columns "
                "image and split; or move the file away to have a split made."
            )


def _texts(folder: Path, depth: int = 2) -> Iterator[Path]:
    """The small texts of a folder and of those in it."""
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith((".", "~"))]
    files = [path for path in entries if path.suffix.lower() in _SUFFIXES and path.is_file()]
    yield from files if len(files) <= _FILES else ()
    for path in entries if depth else ():
        if not path.suffix and path.is_dir() and not path.is_symlink():
            yield from _texts(path, depth - 1)


def _tells_of_splits(path: Path, root: Path) -> bool:
    words = [word for part in (path.parent / path.stem).relative_to(root).parts for word in _words(part)]
    if _OTHER_THINGS.intersection(words):
        return False
    if _WORDS.intersection(words):
        return True
    return path.suffix.lower() in (".csv", ".tsv") and any(
        cell.strip(" \"'\ufeff").lower() in _COLUMNS
        for cell in re.split(r"[,;\t|]", _beginning(path).partition("\n")[0])
    )


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", name.lower())


def _names_pictures(path: Path, images: Mapping[str, Path]) -> bool:
    """Whether a text names pictures; numbers alone do only where all its lines are such."""
    text = _beginning(path)
    tokens = [token for token in re.split(r"[\s,;|\"'\[\]{}()<>=:]+", text) if token]
    if any(not token.isdigit() and stem_of(token, images) in images for token in tokens):
        return True
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return bool(lines) and all(line in images for line in lines)


def _beginning(path: Path) -> str:
    if path.stat().st_size > _BYTES:
        with path.open("rb") as file:
            return file.read(_BYTES).decode("utf-8", errors="replace")
    return next(iter(decodings(path)))
