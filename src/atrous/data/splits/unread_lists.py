"""Detects files that seem to define splits but are not read as split lists."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from atrous.data.splits.find_split_lists import RESULTS, is_all_training, is_unread_list
from atrous.data.splits.split_names import SPELLINGS, canonical_split
from atrous.data.splits.split_records import RECORD_SUFFIXES, tells_splits
from atrous.data.splits.split_rows import SPLIT_WORDS, stem_of
from atrous.data.splits.unread_list_contents import mentions_splits, pictures_named
from atrous.data.text_files import decodings
from atrous.errors import AtrousError
from atrous.overwrite_checks import is_our_json, is_our_metrics, is_our_recipe

_SUFFIXES = frozenset({".txt", ".csv", ".tsv", ".lst", ".list", ".md", ".xml", ".toml", ""}) | RECORD_SUFFIXES
_TABLES = frozenset({".csv", ".tsv"})
# words that mean splits in general. The name of a single split, such as train, shows less, because train/ may contain
# any file
_SPLIT_WORDS = frozenset(["split", "splits", "fold", "folds", "kfold", "partition", "partitions", "subset", "subsets"])
_WORDS = _SPLIT_WORDS.union(["trainval"], *SPELLINGS.values())
_COLUMNS = frozenset(["fold", "kfold", "folds", "is_train", "is_training", "is_test", "train", "val", "test"])
_OTHER_THINGS = RESULTS | {"recipe", "config", "readme", "notes"}
_STATED = re.compile(
    rf"""\b(?:split|splits|subset|partition|phase|set)["']?\s*[:=]\s*["']?(trainval|{SPLIT_WORDS})\b""", re.IGNORECASE
)
_BYTES = 1 << 20  # number of bytes that are searched at the beginning of a file
_DEPTH = 4  # number of levels of folders that are searched below the dataset's folder, as in meta/v1/fold0/seed1
_FILES = 100  # if a folder has more text files, they are skipped, because each of them probably labels one picture


def check_no_list_is_unread(root: Path, images: Mapping[str, Path]) -> None:
    """Checks that no file seems to define a split, before a random split is made.

    Files that this program wrote, folders of its training runs, and unreadable files are skipped.

    Args:
        root: the dataset's folder, in which no split list was found.
        images: the pictures by stem.

    Raises:
        AtrousError: a file has the name of a split or a column for splits, and contains mostly names of pictures; the
            records of a file assign pictures to splits; or two files with names of splits name different pictures.
    """
    by_split: dict[str, tuple[Path, frozenset[str]]] = {}
    for path in _texts(root):
        if is_our_json(path) or is_our_metrics(path):
            continue
        if path.parent != root and _is_misplaced(path, root, images):
            raise AtrousError(
                f"{path} assigns pictures to splits, but split lists are not read from this folder. Move it to "
                f"{root / 'splits'}{path.suffix}, or out of the dataset to get a random split."
            )
        if _may_be_list(path, root, images) or _states_splits(path, root, images):
            raise _unread(root, f"{path} names pictures and seems to define their split, but its form is not read")
        split, named = _named_after_split(path, root, images)
        others = (one for name, one in by_split.items() if name != split and not named & one[1])
        if named and (other := next(others, None)):
            raise _unread(root, f"{other[0]} and {path} name pictures of two splits, but are not read as split lists")
        if named:
            by_split.setdefault(split, (path, named))


def _unread(root: Path, problem: str) -> AtrousError:
    return AtrousError(
        f"{problem}. Write {root / 'splits'}/train.txt and val.txt with one name per line, or a table splits.csv with "
        "the columns image and split; or move the file away to get a random split."
    )


