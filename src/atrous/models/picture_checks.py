"""Checks of a picture in memory that is given from outside, and of which of its pixels hold data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from atrous.errors import AtrousError, OutOfMemory, shown

#: Types of pixels that pictures have.
DTYPES = ("uint8", "uint16", "float32")


def check_picture(image: Any, channels: int | None = None) -> np.ndarray:
    """A picture in memory, as `Preparation.prepare` takes or gives it.

    Args:
        image: whatever was given as a picture.
        channels: C that it must have; None for any.

    Returns:
        The same; a copy of reversed, repeated and big-endian arrays, which torch and OpenCV do not take.

    Raises:
        AtrousError: no array of H×W×C uint8, uint16 or float32, none of that many channels, an empty one, or one whose
            copy takes more memory than there is (`OutOfMemory`).
    """
    words = f"a picture here is an array of H×W×{channels or 'C'}, {', '.join(DTYPES[:-1])} or {DTYPES[-1]}"
    if not isinstance(image, np.ndarray) or isinstance(image, np.ma.MaskedArray):
        raise AtrousError(f"{words}, got {shown(image)}.")
    if image.ndim != 3 or 0 in image.shape or image.dtype.name not in DTYPES:
        raise AtrousError(f"{words}, got {image.shape} of {image.dtype}.")
    if channels is not None and image.shape[2] != channels:
        raise AtrousError(f"{words}, got {image.shape[2]} channels.")
    if min(image.strides) > 0 and image.dtype.isnative:
        return image
    try:
        return np.ascontiguousarray(image, image.dtype.newbyteorder("="))
    except MemoryError as error:
        raise OutOfMemory(f"a picture of {image.shape} takes more memory than there is.") from error


def check_read(image: Any, channels: int) -> np.ndarray:
    """A picture in memory as it was read, with whatever channels; not C×H×W.

    Args:
        image: whatever was given as a picture.
        channels: C of the model.

    Raises:
        AtrousError: as `check_picture`, or with the channels first.
    """
    image = check_picture(image)
    if image.shape[0] == channels and image.shape[2] not in (1, 3, 4, channels):
        raise AtrousError(f"a picture is H×W×C, got C×H×W, {image.shape}: give picture.transpose(1, 2, 0).")
    return image


def check_valid(valid: Any, size: Sequence[int]) -> np.ndarray | None:
    """Which pixels of a picture hold data.

    Args:
        valid: whatever was given for it; None, for data everywhere, passes.
        size: (H, W) of the picture.

    Returns:
        H×W booleans, or None.

    Raises:
        AtrousError: no array of booleans of the picture's size.
    """
    if valid is None:
        return None
    words = f"valid must be an array of booleans of the picture's {size[0]}×{size[1]} px, False where it holds no data"
    if not isinstance(valid, np.ndarray) or isinstance(valid, np.ma.MaskedArray):
        hint = ": give valid.cpu().numpy()" if type(valid).__name__ == "Tensor" else ""
        raise AtrousError(f"{words}, got {shown(valid)}{hint}.")
    if valid.dtype != np.bool_:
        hint = f": give {'valid > 0' if valid.dtype.kind in 'iuf' else 'valid.astype(bool)'}"
        raise AtrousError(f"{words}, got {valid.dtype}{hint}.")
    if valid.shape != tuple(size):
        raise AtrousError(f"{words}, got {valid.shape}.")
    return valid
