"""The names and colours of classes, from the files that labelling tools write beside their masks.

Forms: CVAT and Datumaro ``labelmap.txt`` ("# label:color_rgb:parts:actions"); labelme ``class_names.txt``, and lists of
names as ``classes.txt`` and ``labels.txt``; Roboflow ``_classes.csv`` ("Pixel Value, Class"); ``class_dict.csv`` (name,
r, g, b); CamVid's ``label_colors.txt`` ("r g b name"); Supervisely ``obj_class_to_machine_color.json`` and
``meta.json``; nnU-Net ``dataset.json``; Label Studio ``notes.json``; Hugging Face ``id2label.json``.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atrous.data.dataset import CLASSES_FILE, Item, NoClassesError, classes_of
from atrous.data.labels import ClassTable, Color, default_colors
from atrous.data.pictures import read_mask
from atrous.data.text_files import read_text_file
from atrous.errors import AtrousError

#: In a note that says so.
ASSUMED = "the published classes of this layout are assumed"
_IGNORED_NAMES = frozenset({"__ignore__", "ignore", "ignored", "void", "unlabeled", "unlabelled"})


@dataclass(frozen=True)
class NamedClass:
    """What a file says of one class.

    Attributes:
        name: its name.
        value: the number that masks hold for it.
        color: the (red, green, blue) that masks hold for it, or None.
    """

    name: str
    value: int
    color: Color | None = None


def named_classes(
    root: Path,
    given: ClassTable | None,
    *folders: Path,
    items: Iterable[Item] = (),
    default: ClassTable | None = None,
) -> tuple[ClassTable, tuple[str, ...]]:
    """The class table of a dataset and sentences that say where its names are from.

    It is the given one, else that of ``classes.yaml``, else one by the file that a tool wrote beside the masks, else
    the layout's.

    Args:
        root: the dataset's folder.
        given: a table to use instead of the dataset's own, or None.
        folders: where else such a file may be; each is tried with the folder above it, if that is in ``root``.
        items: of the dataset; the first mask tells whether masks hold colours or numbers.
        default: the layout's own table, or None.

    Raises:
        NoClassesError: there is no table.
        AtrousError: a file is damaged.
    """
    if given is not None or (root / CLASSES_FILE).exists():
        return classes_of(root, given), ()
    places = [root, *folders, *(folder.parent for folder in folders if folder.parent.is_relative_to(root))]
    for place in dict.fromkeys(places):
        for name, parse in _FORMS.items():
            path = place / name
            if not path.is_file():
                continue
            named = _parsed(path, parse)
            if named:
                return _table(path, named, items), (f"The classes are named by {path}.",)
    if default is not None:
        note = f"There is no {CLASSES_FILE}, so {ASSUMED}."
        return default, (note,)
    raise NoClassesError(
        f"{root}: there is no {CLASSES_FILE} to say what the values in the masks mean. "
        f"`atrous doctor {root} --write-classes` writes one from the values it finds."
    )


def _parsed(path: Path, parse: Callable[[str], list[NamedClass]]) -> list[NamedClass]:
    try:
        return parse(read_text_file(path))
    except AtrousError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, csv.Error) as error:
        raise AtrousError(
            f"{path}: cannot be read as a list of classes ({error}). Correct it, or write a {CLASSES_FILE}."
        ) from error


def _table(path: Path, named: list[NamedClass], items: Iterable[Item]) -> ClassTable:
    classes = [one for one in named if one.name.lower() not in _IGNORED_NAMES]
    ignored = [one for one in named if one.name.lower() in _IGNORED_NAMES]
    colors = [one.color for one in named if one.color is not None]
    fallback = default_colors(max([len(named), *(one.value + 1 for one in named if one.value < 256)]))
    shown = tuple(one.color or fallback[min(max(one.value, 0), len(fallback) - 1)] for one in classes)
    names = tuple(one.name for one in classes)
    try:
        if len(colors) == len(named) and _hold_colors(items, set(colors)):
            raw = tuple((one.color,) for one in classes if one.color)
            return ClassTable(names, shown, raw, tuple(one.color for one in ignored if one.color))
        values = {one.value for one in classes}
        usual = (255,) if 255 not in values else ()
        ignore = tuple(dict.fromkeys((*(one.value for one in ignored if one.value not in values), *usual)))
        return ClassTable(names, shown, tuple((one.value,) for one in classes), ignore)
    except AtrousError as error:
        raise AtrousError(f"{path}: {error}") from error


def _hold_colors(items: Iterable[Item], colors: set[Color]) -> bool:
    """Whether masks hold these colours, in their pixels or in their palettes, by the first mask that can be read."""
    for item in items:
        if item.mask is None:
            continue
        try:
            mask, palette, _ = read_mask(item.mask)
        except AtrousError:
            continue
        if palette is None:
            return mask.ndim == 3
        used = {palette[int(value)] for value in set(mask.ravel().tolist()) if 0 <= int(value) < len(palette)}
        return used <= colors
    return False


def _labelmap(text: str) -> list[NamedClass]:
    """CVAT's and Datumaro's: ``name:r,g,b:parts:actions``; the names may hold colons."""
    named = []
    for line in _lines(text):
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"(?P<name>.+?):(?P<color>\s*\d+\s*,\s*\d+\s*,\s*\d+\s*)?(:.*)?", line)
        if match is None:
            raise ValueError(f"the line {line!r} is not name:r,g,b::")
        color = _color(match["color"].split(",")) if match["color"] else None
        named.append(NamedClass(match["name"].strip(), len(named), color))
    return named


def _names(text: str) -> list[NamedClass]:
    """A name a line, in the order of the values or after them; labelme's ``__ignore__`` is no class."""
    named: list[NamedClass] = []
    for line in _lines(text):
        match = re.fullmatch(r"(?P<value>\d+)\s*[:;,=\t ]\s*(?P<name>\D.*)", line)
        if match:
            named.append(NamedClass(match["name"].strip().strip("'\""), int(match["value"])))
        elif line != "__ignore__":  # which labelme does not count
            named.append(NamedClass("background" if line == "_background_" else line, len(named)))
    return named


