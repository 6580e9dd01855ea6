"""Detects files, such as JSON files, that name pictures and splits in a form that is not read as a split list."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from atrous.data.splits.split_names import canonical_split
from atrous.data.splits.split_records import (
    FLAG_HEADS,
    FOLD_HEADS,
    SPLIT_KEY,
    SPLIT_LIKE,
    image_of,
    is_picture,
    is_too_large,
    parsed,
    split_of_record,
)
from atrous.data.splits.split_rows import IMAGE_HEADS, VAL_HEADS, stem_of
from atrous.data.text_files import decodings
from atrous.errors import AtrousError

# if the name of a file contains one of these words, numbers beside pictures are classes, not splits
_OF_CLASSES = frozenset(["class", "classes", "label", "labels", "count", "counts", "target", "targets"])


def pictures_named(path: Path, known: Mapping[str, Path]) -> frozenset[str]:
    """Returns the stems of the known pictures that are named in the records of a file, with or without a split.

    Args:
        path: a readable file.
        known: the pictures by stem.
    """
    if is_too_large(path):
        return frozenset()
    try:
        content = parsed(path, next(iter(decodings(path))))
    except AtrousError:
        return frozenset()
    return frozenset(stem_of(name, known) for name in _images_in(content) if is_picture(name, known))


def mentions_splits(path: Path, known: Mapping[str, Path]) -> bool:
    """Returns whether a file names pictures and at least two splits, or assigns pictures to numbered parts.

    Args:
        path: a readable file.
        known: the pictures by stem.
    """
    if is_too_large(path):
        return False
    try:
        content = parsed(path, next(iter(decodings(path))))
    except AtrousError:
        return False
    if _numbers_parts(content, known, of_classes=bool(_OF_CLASSES & {*re.findall("[a-z]+", path.stem.lower())})):
        return True
    words = list(_words_in(content))
    splits = {canonical_split(match[2]) for word in words if (match := SPLIT_KEY.fullmatch(word))}
    column = _has_column(content)
    if len(splits) < 2 and not column:
        return False
    pictures = {stem_of(word, known) for word in words if not word.isdigit() and is_picture(word, known)}
    return len(pictures) > 1 or _numbers_pictures(content, len(known))


def _numbers_parts(content: Any, known: Mapping[str, Path], *, of_classes: bool) -> bool:
    """Returns whether pictures are assigned to parts without names: by lists of lists, or a number or flag for each.

    Args:
        content: the content of the file, or a part of it.
        known: the pictures by stem.
        of_classes: whether the name of the file shows that numbers are classes, not splits.
    """
    lists: list[Any] = content if isinstance(content, list) else []
    if isinstance(content, dict):
        named = {key: value for key, value in content.items() if not str(key).isdigit() and is_picture(str(key), known)}
        values = [str(value).lower() for value in named.values() if isinstance(value, bool | int | str)]
        whole = len(values) == len(named)
        flags = whole and all(value in SPLIT_LIKE | {"true", "false"} for value in values)
        numbers = whole and not of_classes and all(value.isdigit() and len(value) == 1 for value in values)
        if len(named) > 1 and 2 * len(named) >= len(content) and (flags or numbers):
            return True
        if all(str(key).isdigit() or len(str(key)) == 1 for key in content) and not of_classes:
            lists = list(content.values())
    if len(lists) > 1 and all(isinstance(part, list) and part for part in lists):
        names = [name for part in lists for name in part]
        if all(isinstance(name, str) and not name.isdigit() and is_picture(name, known) for name in names):
            return len({stem_of(name, known) for name in names}) == len(names)
    return isinstance(content, dict) and any(
        _numbers_parts(part, known, of_classes=of_classes) for part in content.values() if isinstance(part, list | dict)
    )


def _has_column(content: Any) -> bool:
    """Returns whether a table, as pandas writes it, has a column for splits, such as "val", "is_train" or "fold"."""
    heads = FLAG_HEADS | FOLD_HEADS | VAL_HEADS
    if not isinstance(content, dict):
        return False
    if isinstance(named := content.get("columns"), list) and any(str(head).lower() in heads for head in named):
        return True
    columns = [part for head, part in content.items() if str(head).lower() in heads and isinstance(part, list | dict)]
    cells = (list(part.values() if isinstance(part, dict) else part) for part in columns)
    return any(part and all(isinstance(cell, int) and 0 <= cell < 10 for cell in part) for part in cells)


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
    """Returns whether numbers stand for pictures: splits are lists without repeated numbers, or records have one."""
    if isinstance(content, dict):
        parts = [part for key, part in content.items() if SPLIT_KEY.fullmatch(str(key))]
        numbers = [number for part in parts if isinstance(part, list) for number in part]
        whole = all(isinstance(number, int) and 0 <= number <= count for number in numbers)
        return whole and len(numbers) > 1 and len(set(numbers)) == len(numbers)
    records = [record for record in content if isinstance(record, dict)] if isinstance(content, list) else []
    numbered = [one for one in records if any(k in IMAGE_HEADS and isinstance(v, int) for k, v in one.items())]
    return any(split_of_record(record) for record in numbered)


def _images_in(content: Any) -> Iterator[str]:
    if isinstance(content, dict) and (image := image_of(content)) is not None:
        yield image
    elif isinstance(content, list | dict):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _images_in(part)
