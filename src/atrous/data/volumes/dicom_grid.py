"""The grid of a DICOM series: order and distance of its slices, from their positions in the patient.

PS3.3 C.7.6.2.1.1: the centre of the pixel in row r and column c is at ImagePositionPatient + c · (direction of rows) ·
(distance of columns) + r · (direction of columns) · (distance of rows), in millimetres to the patient's left, posterior
and superior. Slices that are not equally far apart, or not exactly above each other, are refused: nothing is guessed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atrous.data.volumes.grid import SAME_GRID, Grid
from atrous.errors import AtrousError

#: Tolerance of the distance between slices: share of the distance, and millimetres. The larger one counts.
SHARE, MILLIMETRES = 0.01, 0.01


def slice_order(path: Path, places: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, Grid]:
    """Orders slices along their normal, and checks that they form a regular grid.

    Args:
        path: the folder or zip, for messages.
        places: S×11: ImagePositionPatient (3), ImageOrientationPatient (6), PixelSpacing (2) of S slices that have the
            same directions and distances.
        size: rows and columns of a slice.

    Returns:
        Indices of the slices in order, and the grid: columns, rows, slices. A single slice is 1 mm thick.

    Raises:
        AtrousError: slices are missing, doubled, not equally far apart, tilted or shifted.
    """
    right, down, (between_rows, between_columns) = places[0, 3:6], places[0, 6:9], places[0, 9:]
    lengths = np.linalg.norm(right), np.linalg.norm(down)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(right @ down)) > 1e-3:
        raise AtrousError(f"{path}: ImageOrientationPatient {places[0, 3:9].tolist()} is not two perpendicular units.")
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
    """Checks that the sorted heights of slices are equally far apart."""
    steps, mean = np.diff(heights), (heights[-1] - heights[0]) / (len(heights) - 1)
    doubled = steps <= max(MILLIMETRES, SHARE * mean)
    if doubled.any():
        raise AtrousError(
            f"{path}: {int(doubled.sum())} of {len(heights)} slices are at the position of another slice, the first at "
            f"{heights[1:][doubled][0]:.4g} mm along the normal. These are copies, or several contrasts or points in "
            "time. Move the slices of one volume into a folder of their own."
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
            f"{path}: slices are missing ({int((times - 1).sum())}): {len(heights)} slices are {smallest:.4g} mm "
            f"apart, but after {heights[at]:.4g} mm along the normal the next is {steps[at]:.4g} mm away. Export the "
            "whole series again."
        )
    raise AtrousError(
        f"{path}: the distances between {len(heights)} slices are not equal: {smallest:.4g} to {steps.max():.4g} mm; "
        f"{allowed:.2g} mm from the mean are allowed. Resample the series to equal distances and give it as .nii.gz."
    )


def _check_shift(path: Path, positions: np.ndarray, normal: np.ndarray, allowed: float) -> None:
    """Checks that slices lie exactly above each other: no gantry tilt and no sideways shift."""
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
            f"{path}: the gantry is tilted by {angle:.3g}°: over {len(positions)} slices the image moves sideways by "
            f"{shift:.4g} mm. Resample the series without the tilt and give it as .nii.gz."
        )
    raise AtrousError(
        f"{path}: the slices are shifted sideways by up to {shift:.4g} mm, and not along a line; {allowed:.2g} mm are "
        "allowed. Resample the series to one grid and give it as .nii.gz."
    )
