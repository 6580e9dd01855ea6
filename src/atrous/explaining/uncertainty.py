"""The uncertainty of a model at every pixel."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def entropy(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the normalised entropy of each pixel.

    The entropy is 0 if one class has probability 1, and 1 if all classes are equally probable.

    Args:
        probabilities: K×H×W, K ≥ 2; the K values of a pixel sum to 1.

    Returns:
        H×W, −Σ p·log p / log K.
    """
    logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return -(probabilities * logs).sum(0) / math.log(len(probabilities))


def margin(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the probability of the best class minus that of the second best, for each pixel.

    Args:
        probabilities: K×H×W, K ≥ 2.

    Returns:
        H×W, 0–1.
    """
    second, best = np.partition(probabilities, -2, axis=0)[-2:]
    return best - second
