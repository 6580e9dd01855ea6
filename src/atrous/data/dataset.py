"""A dataset: which pictures belong to which masks and splits, whatever layout its folder has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from atrous.arguments import checked, checked_fields
from atrous.data.groups import find_groups
from atrous.data.input_files import (
    INPUTS_FILE,
    PICTURES_ALONE,
    FilesBeside,
    InputFiles,
    read_input_files,
    with_folders,
)
from atrous.data.label_exports import label_export_told
from atrous.data.labels import IGNORE_INDEX, ClassTable, Color
from atrous.data.made_split import seeded_split
from atrous.data.mask_names import single_labels_note
from atrous.data.palettes import as_colors, palettes_differ
from atrous.data.passed_over import passed_over_notes
from atrous.data.pictures import PICTURE_SUFFIXES, exif_orientation, read_mask
from atrous.data.sample import Sample
from atrous.data.sources.scene import read_picture_pixels, read_scene
from atrous.data.sources.source import Pixels
from atrous.data.split_names import canonical_split
from atrous.data.unread_folders import unread_folder_notes
from atrous.errors import AtrousError, shown, unknown_name
from atrous.inputs import Input

CLASSES_FILE = "classes.yaml"


class NoClassesError(AtrousError):
    """The dataset does not say what the values in its masks mean.

    Attributes:
        notes: sentences about files that might and do not.
    """

    def __init__(self, message: str, notes: Iterable[str] = ()) -> None:
        self.notes = tuple(notes)
        super().__init__(" ".join([message, *self.notes]))


class NoPicturesError(AtrousError):
    """A folder that should hold pictures or masks is missing or holds none."""


@dataclass(frozen=True)
class Item:
    """One picture of a dataset and its mask.

    Attributes:
        name: the file name without suffix.
        image: the picture; a path that does not exist where a split list names a picture that is not there.
        mask: the mask, or None where there is none.
        listed: of a picture that is not there the split list that names it, and the line; else "".
        more: files of further inputs of the same scene, such as its depth, in the order of the dataset's inputs.
        group: what the picture was taken from, such as a patient, scene, clip or recording; pictures of one group
            resemble each other, and belong into one split. None where that is not known.
    """

    name: str
    image: Path
    mask: Path | None
    listed: str = field(default="", compare=False)
    more: tuple[Path, ...] = ()
    group: str | None = None


@checked_fields
@dataclass(frozen=True)
class Dataset:
    """Pictures and masks by split, and the table that gives the masks their meaning.

    Attributes:
        root: the folder.
        layout: its name: folder, split_folders, side_by_side, camvid, voc, cityscapes, ade20k, coco_stuff or nnunet.
        classes: what the raw values in the masks mean.
        splits: the items of each split, by name ("train", "val", "test", …).
        notes: sentences to tell the user, such as the guessed layout and a made-up split.
        masks_without_image: masks whose picture is missing.
        channels: C that a model takes of the pictures; None for all bands that are no alpha.
        pages: of TIFFs with several, "first" or "channels".
        inputs: where the files of each input are, the pictures first; items hold those of the others in `more`.
        taken: what a model takes, of which `read` gives all; None for the pictures alone.
        unlisted: items whose split a seed made, because no list or folder tells it.
        groups_from: who tells the groups of the items: "file" for a groups.csv, "pattern" for one that was given,
            "layout", or "" where they have none.
    """

    root: Path
    layout: str
    classes: ClassTable
    splits: Mapping[str, tuple[Item, ...]]
    notes: tuple[str, ...] = ()
    masks_without_image: tuple[Path, ...] = field(default=(), repr=False)
    channels: int | None = None
    pages: str = "first"
    inputs: tuple[InputFiles, ...] = PICTURES_ALONE
    taken: tuple[Input, ...] | None = None
    unlisted: tuple[Item, ...] = field(default=(), repr=False)
    groups_from: str = ""
    _palette_seen: dict[int, tuple[Color, Path]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.classes, ClassTable):
            raise AtrousError(f"a dataset's classes are a ClassTable, got {shown(self.classes)}.")
        for name, items in self.splits.items():
            if not isinstance(items, tuple | list) or not all(isinstance(item, Item) for item in items):
                raise AtrousError(f"a dataset's splits are tuples of Items by name, got {shown(items)} for {name!r}.")

    @checked
    def split(self, name: str) -> tuple[Item, ...]:
        """The items of one split.

        Raises:
            AtrousError: there is no such split; the message lists those there are.
        """
        name = name if name in self.splits else canonical_split(name)
        if name not in self.splits:
            raise unknown_name(f"split of {self.root}", name, self.splits)
        return self.splits[name]

    @checked
    def taking(self, channels: int | None, pages: str = "first") -> Dataset:
        """The same dataset, whose pictures are read as a model takes them.

        Args:
            channels: C that the model takes, see `StoredPixels.for_model`; None for all bands that are no alpha.
            pages: as in `read_pixels`.
        """
        return replace(self, channels=channels, pages=pages)

    @checked
    def taking_inputs(self, inputs: Sequence[Input]) -> Dataset:
        """The same dataset, of which all inputs are read that a model takes.

        Args:
            inputs: of the model, as `Preprocessing.inputs`.

        Raises:
            AtrousError: the dataset has no files of one of them.
        """
        known = [one.name for one in self.inputs]
        for one in inputs:
            if one.name not in known:
                raise AtrousError(
                    f"{self.root}: the model takes the inputs {', '.join(other.name for other in inputs)}, and the "
                    f"dataset has {', '.join(known)}. Say where the files of {one.name} are: "
                    f"--input {one.name}=FOLDER, or in {INPUTS_FILE}."
                )
        image = inputs[0]
        return replace(self, channels=image.channels, pages=image.pages, taken=tuple(inputs))

    @checked
    def read(self, item: Item) -> Sample:
        """Read a picture and its mask.

        Args:
            item: one of this dataset's.

        Returns:
            A sample with image H×W×C, 0 where there is no data, and label H×W of class indices, 255 there.

        Raises:
            AtrousError: a file is missing or damaged, the sizes differ, or the mask holds unknown values.
        """
        if not isinstance(item, Item):
            raise AtrousError(f"an Item is needed, such as dataset.split('train')[0], got {shown(item)}.")
        if item.listed and not item.image.exists():
            mask = "" if item.mask else " and no mask of it"
            raise AtrousError(
                f"{item.image}: there is no such picture{mask}; {item.listed}, names it. Add it, or take it out of the "
                "list."
            )
        if item.mask is None:
            raise AtrousError(f"{item.image}: the picture has no mask; `atrous doctor {self.root}` lists them.")
        image, valid, doubtful = self.read_image(item)
        label = self.read_label(item.mask)
        check_sizes(item, image.shape[:2], label.shape)
        if valid is not None:
            label = np.where(valid, label, np.uint8(IGNORE_INDEX))
        return Sample(image, label, item.name, valid, doubtful)

    @checked
    def read_image(self, item: Item) -> Pixels:
        """Read what a model sees of an item: its picture, and the further inputs that `taking_inputs` asked for.

        Args:
            item: one of this dataset's.

        Returns:
            H×W×C, joined along the channels where there are several inputs, and where there are data.

        Raises:
            AtrousError: a file is missing or damaged, or inputs differ in size.
        """
        if self.taken is not None:
            return read_scene([self.file_of(item, one.name) for one in self.taken], self.taken)
        return read_picture_pixels(item.image, self.channels, self.pages)

    def scene(self, item: Item) -> Path | dict[str, Path]:
        """The files of an item that a model takes, as a `Segmenter` takes them: of several inputs a dict by name.

        Args:
            item: one of this dataset's.
        """
        if self.taken is None or len(self.taken) == 1:
            return item.image
        return {one.name: self.file_of(item, one.name) for one in self.taken}

    def file_of(self, item: Item, name: str) -> Path:
        """The file of an item's input.

        Args:
            item: one of this dataset's.
            name: of the input, one of the dataset's.
        """
        index = [one.name for one in self.inputs].index(name)
        return (item.image, *item.more)[index]

    @checked
    def read_label(self, mask: Path) -> np.ndarray:
        """Read a mask as labels.

        Returns:
            H×W ``uint8`` of class indices, 255 = ignore.

        Raises:
            AtrousError: the file is missing or damaged, holds unknown values, or is one of palettes that differ.
        """
        raw_mask, nodata = self._raw_mask(mask)
        try:
            return self.classes.encode(raw_mask, nodata)
        except AtrousError as error:
            raise AtrousError(f"{mask}: {error}") from error

    def _raw_mask(self, path: Path) -> tuple[np.ndarray, int | None]:
        """A mask's values, or its palette's colours where the table lists colours; and its nodata value.

        Raises:
            AtrousError: the file is missing or damaged, or an index has another colour than in a mask read before.
        """
        raw_mask, palette, nodata, *_ = read_mask(path)
        if palette is None or raw_mask.ndim == 3:
            return raw_mask, nodata
        if self.classes.color_coded:
            return as_colors(raw_mask, palette), None
        for index in np.flatnonzero(np.bincount(raw_mask.ravel(), minlength=256)).tolist():
            color = palette[index] if index < len(palette) else (0, 0, 0)
            first_color, first_path = self._palette_seen.setdefault(index, (color, path))
            if color != first_color:
                raise AtrousError(palettes_differ(index, first_color, str(first_path), color, str(path)))
        return raw_mask, nodata


@checked
def open_dataset(
    root: Path | str,
    layout: str | None = None,
    classes: ClassTable | None = None,
    groups: str | None = None,
    *,
    inputs: Mapping[str, str] | None = None,
) -> Dataset:
    """Find the pictures, masks, splits, groups and classes in a folder; no picture is read yet.

    Args:
        root: the dataset's folder.
        layout: folder, split_folders, side_by_side, camvid, voc, cityscapes, ade20k, coco_stuff or nnunet; None to
            guess it, which the dataset's notes then say.
        classes: the class table to use instead of the dataset's own.
        groups: regular expression with one group, searched in the names of pictures: what it finds is their group.
            None for the groups that a groups.csv or the layout tells.
        inputs: folders of further inputs by name, such as {"depth": "depth/"}, beside those of the dataset's
            inputs.yaml; files belong to the picture of the same stem.

    Raises:
        AtrousError: there is no such folder or layout, the folder has no known layout, or it says nothing
            about its classes (``NoClassesError``), or one of its folders may not be read, or its groups.csv or the
            pattern of groups is wrong.
    """
    try:
        return _opened(Path(root), layout, classes, groups, inputs or {})
    except PermissionError as error:
        raise AtrousError(
            f"{error.filename or root}: this folder of the dataset may not be read by you ({error.strerror}). Change "
            "its permissions."
        ) from error


def _with_inputs(dataset: Dataset, folders: Mapping[str, str]) -> Dataset:
    """The dataset, whose items know the files of their further inputs."""
    inputs = with_folders(read_input_files(dataset.root), folders)
    if len(inputs) == 1:
        return replace(dataset, inputs=inputs)
    finders = [FilesBeside(one, dataset.root) for one in inputs[1:]]

    def with_files(items: Iterable[Item]) -> tuple[Item, ...]:
        return tuple(replace(item, more=tuple(finder.of(item.image) for finder in finders)) for item in items)

    splits = {name: with_files(items) for name, items in dataset.splits.items()}
    return replace(dataset, inputs=inputs, splits=splits, unlisted=with_files(dataset.unlisted))


def _opened(
    root: Path, layout: str | None, classes: ClassTable | None, groups: str | None, inputs: Mapping[str, str]
) -> Dataset:
    # The layouts are written in terms of this file, so they can only be imported once it is complete.
    from atrous.data.layouts import LAYOUTS

    if classes is not None and not isinstance(classes, ClassTable):
        raise AtrousError(f"classes must be a ClassTable, such as ClassTable.from_yaml reads, got {shown(classes)}.")
    if not root.is_dir():
        raise AtrousError(f"{root}: no such folder. Give the folder that holds the dataset.")
    if layout is not None and layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    name = layout or next((name for name, known in LAYOUTS.items() if known.looks_like(root)), None)
    if name is None:
        found = ", ".join(sorted(f"{path.name}/" for path in root.iterdir() if path.is_dir())) or "no folders"
        pngs = (path for pattern in ("*.png", "*/*.png") for path in sorted(root.glob(pattern)))
        if told := single_labels_note(pngs) or label_export_told(root):
            raise AtrousError(told)
        marks = ", ".join(f"'{name}' has {known.mark}" for name, known in LAYOUTS.items())
        raise AtrousError(
            f"{root}: no known dataset layout; it holds {found}. {marks}. "
            "Rename the folders, or give the folder one level up or down."
        )
    try:
        dataset = LAYOUTS[name].read(root, classes)
    except NoPicturesError as error:
        if told := label_export_told(root):
            raise AtrousError(told) from error
        raise
    dataset = _with_inputs(_grouped(dataset, groups, root), inputs)
    guessed = () if layout else (f"The folder looks like the layout '{name}'; --layout forces another.",)
    paths = (path for items in dataset.splits.values() for item in items for path in (item.image, item.mask))
    folders = list(dict.fromkeys(path.parent for path in paths if path is not None))
    beside = {path.parent for items in dataset.splits.values() for item in items for path in item.more}
    used = [*folders, *beside, *(path.parent for path in dataset.masks_without_image)]
    notes = (*guessed, *dataset.notes, *passed_over_notes(folders))
    return replace(dataset, notes=(*notes, *unread_folder_notes(root, used, notes)))


def _grouped(dataset: Dataset, pattern: str | None, root: Path) -> Dataset:
    """The dataset with the group of each item; a split that a seed made is made again of the groups that are told."""
    there = {item.image: item.name for items in dataset.splits.values() for item in items if not item.listed}
    groups = find_groups(there, dataset.root, dataset.layout, pattern, above=root)
    notes = (*dataset.notes, *groups.notes)
    if not groups.source:
        return replace(dataset, notes=notes)

    def with_groups(items: Iterable[Item]) -> tuple[Item, ...]:
        return tuple(replace(item, group=groups.of.get(item.image)) for item in items)

    splits = {name: with_groups(items) for name, items in dataset.splits.items()}
    unlisted = with_groups(dataset.unlisted)
    if unlisted and groups.source != "layout":
        own = {item.image for item in unlisted}
        told = {name: items for name, items in splits.items() if not any(item.image in own for item in items)}
        parts, note = seeded_split(unlisted)
        if "test" in parts and "test" in told:
            parts["train"] += parts["test"]
        splits = {**parts, **told}
        _, before = seeded_split(dataset.unlisted)
        notes = tuple(note if said == before else said for said in notes)
    return replace(dataset, splits=splits, notes=notes, unlisted=unlisted, groups_from=groups.source)


def classes_of(root: Path, given: ClassTable | None, default: ClassTable | None = None) -> ClassTable:
    """The class table of a dataset: the given one, else its ``classes.yaml``, else its layout's.

    Raises:
        NoClassesError: there is none of the three.
        AtrousError: the ``classes.yaml`` is wrong.
    """
    if given is not None:
        return given
    path = root / CLASSES_FILE
    if path.exists():
        return ClassTable.from_yaml(path)
    if default is not None:
        return default
    raise NoClassesError(
        f"{root}: there is no {CLASSES_FILE} to say what the values in the masks mean. "
        f"`atrous doctor {root} --write-classes` writes one from the values it finds."
    )


def pictures_in(folder: Path) -> dict[str, Path]:
    """The picture files of a folder by stem, sorted.

    Raises:
        NoPicturesError: the folder is missing or holds no pictures.
        AtrousError: two files share a stem.
    """
    found: dict[str, Path] = {}
    for path in picture_files(folder):
        if path.stem in found:
            raise AtrousError(
                f"{folder}: '{found[path.stem].name}' and '{path.name}' share the name '{path.stem}', by "
                "which pictures and masks are matched; rename or remove one."
            )
        found[path.stem] = path
    if not found:
        passed_over = "".join(f" {sentence}" for sentence in passed_over_notes([folder]))
        raise NoPicturesError(
            f"{folder}: no pictures; files end in {', '.join(sorted(PICTURE_SUFFIXES))}.{passed_over}"
        )
    return found


def picture_files(folder: Path) -> list[Path]:
    """The picture files of a folder, sorted.

    Raises:
        NoPicturesError: there is no such folder.
    """
    if not folder.is_dir():
        raise NoPicturesError(f"{folder}: no such folder.")
    with os.scandir(folder) as entries:  # which knows folders without asking for each
        files = (folder / entry.name for entry in entries if not (entry.name.startswith(".") or entry.is_dir()))
        return sorted(path for path in files if path.suffix.lower() in PICTURE_SUFFIXES)


def paired(images: Mapping[str, Path], masks: Mapping[str, Path]) -> tuple[Item, ...]:
    """One item per image, with its mask or None."""
    return tuple(Item(name, image, masks.get(name)) for name, image in images.items())


def paired_splits(
    images: Mapping[str, Mapping[str, Path]], masks: Mapping[str, Mapping[str, Path]]
) -> tuple[dict[str, tuple[Item, ...]], tuple[Path, ...]]:
    """The items of each split of ``images``, and the masks of those splits that have no picture.

    Args:
        images: the pictures of each split by stem.
        masks: the masks of each of these splits by the stem of their picture.
    """
    splits = {name: paired(images[name], masks[name]) for name in images}
    orphans = (path for name in images for stem, path in masks[name].items() if stem not in images[name])
    return splits, tuple(orphans)


def without_ending(files: Mapping[str, Path], ending: str) -> dict[str, Path]:
    """The files whose stem ends in ``ending``, by the part of the stem before it."""
    return {stem.removesuffix(ending): path for stem, path in files.items() if stem.endswith(ending)}


def fullest(kinds: Mapping[str, Mapping[str, Mapping[str, Path]]], folder: Path) -> tuple[str, str]:
    """Of several kinds of masks, told apart by the ending of their names, the one with most files; else the first.

    Args:
        kinds: by ending the masks of each split by the stem of their picture.
        folder: where they are.

    Returns:
        The ending, and a sentence that tells which masks are read.

    Raises:
        AtrousError: there is no mask of any kind.
    """
    counts = {ending: sum(map(len, splits.values())) for ending, splits in kinds.items()}
    chosen = max(counts, key=lambda ending: counts[ending])  # the first of equals
    if not counts[chosen]:
        raise AtrousError(f"{folder}: there are no masks; their names end in {' or '.join(f'{e}.png' for e in kinds)}.")
    note = f"The masks read are *{chosen}.png, whose values `atrous predict --raw` will write."
    others = [ending for ending in kinds if ending != chosen and counts[ending]]
    return chosen, note + "".join(f" To read *{ending}.png, move these away." for ending in others)


def withheld_split_note(split: str, pictures: Path) -> str:
    """The sentence that says why a split is not offered: it has no masks, as published sets keep them secret.

    Args:
        split: its name.
        pictures: the folder, list or pattern that its pictures are found by.
    """
    return (
        f"There is no split '{split}': there are no masks for {pictures} (those of published sets are kept secret). "
        "`atrous predict` labels its pictures; --raw writes the values that the masks have."
    )


def check_sizes(item: Item, image_size: tuple[int, ...], mask_size: tuple[int, ...]) -> None:
    """Check that a mask has the size of its picture, both (H, W) in pixels.

    Raises:
        AtrousError: the sizes differ; a picture turned by its EXIF tag is named as the cause.
    """
    if image_size == mask_size:
        return
    turned = image_size[::-1] == mask_size and exif_orientation(item.image) >= 5
    cause = (
        "The picture's EXIF tag turns it by a quarter and the mask was drawn on the unturned one: "
        "turn the mask, or save the picture without the tag if it stands right without."
        if turned
        else "Both must show the same pixels: export one of them again."
    )
    raise AtrousError(
        f"{item.mask}: the mask is {mask_size[1]}×{mask_size[0]} (width×height) and its picture "
        f"{item.image.name} is {image_size[1]}×{image_size[0]}. {cause}"
    )