def _roboflow(text: str) -> list[NamedClass]:
    rows = _rows(text)
    named = [NamedClass(row[1], int(row[0])) for row in rows if row[0].isdigit()]
    if len(named) < len(rows) - 1:
        raise ValueError("its lines are not 'Pixel Value, Class'")
    return named


def _class_dict(text: str) -> list[NamedClass]:
    rows = [row for row in _rows(text) if len(row) >= 4]
    colored = [row for row in rows if all(part.isdigit() for part in row[1:4])]
    return [NamedClass(row[0], index, _color(row[1:4])) for index, row in enumerate(colored)]


def _label_colors(text: str) -> list[NamedClass]:
    named = []
    for line in _lines(text):
        red, green, blue, name = line.split(maxsplit=3)
        named.append(NamedClass(name, len(named), _color([red, green, blue])))
    return named


def _machine_colors(text: str) -> list[NamedClass]:
    """Supervisely's ``{"name": [v, v, v]}``: masks hold v, as grey."""
    content: Mapping[str, Any] = json.loads(text)
    colors = {name: _color(color) for name, color in content.items()}
    grey = all(len(set(color)) == 1 for color in colors.values())
    named = [NamedClass(name, color[0], None if grey else color) for name, color in colors.items()]
    free = 0 not in {one.value for one in named}
    background = [NamedClass("background", 0, None if grey else (0, 0, 0))] if free else []
    return [*background, *named]


def _supervisely_meta(text: str) -> list[NamedClass]:
    classes = json.loads(text)["classes"]
    named = [
        NamedClass(one["title"], index + 1, _color([int(one["color"][at : at + 2], 16) for at in (1, 3, 5)]))
        for index, one in enumerate(classes)
    ]
    return [NamedClass("background", 0, (0, 0, 0)), *named]


def _nnunet(text: str) -> list[NamedClass]:
    """nnU-Net's ``{"labels": {"name": value}}``, or, before version 2, ``{"value": "name"}``."""
    content = json.loads(text)
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        return []  # many things are called dataset.json
    pairs = [(name, value) if isinstance(value, int) else (value, name) for name, value in content["labels"].items()]
    return [NamedClass(str(name), int(value)) for name, value in pairs]


def _id2label(text: str) -> list[NamedClass]:
    content = json.loads(text)
    content = dict(enumerate(content)) if isinstance(content, list) else content
    return [NamedClass(str(name), int(value)) for value, name in content.items()]


def _label_studio(text: str) -> list[NamedClass]:
    return [NamedClass(str(one["name"]), int(one["id"])) for one in json.loads(text)["categories"]]


# by file name; the first that is there is read
_FORMS: dict[str, Callable[[str], list[NamedClass]]] = {
    "labelmap.txt": _labelmap,
    "label_map.txt": _labelmap,
    "_classes.csv": _roboflow,
    "class_dict.csv": _class_dict,
    "class_dict_seg.csv": _class_dict,
    "label_colors.txt": _label_colors,
    "obj_class_to_machine_color.json": _machine_colors,
    "meta.json": _supervisely_meta,
    "class_names.txt": _names,
    "classes.txt": _names,
    "labels.txt": _names,
    "names.txt": _names,
    "dataset.json": _nnunet,
    "id2label.json": _id2label,
    "classes.json": _id2label,
    "notes.json": _label_studio,
}


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if any(row)]


def _color(parts: Iterable[Any]) -> Color:
    red, green, blue = (int(part) for part in parts)
    return red, green, blue
