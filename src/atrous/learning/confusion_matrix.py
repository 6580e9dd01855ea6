"""Scores from an integer confusion matrix; they do not depend on the batch size or the order of the pictures."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

#: Largest number of pixels that are counted at once: OpenCV counts in float32, which is exact up to this number.
COUNTED_AT_ONCE = 2**24


class ConfusionMatrix:
    """Counts of (truth, prediction) pairs of classes over all labelled pixels.

    Args:
        num_classes: number of classes K ≥ 2.

    Attributes:
        counts: K×K int64; row = truth, column = prediction.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Adds one picture or a batch.

        Args:
            truth: class indices of any shape, 255 = ignore.
            prediction: class indices of the same shape, all < K, or 255; pixels with 255 are not counted.
        """
        classes = len(self.counts)
        pairs = truth.reshape(1, -1), prediction.reshape(1, -1)
        for start in range(0, truth.size, COUNTED_AT_ONCE):
            part = [np.ascontiguousarray(one[:, start : start + COUNTED_AT_ONCE], np.uint8) for one in pairs]
            # Pairs with 255 are outside the ranges and not counted.
            counts = cv2.calcHist(part, [0, 1], None, [classes, classes], [0, classes, 0, classes])
            self.counts += counts.astype(np.int64)

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class, K; NaN for a class absent from truth and prediction."""
        hits = np.diag(self.counts)
        return _ratio(hits, self.counts.sum(0) + self.counts.sum(1) - hits)

    @property
    def dice(self) -> NDArray[np.float64]:
        """2·intersection / (truth + prediction) per class, K; NaN for a class absent from truth and prediction."""
        return _ratio(2 * np.diag(self.counts), self.counts.sum(0) + self.counts.sum(1))

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of the true pixels of each class that are predicted correctly, K; NaN for a class absent from truth."""
        return _ratio(np.diag(self.counts), self.counts.sum(1))

    @property
    def miou(self) -> float:
        """Mean IoU over the classes present in truth or prediction, 0–1; NaN if there is no such class."""
        return _mean(self.iou)

    @property
    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are correct, 0–1; NaN if no pixel is labelled."""
        return float(_ratio(np.trace(self.counts), self.counts.sum()))

    def summary(self) -> dict[str, Any]:
        """Returns the main scores by name, 0–1; NaN becomes None."""
        frequency = self.counts.sum(1) / max(self.counts.sum(), 1)
        scores = {
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": _mean(self.accuracy),
            "frequency_weighted_iou": float(np.nansum(frequency * self.iou)),
            "dice": _mean(self.dice),
        }
        return {name: none_if_nan(value) for name, value in scores.items()}


def none_if_nan(value: float) -> float | None:
    """Converts a float for JSON, which has no NaN: NaN becomes None."""
    return None if np.isnan(value) else float(value)


def _ratio(part: Any, whole: Any) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.true_divide(part, whole)


def _mean(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
