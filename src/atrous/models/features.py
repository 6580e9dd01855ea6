"""What a backbone gives to a paper's head, and what every backbone is asked."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from atrous.errors import AtrousError

OUTPUT_STRIDES = (8, 16, 32)
DILATION_RULES = ("previous", "full")


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


def check_output_stride(output_stride: int) -> None:
    """Refuses a stride other than 8, 16, 32."""
    if output_stride not in OUTPUT_STRIDES:
        raise AtrousError(f"output_stride must be 8, 16 or 32, got {output_stride}.")


def check_channels(in_channels: int) -> None:
    """Refuses pictures without channels."""
    if in_channels < 1:
        raise AtrousError(f"in_channels must be 1 or more, got {in_channels}.")
