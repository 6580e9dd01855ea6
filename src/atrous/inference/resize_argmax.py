"""From low-resolution scores to a mask, without full-size scores of all classes ever existing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atrous.models.layers import resize_rows

#: Size of one band of full-size scores: small enough to stay in the processor's cache.
BAND_BYTES = 4 * 2**20


def resize_argmax(scores: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """The best class of each pixel of the bilinearly resized scores, made band by band of rows.

    Args:
        scores: N×K×h×w logits; K = 1 is one logit that separates two classes at 0.
        size: (H, W) of the mask in pixels.
        align_corners: see `models.layers.resize`.

    Returns:
        N×H×W uint8, equal to resizing everything first.
    """
    scores = scores.float()
    count, classes = scores.shape[:2]
    (height, width) = size
    mask = torch.empty((count, height, width), dtype=torch.uint8, device=scores.device)
    band = max(1, BAND_BYTES // (4 * count * classes * width))
    for start in range(0, height, band):
        rows = range(start, min(start + band, height))
        upsampled = resize_rows(scores, size, rows, align_corners)
        mask[:, rows.start : rows.stop] = upsampled.argmax(1) if classes > 1 else upsampled[:, 0] > 0
    return mask
