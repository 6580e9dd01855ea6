"""Parses tables of classes: rows with a name, a value and a colour, with or without a header."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atrous.data.class_colors import Color
from atrous.data.mask_value_map import MAX_CLASSES
from atrous.data.pictures import PICTURE_SUFFIXES

_VALUE_HEADS = frozenset(
    ["value", "pixel_value", "pixelvalue", "id", "index", "class_id", "label_id", "classid", "number"]
)
_NAME_HEADS = frozenset(["class", "name", "label", "class_name", "label_name", "classname", "category", "title"])
_COLOR_HEADS = (("r", "g", "b"), ("red", "green", "blue"))
_HEADS = _VALUE_HEADS.union(_NAME_HEADS, *_COLOR_HEADS)
_PICTURE_WORDS = "image img picture file filename file_name path image_id image_name image_path img_path img_name"
_PICTURE_HEADS = frozenset(_PICTURE_WORDS.split())


@dataclass(frozen=True)
class NamedClass:
    """One class in a class file.

    Attributes:
        name: name of the class.
        value: the number of the class in masks.
        color: the (red, green, blue) of the class in masks, or None.
        counted: whether the value is only the position in the file, because the file states no value.
    """

    name: str
    value: int
    color: Color | None = None
    counted: bool = False


def parse_table(text: str) -> list[NamedClass]:
    """Parses a table whose header has a column of classes, and one column of values or three columns of colours.

    Args:
        text: the content of the file.

    Returns:
        The classes. The list is empty if the text is another kind of table, such as a table with a column of pictures,
        if at least half of the lines do not fit the header, or if more than a quarter of the names are repetitions.

    Raises:
        ValueError: fewer than half of the lines do not fit the header; the message contains the first of them.
    """
    rows = _rows(text)
    columns = _columns(rows) if 1 < len(rows) <= MAX_CLASSES + 2 else None
    if columns is None:
        return []
    name, value, color = columns
    numbers = [*([] if value is None else [value]), *(color or [])]
    wrong = [
        row
        for row in rows[1:]
        if len(row) <= max(name, *numbers) or not all(_is_number(row[column]) for column in numbers)
    ]
    if wrong and 2 * len(wrong) < len(rows):
        raise ValueError(f"the line {','.join(wrong[0])!r} does not fit its header")
    names = [row[name] for row in rows[1:] if row not in wrong]
    if wrong or 4 * (len(names) - len(set(names))) > len(names):
        return []  # the rows are not classes but other objects, each with the name of its class
    return [
        NamedClass(
            row[name],
            index if value is None else int(row[value]),
            color_of(row[column] for column in color) if color else None,
            counted=value is None,
        )
        for index, row in enumerate(rows[1:])
    ]


def _columns(rows: list[list[str]]) -> tuple[int, int | None, list[int] | None] | None:
    """Returns the columns of names, values and colours.

    The result is None if there are no names, if there are neither values nor colours, or if the rows describe pictures.
    """
    head, body = list(map(_plain_head, rows[0])), rows[1:]
    cells = [[row[index] for row in body if index < len(row)] for index in range(len(head))]
    if _PICTURE_HEADS.intersection(head) or any(map(_names_file, (cell for row in body for cell in row))):
        return None
    named = [index for index, cell in enumerate(head) if cell in _NAME_HEADS]
    texts = [index for index in named if not all(map(_is_number, cells[index]))]
    # a column without repeated entries is preferred, because it contains names, not categories
    names = [index for index in texts if len(set(cells[index])) == len(body)] or texts
    valued = [index for index, cell in enumerate(head) if cell in _VALUE_HEADS]
    values = valued or [index for index in named if index not in texts]
    color = next(([head.index(cell) for cell in heads] for heads in _COLOR_HEADS if set(heads) <= set(head)), None)
    if not names or not (values or color):
        return None
    return names[0], values[0] if values else None, color


def parse_roboflow(text: str) -> list[NamedClass]:
    """Parses Roboflow's lines "Pixel Value, Class"; raises ``ValueError`` for other lines."""
    rows = _rows(text)
    if rows and is_head(rows[0]):
        if named := parse_table(text):
            return named
        rows = rows[1:]
    for row in rows:
        if len(row) < 2 or not row[0].isdigit():
            raise ValueError(f"the line {','.join(row)!r} is not 'Pixel Value, Class'")
    return [NamedClass(row[1], int(row[0])) for row in rows]


def parse_class_dict(text: str) -> list[NamedClass]:
    """Parses a table with a header, else lines "name,r,g,b"; raises ``ValueError`` for other lines."""
    rows = _rows(text)
    if rows and is_head(rows[0]):
        if named := parse_table(text):
            return named
        if _VALUE_HEADS.intersection(map(_plain_head, rows[0])):
            raise ValueError(f"its lines do not fit the header {','.join(rows[0])!r}")
        rows = rows[1:]
    for row in rows:
        if len(row) < 4 or not all(part.isdigit() for part in row[1:4]):
            raise ValueError(f"the line {','.join(row)!r} is not name,r,g,b")
        if any(map(_is_number, row[4:])):
            raise ValueError(
                f"the line {','.join(row)!r} contains more numbers than name,r,g,b; add a header with the column names"
            )
    return [NamedClass(row[0], index, color_of(row[1:4]), counted=True) for index, row in enumerate(rows)]


def parse_label_colors(text: str) -> list[NamedClass]:
    """Parses CamVid's lines "r g b name"; raises ``ValueError`` for other lines."""
    named = []
    for line in lines_of(text):
        parts = line.split(maxsplit=3)
        if len(parts) < 4 or not all(part.isdigit() for part in parts[:3]):
            raise ValueError(f"the line {line!r} is not 'r g b name'")
        named.append(NamedClass(parts[3], len(named), color_of(parts[:3]), counted=True))
    return named


def is_head(cells: Iterable[str]) -> bool:
    """Returns whether a line is a header: it contains a word for a name, a value or a colour, and no number."""
    plain = list(map(_plain_head, cells))
    return bool(_HEADS.intersection(plain)) and not any(map(_is_number, plain))


def lines_of(text: str) -> list[str]:
    """Returns the lines of a text, stripped of outer spaces, without empty lines and comments."""
    return [stripped for line in text.splitlines() if (stripped := line.strip()) and stripped[0] != "#"]


def color_of(parts: Iterable[Any]) -> Color:
    """Converts three numbers, or strings of numbers, to (red, green, blue)."""
    red, green, blue = (int(part) for part in parts)
    return red, green, blue


def _rows(text: str) -> list[list[str]]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max((",", ";", "\t"), key=first.count)
    return [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(row)]


def _plain_head(cell: str) -> str:
    return re.sub(r"[\s-]+", "_", cell.strip().lower())


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"-?\d+", cell) is not None


def _names_file(cell: str) -> bool:
    return Path(cell).suffix.lower() in PICTURE_SUFFIXES
