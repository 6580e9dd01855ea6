"""Turns whole pictures and windows upright, from any of the eight orientations of EXIF and TIFF."""

from __future__ import annotations

import numpy as np

#: The tag of EXIF and TIFF that contains the orientation, 1 (upright) to 8.
ORIENTATION_TAG = 274

# Orientation -> (transpose first, flip rows, flip columns); EXIF 2.32, table 6
_UPRIGHT = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_AS_STORED = (False, False, False)


def upright(array: np.ndarray, orientation: object) -> np.ndarray:
    """Turns stored pixels upright.

    Args:
        array: the stored pixels, H×W or H×W×C.
        orientation: 1 to 8; any other value counts as 1.

    Returns:
        A view of the array; H and W are exchanged for orientations 5 to 8.
    """
    transpose, flip_rows, flip_columns = _steps(orientation)
    if transpose:
        array = array.swapaxes(0, 1)
    return array[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def upright_size(height: int, width: int, orientation: object) -> tuple[int, int]:
    """Returns (height, width) of the upright picture.

    Args:
        height: height of the stored picture in pixels.
        width: width of the stored picture in pixels.
        orientation: 1 to 8; any other value counts as 1.
    """
    return (width, height) if _steps(orientation)[0] else (height, width)


def stored_window(
    window: tuple[int, int, int, int], size: tuple[int, int], orientation: object
) -> tuple[int, int, int, int]:
    """Returns the window of the stored picture that contains the pixels of a window of the upright picture.

    Args:
        window: (top, left, height, width) in the upright picture, in pixels.
        size: (H, W) of the upright picture.
        orientation: 1 to 8; any other value counts as 1.

    Returns:
        (top, left, height, width) in the stored picture. `upright` turns the pixels of this window upright.
    """
    transpose, flip_rows, flip_columns = _steps(orientation)
    top, left, height, width = window
    if flip_rows:
        top = size[0] - top - height
    if flip_columns:
        left = size[1] - left - width
    return (left, top, width, height) if transpose else (top, left, height, width)


def stored_from_upright(size: tuple[int, int], orientation: object) -> np.ndarray:
    """Returns the 3×3 matrix from (column, row, 1) in the upright picture to (column, row, 1) in the stored picture.

    Columns and rows are measured in pixels from the outer corner of the first pixel: (0, 0) is this corner, and
    (0.5, 0.5) is the centre of the pixel.

    Args:
        size: (H, W) of the upright picture.
        orientation: 1 to 8; any other value counts as 1.
    """
    transpose, flip_rows, flip_columns = _steps(orientation)
    matrix = np.eye(3)
    if flip_columns:
        matrix = np.array([[-1, 0, size[1]], [0, 1, 0], [0, 0, 1.0]]) @ matrix
    if flip_rows:
        matrix = np.array([[1, 0, 0], [0, -1, size[0]], [0, 0, 1.0]]) @ matrix
    return matrix[[1, 0, 2]] if transpose else matrix


def _steps(orientation: object) -> tuple[bool, bool, bool]:
    return _UPRIGHT.get(orientation, _AS_STORED) if isinstance(orientation, int) else _AS_STORED
