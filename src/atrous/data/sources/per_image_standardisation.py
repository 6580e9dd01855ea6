"""Standardises a picture by its own mean and standard deviation, window by window."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from atrous.data.sources.source import Pixels, Source, Window

#: Number of rows that are read at once to compute the mean and the standard deviation.
ROWS = 512


class StandardisedSource:
    """A source whose values are normalised by the mean and standard deviation of the whole picture.

    The first call of `read` computes the mean and the standard deviation, in two passes over the picture.

    Args:
        source: the picture.
    """

    def __init__(self, source: Source) -> None:
        self.source = source

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the whole picture."""
        return self.source.shape

    @property
    def geometry(self) -> Any:
        """The position of the picture on Earth, or None."""
        return self.source.geometry

    def read(self, window: Window) -> Pixels:
        """Returns the normalised window as float32; values are 0 in pixels without data and in constant channels."""
        values, valid, doubtful = self.source.read(window)
        mean, std = self._statistics
        scaled = ((values - mean) / std).astype(np.float32)
        return Pixels(scaled if valid is None else np.where(valid[:, :, None], scaled, np.float32(0)), valid, doubtful)

    def close(self) -> None:
        """Closes the picture's file, if the source has one."""
        getattr(self.source, "close", lambda: None)()

    @cached_property
    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean and standard deviation of each channel; two passes avoid the rounding errors of a sum of squares."""
        height, width, channels = self.source.shape
        windows = [Window(top, 0, min(ROWS, height - top), width) for top in range(0, height, ROWS)]
        count, total, squares = 0, np.zeros(channels), np.zeros(channels)
        for window in windows:
            pixels = _with_data(self.source.read(window))
            count, total = count + len(pixels), total + pixels.sum(axis=0, dtype=np.float64)
        mean = total / max(count, 1)
        for window in windows:
            squares += ((_with_data(self.source.read(window)) - mean) ** 2).sum(axis=0, dtype=np.float64)
        std = np.sqrt(squares / max(count, 1))
        return mean, np.where(std > 0, std, 1.0)


def _with_data(pixels: Pixels) -> np.ndarray:
    values, valid, _ = pixels
    return values.reshape(-1, values.shape[2]) if valid is None else values[valid]
