"""Applies OpenCV to pictures with more channels than OpenCV accepts, such as hyperspectral pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: Largest number of channels that OpenCV accepts: 128 from version 5 on, 512 in earlier versions.
MOST_CHANNELS = 128


def by_channels(change: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """Applies a function of OpenCV that treats each channel alike, to at most `MOST_CHANNELS` channels at once.

    Args:
        change: function from H×W×C to H'×W'×C, or to H'×W' if C is 1.
        image: H×W×C picture.

    Returns:
        H'×W'×C picture.
    """
    channels = image.shape[2]
    if channels <= MOST_CHANNELS:
        found = change(image)
        return found.reshape(*found.shape[:2], channels)
    starts = range(0, channels, MOST_CHANNELS)
    parts = [np.ascontiguousarray(image[:, :, start : start + MOST_CHANNELS]) for start in starts]
    return np.concatenate([by_channels(change, part) for part in parts], axis=2)
