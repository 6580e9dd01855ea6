"""Scenes of remote sensing: ``scenes/`` with rasters of any size, and ``labels/`` with rasters or vector files.

A scene is read window by window. Its labels have the stem of the scene, or this stem and a word such as ``_mask``. One
vector file, ``labels.gpkg`` or the only file in ``labels/``, may label all scenes.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from atrous.data.class_files import named_classes
from atrous.data.dataset import Dataset
from atrous.data.layouts.folder_names import IMAGE_FOLDERS, MASK_FOLDERS
from atrous.data.layouts.mask_names import masks_by_picture
from atrous.data.layouts.pairing import NoPicturesError, paired
from atrous.data.layouts.split_folders import folder_named
from atrous.data.mask_value_map import ClassTable
from atrous.data.rasters.scene_windows import SCENE_SUFFIXES
from atrous.data.rasters.vector_files import VECTOR_SUFFIXES
from atrous.data.splits.find_split_lists import find_lists
from atrous.data.splits.random_split import seeded_split
from atrous.data.splits.split_lists import listed_splits
from atrous.errors import AtrousError

#: Name of this layout.
RASTERS = "rasters"
_SCENE_FOLDERS = ("scenes", "scene", "rasters")


def looks_like_rasters(root: Path) -> bool:
    """Returns whether ``root`` has ``scenes/`` and labels, or a folder of pictures whose labels are vector files."""
    scenes, labels = _scene_folder(root), _labels(root)
    if scenes is None or not labels:
        return False
    return scenes.name.lower() in _SCENE_FOLDERS or all(path.suffix.lower() in VECTOR_SUFFIXES for path in labels)


def read_rasters(root: Path, classes: ClassTable | None = None) -> Dataset:
    """Opens a dataset of this layout; its items are whole scenes.

    Args:
        root: the folder with ``scenes/`` and ``labels/``.
        classes: class table to use; None for ``classes.yaml``.

    Raises:
        AtrousError: there are no scenes or no labels, there is no class table, or a split list is unusable.
    """
    folder = _scene_folder(root)
    images = _by_stem(_files(folder, SCENE_SUFFIXES)) if folder is not None else {}
    if not images:
        raise NoPicturesError(f"{folder or root / 'scenes'}: no scenes. Scenes are {', '.join(SCENE_SUFFIXES)} files.")
    labels = _labels(root)
    if not labels:
        raise NoPicturesError(
            f"{root}: no labels. Give labels/ with a file per scene, or one vector file such as labels.gpkg."
        )
    masks, one_for_all = _masks(images, labels)
    lists, more_notes = find_lists(root, images, no_lists=labels)
    notes, unlisted = list(more_notes), ()
    if lists:
        splits = listed_splits(lists, folder or root, images, masks)
        named = {item.name for items in splits.values() for item in items}
        if left_out := len(images.keys() - named):
            notes.append(f"{left_out} of {len(images)} scenes are in no split list and are not used.")
    else:
        unlisted = paired(images, masks)
        splits, note = seeded_split(unlisted)
        notes.append(note)
    orphans = () if one_for_all else tuple(path for stem, path in masks.items() if stem not in images)
    table, of_classes = named_classes(root, classes, root / "labels")
    return Dataset(root, RASTERS, table, splits, (*notes, *of_classes), orphans, unlisted=unlisted)


def _scene_folder(root: Path) -> Path | None:
    return folder_named(root, (*_SCENE_FOLDERS, *IMAGE_FOLDERS))


def _labels(root: Path) -> list[Path]:
    """Returns the files of the labels: the files in the folder of labels, else vector files in the dataset's folder."""
    folder, suffixes = folder_named(root, MASK_FOLDERS), (*SCENE_SUFFIXES, *VECTOR_SUFFIXES)
    if folder is not None:
        return _files(folder, suffixes)
    return [path for path in _files(root, VECTOR_SUFFIXES) if path.stem.lower() in MASK_FOLDERS]


def _masks(images: dict[str, Path], labels: list[Path]) -> tuple[dict[str, Path], bool]:
    """Returns the labels by the stem of their scene, and whether one vector file labels all scenes."""
    try:
        return masks_by_picture(images, _by_stem(labels)), False
    except AtrousError:
        if len(labels) == 1 and labels[0].suffix.lower() in VECTOR_SUFFIXES:  # it has the name of no scene
            return dict.fromkeys(images, labels[0]), True
        raise


def _files(folder: Path, suffixes: Container[str]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.name[0] != ".")


def _by_stem(files: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in found:
            raise AtrousError(
                f"{path.parent}: '{found[path.stem].name}' and '{path.name}' share the name '{path.stem}'. Scenes and "
                "labels are matched by this name, so rename or remove one of the two files."
            )
        found[path.stem] = path
    return found
