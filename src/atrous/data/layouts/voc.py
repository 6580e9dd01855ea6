"""The VOCdevkit layout: ``JPEGImages/``, ``SegmentationClass/`` and lists in ``ImageSets/Segmentation/``.

If ``ImageSets/Segmentation/`` contains no lists, the lists that are directly in ``ImageSets/`` are used.

The augmented set, whose additional masks are from SBD, is also read. Its grey masks are in ``SegmentationClassAug/``.
Its lists are ``trainaug.txt`` in the folder of the other lists, or ``train_aug.txt`` in ``ImageSets/SegmentationAug/``.
A line of a list is a name, or a pair of the form "/JPEGImages/x.jpg /SegmentationClassAug/x.png".

Sources of the forms: github.com/kazuto1011/deeplab-pytorch, ``libs/datasets/voc.py`` (pairs);
VainF/DeepLabV3Plus-Pytorch, ``datasets/voc.py`` (names); open-mmlab/mmsegmentation, ``voc_aug.py`` (names).
"""

from __future__ import annotations

from pathlib import Path

from atrous.data.class_colors import default_colors
from atrous.data.class_files import named_classes
from atrous.data.dataset import Dataset, Item
from atrous.data.layouts.pairing import paired, pictures_in, withheld_split_note
from atrous.data.mask_value_map import ClassTable
from atrous.data.splits.find_split_lists import find_lists, unused_lists_note
from atrous.data.splits.random_split import seeded_split
from atrous.data.splits.split_lists import listed, listed_splits, read_list
from atrous.data.splits.split_names import canonical_split
from atrous.data.splits.unread_lists import check_no_list_is_unread
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

_MASKS, _ADDED_MASKS = "SegmentationClass", "SegmentationClassAug"


def looks_like_voc(root: Path) -> bool:
    """Returns whether ``root``, or a folder in it such as ``VOC2012`` or ``VOCdevkit/VOC2012``, has this layout."""
    return _year_folder(root) is not None


def read_voc(root: Path, classes: ClassTable | None = None) -> Dataset:
    """Opens a dataset of this layout; each list is a split, except a list ``test.txt`` without masks.

    The lists are in ``ImageSets/Segmentation/``, or in ``ImageSets/`` if that folder has none. Lists in
    ``ImageSets/SegmentationAug/`` are also used. A list with "aug" in its name or ``SegmentationClassAug`` in its lines
    takes its masks from ``SegmentationClassAug/``. Any other list takes its masks from ``SegmentationClass/``. A mask
    that is missing in one folder is taken from the other folder.

    Args:
        root: the folder with ``JPEGImages/`` and ``SegmentationClass/``, the ``VOCdevkit`` folder, or the folder above
            ``VOCdevkit``.
        classes: class table to use; None for ``classes.yaml``, else the class file of a labelling tool, else the 21 VOC
            classes (255 is ignored).

    Raises:
        AtrousError: a folder is missing or empty, or a list is unusable.
    """
    year = _year_folder(root)
    if year is None:
        raise AtrousError(
            f"{root}: the layout 'voc' needs JPEGImages/ and SegmentationClass/. At least one of them is missing."
        )
    images = pictures_in(year / "JPEGImages")
    added = pictures_in(year / _ADDED_MASKS) if (year / _ADDED_MASKS).is_dir() else {}
    masks = {**added, **pictures_in(year / _MASKS)}
    notes = [] if year == root else [f"The dataset was found in {year}."]
    splits: dict[str, tuple[Item, ...]] = {}
    unlisted: tuple[Item, ...] = ()
    lists = _lists(year / "ImageSets")
    without_split = [path for path in lists if [one.stem for one in lists] == ["default"]]
    for path in without_split:
        lists.remove(path)
        notes.append(f"{path} names no split. CVAT writes a list with this name if there are no splits.")
    for path in lists:
        augmented = bool(added) and _is_augmented(path)
        items = listed(path, year / "JPEGImages", images, {**masks, **added} if augmented else masks)
        if path.stem == "test" and not any(item.mask for item in items):
            notes.append(withheld_split_note("test", path))
            continue
        splits[canonical_split(path.stem)] = items
        if augmented:
            notes.append(
                f"The split '{path.stem}' takes its masks from {_ADDED_MASKS}/, and masks that are missing there from "
                f"{_MASKS}/."
            )
    if splits:
        notes += unused_lists_note(year, lists, f"The splits are the lists in {year / 'ImageSets'}")
    elif others := find_lists(year, images, without_split)[0]:
        splits = listed_splits(others, year / "JPEGImages", images, masks)
        notes.append(f"The splits are defined by {', '.join(str(path) for path in others)}.")
    else:
        check_no_list_is_unread(year, images)
        # Most pictures of VOC have boxes but no masks, so a picture without a mask is not an error here.
        labelled = {stem: path for stem, path in images.items() if stem in masks}
        unlisted = paired(labelled, masks)
        splits, note = seeded_split(unlisted)
        notes.append(note)
    orphans = tuple(path for stem, path in masks.items() if stem not in images)
    folders = (root, year / _MASKS)
    table, more_notes = named_classes(year, classes, *folders, items=next(iter(splits.values())), default=VOC_CLASSES)
    return Dataset(year, "voc", table, splits, (*notes, *more_notes), orphans, unlisted=unlisted)


def _lists(sets: Path) -> list[Path]:
    """Returns the lists, sorted by name; of two lists of one name, the one in ``SegmentationAug/`` is left out."""
    published = sorted((sets / "Segmentation").glob("*.txt")) or sorted(sets.glob("*.txt"))
    by_name = {path.stem: path for path in (*(sets / "SegmentationAug").glob("*.txt"), *published)}
    return [by_name[name] for name in sorted(by_name)]


def _is_augmented(path: Path) -> bool:
    """Returns whether the name or a line of a list shows that it belongs to the augmented set."""
    return "aug" in path.stem.lower() or any(_ADDED_MASKS in (row.mask or row.image) for row in read_list(path, {}))


def _year_folder(root: Path) -> Path | None:
    """Returns the folder with ``JPEGImages/`` and ``SegmentationClass/``, or None if it does not exist.

    This is ``root``, or else the newest of its folders named ``VOC*`` or ``VOCdevkit/VOC*``.
    """
    below = sorted((path for path in root.glob("VOC*") if path.is_dir()), reverse=True)
    below += sorted((path for path in root.glob("VOCdevkit/VOC*") if path.is_dir()), reverse=True)
    for folder in (root, *below):
        if (folder / "JPEGImages").is_dir() and (folder / "SegmentationClass").is_dir():
            return folder
    return None
