"""Splits told by JSON, JSON Lines and YAML: mappings from splits to pictures, and records of pictures with a split."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from atrous.data.split_names import canonical_split
from atrous.data.split_rows import (
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
from atrous.outputs import is_our_json, is_our_recipe

YAML = frozenset({".yaml", ".yml"})
#: Kinds of files that may hold records.
RECORD_SUFFIXES = YAML | {".json", ".jsonl", ".ndjson"}
# such as train_images and images_val
_SPLIT_KEY = re.compile(
    rf"((?:list|ids|images?|files?|names)[_-]?)?(trainval|{SPLIT_WORDS}|eval|evaluation|holdout)"
    r"([_-]?(?:set|split|list|ids?|images?|imgs?|files?|names|data|samples|items))?",
    re.IGNORECASE,
)
# what they hold is a split only where it names one; elsewhere they may mean other things, such as a phase of the moon
_SURE_HEADS = frozenset(["split", "splits", "subset", "partition"])
_FOLD_HEADS = frozenset(["fold", "kfold", "folds", "is_train", "is_training", "is_test"])
_TAG_HEADS = frozenset(["tag", "tags"])  # FiftyOne's samples


def record_rows(path: Path, text: str, known: Mapping[str, Path]) -> list[Row]:
    """The pictures that a file of records names, and their splits where it tells them.

    Read are a list of names or of records, a mapping from splits to such lists or from pictures to splits, COCO's
    ``images``, and these inside other values, of which only what tells a split is taken.

    Args:
        path: the file, of one of ``RECORD_SUFFIXES``.
        text: what it holds.
        known: the pictures by stem.

    Raises:
        AtrousError: the text cannot be parsed, or names no pictures in these forms.
    """
    content = parsed(path, text)
    if rows := _plain_rows(content) or list(_told(content, None, known)):
        return rows
    raise AtrousError(
        f'{path}: no list of pictures. Write ["a.png", …], {{"train": ["a.png", …], "val": […]}}, or move the file '
        "away to have a split made."
    )


def tells_splits(path: Path, known: Mapping[str, Path]) -> bool:
    """Whether a file of records, of whatever name, tells splits of pictures.

    Args:
        path: the file, which may be read; one that this program wrote tells none.
        known: the pictures by stem; where there are none, names that end as pictures do count.
    """
    if is_too_large(path) or is_our_json(path) or is_our_recipe(path):
        return False
    for text in decodings(path):
        try:
            rows = list(_told(parsed(path, text), None, known))
        except AtrousError:
            continue
        if any(_is_picture(row.image, known) for row in rows):
            return True
    return False


def pictures_named(path: Path, known: Mapping[str, Path]) -> frozenset[str]:
    """The stems of the known pictures that the records of a file name, whether they tell a split or not.

    Args:
        path: the file, which may be read.
        known: the pictures by stem.
    """
    if is_too_large(path):
        return frozenset()
    try:
        content = parsed(path, next(iter(decodings(path))))
    except AtrousError:
        return frozenset()
    return frozenset(stem_of(name, known) for name in _images_in(content) if _is_picture(name, known))


def mentions_splits(path: Path, known: Mapping[str, Path]) -> bool:
    """Whether a file of records names two splits or more, and pictures, in whatever form; or numbers pictures by split.

    Args:
        path: the file, which may be read.
        known: the pictures by stem.
    """
    if is_too_large(path):
        return False
    try:
        content = parsed(path, next(iter(decodings(path))))
    except AtrousError:
        return False
    words = list(_words_in(content))
    splits = {canonical_split(match[2]) for word in words if (match := _SPLIT_KEY.fullmatch(word))}
    if len(splits) < 2:
        return False
    pictures = {stem_of(word, known) for word in words if not word.isdigit() and _is_picture(word, known)}
    return len(pictures) > 1 or _numbers_pictures(content, len(known))


def _words_in(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        yield from (str(key) for key in content)
        for part in content.values():
            yield from _words_in(part)
    elif isinstance(content, list):
        for part in content:
            yield from _words_in(part)


def _numbers_pictures(content: Any, count: int) -> bool:
    """Whether splits are lists of pictures' numbers, each once, or records of a number and a split."""
    if isinstance(content, dict):
        parts = [part for key, part in content.items() if _SPLIT_KEY.fullmatch(str(key))]
        numbers = [number for part in parts if isinstance(part, list) for number in part]
        whole = all(isinstance(number, int) and 0 <= number <= count for number in numbers)
        return whole and len(numbers) > 1 and len(set(numbers)) == len(numbers)
    records = [record for record in content if isinstance(record, dict)] if isinstance(content, list) else []
    numbered = [one for one in records if any(k in IMAGE_HEADS and isinstance(v, int) for k, v in one.items())]
    return any(_split_of(record) for record in numbered)


def _images_in(content: Any) -> Iterator[str]:
    if isinstance(content, dict) and (image := _image_of(content)) is not None:
        yield image
    elif isinstance(content, list | dict):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _images_in(part)


def is_too_large(path: Path) -> bool:
    """Whether a file of records is larger than what is looked through: 64 MB, in YAML, which is slow to read, 4 MB."""
    return path.stat().st_size > (2**22 if path.suffix.lower() in YAML else 2**26)


def parsed(path: Path, text: str) -> Any:
    """The content of a JSON, JSON Lines or YAML text.

    Args:
        path: the file, whose ending tells which it is.
        text: what it holds.

    Raises:
        AtrousError: it is none.
    """
    suffix = path.suffix.lower()
    text = text.removeprefix("\ufeff")
    if suffix in YAML:
        return parse_yaml(text, f"{path}:")
    if suffix == ".json":
        try:
            return parse_json(text, f"{path}:")
        except AtrousError:
            lines = [line for line in text.splitlines() if line.strip()]
            if len(lines) < 2 or not all(line.strip().startswith("{") for line in lines):
                raise
    records = [parse_json(line, f"{path}:") for line in text.splitlines() if line.strip()]
    whole = len(records) == 1 and isinstance(records[0], dict) and _image_of(records[0]) is None
    return records[0] if whole else records


