"""Layouts with a folder of pictures and a folder of masks for each split, as many tools export them.

For the split ``train``, the two folders have one of these pairs of names; ``val`` and ``test`` have the same form:

- ``images/train`` and ``masks/train`` (in mmsegmentation, ``img_dir/train`` and ``ann_dir/train``)
- ``train/images`` and ``train/masks``
- ``train`` and ``train_masks``
- ``train_images`` and ``train_masks``
"""

from __future__ import annotations

from pathlib import Path

from atrous.data.class_files import named_classes
from atrous.data.dataset import Dataset
from atrous.data.layouts.folder_names import IMAGE_FOLDERS, MASK_FOLDERS
from atrous.data.layouts.mask_names import masks_by_picture
from atrous.data.layouts.pairing import paired_splits, pictures_in, withheld_split_note
from atrous.data.mask_value_map import ClassTable
from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.data.skipped_files import passed_over_notes
from atrous.data.splits.find_split_lists import unused_lists_note
from atrous.data.splits.split_names import SPELLINGS
from atrous.errors import AtrousError


def looks_like_split_folders(root: Path) -> bool:
    """Returns whether ``root`` has a folder of pictures and a folder of masks for at least one split.

    Returns False if the folders have the names of ADE20K's folders. Many retina datasets have the same folder names;
    for these datasets, the user must name the layout.
    """
    may_be_ade20k = (root / "images/training").is_dir() and (root / "annotations/training").is_dir()
    return not may_be_ade20k and any(masks for _, masks in _folders(root).values())


def read_split_folders(root: Path, classes: ClassTable | None = None) -> Dataset:
    """Opens a dataset of this layout; pictures and masks are matched as in the layout "folder".

    Args:
        root: the folder that contains the folders of the splits, or the folders of pictures and masks.
        classes: class table to use; None for ``classes.yaml``, else the class file of a labelling tool.

    Raises:
        AtrousError: no split has pictures and masks, a folder is empty, or there is no class table.
    """
    folders = _folders(root)
    labelled = {name: (images, masks) for name, (images, masks) in folders.items() if masks}
    if not labelled:
        raise AtrousError(
            f"{root}: the layout 'split_folders' needs images/train/ and masks/train/, or train/images/ and "
            "train/masks/, or train/ and train_masks/. These folders are missing."
        )
    notes = [withheld_split_note(name, images) for name, (images, masks) in folders.items() if not masks]
    for name, (pictures, part) in list(labelled.items()):
        empty = next((folder for folder in (pictures, part) if folder and not holds_pictures(folder)), None)
        if empty is not None and len(labelled) > 1:
            notes += [f"There is no split '{name}': {empty} contains no pictures.", *passed_over_notes([empty])]
            del labelled[name]
    images = {name: pictures_in(pictures) for name, (pictures, _) in labelled.items()}
    masks = {name: masks_by_picture(images[name], pictures_in(part)) for name, (_, part) in labelled.items() if part}
    splits, orphans = paired_splits(images, masks)
    notes += unused_lists_note(root)
    folders_of_masks = [part for _, part in labelled.values() if part]
    table, more_notes = named_classes(root, classes, *folders_of_masks, items=next(iter(splits.values())))
    return Dataset(root, "split_folders", table, splits, (*notes, *more_notes), orphans)


def folder_named(root: Path, names: tuple[str, ...]) -> Path | None:
    """Returns the first folder in ``root`` that has one of the names and contains pictures.

    If no folder with such a name contains pictures, returns the first of these folders that contains no folders of
    splits, or None.

    Args:
        root: the folder to search; its subfolders are not searched.
        names: names of folders in lower case, in order of precedence; upper and lower case are not distinguished.
    """
    found = _by_lower_name(root)
    folders = [found[name] for name in names if name in found]
    plain = [folder for folder in folders if not _has_split_folders(folder)]
    return next((folder for folder in folders if holds_pictures(folder)), plain[0] if plain else None)


def holds_pictures(folder: Path) -> bool:
    """Returns whether the folder contains a picture; its subfolders are not searched.

    Args:
        folder: an existing folder.
    """
    return any(path.suffix.lower() in PICTURE_SUFFIXES and path.name[0] != "." for path in folder.iterdir())


def split_folders_in(root: Path) -> dict[str, Path]:
    """Returns the folders in ``root`` that have the name of a split, by the split ("train", "val" or "test").

    If a split has several folders, such as ``val`` and ``valid``, the first spelling in `SPELLINGS` is used.
    """
    found = _by_lower_name(root)
    spelled = ((name, spelling) for name, spellings in SPELLINGS.items() for spelling in spellings)
    folders: dict[str, Path] = {}
    for name, spelling in spelled:
        if spelling in found:
            folders.setdefault(name, found[spelling])
    return folders


def _folders(root: Path) -> dict[str, tuple[Path, Path | None]]:
    """Returns the folders of pictures and masks of each split, in the first form that has both for some split."""
    for form in (_kinds_first, _splits_first, _named_after_both):
        found = form(root)
        if any(masks for _, masks in found.values()):
            return found
    return {}


def _kinds_first(root: Path) -> dict[str, tuple[Path, Path | None]]:
    """Returns the folders of pictures and masks of each split: ``images/train`` and ``masks/train``."""
    found = _by_lower_name(root)
    for kind in IMAGE_FOLDERS:
        images = split_folders_in(found[kind]) if kind in found else {}
        for other in MASK_FOLDERS if images else ():
            masks = split_folders_in(found[other]) if other in found else {}
            if images.keys() & masks.keys():
                return {name: (folder, masks.get(name)) for name, folder in images.items()}
    return {}


def _splits_first(root: Path) -> dict[str, tuple[Path, Path | None]]:
    """Returns the folders of pictures and masks of each split: ``train/images`` and ``train/masks``."""
    found = {}
    for name, folder in split_folders_in(root).items():
        if images := folder_named(folder, IMAGE_FOLDERS):
            found[name] = (images, folder_named(folder, MASK_FOLDERS))
    return found


def _named_after_both(root: Path) -> dict[str, tuple[Path, Path | None]]:
    """Returns the folders of pictures and masks of each split, such as ``train_images`` and ``train_masks``.

    The folder of pictures may also be named as the split, ``train``; the folder of masks may also be ``masks_train``.
    """
    by_name, found = _by_lower_name(root), {}
    for name, spellings in SPELLINGS.items():
        for split in spellings:
            images = [split, *_joined(split, IMAGE_FOLDERS)]
            masks = _joined(split, MASK_FOLDERS)
            pictures = next((by_name[one] for one in images if one in by_name), None)
            if pictures is not None and name not in found:
                found[name] = (pictures, next((by_name[one] for one in masks if one in by_name), None))
    return found


def _joined(split: str, kinds: tuple[str, ...]) -> list[str]:
    forms = ("{split}{kind}", "{split}_{kind}", "{split}-{kind}", "{kind}_{split}")
    return [form.format(split=split, kind=kind) for kind in kinds for form in forms]


def _by_lower_name(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        return {}
    return {path.name.lower(): path for path in sorted(root.iterdir(), reverse=True) if path.is_dir()}


def _has_split_folders(folder: Path) -> bool:
    return bool(split_folders_in(folder)) and not holds_pictures(folder)
