"""The SegNet layout of CamVid: ``train/ trainannot/ train.txt``, and the same for ``val`` and ``test``."""

from __future__ import annotations

from pathlib import Path

from atrous.data.class_files import named_classes
from atrous.data.dataset import Dataset, Item, paired, pictures_in
from atrous.data.labels import ClassTable
from atrous.data.split_lists import listed
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
    """Whether ``root`` has ``train/`` and ``trainannot/``, or these two of ``val`` or ``test``."""
    return bool(_split_names(root))


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
    for name in _split_names(root):
        images, masks = pictures_in(root / name), pictures_in(root / f"{name}annot")
        lists = [path for suffix in (".txt", ".csv", ".tsv") if (path := root / f"{name}{suffix}").exists()]
        splits[name] = listed(lists[0], root / name, images, masks) if lists else paired(images, masks)
        orphans += [path for stem, path in masks.items() if stem not in images]
    if not splits:
        raise AtrousError(
            f"{root}: the layout 'camvid' needs train/ and trainannot/, or the same of val or test; they are missing."
        )
    first = next(iter(splits))
    table, told = named_classes(root, classes, root / f"{first}annot", items=splits[first], default=CAMVID_CLASSES)
    return Dataset(root, "camvid", table, splits, told, tuple(orphans))


def _split_names(root: Path) -> list[str]:
    """The splits that have a folder of pictures and one of masks."""
    names = ("train", "val", "test")
    return [name for name in names if (root / name).is_dir() and (root / f"{name}annot").is_dir()]
