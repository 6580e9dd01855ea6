"""Checks a picture in memory that a caller gives, and the mask of its pixels with data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from atrous.errors import AtrousError, OutOfMemory, shown

#: Allowed dtypes of pictures.
DTYPES = ("uint8", "uint16", "float32")


def check_picture(image: Any, channels: int | None = None) -> np.ndarray:
    """Checks a picture in memory, as `Preparation.prepare` takes and returns it.

    Args:
        image: the value given as a picture.
        channels: number of channels C required; None allows any number.

    Returns:
        The picture. Reversed, repeated and big-endian arrays are copied, because torch and OpenCV do not accept them.

    Raises:
        AtrousError: the value is not an H×W×C array of uint8, uint16 or float32, is empty or has another number of
            channels; or its copy needs more memory than is free (`OutOfMemory`).
    """
    words = f"a picture must be an array of H×W×{channels or 'C'}, {', '.join(DTYPES[:-1])} or {DTYPES[-1]}"
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
        raise OutOfMemory(
            f"a copy of a picture of {image.shape} needs more memory than is free: give a smaller picture."
        ) from error


def check_read(image: Any, channels: int) -> np.ndarray:
    """Checks a picture as it was read; it may have any number of channels, but must not be C×H×W.

    Args:
        image: the value given as a picture, H×W×C.
        channels: number of channels C of the model.

    Returns:
        The picture, copied as by `check_picture`.

    Raises:
        AtrousError: as for `check_picture`, or the shape is C×H×W.
    """
    image = check_picture(image)
    if image.shape[0] == channels and image.shape[2] not in (1, 3, 4, channels):
        raise AtrousError(f"a picture must be H×W×C, got C×H×W, {image.shape}: give picture.transpose(1, 2, 0).")
    return image


def check_valid(valid: Any, size: Sequence[int]) -> np.ndarray | None:
    """Checks the mask of a picture's pixels with data.

    Args:
        valid: the value given as the mask; None means that all pixels have data.
        size: (H, W) of the picture in pixels.

    Returns:
        H×W booleans, or None.

    Raises:
        AtrousError: the value is not an array of booleans of the picture's size.
    """
    if valid is None:
        return None
    words = f"valid must be an array of booleans of the picture's {size[0]}×{size[1]} px, False for pixels without data"
    if not isinstance(valid, np.ndarray) or isinstance(valid, np.ma.MaskedArray):
        hint = ": give valid.cpu().numpy()" if type(valid).__name__ == "Tensor" else ""
        raise AtrousError(f"{words}, got {shown(valid)}{hint}.")
    if valid.dtype != np.bool_:
        hint = f": give {'valid > 0' if valid.dtype.kind in 'iuf' else 'valid.astype(bool)'}"
        raise AtrousError(f"{words}, got {valid.dtype}{hint}.")
    if valid.shape != tuple(size):
        raise AtrousError(f"{words}, got {valid.shape}.")
    return valid