def _texts(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Yields the files of a folder and its subfolders that may define splits."""
    if not os.access(folder, os.R_OK | os.X_OK):
        return
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith((".", "~"))]
    files = [path for path in entries if path.suffix.lower() in _SUFFIXES or is_unread_list(path, {})]
    files = [path for path in files if path.is_file()]
    yield from (path for path in files if len(files) <= _FILES and os.access(path, os.R_OK))
    for path in entries if depth else ():
        if not path.suffix and path.is_dir() and not path.is_symlink() and not is_our_recipe(path / "config.yaml"):
            yield from _texts(path, depth - 1)


def _may_be_list(path: Path, root: Path, images: Mapping[str, Path]) -> bool:
    words = _path_words(path, root)
    if _OTHER_THINGS.intersection(words):
        return False
    if _SPLIT_WORDS.intersection(_words(path.stem)) or _has_column(path):
        return _names_pictures(path, images)
    return bool(_WORDS.intersection(words)) and _is_of_names(path, images)


def _is_misplaced(path: Path, root: Path, images: Mapping[str, Path]) -> bool:
    """Returns whether a file that could be read as a list is in a folder that is not searched for lists."""
    if path.suffix.lower() not in RECORD_SUFFIXES or path.stem in images:
        return False
    results = RESULTS.intersection(_path_words(path, root))
    return not results and tells_splits(path, images) and not is_all_training(path, images)


def _states_splits(path: Path, root: Path, images: Mapping[str, Path]) -> bool:
    """Returns whether a file states the splits of pictures in a form that is not read, such as split="train" in XML."""
    if RESULTS.intersection(_path_words(path, root)) or path.stem in images:
        return False
    if path.suffix.lower() in _TABLES or is_our_recipe(path):
        return False
    if path.suffix.lower() in RECORD_SUFFIXES and mentions_splits(path, images):
        return not is_all_training(path, images)
    text = _beginning(path)
    stated = {canonical_split(match[1]) for match in _STATED.finditer(text)}
    return len(stated) > 1 and any(_is_picture(word, images) for word in re.findall(r"""[^\s"'<>,;=]+""", text))


def _named_after_split(path: Path, root: Path, images: Mapping[str, Path]) -> tuple[str, frozenset[str]]:
    """Returns the split in the name of a file of records, and the stems of the pictures that the file names."""
    split = next((word for word in map(canonical_split, _words(path.stem)) if word in SPELLINGS), "")
    if not split or path.suffix.lower() not in RECORD_SUFFIXES or RESULTS.intersection(_path_words(path, root)):
        return split, frozenset()
    return split, pictures_named(path, images)


def _path_words(path: Path, root: Path) -> list[str]:
    return [word for part in (path.parent / path.stem).relative_to(root).parts for word in _words(part)]


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", name.lower())


def _has_column(path: Path) -> bool:
    cells = re.split(r"[,;\t|]", _beginning(path).partition("\n")[0]) if path.suffix.lower() in _TABLES else []
    return any(cell.strip(" \"'\ufeff\r").lower() in _COLUMNS for cell in cells)


def _names_pictures(path: Path, images: Mapping[str, Path]) -> bool:
    """Returns whether at least half of a text's lines, or of its entries, name pictures."""
    lines = _entries(path, images)
    named = sum(any(_is_picture(entry, images) for entry in line) for line in lines)
    entries = [entry for line in lines for entry in line]
    pictures = sum(_is_picture(entry, images) for entry in entries)
    return bool(named) and (2 * named >= len(lines) or 2 * pictures >= len(entries))


def _is_of_names(path: Path, images: Mapping[str, Path]) -> bool:
    """Returns whether over half of the entries name pictures, or each line is a picture's name (possibly a number)."""
    lines = _entries(path, images)
    entries = [entry for line in lines for entry in line]
    if 2 * sum(_is_picture(entry, images) for entry in entries) > len(entries):
        return True
    return bool(lines) and all(len(line) == 1 and line[0] in images for line in lines)


def _entries(path: Path, images: Mapping[str, Path]) -> list[list[str]]:
    """Returns the entries of each line, without tags, keys, a table's header and line numbers."""
    text = re.sub(r"<[^<>]*>", " ", _beginning(path))
    lines = []
    for line in map(str.strip, text.splitlines()):
        if _is_picture(line, images) and line in images:  # the name may contain spaces
            lines.append([line])
            continue
        tokens = re.findall(r"[^\s,;|\"'\[\]{}()<>=:]+(?:[\"']?\s*:(?=\s|$|[\"'\[{\d]))?", line)
        kept = [token for token in tokens if not token.endswith(":") or _is_picture(_bare(token), images)]
        entries = [bare for bare in map(_bare, kept) if re.search(r"\w", bare)]
        counted = re.match(r"[\"']?\d+\b", line) and any(_is_picture(entry, images) for entry in entries[1:])
        lines.append(entries[1:] if counted and entries[0].rstrip(".)").isdigit() else entries)
    if path.suffix.lower() in _TABLES and lines and not any(_is_picture(entry, images) for entry in lines[0]):
        del lines[0]
    return [line for line in lines if line]


def _bare(token: str) -> str:
    return token.rstrip(":").rstrip().rstrip("\"'")


def _is_picture(entry: str, images: Mapping[str, Path]) -> bool:
    return not entry.isdigit() and stem_of(entry, images) in images


def _beginning(path: Path) -> str:
    if path.stat().st_size > _BYTES:
        with path.open("rb") as file:
            return file.read(_BYTES).decode("utf-8", errors="replace")
    return next(iter(decodings(path)))
