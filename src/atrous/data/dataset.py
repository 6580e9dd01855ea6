"""A dataset: its pictures, their masks and their splits, independent of the layout of the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from atrous.checked_arguments import as_dict, checked, checked_fields
from atrous.data.class_colors import Color
from atrous.data.file_of_picture import file_of_picture
from atrous.data.formats.palettes import as_colors, palettes_differ
from atrous.data.input_files import (
    INPUTS_FILE,
    PICTURES_ALONE,
    InputFiles,
)
from atrous.data.mask_value_map import IGNORE_INDEX, ClassTable
from atrous.data.pictures import StoredMask, exif_orientation, read_mask
from atrous.data.rasters.scene_labels import has_own_grid, read_scene_labels
from atrous.data.rasters.scene_windows import window_place
from atrous.data.rasters.vector_files import is_vector_file
from atrous.data.raw_values import with_hidden_void, with_undeclared_void
from atrous.data.sample import Sample
from atrous.data.sources.scene_files import read_picture_pixels, read_scene
from atrous.data.sources.source import Pixels
from atrous.data.splits.split_names import canonical_split
from atrous.data.volumes.resampled_masks import read_resampled_label
from atrous.data.volumes.slice_pixels import read_label_slice
from atrous.data.volumes.slices import is_dicom_label, is_volume_place, slice_place
from atrous.errors import AtrousError, nearest, shown
from atrous.input_spec import Input, Spacing, spacing_in_words


@dataclass(frozen=True)
class Item:
    """One picture of a dataset and its mask.

    Attributes:
        name: the file name of the picture without suffix.
        image: path of the picture. The path does not exist if a split list names a missing picture.
        mask: path of the mask; None if the picture has no mask.
        listed: for a missing picture, the split list and the line that name it; "" for all other pictures.
        more: files of further inputs of the same scene, such as its depth, in the order of the dataset's inputs.
        group: source of the picture, such as a patient, scene, clip or recording; None if it is unknown. Pictures of
            one group resemble each other, so all of them should be in one split.
        region: for a window of a scene, the rectangle (top, left, height, width) of the scene, in pixels, within which
            training moves the window; None for a whole picture.
    """

    name: str
    image: Path
    mask: Path | None
    listed: str = field(default="", compare=False)
    more: tuple[Path, ...] = ()
    group: str | None = None
    region: tuple[int, ...] | None = None


@checked_fields
@dataclass(frozen=True)
class Dataset:
    """Pictures and masks by split, and the class table of the masks.

    Attributes:
        root: the dataset's folder.
        layout: name of the layout: folder, split_folders, side_by_side, camvid, voc, cityscapes, ade20k, coco_stuff,
            nnunet or rasters.
        classes: the class table, which maps raw mask values to class indices.
        splits: the items of each split, by the name of the split ("train", "val", "test", …).
        notes: sentences for the user, for example about a guessed layout or a random split.
        masks_without_image: masks whose picture is missing.
        channels: number of channels C that `read` returns for the pictures; None for all bands except alpha.
        pages: pages of a TIFF to read, "first" or "channels"; see `read_picture`.
        inputs: the folder of each input and the meaning of its values; the pictures are the first input. `Item.more`
            holds the files of the other inputs.
        taken: the inputs of the model, whose channels `read` concatenates; None to read the pictures alone.
        unlisted: items whose split was drawn at random with a fixed seed, because no list or folder names their split.
        groups_from: source of the groups: "file" for a groups.csv, "pattern" for a given regular expression, "layout"
            for the names or folders of the layout; "" if the items have no groups.
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
            raise AtrousError(f"a dataset's classes must be a ClassTable, got {shown(self.classes)}.")
        for name, items in (as_dict(self.splits, "splits") or {}).items():
            if not isinstance(items, tuple | list) or not all(isinstance(item, Item) for item in items):
                given = f"{shown(items)} for {shown(name)}"
                raise AtrousError(f"each split of a dataset must be a tuple of Items, got {given}.")

    @property
    def nouns(self) -> tuple[str, str]:
        """The words for an item and its smallest part in messages: picture or window and pixel, or volume and voxel."""
        first = next((item.image for items in self.splits.values() for item in items), Path())
        if window_place(first) is not None:
            return "window", "pixel"
        return ("volume", "voxel") if is_volume_place(file_of_picture(first)) else ("picture", "pixel")

    @property
    def file_noun(self) -> str:
        """The word for the file of an item in messages: "picture", "scene" or "volume"."""
        return file_noun(self.nouns[0])

    @checked
    def split(self, name: str) -> tuple[Item, ...]:
        """Returns the items of one split.

        Args:
            name: name of the split; usual variants such as "valid" are also accepted.

        Raises:
            AtrousError: there is no such split; the message lists the existing splits.
        """
        name = name if name in self.splits else canonical_split(name)
        if name not in self.splits:
            hint = f" Did you mean '{near}'?" if (near := nearest(name, self.splits)) else ""
            raise AtrousError(f"{self.root} has no split '{name}'; it has {', '.join(self.splits)}.{hint}")
        return self.splits[name]

    @checked
    def taking(self, channels: int | None, pages: str = "first") -> Dataset:
        """Returns a copy of the dataset that reads its pictures with the channels of a model.

        Args:
            channels: number of channels C of the model, see `StoredPixels.for_model`; None for all bands except alpha.
            pages: pages of a TIFF to read, "first" or "channels"; see `read_picture`.
        """
        return replace(self, channels=channels, pages=pages)

    @checked
    def taking_inputs(self, inputs: Sequence[Input]) -> Dataset:
        """Returns a copy of the dataset that reads all inputs of a model.

        Args:
            inputs: the inputs of the model, as in `Preprocessing.inputs`.

        Raises:
            AtrousError: the dataset has no files for one of the inputs, or the model and the dataset resample volumes
                to different voxel sizes.
        """
        if not isinstance(inputs, tuple | list) or not inputs or not all(isinstance(one, Input) for one in inputs):
            raise AtrousError(
                f"inputs must be the inputs of a model, such as info.preprocessing.inputs, got {shown(inputs)}."
            )
        known = [one.name for one in self.inputs]
        for one in inputs:
            if one.name not in known:
                raise AtrousError(
                    f"{self.root}: the model takes the inputs {', '.join(other.name for other in inputs)}, and the "
                    f"dataset has {', '.join(known)}. Give the folder with the files of {one.name}: "
                    f"--input {one.name}=FOLDER, or an entry in {INPUTS_FILE}."
                )
        image, own = inputs[0], self.inputs[0].spacing
        if image.spacing != own:
            raise AtrousError(
                f"{self.root}: the model takes volumes {_resampling(image.spacing)}, and the dataset was opened with "
                f"volumes {_resampling(own)}, so images and masks would differ. Open the dataset with spacing="
                f"{image.spacing}."
            )
        return replace(self, channels=image.channels, pages=image.pages, taken=tuple(inputs))

    @checked
    def read(self, item: Item) -> Sample:
        """Reads a picture and its mask.

        Args:
            item: an item of this dataset.

        Returns:
            A sample with image H×W×C and label H×W of class indices. Pixels without data have the value 0 and the
            label 255.

        Raises:
            AtrousError: the item has no mask, a file is missing or damaged, the picture and the mask differ in size, or
                the mask holds unknown values.
        """
        _check_item(item)
        if item.listed and not item.image.exists():
            mask = "" if item.mask else " and no mask of it"
            raise AtrousError(
                f"{item.image}: there is no such picture{mask}; {item.listed}, names it. Add the picture, or remove "
                "its name from the list."
            )
        if item.mask is None:
            place = slice_place(item.image)
            one, file = ("picture", item.image) if place is None else ("volume", place.file)
            raise AtrousError(
                f"{file}: the {one} has no mask. Add its mask, or remove its name from the split. `atrous doctor "
                f"{self.root}` counts such {one}s."
            )
        image, valid, doubtful = self.read_image(item)
        label = self.read_label(item.mask, item.image)
        check_sizes(item, image.shape[:2], label.shape)
        if valid is not None:
            label = np.where(valid, label, np.uint8(IGNORE_INDEX))
        return Sample(image, label, item.name, valid, doubtful)

    @checked
    def read_image(self, item: Item) -> Pixels:
        """Reads the input of a model: the picture of an item, and the further inputs that `taking_inputs` set.

        Args:
            item: an item of this dataset.

        Returns:
            The values H×W×C, with several inputs concatenated along the channels, and the valid pixels, as `Pixels`.

        Raises:
            AtrousError: a file is missing or damaged, or inputs differ in size.
        """
        _check_item(item)
        if self.taken is not None:
            return read_scene([self.file_of(item, one.name) for one in self.taken], self.taken)
        image = self.inputs[0]
        own = image.bands, image.wavelengths
        return read_picture_pixels(item.image, self.channels, self.pages, image.spacing, image.missing_values, *own)

    def scene(self, item: Item) -> Path | dict[str, Path]:
        """Returns the files of an item for a `Segmenter`: one path, or a dict of paths by name of the input.

        Args:
            item: an item of this dataset.
        """
        if self.taken is None or len(self.taken) == 1:
            return item.image
        return {one.name: self.file_of(item, one.name) for one in self.taken}

    def file_of(self, item: Item, name: str) -> Path:
        """Returns the file of one input of an item.

        Args:
            item: an item of this dataset.
            name: name of one of the dataset's inputs.
        """
        index = [one.name for one in self.inputs].index(name)
        return (item.image, *item.more)[index]

    @checked
    def read_label(self, mask: Path, image: Path | None = None) -> np.ndarray:
        """Reads a mask as class indices.

        Args:
            mask: path of the mask.
            image: path of the mask's picture. It is needed for a slice of a DICOM-SEG or RT-STRUCT, and for a slice of
                any mask if volumes are resampled.

        Returns:
            H×W ``uint8`` of class indices, 255 = ignore.

        Raises:
            AtrousError: the file is missing or damaged, holds unknown values, or its palette differs from the palette
                of a mask that was read earlier; or the picture is needed and not given.
        """
        place, spacing = slice_place(mask), self.inputs[0].spacing
        if place is None or spacing is None:
            return self._label(mask, image)
        if image is None:
            raise AtrousError(
                f"{mask}: masks are resampled to the grid of their resampled scan: give the picture, too, as in "
                "read_label(item.mask, item.image)."
            )
        return read_resampled_label(place, file_of_picture(image), spacing, self.classes, self._label)

    def _label(self, mask: Path, image: Path | None) -> np.ndarray:
        """Reads a mask as `read_label` does, but a slice of a mask is not resampled."""
        raw_mask, nodata = self._raw_mask(mask, image)
        place = window_place(mask)
        corner = (0, 0) if place is None else (place.window.left, place.window.top)
        try:
            return self.classes.encode(raw_mask, nodata, corner)
        except AtrousError as error:
            raise AtrousError(f"{file_of_picture(mask) if place else mask}: {error}") from error

    def _raw_mask(self, path: Path, image: Path | None) -> tuple[np.ndarray, int | None]:
        """Returns the values of a mask (palette colours if the class table lists colours), and its nodata value.

        Raises:
            AtrousError: the file is missing or damaged, or an index has another colour in a mask that was read earlier.
        """
        raw_mask, palette, nodata, *_ = stored_mask(path, image, self.classes)
        if palette is None or raw_mask.ndim == 3:
            return raw_mask, nodata
        if self.classes.color_coded:
            return as_colors(raw_mask, palette), None
        indices = raw_mask if raw_mask.dtype.kind == "u" else raw_mask[raw_mask >= 0]  # pixels outside have no index
        for index in np.flatnonzero(np.bincount(indices.ravel())).tolist():
            color = palette[index] if index < len(palette) else (0, 0, 0)
            first_color, first_path = self._palette_seen.setdefault(index, (color, path))
            if color != first_color:
                raise AtrousError(palettes_differ(index, first_color, str(first_path), color, str(path)))
        return raw_mask, nodata


