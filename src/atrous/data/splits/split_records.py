"""Reads splits from JSON, JSON Lines, YAML and TOML: mappings from splits to pictures, and records with a split.

A record is a mapping that describes one picture, such as {"image": "a.png", "split": "train"}. A file of records is a
file in one of these formats.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atrous.data.splits.split_names import SPELLINGS, canonical_split
from atrous.data.splits.split_rows import (
    IMAGE_HEADS,
    MASK_HEADS,
    SPLIT_HEADS,
    SPLIT_NAME,
    SPLIT_WORDS,
    VAL_HEADS,
    Row,
    is_mask_column,
    names_file,
    split_of_validity,
    stem_of,
)
from atrous.data.text_files import decodings
from atrous.errors import AtrousError
from atrous.json_yaml import parse_json, parse_yaml
from atrous.overwrite_checks import is_our_json, is_our_recipe

YAML = frozenset({".yaml", ".yml"})
#: Suffixes of files that may contain records.
RECORD_SUFFIXES = YAML | {".json", ".jsonl", ".ndjson", ".toml"}
#: A key that names a split, such as train_images and images_val; its second group is the split.
SPLIT_KEY = re.compile(
    rf"((?:list|ids|images?|files?|names)[_-]?)?(trainval|{SPLIT_WORDS}|eval|evaluation|holdout)"
    r"([_-]?(?:set|split|list|ids?|images?|imgs?|files?|names|data|samples|items|idxs?|index|indices))?",
    re.IGNORECASE,
)
# under these keys, every value is a split; under other keys in SPLIT_HEADS, a value may be a disease stage
_SURE_HEADS = frozenset(["split", "splits", "subset", "partition"])
#: Keys whose value is the number of a fold, or states whether a picture belongs to a certain split.
FOLD_HEADS = frozenset(["fold", "kfold", "folds", "is_train", "is_training", "is_test"])
#: Keys that name a split; the value true or false states whether a picture belongs to this split.
FLAG_HEADS = frozenset(["trainval", *(spelling for spellings in SPELLINGS.values() for spelling in spellings)])
#: A list of pictures under a key that contains one of these words is a split.
SPLIT_LIKE = FLAG_HEADS | frozenset(
    ["trn", "va", "vld", "te", "tst", "eval", "fold", "holdout", "labeled", "labelled", "unlabeled", "unlabelled"]
)
_OF_MASKS = MASK_HEADS | {"y", "annotations", "annots", "labels", "segmentations", "targets", "anns", "gts"}
_DEEPEST = 100  # levels; a deeper file is not a list and would exhaust Python's stack
_TAG_HEADS = frozenset(["tag", "tags"])  # keys of the split in FiftyOne's samples


def record_rows(path: Path, text: str, known: Mapping[str, Path]) -> list[Row]:
    """Reads the pictures that a file of records names, and their splits if the file contains them.

    The file may contain a list of names or of records, a mapping from splits to such lists, a mapping from pictures to
    splits, or COCO's ``images``. If these are nested in other values, only pictures with a split are read.

    Args:
        path: the file, with one of ``RECORD_SUFFIXES``.
        text: the content of the file.
        known: the pictures by stem.

    Raises:
        AtrousError: the text cannot be parsed, or contains no pictures in one of these forms.
    """
    content = parsed(path, text)
    if rows := _plain_rows(content) or list(_rows_with_split(content, None, known)):
        return rows
    raise AtrousError(
        f'{path}: it contains no list of pictures. Write ["a.png", …] or {{"train": ["a.png", …], "val": […]}}, or '
        "move the file away to get a random split."
    )


def tells_splits(path: Path, known: Mapping[str, Path]) -> bool:
    """Returns whether a file of records assigns pictures to splits; the name of the file does not matter.

    Args:
        path: a readable file. The result is False for a file that this program wrote.
        known: the pictures by stem; if empty, every name with a picture suffix counts as a picture.
    """
    if is_too_large(path) or is_our_json(path) or is_our_recipe(path):
        return False
    for text in decodings(path):
        try:
            rows = list(_rows_with_split(parsed(path, text), None, known))
        except AtrousError:
            continue
        if any(is_picture(row.image, known) for row in rows):
            return True
    return False


def is_too_large(path: Path) -> bool:
    """Returns whether a file of records is too large to search: over 64 MB, or over 4 MB for slow YAML and TOML."""
    return path.stat().st_size > (2**22 if path.suffix.lower() in YAML | {".toml"} else 2**26)


def parsed(path: Path, text: str) -> Any:
    """Parses a JSON, JSON Lines, YAML or TOML text.

    Args:
        path: the file; its suffix selects the format.
        text: the content of the file.

    Raises:
        AtrousError: the text is not valid, or its lists and mappings are nested too deep.
    """
    content = _parsed(path, text)
    level = [content]
    for _ in range(_DEEPEST):
        level = [part for one in level if isinstance(one, list | dict) for part in _parts_of(one)]
        if not level:
            return content
    raise AtrousError(f"{path}: lists and mappings are nested more than {_DEEPEST} levels deep; move the file away.")


def _parts_of(content: list[Any] | dict[Any, Any]) -> Iterable[Any]:
    return content.values() if isinstance(content, dict) else content


def _parsed(path: Path, text: str) -> Any:
    suffix = path.suffix.lower()
    text = text.removeprefix("\ufeff")
    if suffix in YAML:
        return parse_yaml(text, f"{path}:")
    if suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise AtrousError(f"{path}: not valid TOML: {error}.") from error
    if suffix == ".json":
        try:
            return parse_json(text, f"{path}:")
        except AtrousError:
            lines = [line for line in text.splitlines() if line.strip()]
            if len(lines) < 2 or not all(line.strip().startswith("{") for line in lines):
                raise
    records = [parse_json(line, f"{path}:") for line in text.splitlines() if line.strip()]
    whole = len(records) == 1 and isinstance(records[0], dict) and image_of(records[0]) is None
    return records[0] if whole else records


def _plain_rows(content: Any) -> list[Row]:
    """Returns the rows of a list of pictures, or of a mapping from splits to lists or from pictures to splits; else [].

    It is not checked whether the pictures exist.
    """
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        images, others = content["images"], {key: part for key, part in content.items() if key != "images"}
        if _has_splits(others):
            return []
        content = images
    if isinstance(content, list):
        rows = [_entry_row(entry, None) for entry in content]
    elif _maps_splits(content):
        rows = [_entry_row(entry, _split_in(name)) for name, part in content.items() for entry in part]
    elif isinstance(content, dict) and content and all(isinstance(part, str) for part in content.values()):
        if all(SPLIT_KEY.fullmatch(str(key)) for key in content):
            return []  # each string may contain several names
        rows = [Row(name, None, part) for name, part in content.items() if isinstance(name, str)]
    else:
        return []
    found = [row for row in rows if row is not None]
    return found if len(found) == len(rows) and (found or not rows) else []


def _maps_splits(content: Any) -> bool:
    """Returns whether the content maps names to lists.

    Either all names are splits, or no name is a split and no record in the lists has a split of its own.
    """
    if not isinstance(content, dict) or not content or not all(isinstance(part, list) for part in content.values()):
        return False
    named = [SPLIT_KEY.fullmatch(str(name)) is not None for name in content]
    by_record = (split_of_record(entry) for part in content.values() for entry in part if isinstance(entry, dict))
    return all(named) or not (any(named) or any(by_record))


def _split_in(key: Any) -> str:
    """Returns the split that a key names, such as "train" for "train_images"; other keys are unchanged."""
    matched = SPLIT_KEY.fullmatch(str(key))
    return matched[2] if matched else str(key)


def _entry_row(entry: Any, split: str | None) -> Row | None:
    """Returns the row of a name, or of a record that names a picture; None for anything else."""
    if isinstance(entry, str):
        return Row(entry, None, split)
    if not isinstance(entry, dict):
        return None
    image = image_of(entry)
    if image is None:
        return None
    return Row(image, _mask_of(entry), split_of_record(entry) or split)


def _rows_with_split(content: Any, split: str | None, known: Mapping[str, Path]) -> Iterator[Row]:
    """Yields the rows that have a split, at any depth of the content.

    Args:
        content: the content of the file, or a part of it.
        split: the split that the part belongs to, or None.
        known: the pictures by stem.
    """
    if isinstance(content, str):
        if split is not None:
            yield from (Row(name, None, split) for name in _names_in(content, known))
    elif isinstance(content, list):
        names = [entry for entry in content if isinstance(entry, str)]
        # if one name is an existing picture, the other names are also names of pictures
        if split is not None and len(names) == len(content) and any(is_picture(name, known) for name in names):
            yield from (Row(name, None, split) for name in names)
            return
        sections = [split_of_record(one) for one in content if isinstance(one, dict) and image_of(one) is None]
        # [{"split": "train", "images": […]}, {"split": "val", …}]
        by_section, repeated = len({*sections} - {None}) > 1, len(sections) > len({*sections})
        parts: list[_Part] = []
        for number, entry in enumerate(content):
            whole = by_section and isinstance(entry, dict) and image_of(entry) is None
            rows = list(_rows_with_split(entry, (split_of_record(entry) or split) if whole else split, known))
            counted = not (isinstance(entry, dict) and image_of(entry) is not None)
            parts.append(
                _Part(f"fold {number}", entry, rows, counted and (not whole or repeated or _has_splits(entry)))
            )
        yield from _rows_of(parts, known)
    elif isinstance(content, dict):
        image = image_of(content)
        own = split_of_record(content) or split
        if image is not None and own is not None and is_picture(image, known):
            yield Row(image, _mask_of(content), own)
            return
        of_pictures = [value for key, value in content.items() if is_picture(str(key), known)]
        by_picture = all(isinstance(value, str) and SPLIT_NAME.fullmatch(value) for value in of_pictures)
        parts = []
        for key, value in content.items():
            rows = list(_rows_under_key(str(key), value, split, known, by_picture=by_picture))
            counted = not SPLIT_KEY.fullmatch(str(key)) and not is_picture(str(key), known)
            parts.append(_Part(f"'{key}'", value, rows, counted))
        yield from _rows_of(parts, known)


def _rows_under_key(
    key: str, value: Any, split: str | None, known: Mapping[str, Path], *, by_picture: bool
) -> Iterator[Row]:
    """Yields the rows of one entry of a mapping.

    ``by_picture`` states whether the value of each picture in the mapping is a split.
    """
    if match := SPLIT_KEY.fullmatch(key):
        yield from _rows_with_split(value, match[2], known)
    elif by_picture and isinstance(value, str) and is_picture(key, known):
        # all pictures need such a value: if some had another value, "train" could be a class and not a split
        yield Row(key, None, value)
    elif is_picture(key, known) and isinstance(value, dict) and (own := split_of_record(value) or split):
        yield Row(key, _mask_of(value), own)
    elif isinstance(value, list) and _is_like_split(key):  # the caller raises an error for an unknown split
        yield from _rows_with_split(value, key, known)
    elif isinstance(value, list | dict):
        yield from _rows_with_split(value, split, known)


def _is_like_split(key: str) -> bool:
    """Returns whether a key contains a split's name, such as "X_train" or "train_unlabeled", and no word for masks."""
    words = set(re.findall(r"[a-z]+", key.lower()))
    return bool("train" in key.lower() or words & SPLIT_LIKE) and not words & _OF_MASKS


