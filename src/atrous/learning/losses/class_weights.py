"""How much each class counts in a loss, from how often it occurs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atrous.errors import AtrousError, unknown_name

#: β of the effective number of samples, of so many pixels in a data set's labels that the largest class saturates.
EFFECTIVE_BETA = 0.9999
EFFECTIVE_PIXELS = 1e5
#: Name → weights of the frequencies of the classes that occur, up to a common factor.
FORMULAS = {
    "inverse": lambda f: 1 / f,
    "inverse_sqrt": lambda f: 1 / np.sqrt(f),
    "inverse_fourth_root": lambda f: f**-0.25,
    #: After arXiv:1411.4734 §6.3.2, which counts only the pictures that hold a class; here all pictures count.
    "median_frequency": lambda f: np.median(f) / f,
    #: ENet, arXiv:1606.02147 §4.
    "log": lambda f: 1 / np.log(1.02 + f),
    #: arXiv:1901.05555 eq. 4, n being a class's pixels of 100,000: (1 − β)/(1 − βⁿ).
    "effective_number": lambda f: (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA ** np.maximum(f * EFFECTIVE_PIXELS, 1)),
}


def class_weights(pixels: Sequence[int], how: str) -> list[float] | None:
    """Weights per class from how often it occurs in the training labels, with mean 1 over all pixels.

    Args:
        pixels: labelled pixels per class; a class that never occurs gets the largest weight of those that do.
        how: a key of `FORMULAS`, or "none".

    Raises:
        AtrousError: unknown name, or no labelled pixel at all.
    """
    if how != "none" and how not in FORMULAS:
        raise unknown_name("class weighting", how, ["none", *FORMULAS])
    counts = np.asarray(pixels, dtype=np.float64)
    if counts.sum() == 0:
        raise AtrousError("the training split has no labelled pixel: check its masks with `atrous doctor`.")
    if how == "none":
        return None
    present = counts > 0
    frequency = counts[present] / counts.sum()
    weights = np.zeros(len(counts))
    weights[present] = FORMULAS[how](frequency)
    weights[~present] = weights.max()
    return (weights / (weights[present] * frequency).sum()).tolist()