def file_noun(noun: str) -> str:
    """Returns the word for the file of an item in messages: "scene" for a window, else the word for the item.

    Args:
        noun: word for the item, as in `Dataset.nouns`.
    """
    return "scene" if noun == "window" else noun


def stored_mask(path: Path, image: Path | None, classes: ClassTable | None) -> StoredMask:
    """Reads the stored values of a mask as `read_mask` does, but also of DICOM-SEG, RT-STRUCT and labels of scenes.

    In signed integers and floats, the values in `UNDECLARED_MISSING` mean "no data" if the class table does not list
    them. In masks of volumes, they do not mean "no data".

    Args:
        path: path of the mask.
        image: path of the mask's picture. It is needed for a slice of a DICOM-SEG or RT-STRUCT, and for labels that are
            on another grid than their scene.
        classes: class table, which defines the value of each segment; None to use the segment numbers as values.

    Raises:
        AtrousError: a file is missing or damaged, or the picture is needed and not given.
    """
    window = window_place(path)
    if window is not None and (image is not None or is_vector_file(window.file)):
        if image is None:
            raise AtrousError(f"{window.file}: polygons are drawn on the grid of their scene: give the picture, too.")
        if has_own_grid(window, file_of_picture(image)):
            labels = read_scene_labels(window, file_of_picture(image), classes)
            found = StoredMask(labels.values, labels.palette, labels.nodata, 1, False, None, labels.hidden)
            return _with_void(found, classes)
    place = slice_place(path)
    if place is None:
        return _with_void(read_mask(path), classes)
    if not is_dicom_label(place.file):
        return read_mask(path)
    if image is None:
        raise AtrousError(f"{place.file}: segments are read on the grid of their scan: give the picture, too.")
    values = read_label_slice(place, file_of_picture(image), classes)
    return StoredMask(values, None, None, 1, False, None)


