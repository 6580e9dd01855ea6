"""Converts the stored colours of a TIFF, indices of a colour table or CMYK, to RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atrous.data.formats.tiff_page import JPEG
from atrous.errors import AtrousError

if TYPE_CHECKING:
    from tifffile import TiffPage

#: Factor that scales grey values to 0…255, by bits per value, as Pillow does for PNG.
STRETCH = {1: 255, 2: 85, 4: 17}
_PALETTE, _YCBCR = 3, 6  # PhotometricInterpretation
_COLOUR_SPACES = {6: "YCbCr", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32844: "LogL", 32845: "LogLuv"}


def color_table(page: TiffPage) -> np.ndarray | None:
    """Returns the colour table of a page, N×3 ``uint8``, or None if it has none.

    The standard requires 16 bits per colour. Some programs write 8 bits. If all numbers of a table are below 256, it is
    read as a table of 8 bits, as in libtiff's tools.

    Args:
        page: page of an open TIFF.
    """
    table = page.colormap
    return None if table is None else (table.T if table.max(initial=0) < 256 else table.T >> 8).astype(np.uint8)


def colors_of_indices(indices: np.ndarray, table: np.ndarray | None, name: object) -> np.ndarray:
    """Returns the colours of indices of a colour table.

    Args:
        indices: H×W×P indices of P pages.
        table: N×3 ``uint8``, the colour table; None if the file has none.
        name: name of the file, for messages.

    Returns:
        H×W×(3·P) ``uint8``, the colours of the pages one after the other.

    Raises:
        AtrousError: there is no colour table, or an index is beyond the end of the table.
    """
    if table is None:
        raise AtrousError(f"{name}: the picture has colour indices and no colour table; the file is damaged.")
    if indices.max(initial=0) >= len(table):
        raise AtrousError(f"{name}: an index is beyond its colour table of {len(table)} colours; the file is damaged.")
    return np.concatenate([table[indices[:, :, band]] for band in range(indices.shape[2])], axis=2)


def rgb_of_cmyk(stored: np.ndarray) -> np.ndarray:
    """Converts CMYK to RGB without a colour profile, as Pillow does.

    Args:
        stored: H×W×(4·P) ``uint8`` or ``uint16``, the colours of P pages one after the other.

    Returns:
        H×W×(3·P) of the same type.
    """
    most = np.iinfo(stored.dtype).max
    light = most - stored.astype(np.float32)
    parts = [light[:, :, at : at + 3] * light[:, :, at + 3 : at + 4] / most for at in range(0, stored.shape[2], 4)]
    return np.rint(np.concatenate(parts, axis=2)).astype(stored.dtype)


def check_colours(page: TiffPage, is_cmyk: bool, name: object) -> None:
    """Checks that the colours of a page can be read.

    Args:
        page: a page of a TIFF.
        is_cmyk: whether its colours are CMYK.
        name: name of the file, for messages.

    Raises:
        AtrousError: the colour space or the type of the colours is not supported.
    """
    photometric = int(page.photometric)
    space = _COLOUR_SPACES.get(photometric)
    if space is not None and not (photometric == _YCBCR and page.compression in JPEG):
        raise AtrousError(f"{name}: colours in {space}, which is not supported; convert the file to RGB.")
    if photometric == _PALETTE and page.samplesperpixel != 1:
        raise AtrousError(
            f"{name}: the picture has a colour table and {page.samplesperpixel} bands; convert it to RGB."
        )
    if is_cmyk and page.dtype not in (np.uint8, np.uint16):
        raise AtrousError(
            f"{name}: CMYK colours of type {page.dtype}, which is not supported; convert the file to RGB."
        )
