"""The one reader: the files of a scene as a model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atrous.data.pictures import read_pixels
from atrous.data.sources.joined import joined
from atrous.data.sources.source import Pixels
from atrous.errors import AtrousError
from atrous.inputs import Input


def read_scene(files: Sequence[Path], inputs: Sequence[Input]) -> Pixels:
    """The values of all inputs of a scene.

    Args:
        files: one per input.
        inputs: of the model, in the same order.

    Returns:
        Of one input H×W×C as its file stores them; of several joined, see `joined.joined`.

    Raises:
        AtrousError: a file is missing or damaged, there is no agreed way to the channels, or sizes differ.
    """
    parts = [read_input(file, one) for file, one in zip(files, inputs, strict=True)]
    try:
        return together(parts, inputs)
    except AtrousError as error:
        raise AtrousError(f"{', '.join(map(str, files))}: {error}") from error


def together(parts: Sequence[Pixels], inputs: Sequence[Input]) -> Pixels:
    """One input as it is, several joined.

    Args:
        parts: one per input.
        inputs: of the model, in the same order.

    Raises:
        AtrousError: as `joined.joined`.
    """
    return parts[0] if len(parts) == 1 else joined(parts, inputs)


def as_input(pixels: Pixels, one: Input) -> Pixels:
    """A whole picture, with what the record of an input says of its values.

    Args:
        pixels: as the file stores them, with the input's channels.
        one: the input.
    """
    values, valid, doubtful = pixels
    if one.missing:
        valid = without(values, valid, one.missing)
    if one.normalize == "per_image":
        values = standardised(values, valid)
    return Pixels(values, valid, doubtful)


def without(values: np.ndarray, valid: np.ndarray | None, missing: Sequence[float]) -> np.ndarray | None:
    """Where there are data, if some values mean that there are none.

    Args:
        values: H×W×C; a pixel has no data where any channel of floats, or all channels of whole numbers, are missing.
        valid: H×W booleans, or None.
        missing: the values.
    """
    gaps = np.isin(values, np.asarray(missing, np.float64).astype(values.dtype))
    gaps = gaps.any(axis=2) if values.dtype.kind == "f" else gaps.all(axis=2)
    if not gaps.any():
        return valid
    return np.asarray(~gaps if valid is None else valid & ~gaps)


def standardised(values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """A whole picture less its own mean, divided by its own deviation, channel by channel.

    Args:
        values: H×W×C.
        valid: H×W booleans of the pixels that count; None for all. The others become 0.

    Returns:
        H×W×C float32; 0 in a channel of one value.
    """
    pixels = values.reshape(-1, values.shape[2]) if valid is None else values[valid]
    if not len(pixels):
        return np.zeros(values.shape, np.float32)
    mean, std = pixels.mean(axis=0, dtype=np.float64), pixels.std(axis=0, dtype=np.float64)
    scaled = ((values - mean) / np.where(std > 0, std, 1.0)).astype(np.float32)
    return scaled if valid is None else np.where(valid[:, :, None], scaled, np.float32(0))


def read_picture_pixels(file: Path, channels: int | None, pages: str) -> Pixels:
    """What a picture's file stores, before it is known what a model makes of it.

    Args:
        file: the picture.
        channels: C; None for all bands that are no alpha.
        pages: as in `read_pixels`.

    Raises:
        AtrousError: missing or damaged, or there is no agreed way to the channels.
    """
    stored = read_pixels(file, pages)
    try:
        values, valid = stored.for_model(channels)
    except AtrousError as error:
        raise AtrousError(f"{file}: {error}") from error
    return Pixels(values, valid, values.shape[2] != stored.values.shape[2] and stored.alpha_may_be_a_channel)


def read_input(file: Path, one: Input) -> Pixels:
    """The values of one input of a scene.

    Args:
        file: the input's.
        one: the input.

    Raises:
        AtrousError: as `read_picture_pixels`.
    """
    return as_input(read_picture_pixels(file, one.channels, one.pages), one)
