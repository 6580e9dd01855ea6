"""What a model gets of a picture: its channels, and which of its pixels hold data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from atrous.data.pixels import Pixels


@dataclass(frozen=True, eq=False)
class Found:
    """A picture that was read.

    Attributes:
        shown: H×W×C with all its bands, to be shown to people.
        image: H×W×C with the channels that the model takes where it is a file, 0 where there is no data.
        valid: H×W booleans, False where there is no data; None for data everywhere.
    """

    shown: np.ndarray
    image: np.ndarray
    valid: np.ndarray | None


def found_in(pixels: Pixels, channels: int) -> Found:
    """What a model of so many channels takes of a file's pixels.

    Raises:
        AtrousError: there is no agreed way from the file's bands to the channels.
    """
    return Found(pixels.values, *pixels.for_model(channels))


def clear_pixels(picture: Image.Image) -> np.ndarray | None:
    """H×W booleans, True where a PIL image whose alpha is no band of it is transparent; None where it has none."""
    keyed = picture.mode in ("1", "L", "P", "RGB") and "transparency" in picture.info
    if picture.mode not in ("LA", "La", "PA", "RGBa") and not keyed:
        return None
    return np.asarray(picture.convert("RGBA"))[:, :, 3] == 0
