"""Class colours: default colours, look-up tables, and colours packed into single numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

#: Red, green, blue, 0–255.
Color: TypeAlias = tuple[int, int, int]


def color_table(colors: Sequence[Color]) -> np.ndarray:
    """Returns a look-up table of colours by index.

    Args:
        colors: the (red, green, blue) of the first indices, each 0–255; at most 256 colours.

    Returns:
        256×3 ``uint8``, black beyond the given colours.
    """
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    return table


def default_colors(count: int) -> tuple[Color, ...]:
    """Returns the first colours of the Pascal VOC colour map; neighbouring indices have very different colours.

    Bit 3j + c of the index becomes bit 7 − j of channel c (VOC devkit, ``VOClabelcolormap.m``).

    Args:
        count: number of colours, 0 or more.
    """
    colors = []
    for index in range(count):
        red = green = blue = 0
        for shift in range(8):
            red |= (index >> (3 * shift) & 1) << (7 - shift)
            green |= (index >> (3 * shift + 1) & 1) << (7 - shift)
            blue |= (index >> (3 * shift + 2) & 1) << (7 - shift)
        colors.append((red, green, blue))
    return tuple(colors)


def unpacked_color(code: int) -> Color:
    """Returns the (red, green, blue) of a colour that `packed_colors` packed into one number.

    Args:
        code: red in bits 32 to 47, green in bits 16 to 31, blue in bits 0 to 15.
    """
    return code >> 32, code >> 16 & 0xFFFF, code & 0xFFFF


def packed_colors(colors: np.ndarray) -> np.ndarray:
    """Packs H×W×3 colours into H×W ``int64`` numbers, 16 bits per channel.

    Args:
        colors: … ×3 whole numbers (red, green, blue), each 0–65535.
    """
    parts = colors.astype(np.int64)
    return parts[..., 0] << 32 | parts[..., 1] << 16 | parts[..., 2]
