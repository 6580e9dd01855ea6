"""Reads the names and colours of classes from the files that labelling tools write beside their masks.

Forms: CVAT and Datumaro ``labelmap.txt`` ("# label:color_rgb:parts:actions"); labelme ``class_names.txt``, and lists of
names as ``classes.txt`` and ``labels.txt``; Roboflow ``_classes.csv`` ("Pixel Value, Class"); ``class_dict.csv`` (name,
r, g, b); CamVid's ``label_colors.txt`` ("r g b name"); Supervisely ``obj_class_to_machine_color.json`` and
``meta.json``; nnU-Net ``dataset.json``; Label Studio ``notes.json``; Hugging Face ``id2label.json``; YOLO
``data.yaml``.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from atrous.data.class_colors import Color, default_colors
from atrous.data.class_file_formats import FORMS, Form
from atrous.data.class_table_rows import NamedClass
from atrous.data.dataset import Item
from atrous.data.layouts.pairing import CLASSES_FILE, NoClassesError, classes_of
from atrous.data.mask_value_map import BACKGROUND_NAMES, ClassTable
from atrous.data.pictures import PICTURE_SUFFIXES, read_mask
from atrous.data.text_files import decodings, read_text_file
from atrous.errors import AtrousError

#: Number of masks that are read to check whether the values in a class file occur in masks.
MASKS_COMPARED = 8
#: Part of the note that the layout's published classes are used.
ASSUMED = "the published classes of this layout are assumed"
#: Part of the note that a class file states no values.
IN_ORDER = "their values follow its order"
_IGNORED_NAMES = frozenset({"__ignore__", "ignore", "ignored", "void", "unlabeled", "unlabelled"})
_NEARLY = ("classes.yml", "classes.yaml.txt", "class.yaml", "labels.yaml")
#: Files that Supervisely writes beside the folders of its datasets.
_SUPERVISELY = frozenset({"obj_class_to_machine_color.json", "meta.json"})


@dataclass(frozen=True)
class _ClassFile:
    """A class file with its classes."""

    path: Path
    form: Form
    named: list[NamedClass]


def named_classes(
    root: Path,
    given: ClassTable | None,
    *folders: Path,
    items: Iterable[Item] = (),
    default: ClassTable | None = None,
    published: Iterable[str] = (),
) -> tuple[ClassTable, tuple[str, ...]]:
    """Returns the class table of a dataset, and notes about the files from which the table was read.

    The table is ``given``, else the table in ``classes.yaml``, else the table in the class file of a labelling tool,
    else ``default``.

    Args:
        root: the dataset's folder.
        given: a table to use instead of the dataset's own, or None.
        folders: other folders that may contain a class file, such as the folder of the masks. The parent of each of
            these folders is searched, too, if the parent is ``root`` or is in ``root``.
        items: the items of the dataset. The first readable mask shows whether masks contain colours or numbers.
        default: the layout's own table, or None.
        published: names of files of the published dataset that add nothing to ``default``; they are not read.

    Raises:
        NoClassesError: no class table was found.
        AtrousError: a file is damaged, or two files contradict each other.
    """
    if given is not None or (root / CLASSES_FILE).exists():
        return classes_of(root, given), ()
    items = list(items)
    places = [root, *folders, *(folder.parent for folder in folders if folder.parent.is_relative_to(root))]
    found, notes = _class_files(places, items, frozenset(published))
    if not found and any(folder.name == "masks_machine" for folder in folders):
        found, _ = _class_files([root.parent], items, published=frozenset(FORMS) - _SUPERVISELY)
    if found:
        colored = _hold_colors(items, {one.color for one in found[0].named if one.color is not None})
        notes += _compared(found, colored)
        table = _table(found[0], colored)
        counted = not table.color_coded and all(one.counted for one in found[0].named)
        how = f", and {IN_ORDER}" if counted else ""
        return table, (f"The class names are from {found[0].path}{how}.", *notes)
    if default is not None:
        return default, (f"There is no {CLASSES_FILE}, so {ASSUMED}.", *notes)
    raise NoClassesError(
        f"{root}: there is no {CLASSES_FILE}, which defines the classes of the values in the masks. "
        f"`atrous doctor {root} --write-classes` writes one from the values it finds.",
        notes,
    )


def _class_files(
    places: Iterable[Path], items: list[Item], published: frozenset[str]
) -> tuple[list[_ClassFile], list[str]]:
    """Returns the class files, and a sentence for each file that has the name of a class file but is not read."""
    found, notes = [], []
    damaged: dict[Path, AtrousError] = {}
    for place in dict.fromkeys(places):
        files = _texts_by_lower_name(place)
        notes += [f"{files[name]} is not read: rename it to {CLASSES_FILE}." for name in _NEARLY if name in files]
        for name, form in FORMS.items():
            if name in published or name not in files:
                continue
            path = files[name]
            try:
                named = _parsed(path, form)
            except AtrousError as error:
                if form.own:
                    raise
                damaged[path] = error
                continue
            if named and (form.own or not (_are_pictures(named, items) or _are_other_values(named, items))):
                found.append(_ClassFile(path, form, named))
            else:
                notes.append(f"{path} is not read: it does not look like a list of classes.")
    if damaged and not found:
        raise next(iter(damaged.values()))
    notes += [f"{path} is not read: it cannot be read as a list of classes." for path in damaged]
    return found, notes


def _are_pictures(named: list[NamedClass], items: Iterable[Item]) -> bool:
    """Returns whether the names are names of pictures or masks, with or without a suffix."""
    names = {one.name for one in named}
    known = {name for item in items for name in (item.name, item.image.name, *([item.mask.name] if item.mask else []))}
    return 2 * len(names & known) >= len(names) or any(Path(one).suffix.lower() in PICTURE_SUFFIXES for one in names)


def _are_other_values(named: list[NamedClass], items: Iterable[Item]) -> bool:
    """Returns whether none of the values that a file states occurs in the first readable masks."""
    stated = {one.value for one in named if not one.counted}
    seen: set[int] = set()
    masks = (item.mask for item in items if item.mask is not None)
    for path in islice(masks, MASKS_COMPARED if stated else 0):
        try:
            mask, *_ = read_mask(path)
        except AtrousError:
            continue
        if mask.ndim == 3 or stated & (found := set(np.unique(mask).tolist())):
            return False
        if mask.dtype.kind in "iu" and 2 * len([one for one in stated if one > np.iinfo(mask.dtype).max]) >= len(
            stated
        ):
            return True
        seen |= found
    return not seen <= {0, 255}  # masks with only these values may contain only background and ignored pixels


def _texts_by_lower_name(folder: Path) -> dict[str, Path]:
    suffixes = {Path(name).suffix for name in (*FORMS, *_NEARLY)}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if Path(entry.name).suffix.lower() in suffixes)
    return {name.lower(): folder / name for name in names if (folder / name).is_file()}


def _parsed(path: Path, form: Form) -> list[NamedClass]:
    try:
        return form.parse(_text(path, form))
    except AtrousError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, csv.Error) as error:
        raise AtrousError(
            f"{path}: cannot be read as a list of classes: {error}. Correct it, or write a {CLASSES_FILE}."
        ) from error


def _text(path: Path, form: Form) -> str:
    try:
        return read_text_file(path)
    except AtrousError:
        if form.own or not path.stat().st_size or form.parse(list(decodings(path))[-1]):
            raise
        return ""  # the file contains no classes, whatever its encoding is


def _compared(found: list[_ClassFile], colored: bool) -> list[str]:
    """Returns a sentence for each class file that is not read, because it has no class in common with the first one.

    Raises:
        AtrousError: two files contradict each other.
    """
    first, notes = found[0], []
    for other in found[1:]:
        difference = _contradiction(first.named, other.named, colored)
        if difference is None:
            continue
        names, others = ({_bare(one.name) for one in part.named} - BACKGROUND_NAMES for part in (first, other))
        if not other.form.own and first.form.own and not names & others:
            notes.append(f"{other.path} is not read: it has no class in common with {first.path}.")
            continue
        raise AtrousError(
            f"{first.path} and {other.path} contradict each other: {difference}. Remove the wrong file, or write a "
            f"{CLASSES_FILE}."
        )
    return notes


def _contradiction(first: list[NamedClass], second: list[NamedClass], colored: bool) -> str | None:
    """Returns a description of a difference between the classes of two files; None if the files agree."""
    one, other = ({_bare(c.name): c for c in part if _bare(c.name) not in _IGNORED_NAMES} for part in (first, second))
    if colored and all(c.color for c in (*first, *second)):
        differing = next((name for name in one.keys() & other.keys() if one[name].color != other[name].color), None)
        return differing and f"'{differing}' is {one[differing].color} in one and {other[differing].color} in the other"
    if not one.keys() & other.keys() - BACKGROUND_NAMES:
        names = ["'" + next((c.name for c in part.values()), "") + "'" for part in (one, other)]
        return f"they have no class in common ({names[0]} is in the first, {names[1]} in the second)"
    by_order = any(c.color and c.counted for c in second) and not any(c.counted for c in first)
    if colored or by_order:
        return None  # colours or stated values are more reliable than the order in a list of colours
    for name in sorted(one.keys() & other.keys()):
        if one[name].value != other[name].value:
            return f"'{name}' is {one[name].value} in one and {other[name].value} in the other"
    by_value = {c.value: c.name for c in other.values()}
    for c in one.values():
        if _bare(by_value.get(c.value, c.name)) != _bare(c.name):
            return f"the value {c.value} is '{c.name}' in one and '{by_value[c.value]}' in the other"
    return None


def _bare(name: str) -> str:
    name = name.strip().lower()
    return "background" if name in BACKGROUND_NAMES else name


def _table(file: _ClassFile, colored: bool) -> ClassTable:
    named = file.named
    classes = [one for one in named if one.name.lower() not in _IGNORED_NAMES]
    ignored = [one for one in named if one.name.lower() in _IGNORED_NAMES]
    colors = [one.color for one in named if one.color is not None]
    fallback = default_colors(max([len(named), *(one.value + 1 for one in named if one.value < 256)]))
    shown = tuple(one.color or fallback[min(max(one.value, 0), len(fallback) - 1)] for one in classes)
    names = tuple(one.name for one in classes)
    try:
        if len(colors) == len(named) and colored:
            raw = tuple((one.color,) for one in classes if one.color)
            return ClassTable(names, shown, raw, tuple(one.color for one in ignored if one.color))
        values = {one.value for one in classes}
        usual = (255,) if 255 not in values else ()
        ignore = tuple(dict.fromkeys((*(one.value for one in ignored if one.value not in values), *usual)))
        return ClassTable(names, shown, tuple((one.value,) for one in classes), ignore)
    except AtrousError as error:
        raise AtrousError(f"{file.path}: {error}") from error


def _hold_colors(items: Iterable[Item], colors: set[Color]) -> bool:
    """Returns whether the first readable mask has three channels, or a palette that gives its pixels these colours."""
    for item in items if colors else ():
        if item.mask is None:
            continue
        try:
            mask, palette, *_ = read_mask(item.mask)
        except AtrousError:
            continue
        if palette is None:
            return mask.ndim == 3
        used = {palette[int(value)] for value in set(mask.ravel().tolist()) if 0 <= int(value) < len(palette)}
        return used <= colors
    return False
