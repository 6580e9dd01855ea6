"""Checks names and colours of classes in the metadata of a foreign checkpoint against the network's outputs."""

from __future__ import annotations

import operator
from typing import Any

from atrous.data.class_colors import Color, default_colors
from atrous.data.mask_value_map import MAX_CLASSES
from atrous.errors import counted, shown

#: Largest number of characters of a class name; longer names are refused.
LONGEST_NAME = 200


def class_names(given: Any, count: int, key: str) -> tuple[tuple[str, ...] | None, str]:
    """Checks class names: one printable, unique name for each class.

    Args:
        given: value of the field, of any type; None if the metadata has no class names.
        count: number of classes that the network separates.
        key: name of the field in the metadata, for messages.

    Returns:
        The names and "". If the names are wrong, None and a sentence that states the fault. If there are no names, None
        and "".
    """
    if given is None or (isinstance(given, list | tuple) and not given):
        return None, ""
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        return None, f"{key} is {shown(given)}, but must be a list of names."
    names = tuple(name.strip() for name in given)  # names are stripped: mmsegmentation's ADE20K has a class 'bed '
    if not len(names) == count <= MAX_CLASSES:
        return None, f"{key} names {counted(len(names), 'class')}, but the network separates {count}."
    odd = next((name for name in names if not (name.isprintable() and 0 < len(name) <= LONGEST_NAME)), None)
    if odd is not None:
        return None, f"{key} has the name {odd[:60]!r}, but names must be 1 to {LONGEST_NAME} printable characters."
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        return None, f"{key} names '{twice}' twice, but names must differ."
    return names, ""


def class_colors(given: Any, count: int, key: str) -> tuple[tuple[Color, ...], str]:
    """Checks class colours: one for each class.

    Args:
        given: value of the field, of any type; None if the metadata has no class colours.
        count: number of classes.
        key: name of the field in the metadata, for messages.

    Returns:
        The colours and "". If the colours are wrong, the colours of Pascal VOC and a sentence that states the fault. If
        there are no colours, the colours of Pascal VOC and "".
    """
    if given is None:
        return default_colors(count), ""
    try:
        rows = [tuple(_whole(part) for part in row) for row in given]
    except (TypeError, ValueError, OverflowError, RuntimeError):  # tensors raise RuntimeError
        return default_colors(count), f"{key} is {shown(given)}, but must be a list of [red, green, blue], 0–255."
    colors: list[Color] = [(row[0], row[1], row[2]) for row in rows if len(row) == 3]
    if len(colors) < len(rows) or not all(0 <= part <= 255 for color in colors for part in color):
        return default_colors(count), f"{key} is {shown(given)}, but must be a list of [red, green, blue], 0–255."
    if len(colors) != count:
        return default_colors(count), f"{key} has {counted(len(colors), 'colour')} for {counted(count, 'class')}."
    return tuple(colors), ""


def with_background(names: Any, num_classes: int) -> Any:
    """Adds the background in front of the only class name of a network with a single output.

    Args:
        names: value of the field, of any type; if it is not one name for one output, it is returned unchanged.
        num_classes: number of the network's outputs.
    """
    one = num_classes == 1 and isinstance(names, list | tuple) and len(names) == 1
    return ["background" if names[0] != "background" else "other", names[0]] if one else names


def with_black(colors: Any, num_classes: int) -> Any:
    """Adds black in front of the only class colour of a network with a single output.

    Args:
        colors: value of the field, of any type; returned unchanged if it is not one colour for one output.
        num_classes: number of the network's outputs.
    """
    one = num_classes == 1 and isinstance(colors, list | tuple) and len(colors) == 1
    return [(0, 0, 0), colors[0]] if one else colors


def _whole(part: Any) -> int:
    """Converts a whole number of any type (int, float, NumPy) to int."""
    if isinstance(part, float):
        if not part.is_integer():
            raise ValueError(f"{part} is not a whole number")
        return int(part)
    return operator.index(part)
