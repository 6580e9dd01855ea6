"""Checks of class names: published names that are assumed for other data, and a missing name of the background."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from atrous.data.class_colors import default_colors
from atrous.data.class_files import ASSUMED, IN_ORDER
from atrous.data.dataset import Dataset
from atrous.data.doctor.judge import SHOWN, Finding, shown
from atrous.data.doctor.propose_classes import Proposal
from atrous.data.doctor.scan import Pair, masks_of
from atrous.data.mask_value_map import BACKGROUND_NAMES, ClassTable

_CITIES = """
aachen bochum bremen cologne darmstadt dusseldorf erfurt hamburg hanover jena krefeld monchengladbach strasbourg
stuttgart tubingen ulm weimar zurich frankfurt lindau munster berlin bielefeld bonn leverkusen mainz munich
"""
#: Patterns of the names of pictures in the published datasets.
_PUBLISHED = {
    "voc": re.compile(r"\d{4}_\d{6}|00\d{4}"),  # 00…: VOC 2007, see `_are_of_voc_2007`
    "camvid": re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_.*"),
    "cityscapes": re.compile(rf"({'|'.join(_CITIES.split())})_\d{{6}}_\d{{6}}_.*"),
    "ade20k": re.compile(r"ADE_(train|val|test)_\d{8}"),
    "coco_stuff": re.compile(r"(COCO_(train|val|test)20\d\d_)?\d{12}"),
}
_FIRST_OF_VOC_2007 = 5  # 000005.jpg is the first training picture of VOC 2007
_FEW = 4  # largest number of pictures whose numbers may be consecutive by chance
_NO_THING = BACKGROUND_NAMES | {"other", "others", "none", "nothing", "rest", "unknown", "empty", "clutter"}


def find_assumed_names(dataset: Dataset, pairs: list[Pair], classes: ClassTable | None) -> Iterator[Finding]:
    """Yields a warning if published class names are assumed, but the pictures have other names than the published ones.

    Args:
        dataset: the dataset.
        pairs: its items, each once.
        classes: its class table, or None.
    """
    named = _PUBLISHED.get(dataset.layout)
    if named is None or classes is None or not any(ASSUMED in note for note in dataset.notes):
        return
    strange = [pair for pair in pairs if not named.fullmatch(pair.item.name)]
    if dataset.layout == "voc" and not _are_of_voc_2007([pair.item.name for pair in pairs]):
        strange = [pair for pair in pairs if pair in strange or pair.item.name.startswith("00")]
    if 2 * len(strange) > len(pairs):
        names = ", ".join(classes.names[:3])
        used = {int(label) for _, mask in masks_of(pairs) if mask.labels is not None for label in mask.labels}
        count = len([label for label in used if label < len(classes)])
        yield Finding(
            "assumed_names",
            f"The folders have the layout '{dataset.layout}', so its published classes ({names}, …) are assumed. But "
            f"the pictures are not named as the published ones, and their masks hold {count} of the {len(classes)} "
            "classes. If the classes are your own, name them in classes.yaml (`--write-classes` writes one to edit).",
            len(strange),
            tuple(shown(dataset, pair.item.image) for pair in strange[:SHOWN]),
        )


def _are_of_voc_2007(names: list[str]) -> bool:
    """Returns whether file names such as 000032 may be those of VOC 2007, in which 632 of 9,963 pictures have masks.

    Users often number their own pictures in the same form. But then the numbers start at 0 or 1, or have no gaps.
    """
    numbers = sorted(int(name) for name in names if re.fullmatch(r"00\d{4}", name))
    if not numbers:
        return True
    without_gaps = len(numbers) > _FEW and 2 * len(numbers) > numbers[-1] - numbers[0]
    return numbers[0] >= _FIRST_OF_VOC_2007 and not without_gaps


def find_unnamed_background(dataset: Dataset, pairs: list[Pair], classes: ClassTable | None) -> Iterator[Finding]:
    """Yields a warning if a list of class names has no background, and 0 in the masks may be the background.

    Args:
        dataset: the dataset.
        pairs: its items, each once.
        classes: its class table, or None.
    """
    if not _may_lack_background(dataset, classes) or classes is None:
        return
    found = {value for _, mask in masks_of(pairs) for value in mask.values if not mask.in_color}
    last = len(classes) - 1
    if 0 in found and last not in found and len(classes) > 1 and len(found - set(classes.ignore)) > 1:
        yield Finding(
            "unnamed_background",
            "The file that names the classes lists no background, so 0 in the masks is taken for "
            f"'{classes.names[0]}'. No mask holds {last}, '{classes.names[-1]}'. If 0 is the background, add "
            "'background' to the file as the first name.",
        )


def proposal_with_background(
    dataset: Dataset, proposal: Proposal, found: set[int], classes: ClassTable | None
) -> Proposal:
    """Returns a proposal with "background" as first class if the masks have one value more than there are names.

    Args:
        dataset: the dataset.
        proposal: the proposal to return in all other cases.
        found: the numbers in the masks.
        classes: the class table in use, or None.
    """
    if classes is None or not _may_lack_background(dataset, classes):
        return proposal
    count = len(classes)
    labels = found - set(classes.ignore)
    if 0 not in found or count not in labels or not labels <= set(range(count + 1)):
        return proposal
    table = ClassTable(
        ("background", *classes.names),
        default_colors(count + 1),
        tuple((index,) for index in range(count + 1)),
        classes.ignore,
    )
    reason = (
        f"The masks hold 0 to {count}, but the file that names the classes lists only {count} names and no background. "
        f"So 0 must be the background, and 1 must be '{classes.names[0]}'. Add 'background' to the file as the first "
        "name."
    )
    return replace(proposal, kind="unnamed_background", reason=reason, classes=table)


def _may_lack_background(dataset: Dataset, classes: ClassTable | None) -> bool:
    return (
        classes is not None
        and not classes.color_coded
        and any(IN_ORDER in note for note in dataset.notes)
        and not any(name.strip().lower() in _NO_THING for name in classes.names)
    )
