"""Parses class files of labelling tools, which contain names, values and colours; one function for each form.

Each function takes the text of a file and returns its classes. It returns an empty list if the text has another form,
because tools also write other contents to files such as ``meta.json`` or ``labels.txt``. It raises ``ValueError`` if
the text has the expected form but is invalid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atrous.data.class_table_rows import (
    NamedClass,
    color_of,
    is_head,
    lines_of,
    parse_class_dict,
    parse_label_colors,
    parse_roboflow,
    parse_table,
)
from atrous.data.mask_value_map import MAX_CLASSES
from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.errors import AtrousError
from atrous.json_yaml import parse_yaml

_WORDS = 8  # largest number of words of a class name; a longer line is a sentence
_LETTERS = 100  # largest number of characters of a line with a class name


@dataclass(frozen=True)
class Form:
    """A form of class files.

    Attributes:
        parse: function that returns the classes in the text of a file.
        own: whether every file with the name of this form is a class file, so that other contents are an error.
    """

    parse: Callable[[str], list[NamedClass]]
    own: bool


def parse_labelmap(text: str) -> list[NamedClass]:
    """Parses the lines ``name:r,g,b:parts:actions`` of CVAT and Datumaro; a name may contain colons.

    A text without such lines is parsed by ``parse_names``.
    """
    lines, named = lines_of(text), []
    if lines and (not any(":" in line for line in lines) or all(map(_NUMBERED.fullmatch, lines))):
        if wrong := next((line for line in lines if re.search(r"\d+\s+\d+\s+\d+$", line)), None):
            raise ValueError(f"the line {wrong!r} is not name:r,g,b::")
        return parse_names(text)
    for line in lines:
        match = re.fullmatch(r"(?P<name>.+?):(?P<color>\s*\d+\s*,\s*\d+\s*,\s*\d+\s*)?(:.*)?", line)
        if match is None:
            raise ValueError(f"the line {line!r} is not name:r,g,b::")
        color = color_of(match["color"].split(",")) if match["color"] else None
        named.append(NamedClass(match["name"].strip(), len(named), color, counted=True))
    return named


_NUMBERED = re.compile(r"(?P<value>-?\d+)\s*[:;,=\s]\s*(?P<name>[^\d\s].*)")
_NUMBERED_AFTER = re.compile(r"(?P<name>.*\D)\s*[:;,=\t]\s*(?P<value>-?\d+)")


def parse_names(text: str) -> list[NamedClass]:
    """Parses lines with one class name each; the value is the position of the line, or a number beside the name.

    Lines may also contain a colour. ``#`` begins a comment. labelme's ``__ignore__`` is not a class and is not counted;
    labelme's ``_background_`` becomes the class "background".
    """
    lines = [re.sub(r"\s#\s.*", "", line).strip().rstrip(",") for line in lines_of(text)]
    if len(lines) > 1 and is_head(words := re.split(r"[\s,;]+", lines[0])) and len(words) > 1:
        if named := parse_table(text):
            return named
        del lines[0]
    if not lines or len(lines) > MAX_CLASSES + 1 or not all(map(_may_be_name, lines)):
        return []
    if any(map(_THREE_NUMBERS.search, lines)) or any(map(_COLOR_FIRST.fullmatch, lines)):
        return _with_colors(lines)
    with_colon = sum(bool(re.search(r":\s", line)) for line in lines)
    for form in (_NUMBERED, _NUMBERED_AFTER):
        found = [form.fullmatch(line) for line in lines if line != "__ignore__"]
        matched = [match for match in found if match is not None]
        names = [_plain_name(match["name"]) for match in matched]
        values = [int(match["value"]) for match in matched]
        # numbers are parts of names if some lines have no number ("3 wheeler", "car"), or if several lines are equal
        # apart from their numbers ("type: 1", "type: 2")
        if matched and len(matched) == len(found) and len(set(names)) == len(names):
            return [NamedClass(name, value) for name, value in zip(names, values, strict=True)]
    if 2 * with_colon > len(lines) and len(lines) > 1:
        return []  # the lines are fields of another kind of file, such as "author: …" and "date: …"
    plain = [_plain_name(line) for line in lines if line != "__ignore__"]
    return [NamedClass(name, index, counted=True) for index, name in enumerate(plain)]


_THREE_NUMBERS = re.compile(r"[\s,;:](\d+[\s,;]+){2,}\d+$")
_COLOR = r"(?P<color>\d{1,3}[\s,;]+\d{1,3}[\s,;]+\d{1,3})"
_COLOR_FIRST = re.compile(rf"{_COLOR}[\s,;:]+(?P<name>[^\d\s].*)")
_COLOR_LAST = re.compile(rf"(?P<name>.*[^\s,;:])[\s,;:]+{_COLOR}")
_VALUE_FIRST = re.compile(r"(?P<value>\d+)[\s,;:]+(?P<name>[^\d\s].*)")


def _with_colors(lines: list[str]) -> list[NamedClass]:
    """Parses lines with red, green, blue, a name, and possibly a value before the name; returns [] for other lines."""
    found = [_COLOR_FIRST.fullmatch(line) or _COLOR_LAST.fullmatch(line) for line in lines]
    fitting = [
        match
        for match in found
        if match
        and not re.search(r"(^|[\s,;:])\d+$", match["name"])  # the line has a fourth number
        and max(map(int, re.findall(r"\d+", match["color"]))) <= 255
    ]
    if len(fitting) < len(lines):
        wrong = next(line for line, match in zip(lines, found, strict=True) if match not in fitting)
        if 2 * len(fitting) > len(lines):
            raise ValueError(f"the line {wrong!r} is not a name with red, green and blue")
        return []  # the numbers are not colours but, for example, boxes or sizes
    valued = [_VALUE_FIRST.fullmatch(match["name"]) for match in fitting]
    stated = all(valued)
    return [
        NamedClass(
            _plain_name(value["name"] if value and stated else match["name"]),
            int(value["value"]) if value and stated else index,
            color_of(re.split(r"[\s,;]+", match["color"])),
            counted=not stated,
        )
        for index, (match, value) in enumerate(zip(fitting, valued, strict=True))
    ]


def _may_be_name(line: str) -> bool:
    words = line.split()
    sentence = line[-1:] in ".!" and len(words) > 2 and not line.endswith("etc.")
    picture = any(Path(word.rstrip(",;")).suffix.lower() in PICTURE_SUFFIXES for word in words)
    return (
        bool(line)
        and re.sub(r"\s", " ", line).isprintable()
        and len(line) <= _LETTERS
        and len(re.sub(r",.*", "", line).split()) <= _WORDS
        and not (sentence or picture or line[0] in "{[<" or re.fullmatch(r"[-+\d.,;:\s]+", line))
    )


def _plain_name(name: str) -> str:
    name = name.strip().strip("'\"").strip()
    return "background" if name == "_background_" else name


def parse_yolo(text: str) -> list[NamedClass]:
    """Parses the key ``names`` of YOLO's ``data.yaml``: a list of names, or a mapping of values to names."""
    try:
        content = parse_yaml(text, "the file")
    except AtrousError:
        return []
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        return _in_order(names)
    if isinstance(names, dict) and names and all(map(_is_number, names)):
        return _by_value(names.items())
    return []


