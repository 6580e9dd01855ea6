"""Finds robust outliers among numbers, such as one number per volume."""

from __future__ import annotations

import numpy as np

#: Smallest count of numbers for which outliers are found.
FEWEST = 5
_DEVIATIONS = 6  # an outlier is more than this number of robust standard deviations away from the median
_OF_NORMAL = 1.4826  # for a normal distribution, standard deviation divided by median absolute deviation


def outliers(numbers: np.ndarray, least: float) -> np.ndarray:
    """Returns which numbers are farther from the median than six robust standard deviations and than ``least``.

    The robust standard deviation is 1.4826 times the median absolute deviation, so that outliers do not enlarge it.

    Args:
        numbers: N finite numbers.
        least: smallest distance from the median, ≥ 0: a number that is not farther from the median is never an outlier.

    Returns:
        N booleans; all False for fewer than `FEWEST` numbers.
    """
    if len(numbers) < FEWEST:
        return np.zeros(len(numbers), bool)
    distances = np.abs(numbers - np.median(numbers))
    return distances > max(_DEVIATIONS * _OF_NORMAL * float(np.median(distances)), least)


def is_usual(number: float, numbers: np.ndarray, least: float) -> bool:
    """Returns whether the distance of a number from the median of other numbers is at most half the limit of outliers.

    Args:
        number: the number to compare.
        numbers: as for `outliers`.
        least: as for `outliers`.
    """
    median = float(np.median(numbers))
    deviation = _OF_NORMAL * float(np.median(np.abs(numbers - median)))
    return abs(number - median) <= max(_DEVIATIONS * deviation, least) / 2
