"""The SegNet layout of CamVid: ``train/ trainannot/ train.txt``, and the same for ``val`` and ``test``."""

from __future__ import annotations

from pathlib import Path

from atrous.data.class_files import named_classes
from atrous.data.dataset import Dataset, Item, paired, pictures_in
from atrous.data.find_split_lists import find_lists
from atrous.data.labels import ClassTable
from atrous.data.split_lists import listed
from atrous.data.split_names import SPELLINGS
from atrous.errors import AtrousError

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
    """Whether ``root`` has ``train/`` and ``trainannot/``, or these two of ``val`` (``valid`` …) or ``test``."""
    return bool(_split_folders(root))


def read_camvid(root: Path, classes: ClassTable | None = None) -> Dataset:
    """Open a dataset of this layout; without a list, a split is every picture of its folder.

    Args:
        root: the folder with ``train/`` and ``trainannot/``, or any of the three splits.
        classes: the class table to use instead of a ``classes.yaml``, the names that a tool wrote, or the 11 CamVid
            classes (11 is void).

    Raises:
        AtrousError: a folder is missing or empty, or a list is unusable.
    """
    splits: dict[str, tuple[Item, ...]] = {}
    orphans: list[Path] = []
    told: list[str] = []
    folders = _split_folders(root)
    for name, (pictures, truth) in folders.items():
        images, masks = pictures_in(pictures), pictures_in(truth)
        lists = _lists(pictures)
        splits[name] = listed(lists[0], pictures, images, masks) if lists else paired(images, masks)
        orphans += [path for stem, path in masks.items() if stem not in images]
    if not splits:
        raise AtrousError(
            f"{root}: the layout 'camvid' needs train/ and trainannot/, or the same of val or test; they are missing."
        )
    used = {path for pictures, _ in folders.values() for path in _lists(pictures)[:1]}
    if unused := [path.name for path in find_lists(root)[0] if path not in used]:
        told.append(f"The splits are the folders; these lists are not used: {', '.join(unused)}.")
    first, truth = next(iter(splits.values())), [masks for _, masks in folders.values()]
    table, named = named_classes(root, classes, *truth, items=first, default=CAMVID_CLASSES)
    return Dataset(root, "camvid", table, splits, (*told, *named), tuple(orphans))


def _lists(pictures: Path) -> list[Path]:
    return [path for suffix in (".txt", ".csv", ".tsv", ".json") if (path := pictures.with_suffix(suffix)).exists()]


def _split_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of pictures and masks by split; of two spellings, such as ``val`` and ``valid``, the first's."""
    found: dict[str, tuple[Path, Path]] = {}
    for name, spellings in SPELLINGS.items():
        for spelling in spellings:
            pictures, masks = root / spelling, root / f"{spelling}annot"
            if pictures.is_dir() and masks.is_dir():
                found.setdefault(name, (pictures, masks))
    return found
