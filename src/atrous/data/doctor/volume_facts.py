"""Computes the facts about a volume that the checks need: intensities, a fingerprint, and the position of its mask."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from atrous.data.volumes.grid import Grid

#: Number of cells of a fingerprint along each axis, and number of cells along each side of the cubes whose means are
#: removed.
_CELLS, _CUBE = 16, 4
#: Percentiles that describe the intensities of a contrast; values beyond them are noise or metal.
PERCENTILES = (1, 50, 99)
#: Approximate largest number of voxels that are measured; more voxels change percentiles and shares very little.
_SAMPLE = 2 * 10**6


@dataclass(frozen=True, eq=False)
class VolumeFacts:
    """The facts about a volume that a picture does not have.

    Attributes:
        grid: its grid, with RAS axes.
        mask_grid: the grid of its mask, with RAS axes; None if it has no mask or its mask cannot be read.
        notes: sentences about properties that its file does not state, such as its orientation.
        percentiles: C×3, `PERCENTILES` of each of the C contrasts, over its voxels with data that are not 0.
        fits: 4×2, two measures of the intensities under the foreground of its mask. The four rows are for the mask as
            it is, and for the mask mirrored left–right, front–back and head–foot. The first column is the share of the
            foreground that lies on dark voxels, such as air. The second column is the standard deviation of the
            intensities under the foreground, divided by the range of the volume. None if the mask has no foreground, if
            the volume has no contrast, or if the shapes differ.
        segments: names of the segments of its mask in DICOM; () for a mask in NIfTI.
        mask_notes: sentences about content of its mask in DICOM that is not read.
    """

    grid: Grid
    mask_grid: Grid | None
    notes: tuple[str, ...]
    percentiles: np.ndarray
    fits: np.ndarray | None = None
    segments: tuple[str, ...] = ()
    mask_notes: tuple[str, ...] = ()


def intensities(values: np.ndarray) -> np.ndarray:
    """Returns `PERCENTILES` of each contrast, over its finite voxels that are not 0; all 0 without such voxels.

    Args:
        values: X×Y×Z×C intensities of C contrasts.

    Returns:
        C×3 float64.
    """
    values = values[_evenly(values.shape)]
    found = np.zeros((values.shape[3], len(PERCENTILES)))
    for index in range(values.shape[3]):
        sample = values[..., index].astype(np.float64)
        sample = sample[np.isfinite(sample) & (sample != 0)]
        if sample.size:
            found[index] = np.percentile(sample, PERCENTILES)
    return found


def _evenly(shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    """Returns slices that choose about `_SAMPLE` voxels of a larger volume, at equal distances."""
    every = slice(None, None, max(1, round((shape[0] * shape[1] * shape[2] / _SAMPLE) ** (1 / 3))))
    return every, every, every


def fingerprint(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns a fingerprint of a volume for the search of copies: 16×16×16 means without slow changes of brightness.

    Args:
        values: X×Y×Z, along right, anterior and superior.

    Returns:
        4096 float32 of mean 0 and length 1, all 0 for a blank volume; and their root mean square before they were
        scaled to length 1, in grey levels. A grey level is 1/255 of the range of the means.
    """
    finite = np.isfinite(values)
    cells = values if finite.all() else np.where(finite, values, values[finite].mean() if finite.any() else 0)
    for axis in range(3):
        cells = _means(cells, axis)
    level = float(np.ptp(cells)) / 255
    number = _CELLS // _CUBE
    cubes = cells.reshape(number, _CUBE, number, _CUBE, number, _CUBE)
    details = (cubes - cubes.mean(axis=(1, 3, 5), keepdims=True)).ravel()
    length = float(np.linalg.norm(details))
    if not level or length <= 1e-6 * level:
        return np.zeros(details.size, np.float32), 0.0
    return (details / length).astype(np.float32), length / (details.size**0.5 * level)


def _means(values: np.ndarray, axis: int) -> np.ndarray:
    """Returns the means of `_CELLS` parts of an axis; if the axis is shorter, its values are repeated."""
    side = values.shape[axis]
    starts = np.arange(_CELLS) * side // _CELLS
    if side < _CELLS:
        return np.take(values, starts, axis=axis).astype(np.float64)
    sums = np.add.reduceat(values, starts, axis=axis, dtype=np.float64)
    sizes = np.diff([*starts, side])
    return sums / sizes.reshape([-1 if one == axis else 1 for one in range(3)])


def mask_fits(values: np.ndarray, foreground: np.ndarray) -> np.ndarray | None:
    """Measures the intensities under the foreground of a mask, for the mask as it is and for three mirrored masks.

    Otsu's threshold of the whole volume divides its voxels into dark and bright ones (IEEE Trans. SMC 9(1), 1979).

    Args:
        values: X×Y×Z intensities.
        foreground: X×Y×Z booleans.

    Returns:
        4×2, see `VolumeFacts.fits`; None if the mask has no foreground or the volume has no contrast.
    """
    every = _evenly(values.shape)
    values, foreground = values[every].astype(np.float32), foreground[every]
    finite = np.isfinite(values)
    if not foreground.any() or not finite.any():
        return None
    low, high = np.percentile(values[finite], (PERCENTILES[0], PERCENTILES[-1]))
    if high <= low:
        return None
    grey = np.where(finite, (values - low) * (255 / (high - low)), 0).clip(0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(np.ascontiguousarray(grey).reshape(-1, 1), 0, 255, cv2.THRESH_OTSU)
    inside = [grey[one] for one in (foreground, *(np.flip(foreground, axis) for axis in range(3)))]
    return np.array([((part <= threshold).mean(), part.std() / 255) for part in inside])
