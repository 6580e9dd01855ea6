"""Accuracy by object size; scores over all pixels depend mostly on large objects and hide errors on small objects."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from atrous.data.mask_value_map import IGNORE_INDEX

#: Names of the sizes.
SIZES = ("small", "medium", "large")
#: Smallest areas of medium and of large segments, in pixels (the limits of COCO).
LIMITS = (32**2, 96**2)


class SizeScore:
    """Counts the correctly predicted pixels of true segments, by segment size.

    A segment is an 8-connected region of one class in the truth.

    Args:
        num_classes: number of classes K ≥ 2.

    Attributes:
        counts: K×3×3 int64; for each class and size: the number of segments, the number of their pixels, and the number
            of their correct pixels.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = np.zeros((num_classes, len(SIZES), 3), dtype=np.int64)

    def update(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Adds one picture.

        Args:
            truth: H×W class indices, 255 = ignore.
            prediction: H×W class indices.
        """
        for index in np.unique(truth[truth != IGNORE_INDEX]):
            count, segments = cv2.connectedComponents((truth == index).astype(np.uint8), connectivity=8)
            pixels = np.bincount(segments.ravel(), minlength=count)[1:]
            right = np.bincount(segments[prediction == index], minlength=count)[1:]
            size = np.searchsorted(LIMITS, pixels, side="right")
            for column, values in enumerate((np.ones_like(pixels), pixels, right)):
                np.add.at(self.counts[index, :, column], size, values)

    def accuracy(self) -> NDArray[np.float64]:
        """Returns the share of correct pixels in segments of each class and size, K×3; NaN without such segments."""
        with np.errstate(invalid="ignore"):
            return self.counts[..., 2] / self.counts[..., 1]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Accuracy of small, medium and large segments, each averaged over the classes with segments of this size.

        The accuracy of a size without segments is NaN.
        """
        found = self.accuracy()
        with np.errstate(invalid="ignore"):
            return np.nansum(found, 0) / (~np.isnan(found)).sum(0)
