"""A source for a picture in memory, and a sink for a mask in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.data.sources.source import Pixels, Window


@dataclass(frozen=True, eq=False)
class ArraySource:
    """A picture that is in memory.

    Args:
        image: H×W×C.
        valid: H×W booleans, False for pixels without data; None if all pixels hold data.
        doubtful_alpha: whether the dropped alpha band of the picture looks like an ordinary channel.
    """

    image: np.ndarray
    valid: np.ndarray | None = None
    doubtful_alpha: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the picture."""
        height, width, channels = self.image.shape
        return height, width, channels

    @property
    def geometry(self) -> None:
        """None: an array has no geographic position."""
        return None

    def read(self, window: Window) -> Pixels:
        """Returns the pixels of the window, as views of the arrays."""
        valid = None if self.valid is None else self.valid[window.rows, window.columns]
        return Pixels(self.image[window.rows, window.columns], valid, self.doubtful_alpha)


class ArraySink:
    """A mask in memory.

    Args:
        height: height of the picture, in pixels.
        width: width of the picture, in pixels.

    Attributes:
        mask: H×W uint8 class indices; 255 (ignore) where no window was written.
    """

    def __init__(self, height: int, width: int) -> None:
        self.mask = np.full((height, width), IGNORE_INDEX, np.uint8)

    def write(self, window: Window, mask: np.ndarray) -> None:
        """Writes the mask of a window, H×W class indices."""
        self.mask[window.rows, window.columns] = mask
