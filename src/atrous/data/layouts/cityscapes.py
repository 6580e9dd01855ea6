"""The Cityscapes layout: ``leftImg8bit/SPLIT/CITY/`` for pictures and ``gtFine/SPLIT/CITY/`` for masks.

Names, ids, colours and file names: github.com/mcordts/cityscapesScripts, ``cityscapesscripts/helpers/labels.py``,
``preparation/createTrainIdLabelImgs.py`` and the README.
"""

from __future__ import annotations

from pathlib import Path

from atrous.data.class_files import named_classes
from atrous.data.dataset import Dataset
from atrous.data.layouts.pairing import (
    commonest_ending,
    paired_splits,
    pictures_in,
    withheld_split_note,
    without_ending,
)
from atrous.data.mask_value_map import ClassTable
from atrous.data.splits.find_split_lists import unused_lists_note
from atrous.errors import AtrousError

# name, label id, colour; the position is the train id
_CLASSES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
_NAMES = tuple(name for name, _, _ in _CLASSES)
_IDS = tuple(value for _, value, _ in _CLASSES)
_COLORS = tuple(color for _, _, color in _CLASSES)
_VOID_IDS = tuple(value for value in range(34) if value not in _IDS)

CITYSCAPES_TRAIN_IDS = ClassTable(_NAMES, _COLORS, tuple((index,) for index in range(len(_NAMES))), (255,))
# Two tables are needed, because 7 means a traffic sign as a train id, but road as a label id. Ignored pixels are
# written as 0, "unlabeled". The label id −1 (license plate) would be 255 as a byte, but polygons of license plates are
# not drawn in masks.
CITYSCAPES_LABEL_IDS = ClassTable(_NAMES, _COLORS, tuple((value,) for value in _IDS), (*_VOID_IDS, 255, -1))

_PICTURE = "_leftImg8bit"
# Label ids are first: every download has them, and the benchmark's server accepts only label ids.
_TABLES = {"_gtFine_labelIds": CITYSCAPES_LABEL_IDS, "_gtFine_labelTrainIds": CITYSCAPES_TRAIN_IDS}


def looks_like_cityscapes(root: Path) -> bool:
    """Returns whether ``root`` has ``leftImg8bit/`` and ``gtFine/``."""
    return (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()


def read_cityscapes(root: Path, classes: ClassTable | None = None) -> Dataset:
    """Opens a dataset of this layout with the masks ``*_gtFine_labelIds.png`` or ``*_gtFine_labelTrainIds.png``.

    The kind of masks with more files is read; if both kinds have the same number of files, label ids are read. Both
    kinds have the same 19 classes. ``atrous predict --raw`` writes the kind of values that a model was trained on, and
    the benchmark's server accepts only label ids. The split test is left out, because its published masks contain no
    class.

    Args:
        root: the folder with ``leftImg8bit/`` and ``gtFine/``.
        classes: class table to use; None for ``classes.yaml``, else the class file of a labelling tool, else the 19
            classes that the benchmark scores.

    Raises:
        AtrousError: a folder is missing or empty, or no file has the name of a picture or a mask of this layout.
    """
    pictures, truth = root / "leftImg8bit", root / "gtFine"
    names = [name for name in ("train", "val") if (pictures / name).is_dir()]
    if not (names and truth.is_dir()):
        raise AtrousError(
            f"{root}: the layout 'cityscapes' needs leftImg8bit/train/ (or val/) and gtFine/. At least one of them is "
            "missing."
        )
    images = {name: _frames(pictures / name, _PICTURE) for name in names}
    for name, found in images.items():
        if not found:
            raise AtrousError(f"{pictures / name}: no file has a name such as CITY/CITY_000000_000019{_PICTURE}.png.")
    masks = {ending: {name: _frames(truth / name, ending) for name in names} for ending in _TABLES}
    ending, note = commonest_ending(masks, truth)
    splits, orphans = paired_splits(_named_as_pictures(images), _named_as_pictures(masks[ending]))
    notes = [note]
    if (pictures / "test").is_dir():
        notes.append(withheld_split_note("test", pictures / "test/*/*"))
    notes += unused_lists_note(root)
    first = next(iter(splits.values()))
    table, more_notes = named_classes(root, classes, truth, items=first, default=_TABLES[ending])
    return Dataset(root, "cityscapes", table, splits, (*notes, *more_notes), orphans)


def _frames(folder: Path, ending: str) -> dict[str, Path]:
    """Returns the files of all cities whose stems have the ending, by the stem without it: "aachen_000000_000019"."""
    if not folder.is_dir():
        raise AtrousError(f"{folder}: no such folder.")
    cities = sorted(path for path in folder.iterdir() if path.is_dir())
    return {frame: path for city in cities for frame, path in without_ending(pictures_in(city), ending).items()}


def _named_as_pictures(frames: dict[str, dict[str, Path]]) -> dict[str, dict[str, Path]]:
    """Returns the files of each split by the stem of their picture, which is the name of the item."""
    return {name: {f"{frame}{_PICTURE}": path for frame, path in part.items()} for name, part in frames.items()}
