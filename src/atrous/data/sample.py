"""One picture with its label, the unit of training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """A picture and its dense label.

    Attributes:
        image: H×W×C ``uint8``, ``uint16`` or ``float32``, raw values as stored in the file.
        label: H×W ``uint8`` of class indices 0…K−1, with 255 = ignore.
        name: the picture's name in its dataset: its file name without suffix.
        valid: H×W booleans, False for pixels without data; None if all pixels hold data.
        doubtful_alpha: whether the dropped alpha band looks like an ordinary channel, such as near infrared.
    """

    image: np.ndarray
    label: np.ndarray
    name: str
    valid: np.ndarray | None = None
    doubtful_alpha: bool = False
