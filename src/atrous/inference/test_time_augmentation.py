"""Test-time augmentation: scaled and mirrored views of a picture, and the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from atrous.data.many_channels import by_channels
from atrous.errors import AtrousError

if TYPE_CHECKING:
    from torch import Tensor

    from atrous.crf import DenseCRF

#: Size of one band of rows of full-size probabilities, in bytes.
BAND_BYTES = 16 * 2**20
#: Largest scale of a view; without a limit, a mistyped scale could fill the memory.
LARGEST_SCALE = 8


@dataclass(frozen=True)
class View:
    """A view of a picture for test-time augmentation.

    Args:
        scale: resize factor of the picture's sides, > 0.
        mirrored: whether left and right are swapped.
    """

    scale: float = 1.0
    mirrored: bool = False

    def of(self, image: np.ndarray) -> np.ndarray:
        """Returns the view of a picture: H×W×C → H'×W'×C."""
        if self.scale != 1.0:
            height, width = (max(1, round(side * self.scale)) for side in image.shape[:2])
            image = by_channels(lambda part: cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR), image)
        return image[:, ::-1].copy() if self.mirrored else image

    def back(self, scores: np.ndarray) -> np.ndarray:
        """Returns the h×w×K scores of this view; scores of a mirrored view are mirrored back."""
        # The array is copied, because NumPy counts a flipped array of one column as contiguous, but torch refuses its
        # negative stride.
        return scores[:, ::-1].copy() if self.mirrored else scores


def views_of(scales: Sequence[float], flip: bool) -> tuple[View, ...]:
    """Returns a view for each scale and, with `flip`, its mirror image.

    Args:
        scales: one or more resize factors, each above 0 and up to 8; the papers use 0.5, 0.75, 1, 1.25, 1.5, 1.75
            (arXiv:1706.05587 §4.1).
        flip: whether to add a mirrored view at each scale.

    Raises:
        AtrousError: there is no scale, or a scale is out of range.
    """
    if not scales or not all(0 < scale <= LARGEST_SCALE for scale in scales):
        raise AtrousError(f"scales must be one or more numbers above 0, up to {LARGEST_SCALE:g}, got {list(scales)}.")
    return tuple(View(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,)))


def mean_probabilities(
    scores: Sequence[np.ndarray], size: Sequence[int], align_corners: bool, temperature: float
) -> Tensor:
    """Returns the mean of the views' probabilities at full size.

    Args:
        scores: h×w×K logits of each view, mirrored back.
        size: (H, W) in pixels.
        align_corners: see `models.layers.resize`.
        temperature: divisor of the logits before softmax.

    Returns:
        K×H×W probabilities, whose sum over K is 1; K = 2 for one-logit scores.
    """
    return _rows(scores, size, range(size[0]), align_corners, temperature)


def mean_labels(
    scores: Sequence[np.ndarray], size: Sequence[int], align_corners: bool, temperature: float
) -> np.ndarray:
    """Returns, for each pixel, the class with the largest mean probability; works in bands of rows to save memory.

    Args:
        scores: h×w×K logits of each view, mirrored back.
        size: (H, W) in pixels.
        align_corners: see `models.layers.resize`.
        temperature: divisor of the logits before softmax.

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
    """Returns, for each pixel, the class with the largest probability after a CRF refined the mean probabilities.

    Args:
        scores: h×w×K logits of each view, mirrored back.
        image: H×W×C picture to which the scores belong.
        crf: CRF on the device.
        valid: H×W booleans, False for pixels that the CRF leaves out; None for all pixels.
        align_corners: see `models.layers.resize`.
        temperature: divisor of the logits before softmax.
        device: device of the CRF.

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
    """Returns the interpolated logits of some pixels in one view, computed in bands of rows to save memory.

    Args:
        scores: h×w×K logits.
        size: (H, W) in pixels.
        rows: row of each of the n pixels, ascending.
        columns: column of each of the n pixels.
        align_corners: see `models.layers.resize`.

    Returns:
        n×K float32 logits. For one-logit models, there are two columns, of which the first is 0.
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
    """Returns some rows of the mean probabilities."""
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
