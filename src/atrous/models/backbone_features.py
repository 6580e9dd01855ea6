"""The feature maps that a backbone returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """Three feature maps of a backbone.

    Attributes:
        low: N×C×⌈H/4⌉×⌈W/4⌉ low-level features ("Conv2" of arXiv:1802.02611 §3.1), the input of V3+'s decoder.
        middle: features of the stage before the last, the input of an auxiliary head.
        high: features of the last stage at the output stride, the input of every head.
    """

    low: Tensor
    middle: Tensor
    high: Tensor
