"""Pictures and masks in one folder: ``a.png`` beside ``a_mask.png``, or ``a.jpg`` beside ``a.png``.

Roboflow exports this layout with a folder for each split: ``train/ valid/ test/``, each with a ``_classes.csv``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from atrous.data.class_files import named_classes
from atrous.data.dataset import Dataset, Item
from atrous.data.layouts.mask_names import is_named_as_mask
from atrous.data.layouts.pairing import paired, picture_files
from atrous.data.layouts.split_folders import split_folders_in
from atrous.data.mask_value_map import ClassTable
from atrous.data.splits.find_split_lists import find_lists, unused_lists_note
from atrous.data.splits.random_split import seeded_split
from atrous.data.splits.split_lists import listed_splits
from atrous.data.splits.unread_lists import check_no_list_is_unread
from atrous.errors import AtrousError

_LOSSY = frozenset({".jpg", ".jpeg", ".jfif", ".jpe"})


def looks_like_side_by_side(root: Path) -> bool:
    """Returns whether ``root``, or the folder of a split in it, contains pictures together with their masks."""
    return any(_has_pairs(folder) for folder in (root, *split_folders_in(root).values()))


def read_side_by_side(root: Path, classes: ClassTable | None = None) -> Dataset:
    """Opens a dataset of this layout.

    Args:
        root: the folder with the pictures and masks, or the folder that contains such a folder for each split.
        classes: class table to use; None for ``classes.yaml``, else the class file of a labelling tool.

    Raises:
        AtrousError: no picture has a mask in the same folder, there is no class table, or a split list is unusable.
    """
    folders = {name: folder for name, folder in split_folders_in(root).items() if _has_pairs(folder)}
    if not folders and not _has_pairs(root):
        raise AtrousError(
            f"{root}: the layout 'side_by_side' needs pictures and masks in one folder, such as a.png and a_mask.png."
        )
    notes: list[str] = []
    orphans: list[Path] = []
    splits: Mapping[str, tuple[Item, ...]]
    unlisted: tuple[Item, ...] = ()
    if folders:
        splits = {}
        for name, folder in folders.items():
            images, masks = _pairs(folder)
            splits[name] = paired(images, masks)
            orphans += [path for stem, path in masks.items() if stem not in images]
        notes += unused_lists_note(root)
    else:
        images, masks = _pairs(root)
        orphans += [path for stem, path in masks.items() if stem not in images]
        lists, more_notes = find_lists(root, images)
        notes += more_notes
        if lists:
            splits = listed_splits(lists, root, images, masks)
        else:
            check_no_list_is_unread(root, images)
            unlisted = paired(images, masks)
            splits, note = seeded_split(unlisted)
            notes.append(note)
    table, more_notes = named_classes(root, classes, *(folders.values() or [root]), items=next(iter(splits.values())))
    return Dataset(root, "side_by_side", table, splits, (*notes, *more_notes), tuple(orphans), unlisted=unlisted)


def _has_pairs(folder: Path) -> bool:
    try:
        images, masks = _pairs(folder)
    except AtrousError:  # ambiguous names; `read_side_by_side` reports the error
        return True
    return bool(images.keys() & masks.keys())


def _pairs(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Returns the pictures by stem, and the masks by the stem of their picture.

    Raises:
        AtrousError: two masks fit one picture, or files with the same stem are not a JPEG and its mask.
    """
    files: dict[str, list[Path]] = {}
    for path in picture_files(folder):
        files.setdefault(path.stem, []).append(path)
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for stem, paths in files.items():
        plain = is_named_as_mask(stem)
        lossy = [path for path in paths if path.suffix.lower() in _LOSSY]
        if len(paths) == 2 and len(lossy) == 1:
            images[stem] = lossy[0]
            _put(masks, stem, paths[1 - paths.index(lossy[0])])
        elif len(paths) > 1:
            raise AtrousError(
                f"{folder}: '{paths[0].name}' and '{paths[1].name}' share a stem. Rename or remove one of them."
            )
        elif plain in files or (plain is not None and is_named_as_mask(plain) is None and lossy == []):
            _put(masks, plain, paths[0])
        else:
            images[stem] = paths[0]
    return images, masks


def _put(masks: dict[str, Path], stem: str, path: Path) -> None:
    """Adds a mask to ``masks``; raises AtrousError if the picture has another mask."""
    if stem in masks:
        raise AtrousError(
            f"'{masks[stem].name}' and '{path.name}' in {path.parent} may both be the mask of '{stem}'. Move one of "
            "the two masks to another folder."
        )
    masks[stem] = path
