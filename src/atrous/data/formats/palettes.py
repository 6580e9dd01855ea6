"""Palettes of mask files: the colour of each index."""

from __future__ import annotations

import numpy as np

from atrous.data.class_colors import Color, color_table


def palettes_differ(index: int, color: Color, path: str, other_color: Color, other_path: str) -> str:
    """Returns the error message for two masks whose palettes have different colours for one index.

    Args:
        index: the palette index.
        color: the colour of the index in the first mask.
        path: path of the first mask.
        other_color: the colour of the index in the second mask.
        other_path: path of the second mask.
    """
    return (
        f"the palettes of the masks differ: index {index} is {color} in {path} and {other_color} in {other_path}, so "
        "one number has two meanings. Programs that shrink PNG files can cause this. List the colours in classes.yaml "
        "(raw: [[r, g, b]]; `atrous doctor` proposes this list), or export the masks again with one palette."
    )


def as_colors(indices: np.ndarray, palette: tuple[Color, ...]) -> np.ndarray:
    """Returns the colours of palette indices.

    Args:
        indices: H×W ``uint8``.
        palette: colours by index; an index beyond its end becomes black.

    Returns:
        H×W×3 ``uint8``.
    """
    return color_table(palette)[indices]
