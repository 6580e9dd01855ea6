"""The COCO-Stuff layout: ``images/`` and ``annotations/``, each with ``train2017/`` and ``val2017/``.

Names and values are those of github.com/nightrome/cocostuff, ``labels.txt`` and the README ("stuff-thing maps"): the
value in a mask is the label's number minus one; 255 is unlabelled. Train ids are those of
github.com/open-mmlab/mmsegmentation, ``coco_stuff.py`` and ``tools/dataset_converters/coco_stuff{164k,10k}.py``.
The colour of a label is the colour that Pascal VOC gives to the label's number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from atrous.data.class_colors import default_colors
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

_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking
meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie,
suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis
racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog,
pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell
phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush,
banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile,
cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other,
floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other,
hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow,
plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea,
shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table, tent, textile-other,
towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood,
water-other, waterdrops, window-blind, window-other, wood
"""
# Mask values of the 11 COCO labels that occur in no picture: street sign, hat, shoe, eye glasses, plate, mirror,
# window, desk, door, blender, hair brush
_UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
_VALUES = tuple(value for value in range(182) if value not in _UNUSED)


def _table(values: tuple[int, ...], ignore: int) -> ClassTable:
    names = tuple(" ".join(_NAMES.split()).split(", "))
    colors = default_colors(183)
    return ClassTable(names, tuple(colors[value + 1] for value in _VALUES), tuple((v,) for v in values), (ignore,))


COCO_STUFF_CLASSES = _table(_VALUES, 255)
COCO_STUFF_TRAIN_IDS = _table(tuple(range(171)), 255)
COCO_STUFF_10K_TRAIN_IDS = _table(tuple(range(1, 172)), 0)


@dataclass(frozen=True)
class _Release:
    """A release of COCO-Stuff: the folder of each split, and the class table for each ending of mask names."""

    folders: dict[str, str]
    tables: dict[str, ClassTable]


_TRAIN_IDS = "_labelTrainIds"
_RELEASES = (
    _Release({"train": "train2017", "val": "val2017"}, {_TRAIN_IDS: COCO_STUFF_TRAIN_IDS, "": COCO_STUFF_CLASSES}),
    _Release({"train": "train2014", "val": "test2014"}, {_TRAIN_IDS: COCO_STUFF_10K_TRAIN_IDS}),
)


def looks_like_coco_stuff(root: Path) -> bool:
    """Returns whether ``root`` has pictures and masks of train2017, val2017, train2014 or test2014."""
    return _release(root) is not None


def read_coco_stuff(root: Path, classes: ClassTable | None = None) -> Dataset:
    """Opens a dataset of this layout with the converted masks ``*_labelTrainIds.png`` or the published masks.

    The kind of masks with more files is read; if both kinds have the same number of files, the converted masks are
    read. Both kinds have the same 171 classes. The masks of the release of 10 000 pictures are published as MATLAB
    files, which cannot be read. So only converted masks of this release are read (``*_labelTrainIds.png``, values 1 to
    171, 0 for unlabelled). Its split ``test`` is read as ``val``.

    Args:
        root: the folder with ``images/`` and ``annotations/``.
        classes: class table to use; None for ``classes.yaml``, else the class file of a labelling tool, else the 171
            classes.

    Raises:
        AtrousError: a folder is missing or empty, or no file has the name of a mask of this layout.
    """
    release = _release(root)
    if release is None:
        raise AtrousError(
            f"{root}: the layout 'coco_stuff' needs images/train2017/ and annotations/train2017/, or images/val2017/ "
            "and annotations/val2017/. These folders are missing. In the release of 10,000 pictures, they are named "
            "train2014/ and test2014/."
        )
    folders = {name: folder for name, folder in release.folders.items() if (root / "images" / folder).is_dir()}
    images = {name: pictures_in(root / "images" / folder) for name, folder in folders.items()}
    files = {name: pictures_in(root / "annotations" / folder) for name, folder in folders.items()}
    masks = {ending: {name: _masks(part, ending) for name, part in files.items()} for ending in release.tables}
    ending, note = commonest_ending(masks, root / "annotations")
    splits, orphans = paired_splits(images, masks[ending])
    notes = [note]
    if (root / "images/test2017").is_dir():
        notes.append(withheld_split_note("test", root / "images/test2017"))
    notes += unused_lists_note(root)
    folders_of_masks = [root / "annotations" / folder for folder in folders.values()]
    table, more_notes = named_classes(
        root,
        classes,
        *folders_of_masks,
        items=next(iter(splits.values())),
        default=release.tables[ending],
        published=["labels.txt"],  # not read: its numbers start at 1, but the values in masks start at 0
    )
    return Dataset(root, "coco_stuff", table, splits, (*notes, *more_notes), orphans)


def _release(root: Path) -> _Release | None:
    """Returns the first release for which ``root`` has pictures and masks of at least one split, or None."""
    for release in _RELEASES:
        for folder in release.folders.values():
            if (root / "images" / folder).is_dir() and (root / "annotations" / folder).is_dir():
                return release
    return None


def _masks(files: dict[str, Path], ending: str) -> dict[str, Path]:
    """Returns the masks with an ending, by the stem of their picture; "" selects masks without ``_labelTrainIds``."""
    if ending:
        return without_ending(files, ending)
    return {stem: path for stem, path in files.items() if not stem.endswith(_TRAIN_IDS)}
