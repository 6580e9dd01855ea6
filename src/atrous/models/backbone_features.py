"""The feature maps that a backbone gives to a paper's head."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """Three feature maps of a backbone.

    Attributes:
        low: N×C×H/4×W/4, "Conv2" of arXiv:1802.02611 §3.1, what the decoder of V3+ reads.
        middle: of the stage before the last, what an auxiliary head reads.
        high: of the last stage, at the output stride, what every paper reads.
    """

    low: Tensor
    middle: Tensor
    high: Tensor
