"""Computes the grid of a DICOM series: the order and distance of its slices, from their positions in the patient.

PS3.3 C.7.6.2.1.1: the centre of the pixel in row r and column c is at ImagePositionPatient + c · (direction of rows) ·
(distance of columns) + r · (direction of columns) · (distance of rows), in millimetres to the patient's left, posterior
and superior. Slices at unequal distances, and slices that are shifted sideways, are refused and not corrected.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atrous.data.volumes.grid import SAME_GRID, Grid
from atrous.errors import AtrousError

#: Tolerance of the distance between slices: as a share of the distance, and in millimetres. The larger tolerance is
#: used.
SHARE, MILLIMETRES = 0.01, 0.01


def slice_order(path: Path, places: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, Grid]:
    """Orders slices along their normal, and checks that they form a regular grid.

    Args:
        path: the folder or ZIP file, for messages.
        places: S×11: ImagePositionPatient (3), ImageOrientationPatient (6) and PixelSpacing (2) of S slices. Directions
            and pixel spacings are the same in all slices.
        size: rows and columns of a slice.

    Returns:
        Indices of the slices in order, and the grid with the axes columns, rows and slices. A single slice is 1 mm
        thick.

    Raises:
        AtrousError: slices are missing, doubled, at unequal distances, tilted or shifted, or the directions of rows and
            columns are not perpendicular vectors of length 1.
    """
    right, down, (between_rows, between_columns) = places[0, 3:6], places[0, 6:9], places[0, 9:]
    lengths = np.linalg.norm(right), np.linalg.norm(down)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(right @ down)) > 1e-3:
        raise AtrousError(
            f"{path}: ImageOrientationPatient {places[0, 3:9].tolist()} is not two perpendicular vectors of length 1."
        )
    right, down = right / lengths[0], down / lengths[1]
    normal = np.cross(right, down)
    normal /= np.linalg.norm(normal)
    heights = places[:, :3] @ normal
    order = np.argsort(heights, kind="stable")
    positions, heights, distance = places[order, :3], heights[order], 1.0
    if len(order) > 1:
        _check_distances(path, heights)
        _check_shift(path, positions, normal, SAME_GRID * min(between_rows, between_columns))
        distance = (heights[-1] - heights[0]) / (len(order) - 1)
    affine = np.eye(4)
    axes = (right * between_columns, down * between_rows, normal * distance, positions[0])
    affine[:3] = np.diag([-1, -1, 1]) @ np.stack(axes, axis=1)  # DICOM: left, posterior, superior
    rows, columns = size
    return order, Grid((columns, rows, len(order)), affine)


def _check_distances(path: Path, heights: np.ndarray) -> None:
    """Checks that the distances between the sorted heights of slices are equal."""
    steps, mean = np.diff(heights), (heights[-1] - heights[0]) / (len(heights) - 1)
    doubled = steps <= max(MILLIMETRES, SHARE * mean)
    if doubled.any():
        raise AtrousError(
            f"{path}: {int(doubled.sum())} of {len(heights)} slices are at the position of another slice, the first at "
            f"{heights[1:][doubled][0]:.4g} mm along the normal. These slices are copies, other contrasts or other "
            "points in time. Move the slices of one volume into a separate folder."
        )
    smallest = steps.min()
    off, allowed = np.abs(steps - mean).max(), max(MILLIMETRES, SHARE * mean)
    line = np.abs(heights - np.linspace(heights[0], heights[-1], len(heights))).max()
    if off <= allowed and line <= max(MILLIMETRES, SAME_GRID * mean):
        return
    times = np.round(steps / smallest)
    if times.max() > 1 and (np.abs(steps - times * smallest) <= times * max(MILLIMETRES, SHARE * smallest)).all():
        at = int(np.argmax(times > 1))
        raise AtrousError(
            f"{path}: slices are missing ({int((times - 1).sum())}). The smallest distance of the {len(heights)} "
            f"slices is {smallest:.4g} mm, but the slice at {heights[at]:.4g} mm along the normal and the next one are "
            f"{steps[at]:.4g} mm apart. Export the whole series again."
        )
    raise AtrousError(
        f"{path}: the distances between {len(heights)} slices are not equal: {smallest:.4g} to {steps.max():.4g} mm. "
        f"At most {allowed:.2g} mm from the mean are allowed. Resample the series to equal distances, and give it as "
        ".nii.gz."
    )


def _check_shift(path: Path, positions: np.ndarray, normal: np.ndarray, allowed: float) -> None:
    """Checks that the slices have no gantry tilt and no other sideways shift."""
    offsets = positions - positions[0]
    heights = offsets @ normal
    sideways = offsets - heights[:, None] * normal
    shift = float(np.linalg.norm(sideways, axis=1).max())
    if shift <= allowed:
        return
    line = np.linalg.norm(sideways - heights[:, None] / heights[-1] * sideways[-1], axis=1).max()
    if line <= allowed:
        angle = np.degrees(np.arctan2(np.linalg.norm(sideways[-1]), heights[-1]))
        raise AtrousError(
            f"{path}: the gantry is tilted by {angle:.3g}°, so over {len(positions)} slices the image moves sideways "
            f"by {shift:.4g} mm. Resample the series to a grid without the tilt, and give it as .nii.gz."
        )
    raise AtrousError(
        f"{path}: the slices are shifted sideways by up to {shift:.4g} mm, and not along a line. At most "
        f"{allowed:.2g} mm are allowed. Resample the series to one grid, and give it as .nii.gz."
    )
