"""What a model gets of a picture: its channels, and which of its pixels hold data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from atrous.data.pictures import read_picture
from atrous.data.pillow import pixels_of_picture
from atrous.data.pixels import Pixels
from atrous.errors import AtrousError


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


def as_array(picture: Any) -> np.ndarray:
    """A path, PIL image or array as H×W×C uint8, uint16 or float32.

    Raises:
        AtrousError: another type, or an array of another shape or dtype.
    """
    if isinstance(picture, str | Path):
        return read_picture(picture)
    if isinstance(picture, Image.Image):
        picture = pixels_of_picture(picture).values
    if not isinstance(picture, np.ndarray):
        raise AtrousError(f"a picture is a path, a PIL image or an array, got {type(picture).__name__}.")
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.dtype == np.float64:
        picture = picture.astype(np.float32)
    if picture.ndim != 3 or picture.dtype not in (np.uint8, np.uint16, np.float32) or 0 in picture.shape:
        raise AtrousError(
            f"a picture is H×W or H×W×C of uint8, uint16 or float32, got {picture.shape} of {picture.dtype}."
        )
    return picture
