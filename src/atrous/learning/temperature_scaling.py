"""Whether a model is right as often as it says: reliability, and the temperature that mends it (arXiv:1706.04599)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atrous.checked_arguments import checked
from atrous.errors import AtrousError, shown

BINS = 15
MOST_BINS = 10_000
#: What a temperature is looked for between.
COOLEST, HOTTEST = 0.05, 20.0
#: Halvings of that range, on its inverse: to ten digits.
HALVINGS = 40


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often pixels are right, by how sure the model was of them.

    Args:
        pixels: per bin of confidence, how many.
        confidence: per bin, their mean probability of the predicted class; NaN in an empty bin.
        accuracy: per bin, the share that is right; NaN in an empty bin.
        nll: mean of −log(probability of the true class).
    """

    pixels: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    nll: float

    @property
    def ece(self) -> float:
        """Expected calibration error, 0–1: |accuracy − confidence|, averaged over the pixels (§2, equation 3)."""
        filled = self.pixels > 0
        gaps = np.abs(self.accuracy - self.confidence)[filled]
        return float((gaps * self.pixels[filled]).sum() / self.pixels.sum())


@checked
def reliability(logits: NDArray, labels: NDArray, temperature: float = 1.0, bins: int = BINS) -> Reliability:
    """Sorts pixels into bins of equal width by the probability of the class they are given.

    Args:
        logits: n×K, K ≥ 2, n ≥ 1.
        labels: n class indices.
        temperature: what logits are divided by, > 0.
        bins: how many.

    Raises:
        AtrousError: no pixels, arrays of other shapes, or values out of range.
    """
    _check(logits, labels)
    if not 0 < temperature < math.inf or not 1 <= bins <= MOST_BINS:
        raise AtrousError(f"temperature is above 0, and bins are 1 to {MOST_BINS}, got {temperature} and {bins}.")
    # Less their largest, because a temperature near 0 makes logits infinite.
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
    """The temperature at which the true classes are most probable (§4.2); masks of one view stay as they are.

    −log of the true class's probability is convex in 1/T: its slope, the mean of the expected logit less the
    true class's, is zero where halving ends.

    Args:
        logits: n×K, K ≥ 2, n ≥ 1.
        labels: n class indices.

    Returns:
        T between `COOLEST` and `HOTTEST`; an end of that range where the pixels ask for more, as when all are right.

    Raises:
        AtrousError: no pixels, or arrays of other shapes.
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
    """Refuses what are no logits of pixels and their true classes."""
    if not isinstance(logits, np.ndarray) or logits.ndim != 2 or logits.shape[1] < 2 or logits.dtype.kind != "f":
        raise AtrousError(f"logits are an array of n×K floating-point numbers, K ≥ 2, got {shown(logits)}.")
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise AtrousError(f"labels are an array of n class indices, got {shown(labels)}.")
    if len(labels) != len(logits):
        raise AtrousError(f"logits and labels are of the same pixels, got {len(logits)} and {len(labels)} of them.")
    if not len(labels):
        raise AtrousError("no labelled pixels: nothing to calibrate on.")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise AtrousError(f"labels are indices from 0 to {logits.shape[1] - 1}: leave ignored pixels (255) out.")
    if not np.isfinite(logits).all():
        raise AtrousError("logits hold NaN or infinity.")


def _log_softmax(logits: NDArray) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
