"""Split lists: files that assign pictures to splits, in the forms that people and tools write.

A list is a text file with one name, or the names of a picture and its mask, in each line; a CSV or TSV table with or
without a header; or a JSON, JSON Lines, YAML or TOML file. A table with a column "split", or records with a key
"split", define all splits in one file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from atrous.data.dataset import Item
from atrous.data.splits.split_names import SPELLINGS, canonical_split
from atrous.data.splits.split_records import RECORD_SUFFIXES, record_rows
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
from atrous.data.text_files import decodings, delimiter_of, table_of
from atrous.errors import AtrousError
from atrous.json_yaml import parse_json

TEXTS, TABLES = frozenset({".txt", ".lst", ".list", ""}), frozenset({".csv", ".tsv"})
LIST_SUFFIXES = TEXTS | TABLES | RECORD_SUFFIXES
LIST_NAME = re.compile(
    rf"((list|ids|images|split|files)[_-]?)?(trainval|{SPLIT_WORDS}|splits?)"
    r"([_-]?(list|ids|images|split|files|set|names|idx|index|indices))?"
)


def listed_splits(
    lists: list[Path], folder: Path, images: Mapping[str, Path], masks: Mapping[str, Path]
) -> dict[str, tuple[Item, ...]]:
    """Returns the items of each split in the lists, by the usual name of the split.

    Args:
        lists: the split lists.
        folder: folder of the pictures; it is used in the path of a listed picture that is missing.
        images: the pictures by stem.
        masks: the masks by the stem of their picture; also by their own stem, for lists that name pictures and masks.

    Raises:
        AtrousError: a list is unreadable or contains no name, or two lists of one split differ.
    """
    splits: dict[str, tuple[Item, ...]] = {}
    origin: dict[str, Path] = {}
    for path in lists:
        for written, rows in _by_split(path, images).items():
            name = canonical_split(written)
            items = _items(path, rows, folder, images, masks)
            if name in splits and set(splits[name]) != set(items):
                raise AtrousError(
                    f"{origin[name]} and {path} are both lists of the split '{name}', and they differ. Remove or "
                    "rename one."
                )
            splits[name], origin[name] = items, path
    order = {name: index for index, name in enumerate(SPELLINGS)}
    return {name: splits[name] for name in sorted(splits, key=lambda name: (order.get(name, len(order)), name))}


def listed(path: Path, folder: Path, images: Mapping[str, Path], masks: Mapping[str, Path]) -> tuple[Item, ...]:
    """Returns the items in the list of one split, in the order of the list.

    Names are matched by their stem; their suffix and folder are ignored.

    Args:
        path: the split list.
        folder: folder of the pictures; it is used in the path of a listed picture that is missing.
        images: the pictures by stem.
        masks: the masks by the stem of their picture; also by their own stem, if the list names pictures and masks.

    Raises:
        AtrousError: the list is unreadable or contains no name.
    """
    return _items(path, read_list(path, images), folder, images, masks)


def read_list(path: Path, images: Mapping[str, Path]) -> list[Row]:
    """Reads the rows of a list, at least one.

    Args:
        path: the split list.
        images: the pictures by stem. If the file is not Unicode, an encoding is used in which all names match pictures.

    Raises:
        AtrousError: the list is unreadable or contains no name.
    """
    texts = [
        [
            row
            for row in _rows(path, text, images)
            if not row.image.startswith("#") or stem_of(row.image, images) in images
        ]
        for text in decodings(path)
    ]
    fitting = [rows for rows in texts if rows and all(stem_of(row.image, images) in images for row in rows)]
    rows = fitting[0] if fitting else texts[0]
    if not rows:
        raise AtrousError(f"{path}: the list is empty; write one picture name per line, or remove the file.")
    if not fitting and any(_is_no_text(row.image) for row in rows):
        raise AtrousError(f"{path}: the list is not UTF-8 text, and its names match no pictures. Save it as UTF-8.")
    return rows


def is_list_of_names(path: Path) -> bool:
    """Returns whether a JSON file contains a list of strings, and not settings or labels."""
    try:
        content = parse_json(next(iter(decodings(path))), str(path))
    except AtrousError:
        return False
    return isinstance(content, list) and all(isinstance(entry, str) for entry in content)


def _items(
    path: Path, rows: list[Row], folder: Path, images: Mapping[str, Path], masks: Mapping[str, Path]
) -> tuple[Item, ...]:
    items: dict[str, Item] = {}
    for row in rows:
        stem = stem_of(row.image, images)
        paired = stem_of(row.mask, masks) if row.mask else stem
        mask = masks.get(paired) or masks.get(stem)
        if stem in images:
            items.setdefault(stem, Item(stem, images[stem], mask))
        elif stem not in items:
            items[stem] = Item(stem, _elsewhere(folder, row.image, stem), mask, _place(path, row.image))
    return tuple(items.values())


def _place(path: Path, written: str) -> str:
    """Returns the path of a list and, if found, the line of a name, for messages: "splits/train.txt, line 3"."""
    name = re.compile(rf"(?<![\w.-]){re.escape(written)}(?![\w-])")
    lines = next(iter(decodings(path))).splitlines()
    line = next((number for number, text in enumerate(lines, 1) if name.search(text)), None)
    return f"{path}, line {line}" if line else str(path)


def _elsewhere(folder: Path, written: str, stem: str) -> Path:
    """Returns a path for a name that is not a known picture: an existing file with this name, else a missing file."""
    named = folder / Path(written.replace("\\", "/")).name
    return named if named.is_file() else folder / stem


def _by_split(path: Path, images: Mapping[str, Path]) -> dict[str, list[Row]]:
    rows = read_list(path, images)
    if folds := list(dict.fromkeys(row.fold for row in rows if row.fold)):
        raise AtrousError(
            f"{path}: {', '.join(folds[:3])}{', …' if len(folds) > 3 else ''} each define all splits, as folds do. "
            f'Write only one of them as {path.parent / "splits.json"}, {{"train": ["a.png", …], "val": […]}}, and move '
            "this file away. Train once for each fold."
        )
    named = [row.split for row in rows if row.split]
    if not named:
        if path.stem.lower() in ("split", "splits"):
            raise AtrousError(
                f"{path}: it does not assign pictures to splits. Add a column 'split' with train, val and "
                "test, or write one list for each split."
            )
        written = SPLIT_NAME.search(path.stem) if LIST_NAME.fullmatch(path.stem.lower()) else None
        return {written[0] if written else path.stem: rows}
    if strange := next((name for name in named if not SPLIT_NAME.fullmatch(name)), None):
        raise AtrousError(f"{path}: the split '{strange}' is unknown; write train, val or test.")
    splits: dict[str, list[Row]] = {}
    for row in rows:
        if row.split:
            splits.setdefault(canonical_split(row.split), []).append(row)
    return splits


def _rows(path: Path, text: str, images: Mapping[str, Path]) -> list[Row]:
    suffix = path.suffix.lower()
    if suffix in RECORD_SUFFIXES:
        return record_rows(path, text, images)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if suffix in TABLES or (lines and _is_head(_cells(lines[0], delimiter_of(lines[0])))):
        return _table_rows(path, table_of(path, text))
    return [_line_row(line) for line in lines]


def _line_row(line: str) -> Row:
    """Parses a line: a name, which may contain spaces, or the names of a picture and a mask with a separator.

    The separator is a comma, a semicolon, a tab or a space.
    """
    words = [word.strip() for word in re.split(r"[,;\t]", line) if word.strip()]
    if len(words) < 2:
        words = line.split()
    paired = len(words) == 2 and all(map(names_file, words))
    return Row(line, words[1]) if paired else Row(line)


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def _is_head(cells: list[str]) -> bool:
    lowered = {cell.lower() for cell in cells}
    return bool(lowered & IMAGE_HEADS) and (len(cells) == 1 or bool(lowered & (MASK_HEADS | SPLIT_HEADS)))


def _table_rows(path: Path, table: list[list[str]]) -> list[Row]:
    if not table:
        return []
    head = [cell.lower() for cell in table[0]]
    if any(cell in IMAGE_HEADS | SPLIT_HEADS | MASK_HEADS | VAL_HEADS for cell in head):
        image, mask, split = (_column(head, names) for names in (IMAGE_HEADS, MASK_HEADS, SPLIT_HEADS))
        if split is None and (split := _column(head, VAL_HEADS)) is not None:
            names = [_split_of_flag(path, _cell(cells, split)) for cells in table[1:]]
            rows = zip(table[1:], names, strict=True)
            table = [head, *([*cells[:split], name, *cells[split + 1 :]] for cells, name in rows)]
        if image is None:
            image = next((index for index in range(len(head)) if index not in (mask, split)), None)
        if image is None:
            raise AtrousError(f"{path}: there is no column of pictures; name one column 'image'.")
        table = table[1:]
        if mask is not None and not is_mask_column(head[mask], [_cell(cells, mask) for cells in table]):
            mask = None
    else:
        columns = range(max(map(len, table)))
        split = next((index for index in columns[1:] if _all_splits(table, index)), None)
        files = [index for index in columns if all(names_file(_cell(cells, index)) for cells in table)]
        if not files and len(columns) > 1 + (split is not None):
            raise AtrousError(
                f"{path}: several columns and no header; add a first line that names the column of pictures 'image'."
            )
        image, mask = [*(files or [0]), None, None][:2]
    return [Row(_cell(cells, image) or "", _cell(cells, mask), _cell(cells, split)) for cells in table]


def _split_of_flag(path: Path, cell: str | None) -> str:
    split = split_of_validity(cell)
    if split is None:
        raise AtrousError(f"{path}: the validation column contains '{cell}'; write true or false.")
    return split


def _all_splits(table: list[list[str]], index: int) -> bool:
    return all(SPLIT_NAME.fullmatch(_cell(cells, index) or "") for cells in table)


def _column(head: list[str], names: frozenset[str]) -> int | None:
    return next((index for index, cell in enumerate(head) if cell in names), None)


def _cell(cells: list[str], index: int | None) -> str | None:
    return cells[index] or None if index is not None and index < len(cells) else None


def _is_no_text(name: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in name)
