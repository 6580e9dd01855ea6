"""Tables of classes: rows of a name, a value and a colour, with a head that names the columns or without."""

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
    """What a file says of one class.

    Attributes:
        name: its name.
        value: the number that masks hold for it.
        color: the (red, green, blue) that masks hold for it, or None.
        counted: whether the value is only the place in the file.
    """

    name: str
    value: int
    color: Color | None = None
    counted: bool = False


def parse_table(text: str) -> list[NamedClass]:
    """A table whose head names a column of classes and one of values or three of colours, and no column of pictures."""
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
        raise ValueError(f"the line {','.join(wrong[0])!r} does not fit its head")
    names = [row[name] for row in rows[1:] if row not in wrong]
    if wrong or 4 * (len(names) - len(set(names))) > len(names):
        return []  # of other things than classes, each with its label
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
    """Where a table holds names, values and colours; None where its head says neither, or its rows are of pictures."""
    head, body = list(map(_plain_head, rows[0])), rows[1:]
    cells = [[row[index] for row in body if index < len(row)] for index in range(len(head))]
    if _PICTURE_HEADS.intersection(head) or any(map(_names_file, (cell for row in body for cell in row))):
        return None
    named = [index for index, cell in enumerate(head) if cell in _NAME_HEADS]
    texts = [index for index in named if not all(map(_is_number, cells[index]))]
    # of a category and a name the name, of which no two are equal
    names = [index for index in texts if len(set(cells[index])) == len(body)] or texts
    valued = [index for index, cell in enumerate(head) if cell in _VALUE_HEADS]
    values = valued or [index for index in named if index not in texts]
    color = next(([head.index(cell) for cell in heads] for heads in _COLOR_HEADS if set(heads) <= set(head)), None)
    if not names or not (values or color):
        return None
    return names[0], values[0] if values else None, color


def parse_roboflow(text: str) -> list[NamedClass]:
    """Roboflow's "Pixel Value, Class"."""
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
    """A table as its head says, else lines of name, red, green and blue."""
    rows = _rows(text)
    if rows and is_head(rows[0]):
        if named := parse_table(text):
            return named
        if _VALUE_HEADS.intersection(map(_plain_head, rows[0])):
            raise ValueError(f"its lines do not fit the head {','.join(rows[0])!r}")
        rows = rows[1:]
    for row in rows:
        if len(row) < 4 or not all(part.isdigit() for part in row[1:4]):
            raise ValueError(f"the line {','.join(row)!r} is not name,r,g,b")
        if any(map(_is_number, row[4:])):
            raise ValueError(
                f"the line {','.join(row)!r} holds more numbers than name,r,g,b; name them in a first line"
            )
    return [NamedClass(row[0], index, color_of(row[1:4]), counted=True) for index, row in enumerate(rows)]


def parse_label_colors(text: str) -> list[NamedClass]:
    """CamVid's "r g b name"."""
    named = []
    for line in lines_of(text):
        parts = line.split(maxsplit=3)
        if len(parts) < 4 or not all(part.isdigit() for part in parts[:3]):
            raise ValueError(f"the line {line!r} is not 'r g b name'")
        named.append(NamedClass(parts[3], len(named), color_of(parts[:3]), counted=True))
    return named


def is_head(cells: Iterable[str]) -> bool:
    """Whether a line names columns: it holds a word for a name, a value or a colour, and no number."""
    plain = list(map(_plain_head, cells))
    return bool(_HEADS.intersection(plain)) and not any(map(_is_number, plain))


def lines_of(text: str) -> list[str]:
    """The lines of a text without outer spaces, empty ones and comments."""
    return [stripped for line in text.splitlines() if (stripped := line.strip()) and stripped[0] != "#"]


def color_of(parts: Iterable[Any]) -> Color:
    """Three numbers, or texts of numbers, as (red, green, blue)."""
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
