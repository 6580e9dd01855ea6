"""What all pictures of a camera share, such as a round field or a caption bar, taken out before comparing them."""

from __future__ import annotations

import numpy as np

_FEWEST = 8  # pictures from which what they share can be told
_VARIES = 0.25  # of the variation of the 64 most varied pixels, from which a pixel counts as varying
# Energy of what varies, of thumbnails of length 1. Below are copies of one picture, whose JPEG noise has 0.002;
# above, nothing is shared that could make different pictures alike. Fields and bars gave 0.015 to 0.06.
_SHARED = (0.005, 0.5)


def without_fixed_parts(thumbnails: np.ndarray) -> np.ndarray | None:
    """What varies in thumbnails, where most of them is the same in all.

    Args:
        thumbnails: N×D, each of mean 0 and length 1.

    Returns:
        N×d, each of length 1 (or 0), so that the dot product of two is the correlation of what varies; None where the
        pictures share little, or are too few to tell.
    """
    if len(thumbnails) < _FEWEST:
        return None
    deviations = thumbnails - np.median(thumbnails, axis=0)
    variation = np.median(np.abs(deviations), axis=0)
    varies = variation >= _VARIES * np.sort(variation)[-64:].mean()
    deviations = deviations[:, varies]
    if not _SHARED[0] < np.median((deviations**2).sum(axis=1)) < _SHARED[1]:
        return None
    return deviations / np.maximum(np.linalg.norm(deviations, axis=1, keepdims=True), 1e-6)
