"""What a split is like in numbers: its channels and how often each class occurs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from atrous.data.channel_count import channels_of, counts_of_channels
from atrous.data.dataset import Dataset
from atrous.data.file_headers import kinds_of, notes_on
from atrous.data.pictures import read_kind
from atrous.data.pixels import PictureKind
from atrous.data.sources.scene_files import read_input
from atrous.data.splits.split_names import canonical_split
from atrous.errors import AtrousError
from atrous.input_spec import Input

#: Pictures that channel statistics are measured on, evenly chosen.
STATISTICS_PICTURES = 200


def channel_statistics(dataset: Dataset, split: str, one: Input) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in raw units, over evenly chosen pictures of a split.

    Args:
        dataset: where to read.
        split: its training split.
        one: the input that is measured; its own mean and deviation are not used.
    """
    items = dataset.split(split)
    chosen = items[:: max(1, len(items) // STATISTICS_PICTURES)]
    count, total, squares = 0, np.zeros(one.channels), np.zeros(one.channels)
    for item in chosen:
        values, valid, _ = read_input(dataset.file_of(item, one.name), one)
        pixels = values.reshape(-1, one.channels).astype(np.float64)
        pixels = pixels if valid is None else pixels[valid.ravel()]
        pixels = pixels if one.window is None else pixels.clip(*one.window)
        count, total, squares = count + len(pixels), total + pixels.sum(0), squares + (pixels**2).sum(0)
    mean = total / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def kind_of_input(dataset: Dataset, name: str, splits: Sequence[str]) -> PictureKind:
    """The channels and the type of a further input, which all of its files must have.

    Args:
        dataset: where to read.
        name: of the input, one of the dataset's but the pictures.
        splits: whose files are looked at.

    Raises:
        AtrousError: a file is missing or damaged, or they differ.
    """
    files = [dataset.file_of(item, name) for split in splits for item in dataset.split(split)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        kinds = list(pool.map(read_kind, files))
    first = {(kind.channels, kind.dtype): file for kind, file in reversed(list(zip(kinds, files, strict=True)))}
    if len(first) > 1:
        listed = ", ".join(f"{channels} of {dtype}: {file}" for (channels, dtype), file in sorted(first.items()))
        raise AtrousError(f"the files of {name} differ in their channels or type ({listed}): convert them to one.")
    return kinds[0]


def class_pixels(dataset: Dataset, split: str) -> list[int]:
    """Labelled pixels of each class over a whole split, where the pictures hold data, as training sees them.

    Pictures are read only where their headers say that pixels may hold no data.

    Args:
        dataset: where to read, with the channels and pages that a model takes.
        split: whose masks.
    """
    counts = np.zeros(256, dtype=np.int64)
    items = [item for item in dataset.split(split) if item.mask is not None]
    kinds = kinds_of((item.image for item in items), dataset.pages)
    for item in items:
        kind = kinds.get(item.image)
        whole = kind is not None and not kind.may_lack_data
        label = dataset.read_label(item.mask) if whole and item.mask is not None else dataset.read(item).label
        counts += np.bincount(label.ravel(), minlength=256)
    return counts[: len(dataset.classes)].tolist()


def kind_of_pictures(
    dataset: Dataset, split: str, pages: str = "first", *, val: str = "val", in_channels: int | None = None
) -> tuple[PictureKind, tuple[str, ...]]:
    """The channels that a model takes and the type of a split's pictures, from all their headers.

    Args:
        dataset: where to read.
        split: its training split.
        pages: as in `read_pixels`.
        val: the split that is measured during the training; its pictures must give the channels, too.
        in_channels: that the model takes; None for what the training pictures have, see `channels_of`.

    Returns:
        The kind, and sentences where the training pictures differ, and on what of them is not read.

    Raises:
        AtrousError: a file is damaged, the types differ, or there is no agreed way between the channels.
    """
    items = dataset.split(split)
    measured = dataset.splits.get(val, dataset.splits.get(canonical_split(val), ()))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        kinds = list(pool.map(lambda item: read_kind(item.image, pages), items))
        others = list(pool.map(lambda item: read_kind(item.image, pages), measured))
    first = {kind.dtype: item.image for kind, item in reversed(list(zip(kinds, items, strict=True)))}
    if len(first) > 1:
        shown = ", ".join(f"{dtype}: {path}" for dtype, path in sorted(first.items()))
        raise AtrousError(f"the training pictures differ in their type ({shown}): convert them to one.")
    training = [(kind, str(item.image)) for kind, item in zip(kinds, items, strict=True)]
    chosen = channels_of(
        training, [(kind, str(item.image)) for kind, item in zip(others, measured, strict=True)], in_channels
    )
    notes = []
    if len({kind.channels for kind in kinds}) > 1:
        listed = counts_of_channels(kind.channels for kind in kinds)
        notes = [f"The training pictures differ in their channels: {listed}. The model takes {chosen}."]
    all_kinds = {item.image: kind for item, kind in zip((*items, *measured), (*kinds, *others), strict=True)}
    notes += [note.message for note in notes_on(all_kinds, chosen, pages)]
    return PictureKind(chosen, kinds[0].dtype, max(kind.bands for kind in kinds)), tuple(notes)
