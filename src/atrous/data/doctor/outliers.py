"""Robust outliers of numbers, one per volume."""

from __future__ import annotations

import numpy as np

#: Fewest numbers from which outliers are found.
FEWEST = 5
_DEVIATIONS = 6  # smallest distance of an outlier, in robust standard deviations
_OF_NORMAL = 1.4826  # standard deviation of normal numbers divided by their median absolute deviation


def outliers(numbers: np.ndarray, least: float) -> np.ndarray:
    """Returns which numbers are far from the others: six robust standard deviations from the median, and ``least``.

    The robust standard deviation is 1.4826 times the median absolute deviation, so that outliers do not enlarge it.

    Args:
        numbers: N finite numbers.
        least: smallest distance from the median that matters.

    Returns:
        N booleans; all False for fewer than `FEWEST` numbers.
    """
    if len(numbers) < FEWEST:
        return np.zeros(len(numbers), bool)
    distances = np.abs(numbers - np.median(numbers))
    return distances > max(_DEVIATIONS * _OF_NORMAL * float(np.median(distances)), least)


def is_usual(number: float, numbers: np.ndarray, least: float) -> bool:
    """Returns whether a number is at most half as far from the median of others as an outlier has to be.

    Args:
        number: the number.
        numbers: as for `outliers`.
        least: as for `outliers`.
    """
    median = float(np.median(numbers))
    deviation = _OF_NORMAL * float(np.median(np.abs(numbers - median)))
    return abs(number - median) <= max(_DEVIATIONS * deviation, least) / 2
