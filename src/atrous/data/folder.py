"""The plain layout: ``images/``, ``masks/``, ``classes.yaml`` and perhaps ``splits/{train,val,test}.txt``."""

from __future__ import annotations

from pathlib import Path

from atrous.data.dataset import Dataset, classes_of, listed, paired, pictures_in, seeded_split
from atrous.data.labels import ClassTable
from atrous.errors import AtrousError


def looks_like_folder(root: Path) -> bool:
    """Whether ``root`` has ``images/`` and ``masks/``."""
    return (root / "images").is_dir() and (root / "masks").is_dir()


def read_folder(root: Path, classes: ClassTable | None = None) -> Dataset:
    """Open a dataset of this layout; pictures and masks are matched by stem.

    Args:
        root: the folder with ``images/`` and ``masks/``.
        classes: the class table to use instead of ``classes.yaml``.

    Raises:
        AtrousError: a folder is missing or empty, there is no class table, or a split list is unusable.
    """
    images, masks = pictures_in(root / "images"), pictures_in(root / "masks")
    lists = sorted((root / "splits").glob("*.txt"))
    notes: list[str] = []
    if lists:
        splits = {path.stem: listed(path, root / "images", images, masks) for path in lists}
        if "train" not in splits:
            raise AtrousError(f"{root / 'splits'}: there is no train.txt among the lists; add it.")
        named = {item.name for items in splits.values() for item in items}
        if left_out := len(images.keys() - named):
            notes.append(f"{left_out} of {len(images)} pictures are in no split list and are not used.")
    else:
        splits, note = seeded_split(paired(images, masks))
        notes.append(note)
    orphans = tuple(path for stem, path in masks.items() if stem not in images)
    return Dataset(root, "folder", classes_of(root, classes), splits, tuple(notes), orphans)