def _names_in(text: str, known: Mapping[str, Path]) -> list[str]:
    """Returns the pictures that a text names: one, or several separated by spaces or commas."""
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    if text not in known and len(words) > 1 and all(is_picture(word, known) for word in words):
        return words
    return [text] if is_picture(text, known) else []


@dataclass(frozen=True)
class _Part:
    """A part of a list or mapping, its rows, and whether it may be a fold."""

    name: str
    content: Any
    rows: list[Row]
    may_be_fold: bool


def _rows_of(parts: list[_Part], known: Mapping[str, Path]) -> Iterator[Row]:
    """Yields the rows of all parts; sets their fold if the parts define the same splits differently, as folds do."""
    tellers = [part for part in parts if part.may_be_fold and part.rows]
    folds = _contradict(tellers, known) or _is_list_of_one_fold(parts)
    for part in parts:
        yield from (replace(row, fold=row.fold or part.name) for row in part.rows) if folds else part.rows


def _contradict(parts: list[_Part], known: Mapping[str, Path]) -> bool:
    """Returns whether the pictures of a split, or the split of a picture, differ between parts."""
    by_key: dict[str, set[str]] = {}
    by_picture: dict[str, set[str]] = {}
    for part in parts:
        by_split: dict[str, set[str]] = {}
        for row in part.rows:
            by_split.setdefault(canonical_split(row.split or ""), set()).add(stem_of(row.image, known))
        if _has_splits(part.content) and any(
            by_key.setdefault(name, by_split[name]) != by_split[name] for name in by_split
        ):
            return True
        splits: dict[str, set[str]] = {}
        for name, stems in by_split.items():
            for stem in stems:
                splits.setdefault(stem, set()).add(name)
        if any(by_picture.setdefault(stem, names) != names for stem, names in splits.items()):
            return True
    return False


