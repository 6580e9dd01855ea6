"""Reads the mask that GDAL stores beside a picture, in PATH.msk; 0 means that a pixel has no data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atrous.data.formats.tiff import TiffPicture, is_tiff


def hidden_beside(path: Path, size: tuple[int, ...]) -> np.ndarray | None:
    """Returns H×W booleans, True where ``PATH.msk`` hides pixels of a picture; None if it hides none.

    Args:
        path: a picture that is no TIFF; `TiffPicture` reads its mask itself.
        size: (H, W) of the picture. A mask of another size is ignored, as in `TiffPicture`.

    Raises:
        AtrousError: the mask is damaged.
    """
    beside = Path(f"{path}.msk")
    if not beside.is_file():
        return None
    with beside.open("rb") as file:
        if not is_tiff(file.read(4)):
            return None
    with TiffPicture(beside) as mask:
        hidden = mask.read()[:, :, 0] == 0
    return hidden if hidden.shape == size and hidden.any() else None
