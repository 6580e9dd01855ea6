"""The layout of ADE20K's scene parsing challenge: ``images/`` and ``annotations/``, with a folder for each split.

The folders of the splits are ``training/`` and ``validation/``. Names and values are those of
github.com/CSAILVision/sceneparsing, ``objectInfo150.txt`` (the first name of each line) and README. Colours are those
of ``visualizationCode/color150.mat`` in the same repository; github.com/open-mmlab/mmsegmentation also uses these
colours in ``ade.py``.
"""

from __future__ import annotations

from pathlib import Path

from atrous.data.class_colors import Color
from atrous.data.class_files import named_classes
from atrous.data.dataset import Dataset
from atrous.data.layouts.pairing import paired_splits, pictures_in, withheld_split_note
from atrous.data.mask_value_map import ClassTable
from atrous.data.splits.find_split_lists import unused_lists_note
from atrous.errors import AtrousError

_NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair,
seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers,
counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop,
stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck,
tower, chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land, bannister,
escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade
name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic
light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""
_COLORS = """
787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33 ff0652 8fff8c
ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47
ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00
1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300
ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8
001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff
a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00
ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff 00ffcc
2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
"""


def _color(code: str) -> Color:
    return int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)


# 0 means "other objects", which the challenge does not score.
ADE20K_CLASSES = ClassTable(
    names=tuple(" ".join(_NAMES.split()).split(", ")),
    colors=tuple(map(_color, _COLORS.split())),
    raw=tuple((index,) for index in range(1, 151)),
    ignore=(0,),
)

_FOLDERS = {"train": "training", "val": "validation"}
_INFO = "objectInfo150.txt"


def looks_like_ade20k(root: Path) -> bool:
    """Returns whether ``root`` or its subfolder ``ADEChallengeData2016`` has this layout and ADE20K's file names.

    The pictures must be named ``ADE_*``, or ``objectInfo150.txt`` must exist. The folders alone are not enough: retina
    datasets such as DRIVE often have the same folders.
    """
    base = _base_folder(root)
    if base is None:
        return False
    named = (next((base / "images" / folder).glob("ADE_*"), None) for folder in _FOLDERS.values())
    return (base / _INFO).is_file() or any(named)


def read_ade20k(root: Path, classes: ClassTable | None = None) -> Dataset:
    """Opens a dataset of this layout with the splits train and val; test pictures have no masks and are left out.

    Args:
        root: the folder with ``images/`` and ``annotations/``, or the folder above ``ADEChallengeData2016``.
        classes: class table to use; None for ``classes.yaml``, else the class file of a labelling tool, else the 150
            classes (raw values 1 to 150; 0 is ignored) with the names in ``objectInfo150.txt`` if this file exists.

    Raises:
        AtrousError: a folder is missing or empty, or the list of names is damaged.
    """
    base = _base_folder(root)
    if base is None:
        raise AtrousError(
            f"{root}: the layout 'ade20k' needs images/training/ and annotations/training/, or "
            "images/validation/ and annotations/validation/. These folders are missing."
        )
    folders = {name: folder for name, folder in _FOLDERS.items() if (base / "images" / folder).is_dir()}
    images = {name: pictures_in(base / "images" / folder) for name, folder in folders.items()}
    masks = {name: pictures_in(base / "annotations" / folder) for name, folder in folders.items()}
    splits, orphans = paired_splits(images, masks)
    notes = [] if base == root else [f"The dataset was found in {base}."]
    if (base / "images/testing").is_dir():
        notes.append(withheld_split_note("test", base / "images/testing"))
    notes += unused_lists_note(base)
    folders_of_masks = [base / "annotations" / folder for folder in folders.values()]
    first = next(iter(splits.values()))
    table, more_notes = named_classes(base, classes, *folders_of_masks, items=first, default=_classes(base))
    return Dataset(base, "ade20k", table, splits, (*notes, *more_notes), orphans)


def _base_folder(root: Path) -> Path | None:
    """Returns the first of ``root`` and its ``ADEChallengeData2016`` with pictures and masks of a split, or None."""
    for base in (root, root / "ADEChallengeData2016"):
        for folder in _FOLDERS.values():
            if (base / "images" / folder).is_dir() and (base / "annotations" / folder).is_dir():
                return base
    return None


def _classes(base: Path) -> ClassTable:
    """Returns the 150 classes; their names are the first name on each line of ``objectInfo150.txt`` if it exists."""
    path = base / _INFO
    if not path.exists():
        return ADE20K_CLASSES
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()[1:]  # the first line is the header: Idx … Name
    except (OSError, UnicodeDecodeError) as error:
        raise AtrousError(f"{path}: cannot be read as a list of names: {error}") from error
    rows = [line.strip().split("\t") for line in lines if line.strip()]
    if [row[0].strip() for row in rows] != [str(index) for index in range(1, 151)]:
        raise AtrousError(
            f"{path}: it must list the classes 1 to 150 in order, one per line as 'Idx Ratio Train Val Name', "
            "separated by tabs. Restore the file, or remove it to use the built-in names."
        )
    names = tuple(row[-1].split(",")[0].strip() for row in rows)
    try:
        return ClassTable(names, ADE20K_CLASSES.colors, ADE20K_CLASSES.raw, ADE20K_CLASSES.ignore)
    except AtrousError as error:
        raise AtrousError(f"{path}: {error}") from error