def _is_list_of_one_fold(parts: list[_Part]) -> bool:
    """Returns whether a list contains one mapping of splits, as nnU-Net's splits_final.json does for one fold."""
    [only, *others] = parts or [None]
    if only is None or others or not only.name.startswith("fold ") or not isinstance(only.content, dict):
        return False
    return _has_splits(only.content) and all(isinstance(value, list) for value in only.content.values())


def _has_splits(content: Any) -> bool:
    """Returns whether, at any depth, a key is the name of a split and its value is a list, a mapping or a text."""
    if isinstance(content, dict):
        return any(
            (SPLIT_KEY.fullmatch(str(key)) and isinstance(part, list | dict | str)) or _has_splits(part)
            for key, part in content.items()
        )
    return isinstance(content, list) and any(_has_splits(part) for part in content if isinstance(part, list | dict))


def image_of(record: Mapping[str, Any]) -> str | None:
    """Returns the name of the picture in a record, from a usual key such as "image" or from a mapping under this key.

    Args:
        record: keys and values of the record.

    Returns:
        The first value that is a picture's file name, else the first value under a usual key, else None.
    """
    named = []
    for key, value in record.items():
        if isinstance(value, dict) and str(key).lower() in ("image", "img", "picture"):
            value = next((part for part in value.values() if names_file(part if isinstance(part, str) else None)), None)
        if isinstance(value, str) and str(key).lower() in IMAGE_HEADS:
            named.append(value)
    return next((name for name in named if names_file(name)), named[0] if named else None)


