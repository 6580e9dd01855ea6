"""Proposes a class table that fits the values in a dataset's masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from atrous.data.class_colors import Color, default_colors
from atrous.data.mask_value_map import MAX_CLASSES, ClassTable, Raw

_IGNORED = -1  # means "ignore" in several remote sensing datasets
_IGNORED_TOPS = (255, 65535, 2**32 - 1)  # 255 in VOC, Cityscapes and most tools; all are −1 in unsigned types
_IGNORED_BOTTOMS = (-128, -9999, -32768, -(2**31))  # fill values of GIS tools, and the smallest values of signed types
_GREY_STEP = 16  # smallest mean step between classes drawn as grey levels; class numbers are closer together
_MANY = (
    32  # if masks have more values than this, the values are probably from compression or number objects, not classes
)
_NEARLY_ALL = 0.9  # smallest share of pixels with the lowest or the highest value in a mask of two classes
_MUCH_RARER = 0.1  # largest number of pixels that a value between two classes may have, relative to the rarer class


@dataclass(frozen=True)
class Proposal:
    """A proposed class table for the values in masks, and the reason for it.

    Attributes:
        kind: the difference between the masks and the class table in use: "foreground_is_255",
            "foreground_is_65535", "smeared_mask", "off_by_one", "unknown_value", "wrong_mode", "blended_edges",
            "unnamed_background" or "palettes_differ"; "none" if there is no class table in use; "too_many_values" if
            there are more values than allowed classes.
        reason: sentences for the user.
        classes: the proposed table; None if no table fits.
        about: the part of ``reason`` about the proposed table; messages without the table leave it out.
    """

    kind: str
    reason: str
    classes: ClassTable | None
    about: str = ""

    @property
    def facts(self) -> str:
        """The reason without the part about the proposed table."""
        return self.reason.replace(self.about, "").strip() if self.about else self.reason


def propose_classes(pixels: Mapping[Raw, int], classes: ClassTable | None) -> Proposal | None:
    """Proposes a class table for the values in all masks.

    Args:
        pixels: number of pixels of each raw value; all values are numbers, or all are (red, green, blue).
        classes: the table in use, or None. The proposed table keeps the names and colours of this table if they fit.

    Returns:
        The proposal, or None if ``classes`` already fits the values.
    """
    if not pixels:
        return None
    if isinstance(next(iter(pixels)), tuple):
        return _for_colors(pixels, classes)
    return _for_numbers(pixels, classes)


def _for_numbers(pixels: Mapping[Raw, int], classes: ClassTable | None) -> Proposal | None:
    found = sorted(value for value in pixels if isinstance(value, int))
    if classes is not None and classes.color_coded:
        indices = tuple((index,) for index in range(len(classes)))
        by_index = ClassTable(classes.names, classes.colors, indices, (255,))
        inner = _for_numbers(pixels, by_index)
        reason = "The masks hold one number per pixel, but the class table lists [r, g, b] colours."
        return Proposal("wrong_mode", reason, inner.classes if inner else by_index)
    unknown = [value for value in found if classes is None or value not in _listed_values(classes)]
    if found == [0, 255] and not _has_foreground(classes, 255):
        reason = (
            "The masks hold only 0 and 255. 255 usually means 'ignore'. But here it must be the foreground, because "
            "without it there is only the background to learn."
        )
        return Proposal("foreground_is_255", reason, _two_classes(classes, (0,), (255,)))
    if found == [0, 65535] and classes is not None and not _has_foreground(classes, 65535):
        reason = (
            "The masks hold only 0 and 65535. 65535 is white in 16 bits, so it is the foreground, not another class."
        )
        return Proposal("foreground_is_65535", reason, _two_classes(classes, (0,), (65535,)))
    if unknown and _is_smeared(found, pixels):
        return _cut_at_the_middle(found, classes)
    if classes is None:
        return _from_scratch(found)
    if not unknown:
        return None
    if _starts_at_one(found, classes):
        shifted = tuple((index + 1,) for index in range(len(classes)))
        ignore = tuple(value for value in classes.ignore if value != len(classes))
        reason = (
            f"The masks hold 1 to {len(classes)} and never 0, but the class table lists 0 to "
            f"{len(classes) - 1}, so every label is off by one."
        )
        table = ClassTable(classes.names, classes.colors, shifted, ignore)
        return Proposal("off_by_one", reason, table)
    reason = f"The masks hold values that the class table does not list: {_few(unknown)}."
    if unknown == [len(classes)] and 0 in found:
        reason += (
            " If 0 means 'unlabelled' and the classes start at 1, add 1 to each number of raw:, and list 0 under "
            "ignore:."
        )
    return _extended(classes, unknown, reason)


def _for_colors(pixels: Mapping[Raw, int], classes: ClassTable | None) -> Proposal | None:
    found = sorted(value for value in pixels if isinstance(value, tuple))
    if classes is not None and classes.color_coded:
        unknown = [color for color in found if color not in _listed_values(classes)]
        if not unknown:
            return None
        reason = f"The masks hold colours that the class table does not list: {_few(unknown)}."
        return _extended(classes, unknown, reason)
    reason = (
        f"The masks hold colours ({_few(found)}), not one number per pixel. The class table must list these colours."
    )
    if len(found) > MAX_CLASSES:
        return _too_many(len(found))
    names = dict(zip(classes.colors, classes.names, strict=True)) if classes else {}
    # If the table has colours but not black, black is taken as "void", because tools that write coloured masks use
    # black for void.
    black_is_void = (0, 0, 0) in found and (0, 0, 0) not in names and len(names) > 0
    kept = [color for color in found if not (black_is_void and color == (0, 0, 0))]
    if classes:
        order = {color: index for index, color in enumerate(classes.colors)}
        kept.sort(key=lambda color: (order.get(color, len(order)), color))
    if not kept or any(part > 255 for color in kept for part in color):
        return Proposal("wrong_mode", reason, None)
    table = ClassTable(
        names=tuple(names.get(color, _color_name(color)) for color in kept),
        colors=tuple(kept),
        raw=tuple((color,) for color in kept),
        ignore=((0, 0, 0),) if black_is_void else (),
    )
    return Proposal("wrong_mode" if classes else "none", reason, table)


def _usually_ignored(found: list[int]) -> tuple[int, ...]:
    """Returns those of the sorted values that usually mean "ignore"; empty if fewer than two others would be left.

    If the other values are grey levels, as in 0, 128, 255, the value of white is a class and is not ignored.
    """
    if len(found) < 3:
        return ()
    *rest, top = found
    grey_levels = len(rest) > 1 and rest[0] >= 0 and (rest[-1] - rest[0]) / (len(rest) - 1) >= _GREY_STEP
    ignored = [top] if top in _IGNORED_TOPS and not grey_levels else []
    ignored += [value for value in found if value == _IGNORED or (value == found[0] and value in _IGNORED_BOTTOMS)]
    return tuple(ignored) if len(ignored) <= len(found) - 2 else ()


def _from_scratch(found: list[int]) -> Proposal:
    ignore = _usually_ignored(found)
    values = [value for value in found if value not in ignore]
    if len(values) > MAX_CLASSES:
        return _too_many(len(found))
    binary = len(values) == 2 and values[0] == 0
    names = ("background", "foreground") if binary else tuple(f"class_{value}" for value in values)
    raw = tuple((value,) for value in values)
    reason = f"The masks hold {_few(found)}."
    about = "Give the classes their names in the proposed table."
    if len(values) > _MANY:
        reason += " If these values number objects and not classes, export masks with one value per class."
    if ignore:
        listed = " and ".join(map(str, ignore))
        about += f" It ignores pixels of value {listed}. If {listed} is a class, list it under classes:, not ignore:."
    elif values[-1] in _IGNORED_TOPS and len(values) > 2:
        about += (
            f" It takes {values[-1]} for a class, because the other values are grey levels, too. If {values[-1]} means "
            "'not labelled', list it under ignore:, not classes:."
        )
    return Proposal("none", f"{reason} {about}", ClassTable(names, default_colors(len(values)), raw, ignore), about)


def _extended(classes: ClassTable, unknown: list, reason: str) -> Proposal:
    """Proposes the table in use with a class for each unknown value; it ignores values that usually mean "ignore"."""
    known = [value for value in _listed_values(classes) if isinstance(value, int)]
    usual = () if classes.color_coded else _usually_ignored(sorted({*known, *unknown}))
    ignore = tuple(value for value in unknown if value in usual)
    new = [value for value in unknown if value not in ignore]
    total = len(classes) + len(new)
    if total > MAX_CLASSES:
        return _too_many(total)
    fresh = default_colors(total)[len(classes) :]
    names, colors = [], []
    for value, color in zip(new, fresh, strict=True):
        name = _color_name(value) if isinstance(value, tuple) else f"class_{value}"
        names.append(name if name not in classes.names else f"{name}_new")
        colors.append(value if isinstance(value, tuple) and max(value) <= 255 else color)
    table = ClassTable(
        names=(*classes.names, *names),
        colors=(*classes.colors, *colors),
        raw=(*classes.raw, *((value,) for value in new)),
        ignore=(*classes.ignore, *ignore),
    )
    return Proposal("unknown_value", reason, table)


def _cut_at_the_middle(found: list[int], classes: ClassTable | None) -> Proposal:
    """Proposes a table of two classes that assigns each value in between to the nearer class."""
    middle = (found[0] + found[-1] + 1) // 2
    reason = (
        f"The masks hold {len(found)} values from {found[0]} to {found[-1]}, most of them in few pixels or at edges. "
        "Smoothing or lossy compression creates such values. Export the masks again without smoothing and without "
        f"lossy compression, or take {middle} as the threshold, as the proposed table does."
    )
    low, high = tuple(range(found[0], middle)), tuple(range(middle, found[-1] + 1))
    return Proposal("smeared_mask", reason, _two_classes(classes, low, high), ", as the proposed table does")


def _two_classes(classes: ClassTable | None, low: tuple[int, ...], high: tuple[int, ...]) -> ClassTable:
    if classes is not None and len(classes) == 2:
        return ClassTable(classes.names, classes.colors, (low, high))
    return ClassTable(("background", "foreground"), default_colors(2), (low, high))


def _too_many(count: int) -> Proposal:
    reason = (
        f"The masks hold {count} different values, and at most {MAX_CLASSES} classes are allowed. The values may "
        "number objects (instances) and not classes, or the files may be photographs and not masks. Export masks "
        "with one value per class."
    )
    return Proposal("too_many_values", reason, None)


def _listed_values(classes: ClassTable) -> set[Raw]:
    return {value for values in (*classes.raw, classes.ignore) for value in values}


def _has_foreground(classes: ClassTable | None, white: int) -> bool:
    return classes is not None and any(white in values for values in classes.raw)


def without_blends(pixels: Mapping[Raw, int], blended: set[Raw], classes: ClassTable | None) -> Proposal | None:
    """Proposes a class table for masks with blended edges, from the values that are not blends.

    If blends are numbers, the table ignores them. If blends are colours, the table does not list them, because they are
    too many. If two classes have many values between them, the table divides the values at their middle.

    Args:
        pixels: number of pixels of each raw value.
        blended: the values that are blends.
        classes: the table in use, or None.

    Returns:
        The proposal; its table is None if no table fits.
    """
    clean = {value: count for value, count in pixels.items() if value not in blended}
    if all(isinstance(value, int) for value in pixels):
        found = sorted(value for value in pixels if isinstance(value, int))
        two = {found[0], found[-1]} == set(clean) and found[-1] - found[0] < 256
        if len(found) > _MANY and (two or _is_smeared(found, pixels)):
            return _cut_at_the_middle(found, classes)  # with a threshold, no value is ignored
    proposal = propose_classes(clean, classes)
    table = proposal.classes if proposal else classes
    kind, facts, about = (proposal.kind, proposal.facts, proposal.about) if proposal else ("blended_edges", "", "")
    if table is not None and len(blended) <= MAX_CLASSES and all(isinstance(value, int) for value in blended):
        listed = _listed_values(table)
        ignore = (*table.ignore, *sorted(value for value in blended if value not in listed))
        table = ClassTable(table.names, table.colors, table.raw, ignore)
        about = f"{about} The proposed table ignores the blended values at edges.".strip()
    return Proposal(kind, f"{facts} {about}".strip(), table, about)


def _is_smeared(found: list[int], pixels: Mapping[Raw, int]) -> bool:
    """Returns whether many values lie between the lowest and the highest, and are rare, together or each by itself."""
    if not _MANY < len(found) <= 256:
        return False
    ends, between = (pixels[found[0]], pixels[found[-1]]), [pixels[value] for value in found[1:-1]]
    return sum(ends) >= _NEARLY_ALL * sum(pixels.values()) or max(between) <= _MUCH_RARER * min(ends)


def _starts_at_one(found: list[int], classes: ClassTable) -> bool:
    """Returns whether the masks hold 1 to K, where the table of K classes lists 0 to K − 1."""
    count = len(classes)
    labels = [value for value in found if value not in classes.ignore or value == count]
    in_order = classes.raw == tuple((index,) for index in range(count))
    return in_order and count in labels and all(1 <= value <= count for value in labels)


def _color_name(color: Color) -> str:
    return "color_{}_{}_{}".format(*color)


def _few(values: list) -> str:
    shown = ", ".join(str(value) for value in values[:10])
    return shown if len(values) <= 10 else f"{shown} and {len(values) - 10} more"
