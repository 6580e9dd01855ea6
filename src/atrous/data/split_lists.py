"""Split lists: which pictures belong to which split, in the forms that people and tools write them.

A list is a text with a name or a pair of names a line, a CSV or TSV table with or without a head, or JSON. A table
with a column "split" holds all splits in one file.
"""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atrous.data.dataset import Item
from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.data.split_names import SPELLINGS, canonical_split
from atrous.data.text_files import decodings
from atrous.errors import AtrousError
from atrous.json_yaml import parse_json

TEXTS, TABLES = frozenset({".txt", ".lst", ".list", ""}), frozenset({".csv", ".tsv"})
LIST_SUFFIXES = TEXTS | TABLES | {".json"}
_WORDS = "|".join(spelling for spellings in SPELLINGS.values() for spelling in spellings if spelling != "tr")
LIST_NAME = re.compile(
    rf"((list|ids|images|split|files)[_-]?)?(trainval|{_WORDS}|splits?)([_-]?(list|ids|images|split|files|set|names))?"
)
_SPLIT_NAME = re.compile(rf"(trainval|{_WORDS})", re.IGNORECASE)
_IMAGE_WORDS = """
image images img image_path image_name image_file image_id img_path img_name imagepath imagename file filename
file_name filepath file_path name path picture id stem
"""
_IMAGE_HEADS = frozenset(_IMAGE_WORDS.split())
_MASK_WORDS = """
mask masks label label_path label_name mask_path mask_name mask_file maskpath annotation annotation_path ann
segmentation seg seg_map seg_path gt
"""
_MASK_HEADS = frozenset(_MASK_WORDS.split())
# under these heads there may be a class, a fold or a count as well as a mask
_DOUBTFUL_MASK_HEADS = frozenset(["label", "annotation", "ann", "segmentation", "seg", "gt"])
SPLIT_HEADS = frozenset(["split", "splits", "subset", "set", "partition", "phase", "usage", "stage"])
VAL_HEADS = frozenset(["is_valid", "is_val", "is_validation"])  # fastai's: true for val, false for train


@dataclass(frozen=True)
class Row:
    """What a list says of one picture.

    Attributes:
        image: the picture's name, as written: a stem, a file name or a path.
        mask: the mask's name, or None.
        split: the name of its split, or None where the file's name tells.
    """

    image: str
    mask: str | None = None
    split: str | None = None


def listed_splits(
    lists: list[Path], folder: Path, images: Mapping[str, Path], masks: Mapping[str, Path]
) -> dict[str, tuple[Item, ...]]:
    """The items of each split that the lists name, under the split's usual name.

    Args:
        lists: the files.
        folder: where a picture that a list names and nobody has would be.
        images: the pictures by stem.
        masks: the masks by the stem of their picture, and by their own where a list pairs them.

    Raises:
        AtrousError: a list is unreadable or names nothing, or two lists of one split differ.
    """
    splits: dict[str, tuple[Item, ...]] = {}
    origin: dict[str, Path] = {}
    for path in lists:
        for written, rows in _by_split(path, images).items():
            name = canonical_split(written)
            items = _items(rows, folder, images, masks)
            if name in splits and splits[name] != items:
                raise AtrousError(
                    f"{origin[name]} and {path} are both lists of the split '{name}', and they differ. Remove or "
                    "rename one."
                )
            splits[name], origin[name] = items, path
    order = {name: index for index, name in enumerate(SPELLINGS)}
    return {name: splits[name] for name in sorted(splits, key=lambda name: (order.get(name, len(order)), name))}


def listed(path: Path, folder: Path, images: Mapping[str, Path], masks: Mapping[str, Path]) -> tuple[Item, ...]:
    """The items that the list of one split names, in its order, matched by stem whatever suffix or folder it writes.

    Args:
        path: the list.
        folder: where a picture that the list names and nobody has would be.
        images: the pictures by stem.
        masks: the masks by stem.

    Raises:
        AtrousError: the list is unreadable or names nothing.
    """
    return _items(read_list(path, images), folder, images, masks)


def read_list(path: Path, images: Mapping[str, Path]) -> list[Row]:
    """The rows of a list, one or more.

    Args:
        path: the file.
        images: the pictures by stem, by which an encoding older than Unicode is told.

    Raises:
        AtrousError: the list is unreadable or names nothing.
    """
    texts = [
        [row for row in _rows(path, text) if not row.image.startswith("#") or stem_of(row.image, images) in images]
        for text in decodings(path)
    ]
    fitting = [rows for rows in texts if rows and all(stem_of(row.image, images) in images for row in rows)]
    rows = fitting[0] if fitting else texts[0]
    if not rows:
        raise AtrousError(f"{path}: the list is empty; write one picture name a line, or remove the file.")
    if not fitting and any(_is_no_text(row.image) for row in rows):
        raise AtrousError(f"{path}: the list is no UTF-8 text, and its names are no pictures'. Save it as UTF-8.")
    return rows


