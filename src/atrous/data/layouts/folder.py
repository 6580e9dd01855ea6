"""The plain layout: ``images/``, ``masks/``, ``classes.yaml`` and optionally ``splits/{train,val,test}.txt``."""

from __future__ import annotations

from pathlib import Path

from atrous.data.class_files import named_classes
from atrous.data.dataset import Dataset
from atrous.data.layouts.folder_names import IMAGE_FOLDERS, MASK_FOLDERS
from atrous.data.layouts.mask_names import masks_by_picture, single_labels_note
from atrous.data.layouts.pairing import paired, pictures_in
from atrous.data.layouts.split_folders import folder_named, holds_pictures
from atrous.data.mask_value_map import ClassTable
from atrous.data.splits.find_split_lists import find_lists
from atrous.data.splits.random_split import seeded_split
from atrous.data.splits.split_lists import listed_splits
from atrous.data.splits.unread_lists import check_no_list_is_unread
from atrous.data.volumes.slices import is_volume_place
from atrous.errors import AtrousError


def looks_like_folder(root: Path) -> bool:
    """Returns whether ``root`` has ``images/`` and ``masks/``, or folders with names from `folder_names.py`."""
    return _folders(root) is not None


def read_folder(root: Path, classes: ClassTable | None = None) -> Dataset:
    """Opens a dataset of this layout.

    The mask of a picture has the same stem, or this stem and a word such as ``_mask``; see `masks_by_picture`.

    Args:
        root: the folder with ``images/`` and ``masks/``.
        classes: class table to use; None for ``classes.yaml``, else the class file of a labelling tool.

    Raises:
        AtrousError: a folder is missing or empty, there is no class table, or a split list is unusable.
    """
    folders = _folders(root) or (root / "images", root / "masks")
    images = pictures_in(folders[0], series=True)
    of_volumes = any(map(is_volume_place, images.values()))
    files = pictures_in(folders[1], labels=of_volumes)
    lists, more_notes = find_lists(root, images)
    notes, unlisted = list(more_notes), ()
    if lists:
        splits = listed_splits(lists, folders[0], images, _by_any_name(images, files))
        named = {item.name for items in splits.values() for item in items}
        if left_out := len(images.keys() - named):
            what = "volumes" if of_volumes else "pictures"
            notes.append(f"{left_out} of {len(images)} {what} are in no split list and are not used.")
    else:
        check_no_list_is_unread(root, images)
        unlisted = paired(images, masks_by_picture(images, files))
        splits, note = seeded_split(unlisted)
        notes.append(note)
    owned = {path for stem, path in _by_any_name(images, files).items() if stem in images}
    owned |= {item.mask for items in splits.values() for item in items if item.mask and item.name in images}
    orphans = tuple(path for path in files.values() if path not in owned)
    table, more_notes = named_classes(root, classes, folders[1], items=next(iter(splits.values())))
    return Dataset(root, "folder", table, splits, (*notes, *more_notes), orphans, unlisted=unlisted)


def _by_any_name(images: dict[str, Path], files: dict[str, Path]) -> dict[str, Path]:
    """Returns the masks by the stem of their picture and by their own stem; a split list may use either stem."""
    try:
        return {**files, **masks_by_picture(images, files)}
    except AtrousError:  # if masks cannot be matched to pictures, the list must name the masks
        if single_labels_note(files.values()):
            raise
        return files


def _folders(root: Path) -> tuple[Path, Path] | None:
    images, masks = folder_named(root, IMAGE_FOLDERS), folder_named(root, MASK_FOLDERS)
    if images is None or masks is None:
        return None
    # Other folder names are less certain signs of this layout, so with other names, both folders must directly contain
    # pictures.
    sure = (images.name, masks.name) == ("images", "masks") or (holds_pictures(images) and holds_pictures(masks))
    return (images, masks) if sure else None
