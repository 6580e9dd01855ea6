"""A dataset: which pictures belong to which masks and splits, whatever layout its folder has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from atrous.checked_arguments import as_dict, checked, checked_fields
from atrous.data.class_colors import Color
from atrous.data.formats.palettes import as_colors, palettes_differ
from atrous.data.input_files import (
    INPUTS_FILE,
    PICTURES_ALONE,
    InputFiles,
)
from atrous.data.mask_value_map import IGNORE_INDEX, ClassTable
from atrous.data.pictures import exif_orientation, read_mask
from atrous.data.sample import Sample
from atrous.data.sources.scene_files import read_picture_pixels, read_scene
from atrous.data.sources.source import Pixels
from atrous.data.splits.split_names import canonical_split
from atrous.errors import AtrousError, shown, unknown_name
from atrous.input_spec import Input


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
        for name, items in (as_dict(self.splits, "splits") or {}).items():
            if not isinstance(items, tuple | list) or not all(isinstance(item, Item) for item in items):
                given = f"{shown(items)} for {shown(name)}"
                raise AtrousError(f"a dataset's splits are tuples of Items by name, got {given}.")

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
        if not isinstance(inputs, tuple | list) or not inputs or not all(isinstance(one, Input) for one in inputs):
            raise AtrousError(f"inputs are those of a model, preprocessing.inputs, got {shown(inputs)}.")
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
        _check_item(item)
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
        _check_item(item)
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


def _check_item(item: Item) -> None:
    """Refuses what is no item of a dataset."""
    if not isinstance(item, Item):
        raise AtrousError(f"an Item is needed, such as dataset.split('train')[0], got {shown(item)}.")


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
