"""Several views of one picture, at other scales and mirrored, and the mean of what a network says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from atrous.errors import AtrousError

if TYPE_CHECKING:
    from torch import Tensor

    from atrous.crf import DenseCRF

#: Size of one band of full-size probabilities.
BAND_BYTES = 16 * 2**20
#: What a view may be enlarged to; a mistyped scale shall not fill the memory.
LARGEST_SCALE = 8


@dataclass(frozen=True)
class View:
    """How a network looks at a picture.

    Args:
        scale: of the picture's sides, > 0.
        mirrored: left and right.
    """

    scale: float = 1.0
    mirrored: bool = False

    def of(self, image: np.ndarray) -> np.ndarray:
        """H×W×C → H'×W'×C."""
        if self.scale != 1.0:
            height, width = (max(1, round(side * self.scale)) for side in image.shape[:2])
            channels = image.shape[2]
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, channels)
        return image[:, ::-1].copy() if self.mirrored else image

    def back(self, scores: np.ndarray) -> np.ndarray:
        """h×w×K scores of this view, mirrored back."""
        return scores[:, ::-1].copy() if self.mirrored else scores  # at one column a view counts as contiguous


def views_of(scales: Sequence[float], flip: bool) -> tuple[View, ...]:
    """The views at each scale, with `flip` also mirrored.

    Args:
        scales: each within 0–8, at least one; the papers take 0.5, 0.75, 1, 1.25, 1.5, 1.75 (arXiv:1706.05587 §4.1).
        flip: whether to look at mirrored pictures too.

    Raises:
        AtrousError: no scale, or one out of range.
    """
    if not scales or not all(0 < scale <= LARGEST_SCALE for scale in scales):
        raise AtrousError(f"scales must be one or more numbers above 0, up to {LARGEST_SCALE:g}, got {list(scales)}.")
    return tuple(View(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,)))


def mean_probabilities(
    scores: Sequence[np.ndarray], size: Sequence[int], align_corners: bool, temperature: float
) -> Tensor:
    """The mean of the views' probabilities at full size.

    Args:
        scores: of each view h×w×K logits, mirrored back.
        size: (H, W) in pixels.
        align_corners: see `models.layers.resize`.
        temperature: logits are divided by it before softmax.

    Returns:
        K×H×W, which sum to one over K; K = 2 for one-logit scores.
    """
    return _rows(scores, size, range(size[0]), align_corners, temperature)


def mean_labels(
    scores: Sequence[np.ndarray], size: Sequence[int], align_corners: bool, temperature: float
) -> np.ndarray:
    """The best class by `mean_probabilities`, band by band of rows, so that they never exist as a whole.

    Args:
        scores: of each view h×w×K logits, mirrored back.
        size: (H, W) in pixels.
        align_corners: see `models.layers.resize`.
        temperature: logits are divided by it before softmax.

    Returns:
        H×W uint8 class indices.
    """
    height, width = size
    mask = np.empty((height, width), np.uint8)
    band = max(1, BAND_BYTES // (4 * max(2, scores[0].shape[2]) * width))
    for start in range(0, height, band):
        rows = range(start, min(start + band, height))
        mask[rows.start : rows.stop] = _rows(scores, size, rows, align_corners, temperature).argmax(0).numpy()
    return mask


def refined_labels(
    scores: Sequence[np.ndarray],
    image: np.ndarray,
    crf: DenseCRF,
    valid: np.ndarray | None,
    align_corners: bool,
    temperature: float,
    device: str,
) -> np.ndarray:
    """The best class after a CRF has refined `mean_probabilities`.

    Args:
        scores: of each view h×w×K logits, mirrored back.
        image: H×W×C, what they were made from.
        crf: on the device.
        valid: H×W booleans; the CRF leaves the other pixels out; None for all.
        align_corners: see `models.layers.resize`.
        temperature: logits are divided by it before softmax.
        device: where the CRF runs.

    Returns:
        H×W uint8 class indices.
    """
    import torch

    probabilities = mean_probabilities(scores, image.shape[:2], align_corners, temperature)
    with torch.inference_mode():
        refined = crf(torch.tensor(image), probabilities.to(device), valid)
        return refined.argmax(0).to(torch.uint8).cpu().numpy()


def logits_at(
    scores: np.ndarray, size: Sequence[int], rows: np.ndarray, columns: np.ndarray, align_corners: bool
) -> np.ndarray:
    """One view's scores, interpolated, of some pixels; band by band of rows, so that they never exist as a whole.

    Args:
        scores: h×w×K logits.
        size: (H, W) in pixels.
        rows: n rows of pixels, ascending.
        columns: n columns, of the same pixels.
        align_corners: see `models.layers.resize`.

    Returns:
        n×K float32 logits; of one-logit scores two, the first of them 0.
    """
    import torch

    from atrous.models.layers import resize_rows

    height, width = size
    logits = torch.from_numpy(np.ascontiguousarray(scores.transpose(2, 0, 1)))[None]
    found = np.empty((len(rows), scores.shape[2]), np.float32)
    band = max(1, BAND_BYTES // (4 * scores.shape[2] * width))
    with torch.inference_mode():
        for start in range(0, height, band):
            stop = min(start + band, height)
            own = slice(*np.searchsorted(rows, (start, stop)))
            if own.start < own.stop:
                full = resize_rows(logits, size, range(start, stop), align_corners)[0].numpy()
                found[own] = full[:, rows[own] - start, columns[own]].T
    return np.concatenate([np.zeros_like(found), found], axis=1) if found.shape[1] == 1 else found


def _rows(
    scores: Sequence[np.ndarray], size: Sequence[int], rows: range, align_corners: bool, temperature: float
) -> Tensor:
    """Some rows of the mean probabilities."""
    import torch

    from atrous.models.layers import class_probabilities, resize_rows

    total = None
    with torch.inference_mode():
        for one in scores:
            logits = torch.from_numpy(np.ascontiguousarray(one.transpose(2, 0, 1)))[None]
            band = class_probabilities(resize_rows(logits, size, rows, align_corners) / temperature)[0]
            total = band if total is None else total.add_(band)
        assert total is not None
        return total.div_(len(scores))
