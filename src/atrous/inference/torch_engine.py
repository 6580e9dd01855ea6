"""Runs a network in torch: on a GPU, or on a CPU in channels_last and bfloat16 where the processor computes in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atrous.device import pick_device, pick_precision, precision_name
from atrous.inference import resize_argmax
from atrous.inference.engine import Engine
from atrous.inference.pipeline import Pipeline
from atrous.inference.prepare import prepare
from atrous.models import SegmentationModel
from atrous.models.layers import resize_rows

#: Size of one band of full-size scores: small enough to stay in the processor's cache.
BAND_BYTES = 4 * 2**20


class TorchEngine:
    """A network in torch.

    Args:
        model: left as it is; a copy is prepared for inference.
        device: see `device.pick_device`.
        precision: see `device.pick_precision`.
        reason: why this engine.

    Attributes:
        engine: what this is.

    Raises:
        AtrousError: no such device, unknown precision.
    """

    def __init__(self, model: SegmentationModel, device: str | torch.device, precision: str, reason: str) -> None:
        self._device = pick_device(device)
        self._dtype = pick_precision(precision, self._device)
        self._align_corners = model.align_corners
        prepared: Any = prepare(model)
        self._pipeline = Pipeline(prepared.to(memory_format=torch.channels_last)).to(self._device)
        self.engine = Engine("torch", str(self._device), precision_name(self._dtype), reason)

    def scores(self, image: np.ndarray) -> np.ndarray:
        """H×W×C raw values → h×w×K float32 logits, at the model's own low resolution."""
        return self._run(image)[0].permute(1, 2, 0).cpu().numpy()

    def labels(self, image: np.ndarray) -> np.ndarray:
        """H×W×C raw values → H×W uint8 class indices."""
        scores, size = self._run(image), image.shape[:2]
        if self._device.type == "cpu":
            return resize_argmax.resize_argmax(scores[0].permute(1, 2, 0).numpy(), size, self._align_corners)
        with torch.inference_mode():
            return banded_argmax(scores, size, self._align_corners)[0].cpu().numpy()

    def _run(self, image: np.ndarray) -> Tensor:
        if image.dtype == np.uint16:
            image = image.astype(np.float32)
        batch = torch.tensor(image, device=self._device).permute(2, 0, 1)[None]  # channels_last already
        mixed = self._dtype != torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, dtype=self._dtype if mixed else None, enabled=mixed),
        ):
            return self._pipeline(batch).float()


def banded_argmax(scores: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """The best class of each pixel of the bilinearly resized scores, band by band of rows, on any device.

    Args:
        scores: N×K×h×w logits; K = 1 is one logit that separates two classes at 0.
        size: (H, W) of the mask in pixels.
        align_corners: see `models.layers.resize`.

    Returns:
        N×H×W uint8, equal to resizing everything first.
    """
    count, classes = scores.shape[:2]
    (height, width) = size
    mask = torch.empty((count, height, width), dtype=torch.uint8, device=scores.device)
    band = max(1, BAND_BYTES // (4 * count * classes * width))
    for start in range(0, height, band):
        rows = range(start, min(start + band, height))
        upsampled = resize_rows(scores, size, rows, align_corners)
        mask[:, rows.start : rows.stop] = upsampled.argmax(1) if classes > 1 else upsampled[:, 0] > 0
    return mask