def is_list_of_names(path: Path) -> bool:
    """Whether a JSON file is a list of texts, and no settings or labels."""
    try:
        content = parse_json(next(iter(decodings(path))), str(path))
    except AtrousError:
        return False
    return isinstance(content, list) and all(isinstance(entry, str) for entry in content)


def stem_of(written: str, known: Mapping[str, Path]) -> str:
    """The stem that a name in a list means: as written, else as a file name, else the first of several words.

    Args:
        written: the name.
        known: the pictures by stem.
    """
    written = written.replace("\\", "/")
    if written not in known:
        written = re.sub(r"""^(['"])(.*)\1$""", r"\2", written)
    field, first = re.split(r"[,;\t]", written)[0].strip(), re.split(r"[,;\s]", written.strip())[0]
    guesses = (guess for name in (written, field, first) for guess in (name, Path(name).stem, Path(name).name))
    spelled = (spelling for guess in guesses for spelling in _spellings(guess))
    return next((spelling for spelling in spelled if spelling in known), Path(first).stem)


def _spellings(name: str) -> tuple[str, ...]:
    """A name as file systems may spell it: composed (NFC), decomposed (NFD), or as the locale shows its UTF-8."""
    forms = (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    if name.isascii():
        return (name,)
    return (*forms, *(os.fsdecode(form.encode("utf-8", errors="surrogateescape")) for form in forms))


def _items(rows: list[Row], folder: Path, images: Mapping[str, Path], masks: Mapping[str, Path]) -> tuple[Item, ...]:
    items: dict[str, Item] = {}
    for row in rows:
        stem = stem_of(row.image, images)
        paired = stem_of(row.mask, masks) if row.mask else stem
        mask = masks.get(paired) or masks.get(stem)
        items.setdefault(stem, Item(stem, images.get(stem) or _elsewhere(folder, row.image, stem), mask))
    return tuple(items.values())


def _elsewhere(folder: Path, written: str, stem: str) -> Path:
    """A picture that is not among the known ones: a file of that name of an unknown kind, else what is missing."""
    named = folder / Path(written.replace("\\", "/")).name
    return named if named.is_file() else folder / stem


def _by_split(path: Path, images: Mapping[str, Path]) -> dict[str, list[Row]]:
    rows = read_list(path, images)
    named = [row.split for row in rows if row.split]
    if not named:
        if path.stem.lower() in ("split", "splits"):
            raise AtrousError(
                f"{path}: it does not say which picture belongs to which split. Add a column 'split' with train, val "
                "and test, or write one list for each."
            )
        written = _SPLIT_NAME.search(path.stem) if LIST_NAME.fullmatch(path.stem.lower()) else None
        return {written[0] if written else path.stem: rows}
    if strange := next((name for name in named if not _SPLIT_NAME.fullmatch(name)), None):
        raise AtrousError(f"{path}: the split '{strange}' is unknown; write train, val or test.")
    splits: dict[str, list[Row]] = {}
    for row in rows:
        if row.split:
            splits.setdefault(canonical_split(row.split), []).append(row)
    return splits


def _rows(path: Path, text: str) -> list[Row]:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return list(_json_rows(path, text))
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if suffix in TABLES or (lines and _is_head(_cells(lines[0], _delimiter(lines[0])))):
        return _table_rows(path, table_of(path, text))
    return [_line_row(line) for line in lines]


def _line_row(line: str) -> Row:
    """A line of a text: a name that may hold spaces, or "image mask", separated by a space, tab, comma or semicolon."""
    words = [word.strip() for word in re.split(r"[,;\t]", line) if word.strip()]
    if len(words) < 2:
        words = line.split()
    paired = len(words) == 2 and all(map(_names_file, words))
    return Row(line, words[1]) if paired else Row(line)


def _delimiter(line: str) -> str:
    return max((",", ";", "\t", "|"), key=line.count)


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def _is_head(cells: list[str]) -> bool:
    lowered = {cell.lower() for cell in cells}
    return bool(lowered & _IMAGE_HEADS) and (len(cells) == 1 or bool(lowered & (_MASK_HEADS | SPLIT_HEADS)))


def table_of(path: Path, text: str) -> list[list[str]]:
    """The cells of a table, line by line, without empty lines.

    Raises:
        AtrousError: the text is no table.
    """
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(first)
    try:
        table = [[cell.strip() for cell in cells] for cells in csv.reader(io.StringIO(text), delimiter=delimiter)]
    except csv.Error as error:
        raise AtrousError(f"{path}: cannot be read as a table: {error}.") from error
    return [cells for cells in table if any(cells)]


def _table_rows(path: Path, table: list[list[str]]) -> list[Row]:
    if not table:
        return []
    head = [cell.lower() for cell in table[0]]
    if any(cell in _IMAGE_HEADS | SPLIT_HEADS | _MASK_HEADS | VAL_HEADS for cell in head):
        image, mask, split = (_column(head, names) for names in (_IMAGE_HEADS, _MASK_HEADS, SPLIT_HEADS))
        if split is None and (split := _column(head, VAL_HEADS)) is not None:
            table = [[*cells[:split], _split_of(path, _cell(cells, split)), *cells[split + 1 :]] for cells in table[1:]]
            table = [head, *table]
        if image is None:
            image = next((index for index in range(len(head)) if index not in (mask, split)), None)
        if image is None:
            raise AtrousError(f"{path}: no column names the pictures; call one 'image'.")
        table = table[1:]
        if mask is not None and not _is_mask_column(head[mask], [_cell(cells, mask) for cells in table]):
            mask = None
    else:
        columns = range(max(map(len, table)))
        split = next((index for index in columns[1:] if _all_splits(table, index)), None)
        files = [index for index in columns if all(_names_file(_cell(cells, index)) for cells in table)]
        if not files and len(columns) > 1 + (split is not None):
            raise AtrousError(
                f"{path}: several columns and no head; name the pictures' column 'image' in a first line."
            )
        image, mask = [*(files or [0]), None, None][:2]
    return [Row(_cell(cells, image) or "", _cell(cells, mask), _cell(cells, split)) for cells in table]


def _split_of(path: Path, cell: str | None) -> str:
    """The split that a cell under ``is_valid`` means."""
    lowered = (cell or "").lower()
    if lowered not in ("true", "false", "1", "0", "1.0", "0.0", "yes", "no"):
        raise AtrousError(f"{path}: '{cell}' does not say whether a picture is for validation; write true or false.")
    return "val" if lowered in ("true", "1", "1.0", "yes") else "train"


def _is_mask_column(head: str, cells: list[str | None]) -> bool:
    """Whether a column names masks: all its cells are picture files, or its head says mask and no cell is a number."""
    if all(map(_names_file, cells)):
        return True
    return head not in _DOUBTFUL_MASK_HEADS and not any(cell and cell.replace(".", "").isdigit() for cell in cells)


def _names_file(cell: str | None) -> bool:
    """Whether a text ends as a picture's or a mask's file does."""
    return Path(cell or "").suffix.lower() in PICTURE_SUFFIXES


def _all_splits(table: list[list[str]], index: int) -> bool:
    return all(_SPLIT_NAME.fullmatch(_cell(cells, index) or "") for cells in table)


def _column(head: list[str], names: frozenset[str]) -> int | None:
    return next((index for index, cell in enumerate(head) if cell in names), None)


def _cell(cells: list[str], index: int | None) -> str | None:
    return cells[index] or None if index is not None and index < len(cells) else None


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    """The rows of a list, of a mapping from splits to lists or from pictures to splits, or of COCO's images."""
    content = parse_json(text, f"{path}:")
    refusal = AtrousError(
        f'{path}: no list of pictures. Write ["a.png", …], {{"train": ["a.png", …], "val": […]}}, or move the file '
        "away to have a split made."
    )
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        content = content["images"]
    if isinstance(content, list):
        yield from (_json_row(entry, None, refusal) for entry in content)
    elif isinstance(content, dict) and content and all(isinstance(part, list) for part in content.values()):
        yield from (_json_row(entry, name, refusal) for name, part in content.items() for entry in part)
    elif isinstance(content, dict) and content and all(isinstance(part, str) for part in content.values()):
        yield from (Row(name, None, part) for name, part in content.items())
    else:
        raise refusal


def _json_row(entry: Any, split: str | None, refusal: AtrousError) -> Row:
    if isinstance(entry, str):
        return Row(entry, None, split)
    if not isinstance(entry, dict):
        raise refusal
    image, mask, named = (
        next(
            ((key.lower(), value) for key, value in entry.items() if key.lower() in names and isinstance(value, str)),
            None,
        )
        for names in (_IMAGE_HEADS, _MASK_HEADS, SPLIT_HEADS)
    )
    if image is None:
        raise refusal
    mask = mask[1] if mask is not None and _is_mask_column(mask[0], [mask[1]]) else None
    image, named = image[1], None if named is None else named[1]
    return Row(image, mask, named or split)


def _is_no_text(name: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in name)
