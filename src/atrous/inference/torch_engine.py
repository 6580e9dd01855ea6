"""Runs a network in torch, on a GPU or a CPU, in channels_last memory order and in float32 or bfloat16."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atrous.device import pick_device, pick_precision, precision_name
from atrous.inference import resize_argmax
from atrous.inference.choose_engine import Engine
from atrous.inference.fold_batch_norm import simplified_pipeline
from atrous.models import SegmentationModel
from atrous.models.aspp import GlobalMean
from atrous.models.layers import resize_rows

#: Size in bytes of one band of full-size scores: small enough to stay in the processor's cache.
BAND_BYTES = 4 * 2**20


class AtMean(threading.local):
    """A hook that replaces the mean of image pooling, or records the features before the mean.

    Each thread has its own attributes, because several threads run one network.

    Attributes:
        given: mean over the whole picture, N×C×1×1, to use instead of the computed mean; None for the computed mean.
        seen: list to which the features before the mean, N×C×h×w, are appended; None to record nothing.
    """

    given: Tensor | None = None
    seen: list[Tensor] | None = None

    def __call__(self, features: Tensor, mean: Tensor) -> Tensor | None:
        """Returns the given mean; None to keep the mean that image pooling computed."""
        if self.seen is not None:
            self.seen.append(features)
        return None if self.given is None else self.given.to(mean.dtype)


class TorchEngine:
    """A network in torch; any number of threads may use it at once.

    Args:
        model: model to copy and prepare for inference; it is not changed.
        device: see `device.pick_device`.
        precision: see `device.pick_precision`.
        reason: reason for the choice of this engine.

    Attributes:
        engine: engine, device, precision and reason.
        pools: whether the network has image pooling, which adds features of the whole picture to each pixel.
        stacks: whether several pictures run faster in one batch: True on a GPU, False on a CPU.

    Raises:
        AtrousError: the device does not exist, or the precision is unknown.
    """

    def __init__(self, model: SegmentationModel, device: str | torch.device, precision: str, reason: str) -> None:
        self._device = pick_device(device)
        self._dtype = pick_precision(precision, self._device)
        self._align_corners = model.align_corners
        prepared: Any = simplified_pipeline(model)
        self._pipeline = prepared.to(memory_format=torch.channels_last).to(self._device)
        self._means = [module for module in self._pipeline.modules() if isinstance(module, GlobalMean)]
        self.pools, self.stacks = bool(self._means), self._device.type != "cpu"
        self._at_mean = at_mean = AtMean()

        def hook(_: Any, given: Any, mean: Any) -> Any:
            return at_mean(given[0], mean)

        for module in self._means[:1]:
            module.register_forward_hook(hook)
        self.engine = Engine("torch", str(self._device), precision_name(self._dtype), reason)

    def check_scores(self) -> None:
        """Does nothing, because every network in torch outputs scores."""

    def scores(self, image: np.ndarray, pooled: np.ndarray | None = None) -> np.ndarray:
        """Maps H×W×C raw values to h×w×K float32 logits at the low resolution of the network's output.

        Args:
            image: picture or tile.
            pooled: mean of `features` over the whole picture, C' values, to use for a tile; None for the mean over
                `image`.
        """
        return self._run(image, pooled)[0].permute(1, 2, 0).cpu().numpy()

    def features(self, image: np.ndarray) -> np.ndarray:
        """Maps H×W×C raw values to the h×w×C' float32 features that image pooling averages."""
        self._at_mean.seen = seen = []
        try:
            self._run(image)
        finally:
            self._at_mean.seen = None
        return seen[0][0].permute(1, 2, 0).float().cpu().numpy()

    def labels(self, image: np.ndarray, pooled: np.ndarray | None = None) -> np.ndarray:
        """Maps H×W×C raw values to H×W uint8 class indices; arguments as in `scores`."""
        return self._decide(self._run(image, pooled), image.shape[:2])[0]

    def labels_of_all(self, images: np.ndarray) -> np.ndarray:
        """Maps N×H×W×C raw values to N×H×W uint8 class indices in one forward pass."""
        return self._decide(self._through(images), images.shape[1:3])

    def _decide(self, scores: Tensor, size: tuple[int, ...]) -> np.ndarray:
        if self._device.type == "cpu":
            return np.stack(
                [resize_argmax.resize_argmax(one.permute(1, 2, 0).numpy(), size, self._align_corners) for one in scores]
            )
        with torch.inference_mode():
            return banded_argmax(scores, size, self._align_corners).cpu().numpy()

    def _run(self, image: np.ndarray, pooled: np.ndarray | None = None) -> Tensor:
        if pooled is None:
            return self._through(image[None])
        self._at_mean.given = torch.from_numpy(pooled).to(self._device)[None, :, None, None]
        try:
            return self._through(image[None])
        finally:
            self._at_mean.given = None

    def _through(self, images: np.ndarray) -> Tensor:
        if images.dtype == np.uint16:
            images = images.astype(np.float32)
        batch = torch.tensor(images, device=self._device).permute(0, 3, 1, 2)  # channels_last already
        mixed = self._dtype != torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, dtype=self._dtype if mixed else None, enabled=mixed),
        ):
            return self._pipeline(batch).float()


def banded_argmax(scores: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Resizes scores bilinearly and takes each pixel's best class, one band of rows after another, on any device.

    Args:
        scores: N×K×h×w logits; for K = 1, a pixel gets class 1 if its logit is above 0.
        size: (H, W) of the mask in pixels.
        align_corners: see `models.layers.resize`.

    Returns:
        N×H×W uint8 class indices, equal to those of resizing all rows at once.
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
