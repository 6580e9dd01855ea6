"""The SegNet layout of CamVid: ``train/ trainannot/ train.txt``, and the same for ``val`` and ``test``."""

from __future__ import annotations

from pathlib import Path

from atrous.data.dataset import Dataset, Item, classes_of, listed, paired, pictures_in
from atrous.data.labels import ClassTable
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
    """Whether ``root`` has ``train/`` and ``trainannot/``."""
    return (root / "train").is_dir() and (root / "trainannot").is_dir()


def read_camvid(root: Path, classes: ClassTable | None = None) -> Dataset:
    """Open a dataset of this layout; without a list, a split is every picture of its folder.

    Args:
        root: the folder with ``train/`` and ``trainannot/``.
        classes: the class table to use instead of a ``classes.yaml``, or the 11 CamVid classes (11 is void).

    Raises:
        AtrousError: a folder is missing or empty, or a list is unusable.
    """
    splits: dict[str, tuple[Item, ...]] = {}
    orphans: list[Path] = []
    for name in ("train", "val", "test"):
        if not (root / f"{name}annot").is_dir():
            continue
        images, masks = pictures_in(root / name), pictures_in(root / f"{name}annot")
        list_file = root / f"{name}.txt"
        has_list = list_file.exists()
        splits[name] = listed(list_file, root / name, images, masks) if has_list else paired(images, masks)
        orphans += [path for stem, path in masks.items() if stem not in images]
    if "train" not in splits:
        raise AtrousError(f"{root}: the layout 'camvid' needs train/ and trainannot/; they are missing.")
    return Dataset(root, "camvid", classes_of(root, classes, CAMVID_CLASSES), splits, (), tuple(orphans))