def _plain_rows(content: Any) -> list[Row]:
    """The rows of a text that is a list and nothing else, whose names may be of pictures that are not there."""
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        content = content["images"]
    if isinstance(content, list):
        rows = [_entry_row(entry, None) for entry in content]
    elif _maps_splits(content):
        rows = [_entry_row(entry, _split_in(name)) for name, part in content.items() for entry in part]
    elif isinstance(content, dict) and content and all(isinstance(part, str) for part in content.values()):
        rows = [Row(name, None, part) for name, part in content.items() if isinstance(name, str)]
    else:
        return []
    found = [row for row in rows if row is not None]
    return found if len(found) == len(rows) and (found or not rows) else []


def _maps_splits(content: Any) -> bool:
    """Whether a content is a mapping from names to lists, such as splits or folds, and nothing else."""
    if not isinstance(content, dict) or not content or not all(isinstance(part, list) for part in content.values()):
        return False
    named = [_SPLIT_KEY.fullmatch(str(name)) is not None for name in content]
    return all(named) or not any(named)


def _split_in(key: Any) -> str:
    """The split that a key names, such as "train" in "train_images"; other keys as they are."""
    matched = _SPLIT_KEY.fullmatch(str(key))
    return matched[2] if matched else str(key)


def _entry_row(entry: Any, split: str | None) -> Row | None:
    """A name, or a record that names a picture; None for anything else."""
    if isinstance(entry, str):
        return Row(entry, None, split)
    if not isinstance(entry, dict):
        return None
    image = _image_of(entry)
    if image is None:
        return None
    return Row(image, _mask_of(entry), _split_of(entry) or split)


def _told(content: Any, split: str | None, known: Mapping[str, Path]) -> Iterator[Row]:
    """The rows that tell a split, wherever in the content they are.

    Args:
        content: of the file, or a part of it.
        split: the split that the part belongs to, or None.
        known: the pictures by stem.
    """
    if isinstance(content, str):
        if split is not None and _is_picture(content, known):
            yield Row(content, None, split)
    elif isinstance(content, list):
        names = [entry for entry in content if isinstance(entry, str)]
        # one that is there shows that the others are names of pictures, too
        if split is not None and len(names) == len(content) and any(_is_picture(name, known) for name in names):
            yield from (Row(name, None, split) for name in names)
            return
        parts = {_split_of(entry) for entry in content if isinstance(entry, dict) and _image_of(entry) is None}
        folds = _are_folds(content)
        for number, entry in enumerate(content):
            if folds:
                yield from (replace(row, split=f"{row.split} of fold {number}") for row in _told(entry, None, known))
                continue
            # [{"split": "train", "images": […]}, {"split": "val", …}]
            whole = isinstance(entry, dict) and len(parts - {None}) > 1 and _image_of(entry) is None
            yield from _told(entry, (_split_of(entry) or split) if whole else split, known)
    elif isinstance(content, dict):
        image = _image_of(content)
        own = _split_of(content) or split
        if image is not None and own is not None and _is_picture(image, known):
            yield Row(image, _mask_of(content), own)
            return
        of_pictures = [value for key, value in content.items() if _is_picture(str(key), known)]
        by_picture = all(isinstance(value, str) and SPLIT_NAME.fullmatch(value) for value in of_pictures)
        for key, value in content.items():
            key = str(key)
            if match := _SPLIT_KEY.fullmatch(key):
                yield from _told(value, match[2], known)
            elif by_picture and isinstance(value, str) and _is_picture(key, known):  # and not classes, such as a train
                yield Row(key, None, value)
            elif _is_picture(key, known) and isinstance(value, dict) and (own := _split_of(value) or split):
                yield Row(key, _mask_of(value), own)
            elif isinstance(value, list | dict):
                yield from _told(value, split, known)


def _are_folds(content: list[Any]) -> bool:
    """Whether a list holds several mappings of the same splits, as nnU-Net's splits_final.json does."""
    keys = [key for entry in content if isinstance(entry, dict) for key in entry if _SPLIT_KEY.fullmatch(str(key))]
    lists = all(isinstance(entry, dict) and all(isinstance(v, list) for v in entry.values()) for entry in content)
    return lists and bool(keys) and (len(content) == 1 or len(set(keys)) < len(keys))


def _image_of(record: Mapping[str, Any]) -> str | None:
    """The picture that a record names: under a usual key, or in a mapping under one; a file before any other name."""
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


def _split_of(record: Mapping[str, Any]) -> str | None:
    """The split of a record, as written; one that is no train, val or test is kept for the error that names it."""
    for key, value in record.items():
        head = str(key).lower()
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if head in _FOLD_HEADS and isinstance(value, str | int | float):
            return f"{head} {value}"
        if head in VAL_HEADS and isinstance(value, bool | int | str):
            return split_of_validity(str(value)) or f"{head} {value}"
        if isinstance(value, str) and head in SPLIT_HEADS | _TAG_HEADS:
            if SPLIT_NAME.fullmatch(value) or (head in _SURE_HEADS and value):
                return value
        elif isinstance(value, int) and head in _SURE_HEADS:
            return str(value)
    return None


def _is_picture(name: str, known: Mapping[str, Path]) -> bool:
    return stem_of(name, known) in known if known else names_file(name)
