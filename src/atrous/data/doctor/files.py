"""Checks of picture and mask files: pages and channels that are not read, alpha bands, and pixels without data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from atrous.data.dataset import Dataset
from atrous.data.doctor.judge import SHOWN, Finding, shown
from atrous.data.doctor.scan import Pair, masks_of
from atrous.data.file_headers import notes_on, notes_on_pages, notes_on_white_is_zero
from atrous.data.pixels import PictureKind

_MUCH = 0.3  # from this share on, the message calls the share of pixels without data large


def find_unread_parts(
    dataset: Dataset, pairs: list[Pair], kinds: Mapping[Path, PictureKind], channels: int | None, pages: str
) -> Iterator[Finding]:
    """Yields warnings of pages, frames and channels that are not read, and of 0 that is white in some files only.

    Args:
        dataset: the dataset.
        pairs: its items, each once.
        kinds: the kind of each picture, from its header.
        channels: number of channels C that a model takes; None for all bands except alpha.
        pages: as in `read_pixels`.
    """
    masks = {pair.item.mask: mask for pair, mask in masks_of(pairs) if pair.item.mask}
    grey = {path: mask.white_is_zero for path, mask in masks.items() if not mask.in_color and not mask.palette}
    of_masks = {path: (mask.pages, mask.stacks) for path, mask in masks.items()}
    notes = (
        *notes_on(kinds, channels, pages),
        *notes_on_pages(of_masks, "mask"),
        *notes_on_white_is_zero(grey, "mask"),
    )
    for note in notes:
        yield Finding(note.kind, note.message, len(note.paths), tuple(shown(dataset, p) for p in note.paths[:SHOWN]))


def find_void(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    """Yields a warning of pixels without data, and a warning of pictures in which no pixel holds data.

    Args:
        dataset: the dataset.
        pairs: its items, each once.
    """
    known = [(pair, pair.picture) for pair in pairs if pair.picture]
    void = sorted(((picture.void, pair, picture) for pair, picture in known if picture.void), key=lambda one: -one[0])
    if not void:
        return
    item, pixel = dataset.nouns
    share = sum(part * math.prod(picture.size) for part, _, picture in void)
    share /= sum(math.prod(picture.size) for _, picture in known)
    large = "That is a large share: check whether it is intended. " if share >= _MUCH else ""
    yield Finding(
        "void",
        f"{item.capitalize()}s hold {pixel}s without data (nodata, transparent, NaN or infinite): {share:.1%} of all "
        f"{pixel}s. {large}"
        "They are ignored in training and scores, and predicted masks hold 255 there.",
        len(void),
        tuple(f"{shown(dataset, pair.item.image)}: {part:.1%} of its {pixel}s" for part, pair, _ in void[:SHOWN]),
    )
    empty = [shown(dataset, pair.item.image) for part, pair, _ in void if part == 1]
    if empty:
        yield Finding(
            "all_void",
            f"{item.capitalize()}s in which no {pixel} holds data, so nothing can be learned from them. Remove them, "
            "or correct their nodata value or alpha.",
            len(empty),
            tuple(empty[:SHOWN]),
        )


def find_doubtful_alpha(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    """Yields a warning of alpha bands that look like channels.

    By default, GDAL marks the fourth of four bands of uint8 as alpha, so it may be near infrared.

    Args:
        dataset: the dataset.
        pairs: its items, each once.
    """
    doubtful = [(pair, pair.picture) for pair in pairs if pair.picture and pair.picture.doubtful_alpha]
    if not doubtful:
        return
    bands = max(picture.bands for _, picture in doubtful)
    share = sum(picture.void for _, picture in doubtful) / len(doubtful)
    pictures = "1 picture marks" if len(doubtful) == 1 else f"{len(doubtful)} pictures mark"
    yield Finding(
        "doubtful_alpha",
        f"{pictures} band {bands} as alpha, but it holds many values between 0 and the maximum, as near infrared "
        "does. GDAL marks the fourth of four bands of uint8 as alpha by default. An alpha band is not a channel of the "
        f"model, and pixels where it is 0 hold no data: {share:.1%} of the pixels of these pictures. If it is a "
        f"channel, train with `--model.in_channels {bands}` (here `--in-channels {bands}`), which takes all {bands} "
        "bands as channels.",
        len(doubtful),
        tuple(
            f"{shown(dataset, pair.item.image)}: {picture.void:.1%} of its pixels without data"
            for pair, picture in doubtful[:SHOWN]
        ),
    )
