"""Checks of a dataset, one function per kind of problem; the checks use the facts that `survey` collects."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from atrous.data.dataset import Dataset, check_sizes
from atrous.data.doctor.propose_classes import Proposal
from atrous.data.doctor.scan import MaskFacts, Pair, masks_of
from atrous.data.file_of_picture import file_of_picture
from atrous.data.mask_value_map import IGNORE_INDEX, ClassTable, Raw
from atrous.data.pictures import NO_NUMBER
from atrous.data.rasters.scene_windows import window_place
from atrous.data.volumes.contrast_files import exists
from atrous.errors import AtrousError

#: Largest number of examples per finding.
SHOWN = 5
_RARE = 0.01  # a class is rare if it has a smaller share of the labelled train pixels than this


@dataclass(frozen=True)
class Finding:
    """One kind of problem, with the number of places where it was found.

    Attributes:
        kind: a short name, such as "size_mismatch".
        message: sentences about what is wrong and what to do.
        count: number of files or places with the problem.
        examples: the first places, at most `SHOWN` of them, each with the file and, if applicable, the value and the
            pixel.
    """

    kind: str
    message: str
    count: int = 1
    examples: tuple[str, ...] = ()


def find_errors(
    dataset: Dataset, pairs: list[Pair], classes: ClassTable | None, proposals: list[Proposal]
) -> tuple[Finding, ...]:
    """Returns problems that would stop training or make it useless.

    Args:
        dataset: the dataset.
        pairs: its items, each once.
        classes: its class table, or None.
        proposals: proposed class tables, at most one for masks of numbers and one for masks of colours.
    """
    return (
        *_missing(dataset, pairs),
        *_unreadable(dataset, pairs),
        *_wrong_sizes(dataset, pairs),
        *_mixed_depths(dataset, pairs),
        *_wrong_modes(dataset, pairs, classes, proposals),
        *_lossy(dataset, pairs),
        *_wrong_values(dataset, pairs, classes, proposals),
    )


def find_warnings(
    dataset: Dataset,
    by_split: Mapping[str, list[Pair]],
    classes: ClassTable | None,
    pixels: Mapping[str, tuple[int, ...]],
) -> tuple[Finding, ...]:
    """Returns conditions that may be intended or may be mistakes.

    Args:
        dataset: the dataset.
        by_split: the pairs of each split.
        classes: its class table, or None.
        pixels: per split, the number of pixels of each class.
    """
    pairs = list({pair.item: pair for part in by_split.values() for pair in part}.values())
    return (
        *_lossy_but_clean(dataset, pairs),
        *_doubtful_255(dataset, pairs, classes),
        *_void_labels(dataset, pairs),
        *_all_ignored(dataset, pairs),
        *_empty_classes(pixels, classes),
        *_imbalance(pixels, classes),
    )


def _missing(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    noun = dataset.file_noun.capitalize()
    without_mask = [pair.item for pair in pairs if pair.item.mask is None and exists(file_of_picture(pair.item.image))]
    yield from _grouped(
        "missing_mask",
        f"{noun}s without a mask. Add masks with the file names of their {dataset.file_noun}s, or remove the "
        f"{dataset.file_noun}s.",
        list(dict.fromkeys(shown(dataset, file_of_picture(item.image)) for item in without_mask)),
    )
    absent = [pair.item for pair in pairs if not exists(file_of_picture(pair.item.image))]
    named = [
        f"{shown(dataset, item.image)} (in {_relative(dataset, item.listed) or 'a split list'})" for item in absent
    ]
    orphans = [shown(dataset, path) for path in dataset.masks_without_image]
    yield from _grouped(
        "missing_image",
        f"{noun}s that a split list names, or that a mask belongs to, are missing. Add them, or remove their names "
        "from the lists and remove their masks.",
        list(dict.fromkeys([*named, *orphans])),
    )


def _unreadable(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    yield from _grouped(
        "unreadable",
        "Files that cannot be read; the reason is given for each. If a file is damaged, cut short or empty, copy it "
        "again, or remove it.",
        list(dict.fromkeys(_of_file(_relative(dataset, problem)) for pair in pairs for problem in pair.problems)),
    )


def _wrong_sizes(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    examples = []
    for pair in pairs:
        if pair.picture and pair.mask and pair.volume is None:  # volumes are compared by their grids
            try:
                check_sizes(pair.item, pair.picture.size, pair.mask.size)
            except AtrousError as error:
                examples.append(_relative(dataset, str(error)))
    yield from _grouped(
        "size_mismatch", "Masks that differ in size from their pictures, so their pixels do not match.", examples
    )


def _void_labels(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    declared = [(pair, mask.nodata) for pair, mask in masks_of(pairs) if mask.nodata is not None and pair.item.mask]
    yield from _grouped(
        "void_labels",
        "Masks hold values that mean no data and that no class lists: the nodata value of the file, -9999 or -32768. "
        "These values are ignored in training and scores. If such a value means a class, list it in classes.yaml.",
        [f"{shown(dataset, pair.item.mask)}: {value}" for pair, value in declared if value != NO_NUMBER],
    )
    yield from _grouped(
        "void_labels",
        "Float masks hold NaN or infinite values. They are ignored in training and scores. If they mean a class, "
        "replace them in the masks by an unused number, for example with numpy.nan_to_num(mask, nan=5), and list this "
        "number for the class in classes.yaml, for example as raw: [5].",
        [shown(dataset, pair.item.mask) for pair, value in declared if value == NO_NUMBER],
    )


def _mixed_depths(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    first = {pair.picture.dtype: pair.item.image for pair in reversed(pairs) if pair.picture}
    if len(first) > 1:
        yield Finding(
            "mixed_depths",
            f"The pictures have different data types, {' and '.join(sorted(first))}, so the same brightness is stored "
            "as different numbers. Convert the pictures to one type.",
            len(first),
            tuple(f"{dtype}: {shown(dataset, path)}" for dtype, path in sorted(first.items())),
        )


def _wrong_modes(
    dataset: Dataset, pairs: list[Pair], classes: ClassTable | None, proposals: list[Proposal]
) -> Iterator[Finding]:
    masks = [pair for pair in pairs if pair.mask]
    in_color = [pair for pair in masks if pair.mask and pair.mask.in_color]
    wrong, message = in_color, ""
    if classes is not None and classes.color_coded:
        wrong = [pair for pair in masks if pair.mask and not pair.mask.in_color]
        message = "Masks hold one number per pixel, but the class table lists [r, g, b] colours."
    elif classes is not None:
        message = "Masks hold colours, but the class table lists numbers."
    elif 0 < len(in_color) < len(masks):
        message = "Some masks hold colours, and others hold one number per pixel. All masks need the same coding."
    if message:
        cure = "" if len(proposals) != 1 else " The proposed class table fits the masks."
        yield from _grouped("wrong_mode", message + cure, [_mode_example(dataset, pair) for pair in wrong])


def _lossy(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    examples = []
    for pair, mask in masks_of(pairs):
        if mask.lossy and (mask.unknown or mask.labels is None):
            known_by_name = mask.labels is not None
            strays = mask.unknown if known_by_name else mask.distinct
            what = "pixels with stray values" if known_by_name else "different values"
            place = "".join(f", first at {_at(mask, value)}" for value in list(mask.places)[:1])
            examples.append(f"{shown(dataset, pair.item.mask)}: {strays} {what}{place}")
    yield from _grouped(
        "lossy_mask",
        "The content of these mask files is JPEG or lossy WebP, regardless of their names, and lossy compression "
        "changes the values. Export the masks again as PNG; the lost values cannot be restored from these files.",
        examples,
    )


def _lossy_but_clean(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    clean = [
        shown(dataset, pair.item.mask)
        for pair, mask in masks_of(pairs)
        if mask.lossy and mask.labels is not None and not mask.unknown
    ]
    yield from _grouped(
        "lossy_mask",
        "Masks are stored with lossy compression (JPEG or lossy WebP). The class table lists all their values, but "
        "edges may have moved. Export the masks as PNG.",
        clean,
    )


def _wrong_values(
    dataset: Dataset, pairs: list[Pair], classes: ClassTable | None, proposals: list[Proposal]
) -> Iterator[Finding]:
    if classes is None:
        message = ["There is no classes.yaml that defines what the values in the masks mean."]
        if len(proposals) == 1 and proposals[0].classes:
            message += [proposals[0].reason, "`--write-classes` writes the proposed table."]
        elif proposals:
            message += [proposal.facts for proposal in proposals]
            message.append("No class table is proposed, because none fits all masks.")
        yield Finding("no_classes", " ".join(message))
        return
    for proposal in proposals:
        if proposal.kind in ("wrong_mode", "blended_edges", "palettes_differ"):
            continue  # reported elsewhere
        fits = proposal.classes is not None and len(proposals) == 1
        message = f"{proposal.reason} The proposed class table fits the masks." if fits else proposal.facts
        examples = [
            f"{shown(dataset, pair.item.mask)}: value {value} in {_count(mask, value)} {dataset.nouns[1]}s, "
            f"first at {_at(mask, value)}"
            for pair, mask in masks_of(pairs)
            if not mask.lossy
            for value in mask.places
        ]
        if proposal.kind == "foreground_is_255" and not examples:  # 255 is in the table, as ignore
            examples = [shown(dataset, pair.item.mask) for pair, mask in masks_of(pairs) if 255 in mask.values]
        yield from _grouped(proposal.kind, message, examples or ["all masks"])


def _doubtful_255(dataset: Dataset, pairs: list[Pair], classes: ClassTable | None) -> Iterator[Finding]:
    """Yields a warning of masks with only 0 and 255 if other masks of a dataset of two classes hold class 1."""
    if classes is None or classes.color_coded or len(classes) != 2 or 255 not in classes.ignore:
        return
    odd = [shown(dataset, pair.item.mask) for pair, mask in masks_of(pairs) if mask.values == (0, 255)]
    if any(mask.labels is not None and 1 in mask.labels for _, mask in masks_of(pairs)):
        yield from _grouped(
            "foreground_is_255",
            f"Some masks hold only 0 and 255, while others hold '{classes.names[1]}'. 255 is ignored. If 255 is the "
            "foreground in these masks, write the foreground with the same value as in the other masks.",
            odd,
        )


def _all_ignored(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    empty = [
        shown(dataset, pair.item.mask)
        for pair, mask in masks_of(pairs)
        if mask.labels is not None
        and mask.size
        and not ((mask.labels != IGNORE_INDEX) & (mask.seen > 0)).any()
        and not (pair.picture and pair.picture.void == 1)  # reported as all_void
    ]
    yield from _grouped(
        "all_ignore",
        f"Masks without a {dataset.nouns[1]} that has a class and lies where the {dataset.nouns[0]} holds data. These "
        "masks have no effect.",
        empty,
    )


def _empty_classes(pixels: Mapping[str, tuple[int, ...]], classes: ClassTable | None) -> Iterator[Finding]:
    for split in ("train", "val"):
        if classes is not None and any(pixels.get(split, ())):
            empty = [name for name, count in zip(classes.names, pixels[split], strict=True) if not count]
            effect = "they cannot be learned" if split == "train" else "their scores cannot be measured"
            yield from _grouped("empty_class", f"Classes that never occur in {split}; {effect}.", empty)


def _imbalance(pixels: Mapping[str, tuple[int, ...]], classes: ClassTable | None) -> Iterator[Finding]:
    counts = pixels.get("train", ())
    if classes is None or not any(counts):
        return
    shares = {name: count / sum(counts) for name, count in zip(classes.names, counts, strict=True) if count}
    rare = sorted((share, name) for name, share in shares.items() if share < _RARE)
    if rare:
        share, name = max((share, name) for name, share in shares.items())
        yield from _grouped(
            "imbalance",
            f"Rare classes, each under {_RARE:.0%} of the labelled train pixels ('{name}' has {share:.0%}). "
            "Class weights or crops around them help.",
            [f"{name}: {share:.2%}" for share, name in rare],
        )


def _grouped(kind: str, message: str, examples: list[str]) -> Iterator[Finding]:
    if examples:
        yield Finding(kind, message, len(examples), tuple(examples[:SHOWN]))


def _at(mask: MaskFacts, value: Raw) -> str:
    return at_pixel(mask.places[value])


def at_pixel(place: Sequence[int]) -> str:
    """Returns a place in a mask as words for a message.

    Args:
        place: (x, y), or (x, y, axial slice) in a volume.
    """
    x, y, *slices = place
    return f"pixel x={x}, y={y}" + "".join(f" of the axial slice {index}" for index in slices)


def _count(mask: MaskFacts, value: Raw) -> int:
    return int(mask.counts[mask.values.index(value)])


def _mode_example(dataset: Dataset, pair: Pair) -> str:
    values = ", ".join(str(value) for value in (pair.mask.values[:3] if pair.mask else ()))
    return f"{shown(dataset, pair.item.mask)}: holds {values}, …"


def shown(dataset: Dataset, path: Path | None) -> str:
    """Returns a file's path relative to the folder of the dataset; a path without a folder and a suffix begins with ./.

    For a window, the result is the path of the scene and the position of the window in it. Without ./, the name of a
    DICOM folder, such as 7, could be read as an ordinary word or number of the message.

    Args:
        dataset: the dataset.
        path: path of the file.
    """
    place = None if path is None else window_place(path)
    if place is not None:
        top, left, height, width = place.window
        return f"{shown(dataset, place.file)} (window of {width}×{height} pixels at x={left}, y={top})"
    text = _relative(dataset, str(path))
    return text if os.sep in text or Path(text).suffix else f".{os.sep}{text}"


def _of_file(text: str) -> str:
    """Returns a message on a window as a message on its file, because a damaged file has problems in all windows."""
    return re.sub(r"[/\\]window[/\\]\d+_\d+_\d+_\d+\b", "", text)


def _relative(dataset: Dataset, text: str) -> str:
    return text.replace(f"{dataset.root}{os.sep}", "")
