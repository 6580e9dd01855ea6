"""Protocols for pictures and masks of any kind: sources are read, and sinks are written, window by window."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np


class Window(NamedTuple):
    """A rectangle of a picture, in pixels; (top, left) is relative to the top left corner of the picture."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """The rows of the window, as an index of an array."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """The columns of the window, as an index of an array."""
        return slice(self.left, self.left + self.width)

    def within(self, other: Window) -> Window:
        """Returns the same rectangle, relative to the top left corner of ``other``."""
        return Window(self.top - other.top, self.left - other.left, self.height, self.width)


class Pixels(NamedTuple):
    """The pixels of a picture or of a window.

    Attributes:
        values: H×W×C ``uint8``, ``uint16`` or ``float32``; 0 where there is no data.
        valid: H×W booleans, False for pixels without data; None if all pixels hold data.
        doubtful_alpha: whether the dropped alpha band looks like an ordinary channel, such as near infrared.
    """

    values: np.ndarray
    valid: np.ndarray | None = None
    doubtful_alpha: bool = False


class Source(Protocol):
    """A picture of any kind and size, read window by window."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the whole picture."""
        ...

    @property
    def geometry(self) -> Any:
        """The position on Earth, such as the `geotiff.Place` of a raster; None for a picture without coordinates."""
        ...

    def read(self, window: Window) -> Pixels:
        """Returns the pixels of a window that is inside the picture."""
        ...


class Sink(Protocol):
    """A mask that is written window by window: rows of windows from top to bottom, and each row from left to right."""

    def write(self, window: Window, mask: np.ndarray) -> None:
        """Writes the H×W uint8 class indices of a window; 255 marks pixels without data."""
        ...


def whole(source: Source) -> Pixels:
    """Reads all pixels of a source.

    Args:
        source: a picture that fits in memory.
    """
    height, width, _ = source.shape
    return source.read(Window(0, 0, height, width))
