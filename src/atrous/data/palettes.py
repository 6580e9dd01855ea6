"""The palettes of mask files: which colour an index stands for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from atrous.data.labels import Color

_SUFFIXES = frozenset({".png", ".apng", ".gif", ".tif", ".tiff", ".bmp", ".dib"})  # formats that have palettes


def read_palette(path: Path | str) -> tuple[Color, ...] | None:
    """The colours of a file's palette by index.

    Args:
        path: a picture file; only its head is read.

    Returns:
        Up to 256 colours; None where the file has no palette, or cannot be opened.
    """
    if Path(path).suffix.lower() not in _SUFFIXES:
        return None
    try:
        with Image.open(path) as picture:
            flat = picture.getpalette("RGB") if picture.mode == "P" else None
    except Exception:  # whatever a decoder raises; reading the file itself says what is wrong with it
        return None
    return None if flat is None else tuple(zip(flat[::3], flat[1::3], flat[2::3], strict=True))


def palettes_differ(index: int, color: Color, path: str, other_color: Color, other_path: str) -> str:
    """The sentence that refuses two masks whose palettes give one index two colours."""
    return (
        f"the palettes of the masks differ: index {index} is {color} in {path} and {other_color} in {other_path}, so "
        "one number means two things, as programs that shrink PNG files leave it. List the colours in classes.yaml "
        "(raw: [[r, g, b]]; `atrous doctor` proposes it), or export the masks again with one palette."
    )


def as_colors(indices: np.ndarray, palette: tuple[Color, ...]) -> np.ndarray:
    """The colours that palette indices stand for.

    Args:
        indices: H×W ``uint8``.
        palette: colours by index; black beyond its end.

    Returns:
        H×W×3 ``uint8``.
    """
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[indices]
