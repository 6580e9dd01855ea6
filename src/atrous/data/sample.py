"""One picture with its label, the unit every later part works on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """A picture and its dense label.

    Attributes:
        image: H×W×C ``uint8``, ``uint16`` or ``float32``, raw values as the file holds them.
        label: H×W ``uint8`` of class indices 0…K−1, with 255 = ignore.
        name: the picture's name in its dataset, its file name without suffix.
        valid: H×W booleans, False where the picture has no data; None for data everywhere.
        doubtful_alpha: whether an alpha band, which is no channel here, looks like one.
    """

    image: np.ndarray
    label: np.ndarray
    name: str
    valid: np.ndarray | None = None
    doubtful_alpha: bool = False
