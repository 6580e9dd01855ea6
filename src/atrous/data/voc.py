"""The VOCdevkit layout: ``JPEGImages/``, ``SegmentationClass/`` and lists somewhere in ``ImageSets/``."""

from __future__ import annotations

from pathlib import Path

from atrous.data.dataset import Dataset, classes_of, listed, paired, pictures_in, seeded_split
from atrous.data.labels import ClassTable, default_colors
from atrous.errors import AtrousError

_NAMES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor"
)
VOC_CLASSES = ClassTable(
    names=tuple(_NAMES.split()),
    colors=default_colors(21),
    raw=tuple((index,) for index in range(21)),
    ignore=(255,),
)


def looks_like_voc(root: Path) -> bool:
    """Whether ``root``, or a folder in it such as ``VOC2012`` or ``VOCdevkit``, has this layout."""
    return _year_folder(root) is not None


def read_voc(root: Path, classes: ClassTable | None = None) -> Dataset:
    """Open a dataset of this layout; ``root`` may be the VOCdevkit, a year in it, or the folder above.

    Args:
        root: the folder with ``JPEGImages/`` and ``SegmentationClass/``, or one above it.
        classes: the class table to use instead of a ``classes.yaml``, or the 21 VOC classes (255 is ignored).

    Raises:
        AtrousError: a folder is missing or empty, or a list is unusable.
    """
    year = _year_folder(root)
    if year is None:
        raise AtrousError(f"{root}: the layout 'voc' needs JPEGImages/ and SegmentationClass/; they are missing.")
    images, masks = pictures_in(year / "JPEGImages"), pictures_in(year / "SegmentationClass")
    sets = year / "ImageSets"
    lists = sorted((sets / "Segmentation").glob("*.txt")) or sorted(sets.glob("*.txt"))
    notes = () if year == root else (f"The dataset was found in {year}.",)
    if lists:
        splits = {path.stem: listed(path, year / "JPEGImages", images, masks) for path in lists}
    else:
        # most VOC pictures have boxes only, so a picture without a mask is no mistake here
        labelled = {stem: path for stem, path in images.items() if stem in masks}
        splits, note = seeded_split(paired(labelled, masks))
        notes = (*notes, note)
    orphans = tuple(path for stem, path in masks.items() if stem not in images)
    return Dataset(year, "voc", classes_of(year, classes, VOC_CLASSES), splits, notes, orphans)


def _year_folder(root: Path) -> Path | None:
    """The folder with ``JPEGImages`` and ``SegmentationClass``, newest year first, up to two levels down."""
    below = sorted((path for path in root.glob("VOC*") if path.is_dir()), reverse=True)
    below += sorted((path for path in root.glob("VOCdevkit/VOC*") if path.is_dir()), reverse=True)
    for folder in (root, *below):
        if (folder / "JPEGImages").is_dir() and (folder / "SegmentationClass").is_dir():
            return folder
    return None
