"""The SegNet layout of CamVid: ``train/``, ``trainannot/`` and ``train.txt``; ``val`` and ``test`` likewise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from atrous.data.class_files import named_classes
from atrous.data.dataset import Dataset, Item
from atrous.data.layouts.pairing import paired, pictures_in
from atrous.data.mask_value_map import ClassTable
from atrous.data.splits.find_split_lists import unused_lists_note
from atrous.data.splits.split_lists import is_list_of_names, listed, read_list, stem_of
from atrous.data.splits.split_names import SPELLINGS
from atrous.errors import AtrousError, counted

# Order and colours: github.com/alexgkendall/SegNet-Tutorial, Scripts/test_segmentation_camvid.py
CAMVID_CLASSES = ClassTable(
    names=(
        "Sky",
        "Building",
        "Pole",
        "Road",
        "Pavement",
        "Tree",
        "SignSymbol",
        "Fence",
        "Car",
        "Pedestrian",
        "Bicyclist",
    ),
    colors=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    raw=tuple((index,) for index in range(11)),
    ignore=(11,),
)


def looks_like_camvid(root: Path) -> bool:
    """Returns whether ``root`` has ``train/`` and ``trainannot/``, or the two folders of ``val`` or ``test``."""
    return bool(_split_folders(root))


def read_camvid(root: Path, classes: ClassTable | None = None) -> Dataset:
    """Opens a dataset of this layout; a split without a list contains all pictures of its folder.

    Args:
        root: the folder with ``train/`` and ``trainannot/``, or with the two folders of ``val`` or ``test``.
        classes: class table to use; None for ``classes.yaml``, else the class file of a labelling tool, else the 11
            CamVid classes (the mask value 11 is void and ignored).

    Raises:
        AtrousError: a folder is missing or empty, or a list is unusable.
    """
    splits: dict[str, tuple[Item, ...]] = {}
    orphans: list[Path] = []
    notes: list[str] = []
    used: list[Path] = []
    folders = _split_folders(root)
    for name, (pictures, truth) in folders.items():
        images, masks = pictures_in(pictures), pictures_in(truth)
        listing = _list(pictures, images)
        splits[name] = listed(listing, pictures, images, masks) if listing else paired(images, masks)
        if listing:
            used.append(listing)
            left_out = len(images.keys() - {item.name for item in splits[name]})
            be = "is" if left_out == 1 else "are"
            many = f"{left_out} of {counted(len(images), 'picture')} in {pictures} {be}"
            notes += [f"{many} not in {listing.name}, and {be} not used."] if left_out else []
        orphans += [path for stem, path in masks.items() if stem not in images]
    if not splits:
        raise AtrousError(
            f"{root}: the layout 'camvid' needs train/ and trainannot/, or the two folders of val or test. "
            "These folders are missing."
        )
    notes += unused_lists_note(root, used)
    first, truth = next(iter(splits.values())), [masks for _, masks in folders.values()]
    table, class_notes = named_classes(root, classes, *truth, items=first, default=CAMVID_CLASSES)
    return Dataset(root, "camvid", table, splits, (*notes, *class_notes), tuple(orphans))


def _list(pictures: Path, images: Mapping[str, Path]) -> Path | None:
    """Returns the split list next to a folder of pictures with the same name and a suffix such as ``.txt``, or None.

    If there is no ``.txt`` file, the list is the first ``.csv``, ``.tsv`` or ``.json`` file that names a picture of the
    folder.
    """
    text = pictures.with_suffix(".txt")
    others = (pictures.with_suffix(suffix) for suffix in (".csv", ".tsv", ".json"))
    return text if text.exists() else next((path for path in others if _names_any(path, images)), None)


def _names_any(path: Path, images: Mapping[str, Path]) -> bool:
    """Returns whether a file is a readable split list that names at least one of the pictures."""
    if not os.access(path, os.R_OK) or (path.suffix == ".json" and not is_list_of_names(path)):
        return False
    try:
        return any(stem_of(row.image, images) in images for row in read_list(path, images))
    except AtrousError:
        return False  # the table is not a list of pictures


def _split_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Returns the folders of pictures and masks of each split; if both ``val`` and ``valid`` exist, ``val`` is used."""
    found: dict[str, tuple[Path, Path]] = {}
    for name, spellings in SPELLINGS.items():
        for spelling in spellings:
            pictures, masks = root / spelling, root / f"{spelling}annot"
            if pictures.is_dir() and masks.is_dir():
                found.setdefault(name, (pictures, masks))
    return found
