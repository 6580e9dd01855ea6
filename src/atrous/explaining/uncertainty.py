"""How sure a model is, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def entropy(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far the probabilities are spread over the classes: 0 for one class, 1 for all alike.

    Args:
        probabilities: K×H×W, which sum to one over K ≥ 2.

    Returns:
        H×W, −Σ p·log p / log K.
    """
    logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return -(probabilities * logs).sum(0) / math.log(len(probabilities))


def margin(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far the best class is ahead of the second, 0–1.

    Args:
        probabilities: K×H×W, K ≥ 2.

    Returns:
        H×W.
    """
    second, best = np.partition(probabilities, -2, axis=0)[-2:]
    return best - second
