"""Applies one affine map to a picture and its mask; each array is interpolated once.

Coordinates are continuous: pixel i covers [i, i + 1) and its centre is i + 0.5. Scaling, rotation and mirroring
therefore need no half-pixel corrections.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from atrous.data.mask_value_map import IGNORE_INDEX

# Bilinear sampling skips pixels if the picture shrinks much. Beyond this factor, the picture is averaged first.
_ALIASING = 1.5

# OpenCV's border value has four numbers, so pictures with more channels are warped in groups of four channels.
_CHANNELS_AT_ONCE = 4


def resample(
    image: np.ndarray,
    label: np.ndarray,
    matrix: np.ndarray,
    size: tuple[int, ...],
    fill: float | Sequence[float] = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Applies one affine map to a picture (bilinear interpolation) and its mask (nearest neighbour).

    If the map shrinks the image by a factor of more than 1.5, the image is first reduced to its final scale by
    averaging, which avoids aliasing.

    Args:
        image: H×W×C, ``uint8``, ``uint16`` or ``float32``.
        label: H×W ``uint8``.
        matrix: 3×3 matrix that maps a point (x, y, 1) of the result to a point of the picture.
        size: height and width of the result, (h, w), in pixels.
        fill: raw value outside the picture, one value or one per channel; the mask is 255 there.

    Returns:
        Image h×w×C of the given dtype, and label h×w.
    """
    if label.shape == size and np.array_equal(matrix, np.eye(3)):
        return image, label
    channels = image.shape[2]
    shown, inside = _nearest(label, matrix, size)
    result = np.concatenate(
        [
            _bilinear(image[:, :, start : start + _CHANNELS_AT_ONCE], matrix, size)
            for start in range(0, channels, _CHANNELS_AT_ONCE)
        ],
        axis=2,
    )
    if not inside.all():
        outside = np.broadcast_to(fill, channels)
        if image.dtype != np.float32:
            outside = np.clip(np.rint(outside), 0, np.iinfo(image.dtype).max)
        result[inside == 0] = outside.astype(image.dtype)
    return result, shown


def _to_indices(matrix: np.ndarray) -> np.ndarray:
    """Converts a map between continuous coordinates to a 2×3 map between array indices (pixel centres are integers)."""
    indices = matrix[:2].copy()
    indices[:, 2] += matrix[:2, :2] @ (0.5, 0.5) - 0.5
    return indices


def _bilinear(image: np.ndarray, matrix: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Maps at most four channels bilinearly; pixels outside the picture repeat its edge."""
    reduction = np.hypot(matrix[:2, 0], matrix[:2, 1])
    if reduction.max() > _ALIASING:
        width, height = np.maximum(1, np.rint(image.shape[1::-1] / reduction)).astype(int).tolist()
        matrix = np.diag([width / image.shape[1], height / image.shape[0], 1]) @ matrix
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    result = cv2.warpAffine(
        image,
        _to_indices(matrix),
        (size[1], size[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return result.reshape(*size, -1)


def _nearest(label: np.ndarray, matrix: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mask, mapped by nearest neighbour, and an array with 1 inside the picture and 0 outside."""
    indices = _to_indices(matrix)
    if indices[0, 1] == 0 and indices[1, 0] == 0:
        columns = _nearest_index(indices[0, 0] * np.arange(size[1]) + indices[0, 2])
        rows = _nearest_index(indices[1, 1] * np.arange(size[0]) + indices[1, 2])
        columns_inside = (columns >= 0) & (columns < label.shape[1])
        rows_inside = (rows >= 0) & (rows < label.shape[0])
        shown = label.take(rows, axis=0, mode="clip").take(columns, axis=1, mode="clip")
        shown[~rows_inside] = IGNORE_INDEX
        shown[:, ~columns_inside] = IGNORE_INDEX
        return shown, np.multiply.outer(rows_inside, columns_inside).view(np.uint8)
    flags, extent = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, (size[1], size[0])
    shown = cv2.warpAffine(label, indices, extent, flags=flags, borderValue=(IGNORE_INDEX,))
    inside = cv2.warpAffine(np.ones_like(label), indices, extent, flags=flags, borderValue=(0,))
    return shown, inside


def _nearest_index(position: np.ndarray) -> np.ndarray:
    """Returns the nearest pixel of each position along one axis; ties alternate between left and right.

    At a scale of 1/2 every position is a tie. Rounding all of them in the same direction would shift the mask by a
    quarter of a pixel.
    """
    border = np.rint(position + 0.5)
    tie = np.abs(position + 0.5 - border) < 1e-6
    left_in_turn = border - (np.arange(len(position)) % 2 == 0)
    return np.where(tie, left_in_turn, np.floor(position + 0.5)).astype(int)
