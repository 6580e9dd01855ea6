"""Calibration of probabilities: reliability of a model, and temperature scaling (arXiv:1706.04599)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atrous.checked_arguments import checked
from atrous.errors import AtrousError, shown

#: Default and largest number of bins of confidence.
BINS = 15
MOST_BINS = 10_000
#: Range in which the temperature is searched.
COOLEST, HOTTEST = 0.05, 20.0
#: Number of bisection steps on the inverse temperature, which give ten digits.
HALVINGS = 40


@dataclass(frozen=True, eq=False)
class Reliability:
    """Accuracy of predictions, by the probability of the predicted class (the confidence).

    Args:
        pixels: number of pixels in each bin of confidence.
        confidence: mean probability of the predicted class in each bin, 0–1; NaN for an empty bin.
        accuracy: share of correct pixels in each bin, 0–1; NaN for an empty bin.
        nll: mean of −log(probability of the true class) over the pixels.
    """

    pixels: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    nll: float

    @property
    def ece(self) -> float:
        """Expected calibration error, 0–1: mean of |accuracy − confidence| over the pixels (§2, equation 3)."""
        filled = self.pixels > 0
        gaps = np.abs(self.accuracy - self.confidence)[filled]
        return float((gaps * self.pixels[filled]).sum() / self.pixels.sum())


@checked
def reliability(logits: NDArray, labels: NDArray, temperature: float = 1.0, bins: int = BINS) -> Reliability:
    """Measures reliability: pixels are sorted by the probability of the predicted class into bins of equal width.

    Args:
        logits: n×K logits of n ≥ 1 pixels, K ≥ 2.
        labels: n class indices.
        temperature: divisor of the logits, > 0.
        bins: number of bins, 1 to `MOST_BINS`.

    Raises:
        AtrousError: there are no pixels, an array has another shape, or a value is out of range.
    """
    _check(logits, labels)
    if not 0 < temperature < math.inf or not 1 <= bins <= MOST_BINS:
        raise AtrousError(
            f"temperature must be above 0, and bins must be 1 to {MOST_BINS}, got {temperature} and {bins}."
        )
    # The largest logit is subtracted first, because division by a temperature near 0 can make positive logits infinite.
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    logs = _log_softmax(shifted / temperature)
    best = logs.argmax(1)
    sure = np.exp(logs[np.arange(len(best)), best])
    places = np.minimum((sure * bins).astype(int), bins - 1)
    pixels = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(places, sure, bins) / pixels
        accuracy = np.bincount(places, best == labels, bins) / pixels
    nll = -float(logs[np.arange(len(labels)), labels].mean())
    return Reliability(pixels, confidence, accuracy, nll)


@checked
def fit_temperature(logits: NDArray, labels: NDArray) -> float:
    """Returns the temperature T with the lowest mean −log(probability of the true class) (§4.2).

    A temperature does not change masks that are computed without test-time augmentation and without a CRF. The mean is
    convex in 1/T. Its slope is the mean of (expected logit − logit of the true class), and bisection finds the 1/T at
    which the slope is zero.

    Args:
        logits: n×K logits of n ≥ 1 pixels, K ≥ 2.
        labels: n class indices.

    Returns:
        T from `COOLEST` to `HOTTEST`; an end of this range if the minimum is outside, for example if all pixels are
            correct.

    Raises:
        AtrousError: there are no pixels, or an array has another shape.
    """
    _check(logits, labels)
    true = logits[np.arange(len(labels)), labels]
    low, high = 1 / HOTTEST, 1 / COOLEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        expected = (np.exp(_log_softmax(logits * middle)) * logits).sum(1)
        low, high = (low, middle) if (expected - true).mean() > 0 else (middle, high)
    return float(2 / (low + high))


def _check(logits: NDArray, labels: NDArray) -> None:
    """Checks that the arrays are logits of pixels and their true classes."""
    if not isinstance(logits, np.ndarray) or logits.ndim != 2 or logits.shape[1] < 2 or logits.dtype.kind != "f":
        raise AtrousError(f"logits must be an array of n×K floating-point numbers, K ≥ 2, got {shown(logits)}.")
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise AtrousError(f"labels must be an array of n class indices, got {shown(labels)}.")
    if len(labels) != len(logits):
        raise AtrousError(f"logits and labels must be of the same pixels, got {len(logits)} and {len(labels)} pixels.")
    if not len(labels):
        raise AtrousError("there are no labelled pixels to calibrate on.")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise AtrousError(f"labels must be indices from 0 to {logits.shape[1] - 1}: leave ignored pixels (255) out.")
    if not np.isfinite(logits).all():
        raise AtrousError("logits contain NaN or infinity.")


def _log_softmax(logits: NDArray) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