def _mask_of(record: Mapping[str, Any]) -> str | None:
    lowered = ((str(key).lower(), value) for key, value in record.items())
    named = next(((key, value) for key, value in lowered if key in MASK_HEADS and isinstance(value, str)), None)
    return named[1] if named is not None and is_mask_column(named[0], [named[1]]) else None


def split_of_record(record: Mapping[str, Any]) -> str | None:
    """Returns the split of a record, or None.

    A split is returned as it is written, even if there is no such split, so that the error message can name it. For
    folds and flags, the key and the value are returned, such as "fold 3" and "test true". A key such as ``is_valid``
    gives "val" or "train".

    Args:
        record: keys and values of the record.
    """
    for key, value in record.items():
        head = str(key).lower()
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if head in FOLD_HEADS and isinstance(value, str | int | float):
            return f"{head} {value}"
        if head in FLAG_HEADS and (str(value).lower() in ("true", "false") or value in (0, 1)):
            return f"{head} {str(value).lower()}"
        if head in VAL_HEADS and isinstance(value, bool | int | str):
            return split_of_validity(str(value)) or f"{head} {value}"
        if isinstance(value, str) and head in SPLIT_HEADS | _TAG_HEADS:
            if SPLIT_NAME.fullmatch(value) or (head in _SURE_HEADS and value):
                return value
        elif isinstance(value, int) and head in _SURE_HEADS:
            return str(value)
    return None


def is_picture(name: str, known: Mapping[str, Path]) -> bool:
    """Returns whether a name is the name of a known picture or, if no pictures are known, has a picture suffix.

    Args:
        name: the name as written in a file.
        known: the pictures by stem.
    """
    return stem_of(name, known) in known if known else names_file(name)