def _with_void(stored: StoredMask, classes: ClassTable | None) -> StoredMask:
    if stored.values.ndim == 3 or (classes is not None and classes.color_coded):
        return stored  # colours have no value that means no data
    if stored.hidden is not None:
        listed = None if classes is None else classes.listed_numbers
        values, nodata = with_hidden_void(stored.values, stored.hidden, stored.nodata, listed)
        stored = stored._replace(values=values, nodata=nodata)
    if stored.values.dtype.kind != "i" or classes is None:
        return stored
    values, nodata = with_undeclared_void(stored.values, stored.nodata, classes.listed_numbers)
    return stored._replace(values=values, nodata=nodata)


def _resampling(spacing: Spacing | None) -> str:
    """Returns how volumes are resampled, for messages."""
    return "as they are stored" if spacing is None else f"resampled to {spacing_in_words(spacing)}"


def _check_item(item: Item) -> None:
    """Raises AtrousError if the argument is not an item of a dataset."""
    if not isinstance(item, Item):
        raise AtrousError(f"an Item is needed, such as dataset.split('train')[0], got {shown(item)}.")


def check_sizes(item: Item, image_size: tuple[int, ...], mask_size: tuple[int, ...]) -> None:
    """Checks that a mask has the size of its picture.

    Args:
        item: item of the picture and the mask, for the message.
        image_size: (H, W) of the picture, in pixels.
        mask_size: (H, W) of the mask, in pixels.

    Raises:
        AtrousError: the sizes differ. If the picture's EXIF tag is the cause, the message names the tag.
    """
    if image_size == mask_size:
        return
    turned = image_size[::-1] == mask_size and exif_orientation(item.image) >= 5
    cause = (
        "The picture's EXIF tag turns it by 90 degrees, and the mask was drawn on the picture before this turn. "
        "Turn the mask, or, if the picture is upright without the tag, save it without the tag."
        if turned
        else "Both must have the same size: export one of them again."
    )
    raise AtrousError(
        f"{item.mask}: the mask is {mask_size[1]}×{mask_size[0]} (width×height) and its picture "
        f"{item.image.name} is {image_size[1]}×{image_size[0]}. {cause}"
    )
