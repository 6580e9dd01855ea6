"""Statistics of a split: channels, mean and standard deviation of each channel, number of pixels of each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from atrous.data.channel_count import channels_of, counts_of_channels
from atrous.data.dataset import Dataset
from atrous.data.file_headers import kinds_of, notes_on
from atrous.data.file_of_picture import file_of_picture
from atrous.data.input_files import InputFiles
from atrous.data.pictures import read_kind
from atrous.data.pixels import PictureKind
from atrous.data.rasters.band_names import agreed_names
from atrous.data.sources.scene_files import read_input
from atrous.data.splits.split_names import canonical_split
from atrous.data.value_counts import value_counts
from atrous.errors import AtrousError
from atrous.input_spec import Input

#: Channel statistics use at least this number of pictures, at equal distances in the split, and fewer than twice this
#: number. If a split has fewer pictures, all of them are used.
STATISTICS_PICTURES = 200
#: Number of values of a picture that are converted to float64 at once.
BLOCK_VALUES = 2**18


def channel_statistics(dataset: Dataset, split: str, one: Input) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation per channel, in raw units, over evenly chosen pictures of a split.

    Args:
        dataset: the dataset to read.
        split: name of the training split.
        one: the input to measure; its mean and standard deviation are not used.

    Returns:
        Mean and standard deviation of each channel; 0 and 1 for channels that are normalised by the statistics of each
        file. The standard deviation of a constant channel is returned as 1.
    """
    limits = np.transpose([window or (-np.inf, np.inf) for window in one.windows])
    items = dataset.split(split)
    chosen = items[:: max(1, len(items) // STATISTICS_PICTURES)]
    count, total, squares = np.zeros((3, one.channels))
    for item in chosen:
        values, valid, _ = read_input(dataset.file_of(item, one.name), one, fill=[np.nan] * one.channels)
        found = _sums(values.reshape(-1, one.channels), None if valid is None else valid.ravel(), limits)
        count, total, squares = np.add((count, total, squares), found)
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
    own = np.array(one.standardised)
    return tuple(np.where(own, 0.0, mean).tolist()), tuple(np.where((std > 0) & ~own, std, 1.0).tolist())


def _sums(pixels: np.ndarray, valid: np.ndarray | None, limits: np.ndarray) -> np.ndarray:
    """Returns the number, the sum and the sum of squares of the known values of each channel, as 3×C.

    Args:
        pixels: N×C values; NaN in bands without data in the whole file.
        valid: N booleans, False for pixels to leave out; None if all are valid.
        limits: the lowest and the highest value of each channel, 2×C; other values are clipped.
    """
    sums = np.zeros((3, pixels.shape[1]))
    step = max(1, BLOCK_VALUES // pixels.shape[1])
    for start in range(0, len(pixels), step):
        block = pixels[start : start + step]
        block = (block if valid is None else block[valid[start : start + step]]).astype(np.float64)
        np.clip(block, *limits, out=block)
        known = ~np.isnan(block)
        block[~known] = 0
        sums += known.sum(0), block.sum(0), np.einsum("nc,nc->c", block, block)
    return sums


def kind_of_input(dataset: Dataset, name: str, splits: Sequence[str]) -> PictureKind:
    """Returns the channels and the type of a further input, which must be the same in all of its files.

    Args:
        dataset: the dataset to read.
        name: name of one of the dataset's further inputs, not of the pictures.
        splits: names of the splits whose files are read.

    Raises:
        AtrousError: a file is missing or damaged, the files differ, or the names of their bands contradict each other.
    """
    files = [dataset.file_of(item, name) for split in splits for item in dataset.split(split)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        kinds = list(pool.map(read_kind, files))
    first = {(kind.channels, kind.dtype): file for kind, file in reversed(list(zip(kinds, files, strict=True)))}
    if len(first) > 1:
        listed = ", ".join(f"{channels} of {dtype}: {file}" for (channels, dtype), file in sorted(first.items()))
        raise AtrousError(
            f"the files of {name} differ in their channels or type ({listed}): convert them to the same number of "
            "channels and the same type."
        )
    named = [(str(file), kind.names) for kind, file in zip(kinds, files, strict=True)]
    one = next(one for one in dataset.inputs if one.name == name)
    names, _ = bands_of_pictures(one, named, kinds[0].channels)
    return replace(kinds[0], names=names if len(names) == kinds[0].channels else ())


def class_pixels(dataset: Dataset, split: str) -> list[int]:
    """Returns the number of labelled pixels of each class in a split, without pixels that hold no data.

    Only the mask is read if the header of the picture shows that all pixels hold data.

    Args:
        dataset: the dataset to read, with the channels and pages of the model.
        split: name of the split.
    """
    counts = np.zeros(256, dtype=np.int64)
    items = [item for item in dataset.split(split) if item.mask is not None]
    kinds = kinds_of((item.image for item in items), dataset.pages)
    for item in items:
        kind = kinds.get(item.image)
        whole = kind is not None and not kind.may_lack_data and not dataset.inputs[0].missing
        label = (
            dataset.read_label(item.mask, item.image) if whole and item.mask is not None else dataset.read(item).label
        )
        counts += value_counts(label)
    return counts[: len(dataset.classes)].tolist()


def kind_of_pictures(
    dataset: Dataset, split: str, pages: str = "first", *, val: str = "val", in_channels: int | None = None
) -> tuple[PictureKind, tuple[str, ...]]:
    """Reads the headers of the pictures, and returns the number of channels and the dtype of a model's input.

    Args:
        dataset: the dataset to read.
        split: name of the training split.
        pages: pages of a TIFF to read, "first" or "channels"; see `read_picture`.
        val: name of the validation split; its pictures must be convertible to the same number of channels.
        in_channels: number of channels of the model; None to derive it from the training pictures, see `channels_of`.

    Returns:
        The kind of the model's input, with the names of its bands if all files name them. Also notes for the user: on
        training pictures with different numbers of channels, on bands or pages that are not read, and on files that do
        not name their bands.

    Raises:
        AtrousError: a file is damaged, the dtypes of the training pictures differ, no conversion between the numbers of
            channels is defined, or the names of bands contradict each other.
    """
    items = dataset.split(split)
    measured = dataset.splits.get(val, dataset.splits.get(canonical_split(val), ()))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        kinds = list(pool.map(lambda item: read_kind(item.image, pages), items))
        others = list(pool.map(lambda item: read_kind(item.image, pages), measured))
    first = {kind.dtype: item.image for kind, item in reversed(list(zip(kinds, items, strict=True)))}
    if len(first) > 1:
        shown = ", ".join(f"{dtype}: {path}" for dtype, path in sorted(first.items()))
        raise AtrousError(f"the training pictures differ in their type ({shown}): convert them to one type.")
    training = [(kind, str(item.image)) for kind, item in zip(kinds, items, strict=True)]
    named = [
        (str(file_of_picture(item.image)), kind.names)
        for kind, item in zip((*kinds, *others), (*items, *measured), strict=True)
    ]
    names, of_names = bands_of_pictures(dataset.inputs[0], named, in_channels)
    chosen = len(names or dataset.inputs[0].wavelengths) or channels_of(
        training, [(kind, str(item.image)) for kind, item in zip(others, measured, strict=True)], in_channels
    )
    notes = []
    if len({kind.channels for kind in kinds}) > 1:
        listed = counts_of_channels(kind.channels for kind in kinds)
        notes = [f"The training pictures differ in their channels: {listed}. The model takes {chosen}."]
    all_kinds = {item.image: kind for item, kind in zip((*items, *measured), (*kinds, *others), strict=True)}
    by_name = bool(names or dataset.inputs[0].wavelengths)
    notes += of_names
    notes += [note.message for note in notes_on(all_kinds, None if by_name else chosen, pages)]
    return PictureKind(chosen, kinds[0].dtype, max(kind.bands for kind in kinds), names=names), tuple(notes)


def bands_of_pictures(
    image: InputFiles, files: Sequence[tuple[str, Sequence[str]]], in_channels: int | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names of the bands that a model takes, and notes for the user.

    Args:
        image: the input of the pictures, with the bands that the user lists.
        files: file of each training and validation picture, and the names of its bands; a file may occur repeatedly.
        in_channels: number of channels of the model; None to derive it.

    Returns:
        The names, () if the model takes the bands by position or by wavelength; and the notes of `agreed_names`.

    Raises:
        AtrousError: as for `agreed_names`.
    """
    if image.bands or image.wavelengths:
        return image.bands, ()
    return agreed_names(list(dict(files).items()), in_channels)
