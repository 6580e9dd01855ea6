"""Examines a dataset: reads every picture and mask, and reports problems that affect training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from atrous.data.dataset import Dataset, Item
from atrous.data.doctor.antialiased_edges import blended_values
from atrous.data.doctor.channels import (
    find_channels_without_a_way,
    find_contradicting_names,
    find_mixed_channels,
    note_without_colors,
)
from atrous.data.doctor.class_names import find_assumed_names, find_unnamed_background, proposal_with_background
from atrous.data.doctor.exif_rotation import TurnedPair, find_turned, judge_turned
from atrous.data.doctor.files import find_doubtful_alpha, find_unread_parts, find_void
from atrous.data.doctor.inputs import find_input_problems
from atrous.data.doctor.judge import Finding, find_errors, find_warnings
from atrous.data.doctor.mask_values import (
    colors_by_palette,
    files_by_coding,
    find_blended_edges,
    find_differing_palettes,
    find_mixed_codings,
)
from atrous.data.doctor.propose_classes import Proposal, propose_classes, without_blends
from atrous.data.doctor.readiness import few_pictures, obstacles
from atrous.data.doctor.scan import Pair, masks_of, survey
from atrous.data.doctor.shared_between_splits import find_shared, propose_split
from atrous.data.doctor.taken_channels import TakenChannels, taken_channels
from atrous.data.doctor.volume_checks import find_volume_problems, slices_by_split
from atrous.data.doctor.volume_grids import find_wrong_contrasts, volume_notes
from atrous.data.doctor.volume_scan import survey_volumes
from atrous.data.doctor.volume_segments import proposal_of_segments
from atrous.data.file_headers import kinds_of
from atrous.data.layouts.pairing import NoClassesError
from atrous.data.mask_value_map import IGNORE_INDEX, UNKNOWN, ClassTable, Raw
from atrous.data.open_dataset import open_whole
from atrous.data.raster_items import with_windows
from atrous.data.volume_items import holds_volumes, input_of_slices
from atrous.errors import AtrousError
from atrous.input_spec import check_slices


@dataclass(frozen=True)
class Diagnosis:
    """The result of the examination of a dataset.

    Attributes:
        root: the dataset's folder.
        layout: its layout.
        notes: sentences about the layout and the split.
        classes: the class table in use, or None if the dataset has none.
        images: the number of pictures or of whole volumes per split.
        errors: problems that would stop training or make it useless.
        warnings: conditions that may be intended or may be mistakes.
        slices: for volumes, the number of slices per split that are pictures in training; empty for pictures.
        pixels: per split and class, the number of pixels with data, in the order of the class table. For volumes, the
            pixels of the slices of all planes are counted.
        ignored: per split, the number of pixels without a class or without data in the picture.
        proposed_classes: a class table that fits the values in the masks; None if the present table fits, or if no
            single table can be proposed.
        turned: pictures turned by their EXIF tag whose masks do not clearly fit them.
        proposed_split: the split that ``--write-split`` writes, for pictures that were divided at random. If groups,
            pictures of the same ground and near copies are already together, this is the present split; otherwise, it
            is a new split that keeps them together. Empty if lists or folders define the split.
        proposes_split: whether `proposed_split` differs from the split in use.
        taken: channels of the pictures that were examined.
    """

    root: Path
    layout: str
    notes: tuple[str, ...]
    classes: ClassTable | None
    images: Mapping[str, int]
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    pixels: Mapping[str, tuple[int, ...]]
    ignored: Mapping[str, int]
    proposed_classes: ClassTable | None
    turned: tuple[TurnedPair, ...] = ()
    slices: Mapping[str, int] = field(default_factory=dict)
    proposed_split: Mapping[str, tuple[Item, ...]] = field(default_factory=dict)
    proposes_split: bool = False
    taken: TakenChannels = field(default_factory=TakenChannels)

    def raise_for_errors(self) -> None:
        """Raises an error if the examination found errors.

        Raises:
            AtrousError: there are errors; the message contains each error and its first example.
        """
        if not self.errors:
            return
        lines = [
            f"- {finding.message}" + "".join(f"\n    {example}" for example in finding.examples[:1])
            for finding in self.errors
        ]
        raise AtrousError(
            f"{self.root}: the dataset has errors, so nothing was started.\n"
            + "\n".join(lines)
            + f"\nRun `atrous doctor {self.root}` for all of them and a proposed fix."
        )

    def as_json(self) -> dict[str, Any]:
        """Returns the diagnosis as values for JSON; the proposed class table is the text of its YAML file."""
        names = self.classes.names if self.classes else ()
        return {
            "root": str(self.root),
            "layout": self.layout,
            "notes": list(self.notes),
            "images": dict(self.images),
            **({"slices": dict(self.slices)} if self.slices else {}),
            "errors": [asdict(finding) for finding in self.errors],
            "warnings": [asdict(finding) for finding in self.warnings],
            "classes": [
                {"name": name, "pixels": {split: counts[index] for split, counts in self.pixels.items()}}
                for index, name in enumerate(names)
            ],
            "ignored": dict(self.ignored),
            "proposed_classes": self.proposed_classes.yaml_text() if self.proposed_classes else None,
            "proposed_split": {name: [item.name for item in items] for name, items in self.proposed_split.items()}
            if self.proposes_split
            else None,
        }


def examine(
    root: Path | str,
    layout: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    train: str = "train",
    val: str = "val",
    pages: str = "first",
    in_channels: int | None = None,
    inputs: Mapping[str, str] | None = None,
    groups: str | None = None,
    planes: Sequence[str] = (),
    slices: int | None = None,
    window: int | None = None,
) -> Diagnosis:
    """Reads every picture and mask of a dataset and reports its problems.

    Args:
        root: the dataset's folder.
        layout: as in `open_dataset`; None to guess it.
        progress: called after each pair with the number of pairs read and the total.
        train: the split to learn from.
        val: the split to choose the best weights on.
        pages: as in `read_pixels`.
        in_channels: number of channels that the model takes, ≥ 1; None for the number of channels of the training
            pictures.
        inputs: folders of further inputs by name, as in `open_dataset`.
        groups: as in `open_dataset`.
        planes: planes of the slices of volumes, as in `open_dataset`.
        slices: number of neighbouring slices that are channels, as in `open_dataset`.
        window: largest side of the windows of scenes, as in `open_dataset`.

    Returns:
        The diagnosis. A dataset without a class table is also examined, and a table is proposed if one fits.

    Raises:
        AtrousError: the folder is not a dataset, its lists or ``classes.yaml`` cannot be read, or ``planes`` or
            ``slices`` are not allowed.
    """
    check_slices(1 if slices is None else slices, planes)
    dataset, classes = open_to_examine(root, layout, groups, inputs, window)
    items = list({item.image: item for items in dataset.splits.values() for item in items}.values())
    if of_volumes := holds_volumes(dataset):
        dataset = replace(dataset, inputs=(input_of_slices(dataset, tuple(planes), slices),))
        pairs = survey_volumes(items, classes, progress)
        dataset = replace(dataset, notes=(*dataset.notes, *volume_notes(pairs)))
        kinds = {pair.item.image: pair.picture.kind for pair in pairs if pair.picture}
        taken = TakenChannels(taken_channels(dataset, kinds, train, val, None).channels)
    else:
        kinds = kinds_of((item.image for item in items), pages)
        taken = taken_channels(dataset, kinds, train, val, in_channels)
        pairs = survey(items, classes, progress, pages, taken)
    of_image = {pair.item.image: pair for pair in pairs}
    by_split = {name: [of_image[item.image] for item in part] for name, part in dataset.splits.items()}
    blended = _blended(pairs, classes)
    codings = files_by_coding(pairs)
    mixed = list(find_mixed_codings(dataset, codings, classes))
    palettes = list(find_differing_palettes(dataset, pairs))
    proposals = list(_proposals(pairs, classes, blended))
    found = {value for _, mask in masks_of(pairs) for value in mask.values if isinstance(value, int)}
    proposals = [proposal_with_background(dataset, proposal, found, classes) for proposal in proposals]
    if classes is None and (of_segments := proposal_of_segments(pairs)) is not None:
        proposals = [of_segments]
    if palettes:
        proposals = list(_proposal_by_palette(pairs, classes))
    if any(
        unknown for unknown, _ in mixed
    ):  # if palettes differ, the same table would mean different classes in different files
        proposals = [replace(proposal, classes=None) for proposal in proposals]
    own_planes = dataset.inputs[0].planes if of_volumes else ("",)
    pixels, ignored = _count_pixels(by_split, classes, len(own_planes))  # every voxel is in one slice of each plane
    images = {name: len(part) for name, part in by_split.items()}
    volume_errors, volume_warnings = find_volume_problems(dataset, pairs) if of_volumes else ([], [])
    if of_volumes:
        no_way = list(find_wrong_contrasts(dataset, pairs, dataset.inputs[0].slices, in_channels))
    else:
        no_way = list(find_channels_without_a_way(dataset, by_split, train, val, in_channels))
        no_way += find_contradicting_names(dataset, taken)
    input_errors, input_warnings = find_input_problems(dataset, pairs)
    errors = (
        *find_errors(dataset, pairs, classes, proposals),
        *find_blended_edges(dataset, pairs, blended),
        *(finding for unknown, finding in mixed if unknown),
        *palettes,
        *no_way,
        *volume_errors,
        *input_errors,
    )
    turned, shared = judge_turned(pairs), find_shared(dataset, by_split)
    to_write = _split_to_write(dataset, pairs, bool(shared))
    # if there are errors, missing labels are not reported in addition, because the errors may be the cause of the
    # missing labels
    unfit = list(obstacles(images, classes, {} if errors else pixels, train, val, dataset.nouns))
    return Diagnosis(
        root=dataset.root,
        layout=dataset.layout,
        notes=(*dataset.notes, *taken.notes, *note_without_colors(dataset, kinds, taken.channels)),
        classes=classes,
        images=images,
        errors=(*errors, *(Finding(kind, message) for kind, message in unfit)),
        warnings=(
            *find_warnings(dataset, by_split, classes, pixels),
            *(Finding(kind, message) for kind, message in few_pictures(images, val, dataset.nouns)),
            *shared,
            *(finding for unknown, finding in mixed if not unknown),
            *([] if no_way else find_mixed_channels(dataset, pairs)),
            *find_unread_parts(dataset, pairs, kinds, taken.by_position, pages),
            *find_void(dataset, pairs),
            *find_doubtful_alpha(dataset, pairs),
            *find_assumed_names(dataset, pairs, classes),
            *find_unnamed_background(dataset, pairs, classes),
            *find_turned(dataset, turned),
            *volume_warnings,
            *input_warnings,
        ),
        slices=slices_by_split(by_split, own_planes) if of_volumes else {},
        pixels=pixels,
        ignored=ignored,
        # if there are two proposals, one is for masks of numbers and one for masks of colours; neither fits all masks
        proposed_classes=proposals[0].classes if len(proposals) == 1 else None,
        turned=turned.doubtful,
        taken=taken,
        proposed_split=to_write,
        proposes_split=any(_images(items) != _images(dataset.splits.get(name, ())) for name, items in to_write.items()),
    )


def _split_to_write(dataset: Dataset, pairs: list[Pair], shared: bool) -> Mapping[str, tuple[Item, ...]]:
    """Returns the split that --write-split writes: a new split if splits share something, else the present split."""
    if shared and dataset.unlisted:
        return propose_split(dataset, pairs)
    own = {item.image for item in dataset.unlisted}
    return {name: items for name, items in dataset.splits.items() if any(item.image in own for item in items)}


def _images(items: Iterable[Item]) -> set[Path]:
    return {item.image for item in items}


def open_to_examine(
    root: Path | str,
    layout: str | None = None,
    groups: str | None = None,
    inputs: Mapping[str, str] | None = None,
    window: int | None = None,
) -> tuple[Dataset, ClassTable | None]:
    """Opens a dataset, with or without a class table; each whole volume and each window of a scene is one item.

    Args:
        root: the dataset's folder.
        layout: as in `open_dataset`; None to guess it.
        groups: as in `open_dataset`.
        inputs: as in `open_dataset`.
        window: as in `open_dataset`.

    Returns:
        The dataset and its class table. If the dataset has no class table, the second value is None, and
        ``Dataset.classes`` is only a placeholder.

    Raises:
        AtrousError: the folder is not a dataset, or its lists or ``classes.yaml`` cannot be read.
    """
    try:
        dataset = with_windows(open_whole(root, layout, groups=groups, inputs=inputs), window)
        return dataset, dataset.classes
    except NoClassesError as error:
        stand_in = ClassTable(("unknown",), ((0, 0, 0),), ((0,),))
        dataset = open_whole(root, layout, classes=stand_in, groups=groups, inputs=inputs)
        return with_windows(replace(dataset, notes=(*dataset.notes, *error.notes)), window), None


def _blended(pairs: list[Pair], classes: ClassTable | None) -> set[Raw]:
    """Returns the values that are blends at edges, in masks of numbers and in masks of colours."""
    found: set[Raw] = set()
    known = {value for values in (*classes.raw, classes.ignore) for value in values} if classes else set()
    for in_color in (False, True):
        pixels, inside, between = Counter[Raw](), Counter[Raw](), Counter[Raw]()
        for _, mask in masks_of(pairs):
            if mask.in_color == in_color and not mask.lossy:
                for total, part in ((pixels, mask.counts), (inside, mask.inside), (between, mask.between)):
                    total.update(dict(zip(mask.values, part.tolist(), strict=True)))
        found |= blended_values(pixels, inside, between, known)
    return found


def _proposal_by_palette(pairs: list[Pair], classes: ClassTable | None) -> Iterator[Proposal]:
    """Yields a class table that lists the colours of the palettes, if one is needed."""
    proposal = propose_classes(colors_by_palette([mask for _, mask in masks_of(pairs)]), classes)
    if proposal:
        yield replace(proposal, kind="palettes_differ")


def _proposals(pairs: list[Pair], classes: ClassTable | None, blended: set[Raw]) -> Iterator[Proposal]:
    """Yields at most one proposal for the masks of numbers and one for the masks of colours."""
    for in_color in (False, True):
        masks = [mask for _, mask in masks_of(pairs) if mask.in_color == in_color]
        lossless = [mask for mask in masks if not mask.lossy]
        pixels: Counter[Raw] = Counter()
        for mask in lossless or masks:
            pixels.update(dict(zip(mask.values, mask.counts.tolist(), strict=True)))
        if blended & pixels.keys():
            proposal = without_blends(pixels, blended & pixels.keys(), classes)
        else:
            proposal = propose_classes(pixels, classes)
        # if all masks are lossy, only a threshold can be proposed, never a list of values
        if proposal and (lossless or proposal.kind == "smeared_mask"):
            yield proposal


def _count_pixels(
    by_split: Mapping[str, list[Pair]], classes: ClassTable | None, planes: int
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Returns the number of pixels of each class and of ignored pixels, by split; each pixel counts once per plane."""
    pixels, ignored = {}, {}
    for split, pairs in by_split.items() if classes is not None else ():
        counts = np.zeros(UNKNOWN + 1, dtype=np.int64)
        for _, mask in masks_of(pairs):
            if mask.labels is not None:
                np.add.at(counts, mask.labels, mask.seen)
                counts[IGNORE_INDEX] += int((mask.counts - mask.seen).sum())
        counts *= planes
        pixels[split] = tuple(counts[: len(classes)].tolist()) if classes else ()
        ignored[split] = int(counts[IGNORE_INDEX])
    return pixels, ignored
