"""Names and colours of classes in a foreign record, or why they cannot be those of the network's outputs."""

from __future__ import annotations

import operator
from typing import Any

from atrous.data.class_colors import Color, default_colors
from atrous.data.mask_value_map import MAX_CLASSES
from atrous.errors import counted, shown

#: Longer than any class's name, in characters.
LONGEST_NAME = 200


def class_names(given: Any, count: int, key: str) -> tuple[tuple[str, ...] | None, str]:
    """The names of classes, where they are one for each class and fit to be shown.

    Args:
        given: whatever the record has; None where it names none.
        count: of the classes that the network separates.
        key: what the record calls them, for messages.

    Returns:
        The names and "", or None and a sentence that says what is wrong; None and "" where the record names none.
    """
    if given is None or (isinstance(given, list | tuple) and not given):
        return None, ""
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        return None, f"{key} is {shown(given)}, and must be a list of names."
    names = tuple(name.strip() for name in given)  # mmsegmentation's ADE20K has a class 'bed '
    if not len(names) == count <= MAX_CLASSES:
        return None, f"{key} names {counted(len(names), 'class')}, and the network separates {count}."
    odd = next((name for name in names if not (name.isprintable() and 0 < len(name) <= LONGEST_NAME)), None)
    if odd is not None:
        return None, f"{key} has the name {odd[:60]!r}, and names are 1 to {LONGEST_NAME} printable characters."
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        return None, f"{key} names '{twice}' twice, and names must differ."
    return names, ""


def class_colors(given: Any, count: int, key: str) -> tuple[tuple[Color, ...], str]:
    """The colours of classes, where they are one for each class.

    Args:
        given: whatever the record has; None where it has none.
        count: of the classes.
        key: what the record calls them, for messages.

    Returns:
        The colours and "", or those of Pascal VOC and a sentence that says what is wrong; "" too where the record has
        none.
    """
    if given is None:
        return default_colors(count), ""
    try:
        rows = [tuple(_whole(part) for part in row) for row in given]
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last of tensors
        return default_colors(count), f"{key} is {shown(given)}, and must be a list of [red, green, blue], 0–255."
    colors: list[Color] = [(row[0], row[1], row[2]) for row in rows if len(row) == 3]
    if len(colors) < len(rows) or not all(0 <= part <= 255 for color in colors for part in color):
        return default_colors(count), f"{key} is {shown(given)}, and must be a list of [red, green, blue], 0–255."
    if len(colors) != count:
        return default_colors(count), f"{key} has {counted(len(colors), 'colour')} for {counted(count, 'class')}."
    return tuple(colors), ""


def with_background(names: Any, num_classes: int) -> Any:
    """The names in a record, with the background before the one name of a single output.

    Args:
        names: whatever the record has.
        num_classes: outputs of the network.
    """
    one = num_classes == 1 and isinstance(names, list | tuple) and len(names) == 1
    return ["background" if names[0] != "background" else "other", names[0]] if one else names


def with_black(colors: Any, num_classes: int) -> Any:
    """The colours in a record, with black before the one colour of a single output.

    Args:
        colors: whatever the record has.
        num_classes: outputs of the network.
    """
    one = num_classes == 1 and isinstance(colors, list | tuple) and len(colors) == 1
    return [(0, 0, 0), colors[0]] if one else colors


def _whole(part: Any) -> int:
    """A whole number, also as a float or as NumPy's."""
    if isinstance(part, float):
        if not part.is_integer():
            raise ValueError(f"{part} is no whole number")
        return int(part)
    return operator.index(part)
