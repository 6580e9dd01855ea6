"""Class weights of losses, from the frequencies of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atrous.errors import AtrousError, unknown_name

#: β of the effective number of samples, and the number of pixels to which a data set's counts are scaled. With so many
#: pixels, the effective number of a frequent class is close to its limit, 1/(1 − β).
EFFECTIVE_BETA = 0.9999
EFFECTIVE_PIXELS = 1e5
#: Name → function that maps the frequencies f of the classes to their weights; `class_weights` rescales them. f
#: contains only classes that have pixels.
FORMULAS = {
    "inverse": lambda f: 1 / f,
    "inverse_sqrt": lambda f: 1 / np.sqrt(f),
    "inverse_fourth_root": lambda f: f**-0.25,
    #: Follows arXiv:1411.4734 §6.3.2, which counts only pictures that contain the class; here all pictures count.
    "median_frequency": lambda f: np.median(f) / f,
    #: ENet, arXiv:1606.02147 §4.
    "log": lambda f: 1 / np.log(1.02 + f),
    #: arXiv:1901.05555 eq. 4, (1 − β)/(1 − βⁿ); n is the number of pixels of the class per 100,000 pixels.
    "effective_number": lambda f: (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA ** np.maximum(f * EFFECTIVE_PIXELS, 1)),
}


def class_weights(pixels: Sequence[int], how: str) -> list[float] | None:
    """Returns a weight per class by its frequency in the training labels; the mean over all labelled pixels is 1.

    Args:
        pixels: number of labelled pixels per class. A class without pixels gets the largest weight of the other
            classes.
        how: a key of `FORMULAS`, or "none".

    Returns:
        One weight per class; None for "none".

    Raises:
        AtrousError: the name is unknown, or there are no labelled pixels.
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
