"""The palettes of mask files: which colour an index stands for."""

from __future__ import annotations

import numpy as np

from atrous.data.class_colors import Color, color_table


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
    return color_table(palette)[indices]
