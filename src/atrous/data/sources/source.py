"""The contract of every kind of input: a source gives values window by window, a sink takes a mask."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np


class Window(NamedTuple):
    """A rectangle of a picture, in pixels from its top left corner."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """Its rows, to index an array with."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Its columns, to index an array with."""
        return slice(self.left, self.left + self.width)

    def within(self, other: Window) -> Window:
        """The same rectangle, from the other's top left corner."""
        return Window(self.top - other.top, self.left - other.left, self.height, self.width)


class Pixels(NamedTuple):
    """What a model gets of a picture, or of a window of one.

    Attributes:
        values: H×W×C ``uint8``, ``uint16`` or ``float32``; 0 where there is no data.
        valid: H×W booleans, False where there is no data; None for data everywhere.
        doubtful_alpha: whether an alpha band, which is no channel here, looks like one.
    """

    values: np.ndarray
    valid: np.ndarray | None = None
    doubtful_alpha: bool = False


class Source(Protocol):
    """A picture of any kind and size, which gives its pixels window by window."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the whole picture."""
        ...

    @property
    def geometry(self) -> Any:
        """Where it lies, such as a raster's `geotiff.Place`; None for a picture that lies nowhere."""
        ...

    def read(self, window: Window) -> Pixels:
        """The pixels of a window within the picture."""
        ...


class Sink(Protocol):
    """A mask that is written window by window: in rows of windows from the top, each row from the left."""

    def write(self, window: Window, mask: np.ndarray) -> None:
        """Takes the window's H×W uint8 class indices, 255 where the picture has no data."""
        ...


def whole(source: Source) -> Pixels:
    """All pixels of a source.

    Args:
        source: a picture that memory holds.
    """
    height, width, _ = source.shape
    return source.read(Window(0, 0, height, width))
