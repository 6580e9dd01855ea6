"""What a split is like in numbers: its channels and how often each class occurs."""

from __future__ import annotations

import numpy as np

from atrous.data.dataset import Dataset
from atrous.data.pictures import read_picture, to_channels

#: Pictures that channel statistics are measured on, evenly chosen.
STATISTICS_PICTURES = 200


def channel_statistics(dataset: Dataset, split: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in raw units, over evenly chosen pictures of a split.

    Args:
        dataset: where to read.
        split: its training split.
        channels: C that the model takes.
    """
    items = dataset.split(split)
    chosen = items[:: max(1, len(items) // STATISTICS_PICTURES)]
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for item in chosen:
        pixels = to_channels(read_picture(item.image), channels).reshape(-1, channels).astype(np.float64)
        pixels = pixels[np.isfinite(pixels).all(1)]
        count, total, squares = count + len(pixels), total + pixels.sum(0), squares + (pixels**2).sum(0)
    mean = total / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def class_pixels(dataset: Dataset, split: str) -> list[int]:
    """Labelled pixels of each class over a whole split; only masks are read.

    Args:
        dataset: where to read.
        split: whose masks.
    """
    counts = np.zeros(256, dtype=np.int64)
    for item in dataset.split(split):
        if item.mask is not None:
            counts += np.bincount(dataset.read_label(item.mask).ravel(), minlength=256)
    return counts[: len(dataset.classes)].tolist()