def parse_json(text: str) -> list[NamedClass]:
    """Parses the classes in a JSON file that also has other contents, such as ``meta.json`` and ``dataset.json``.

    The forms are: nnU-Net's ``{"labels": {"name": value}}`` (before version 2, ``{"value": "name"}``); Label Studio's
    ``{"categories": [{"id", "name"}]}`` in ``notes.json``; Supervisely's ``{"classes": [{"title", "color"}]}``;
    MMSegmentation's ``{"classes": ["name"], "palette": [[r, g, b]]}``; Hugging Face's
    ``{"id2label": {"value": "name"}}``.
    """
    content = _json(text)
    return _from_mapping(content) if isinstance(content, Mapping) else []


def parse_class_json(text: str) -> list[NamedClass]:
    """Parses the forms of ``parse_json``, and files that contain only classes.

    The forms of files with only classes are ``{"value": "name"}``, ``{"name": value}``, ``["name"]`` and
    ``[{"id", "name", "color"}]``.
    """
    content = _json(text)
    if isinstance(content, Mapping):
        if named := _from_mapping(content):
            return named
        if content and all(map(_is_number, content)) and _are_texts(content.values()):
            _check_once(content)
            return _by_value(content.items())
        if content and all(map(_is_whole, content.values())):
            _check_once(content)
            return _by_value((value, name) for name, value in content.items())
        return []
    if not isinstance(content, list) or not content:
        return []
    return _in_order(content) if _are_texts(content) else _records(content)


def parse_machine_colors(text: str) -> list[NamedClass]:
    """Parses Supervisely's ``{"name": [r, g, b]}``, and adds a background if no class has the value 0.

    If r = g = b for every class, masks contain this grey value; otherwise they contain the colour.
    """
    content = _json(text)
    if not isinstance(content, Mapping) or not all(isinstance(color, list) for color in content.values()):
        raise ValueError('it is not {"name": [r, g, b], …}')
    _check_once(content)
    colors = {name: color_of(color) for name, color in content.items()}
    grey = all(len(set(color)) == 1 for color in colors.values())
    named = [NamedClass(name, color[0], None if grey else color) for name, color in colors.items()]
    free = 0 not in {one.value for one in named}
    background = [NamedClass("background", 0, None if grey else (0, 0, 0))] if free else []
    return [*background, *named]


def _from_mapping(content: Mapping[str, Any]) -> list[NamedClass]:
    labels, known, classes = (content.get(key) for key in ("labels", "id2label", "classes"))
    if isinstance(labels, dict) and labels:
        return _nnunet(labels)
    if isinstance(known, dict) and known and all(map(_is_number, known)):
        return _by_value(known.items())
    if isinstance(classes, list) and classes and all(isinstance(one, dict) and "title" in one for one in classes):
        return _supervisely(classes)
    if isinstance(classes, list | tuple) and classes and _are_texts(classes):
        return _in_order(classes, content.get("palette"))
    for records in (content.get("categories"), classes):
        if isinstance(records, list) and (named := _records(records)):
            return named
    return []


def _nnunet(labels: Mapping[str, Any]) -> list[NamedClass]:
    _check_once(labels)
    if all(map(_is_whole, labels.values())):
        return _by_value((value, name) for name, value in labels.items())
    if all(map(_is_number, labels)) and _are_texts(labels.values()):
        return _by_value(labels.items())
    if all(_is_whole(value) or isinstance(value, list) for value in labels.values()):
        region = next(name for name, value in labels.items() if isinstance(value, list))
        raise ValueError(f"'{region}' is a region of several values; give each value its own name")
    return []


def _supervisely(classes: Sequence[Mapping[str, Any]]) -> list[NamedClass]:
    named = [NamedClass("background", 0, (0, 0, 0), counted=True)]
    for index, one in enumerate(classes):
        digits = re.fullmatch(r"#([0-9a-fA-F]{6})", str(one.get("color")))
        if "color" in one and digits is None:
            raise ValueError(f"the colour {one['color']!r} of '{one['title']}' is not #RRGGBB")
        color = color_of(int(digits[1][at : at + 2], 16) for at in (0, 2, 4)) if digits else None
        named.append(NamedClass(str(one["title"]), index + 1, color, counted=True))
    return named


def _records(records: Sequence[Any]) -> list[NamedClass]:
    """Parses classes as ``{"id", "name"}``, with or without a colour; returns [] if an entry has another form."""
    named = []
    for one in records:
        lowered = {str(key).lower(): value for key, value in one.items()} if isinstance(one, dict) else {}
        name = next((lowered[key] for key in ("name", "class", "label", "title") if key in lowered), None)
        value = next((lowered[key] for key in ("id", "value", "index", "class_id") if key in lowered), None)
        color = lowered.get("color")
        rgb = isinstance(color, list) and len(color) == 3 and all(map(_is_whole, color))
        if not isinstance(name, str) or not (_is_number(value) or (value is None and rgb)):
            return []
        place = len(named) if value is None else int(value)
        named.append(NamedClass(name, place, color_of(color) if rgb and color else None, counted=value is None))
    return named


def _in_order(names: Sequence[Any], palette: Any = None) -> list[NamedClass]:
    fits = isinstance(palette, list) and len(palette) == len(names) and all(isinstance(one, list) for one in palette)
    colors = [color_of(one) for one in palette] if fits else [None] * len(names)
    return [
        NamedClass(str(name), index, color, counted=True)
        for index, (name, color) in enumerate(zip(names, colors, strict=True))
    ]


def _by_value(pairs: Iterable[tuple[Any, Any]]) -> list[NamedClass]:
    return [NamedClass(str(name), int(value)) for value, name in pairs]


class _Mapping(dict[str, Any]):
    """A JSON object; if a key occurs twice in its text, the object also stores this key."""

    twice: str | None = None


def _mapping(pairs: list[tuple[str, Any]]) -> _Mapping:
    made = _Mapping()
    for key, value in pairs:
        made.twice = key if key in made else made.twice
        made[key] = value
    return made


def _check_once(content: Mapping[str, Any]) -> None:
    if isinstance(content, _Mapping) and content.twice is not None:
        raise ValueError(f"'{content.twice}' is given twice")


def _json(text: str) -> Any:
    """Returns the content of a JSON text, or None for another kind of text."""
    text = text.strip()
    if text[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text, object_pairs_hook=_mapping)
    except (ValueError, RecursionError) as error:
        try:
            json.loads(text.splitlines()[0])  # a file of JSON Lines is not a class file
        except (ValueError, RecursionError):
            raise ValueError(f"it is damaged JSON: {error}") from error
        return None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, str) and re.fullmatch(r"-?\d+", value) is not None)


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


# Forms by file name. If several files exist, the first in this order defines the classes; the others must agree.
FORMS = {
    "labelmap.txt": Form(parse_labelmap, own=True),
    "label_map.txt": Form(parse_labelmap, own=True),
    "_classes.csv": Form(parse_roboflow, own=True),
    "class_dict.csv": Form(parse_class_dict, own=True),
    "class_dict_seg.csv": Form(parse_class_dict, own=True),
    "label_colors.txt": Form(parse_label_colors, own=True),
    "obj_class_to_machine_color.json": Form(parse_machine_colors, own=True),
    "meta.json": Form(parse_json, own=False),
    "class_names.txt": Form(parse_names, own=False),
    "classes.txt": Form(parse_names, own=False),
    "labels.txt": Form(parse_names, own=False),
    "names.txt": Form(parse_names, own=False),
    "classes.csv": Form(parse_table, own=False),
    "labels.csv": Form(parse_table, own=False),
    "dataset.json": Form(parse_json, own=False),
    "id2label.json": Form(parse_class_json, own=False),
    "classes.json": Form(parse_class_json, own=False),
    "labels.json": Form(parse_class_json, own=False),
    "notes.json": Form(parse_json, own=False),
    "data.yaml": Form(parse_yolo, own=False),
    "data.yml": Form(parse_yolo, own=False),
    "dataset.yaml": Form(parse_yolo, own=False),
}
