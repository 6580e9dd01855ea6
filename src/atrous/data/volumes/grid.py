"""The position of a volume's voxels in the patient, and the change from a file's axes to right, anterior, superior."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np

from atrous.errors import AtrousError

#: Largest distance between the corners of two grids that are the same, as a share of the smallest voxel side. Files
#: round their affine to float32 or to a few decimal digits.
SAME_GRID = 0.1
#: Letters of the directions in the patient, negative and positive: left–right, posterior–anterior, inferior–superior.
_LETTERS = ("LR", "PA", "IS")


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxel grid of a volume.

    Args:
        shape: number of voxels along each of the three axes, each ≥ 1.
        affine: 4×4 float64, maps voxel indices to millimetres to the patient's right, anterior and superior (RAS), as
            in NIfTI and nibabel. The centre of voxel (0, 0, 0) is at ``affine[:3, 3]``.

    Raises:
        AtrousError: the affine has values that are not finite, or two of its axes have the same direction.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or affine[3].tolist() != [0, 0, 0, 1]:
            raise AtrousError(
                f"the affine must be 4×4 finite numbers with the last row 0, 0, 0, 1, got {affine.tolist()}."
            )
        sides = np.linalg.norm(affine[:3, :3], axis=0)
        if not (sides > 0).all() or abs(np.linalg.det(affine[:3, :3] / sides)) < 1e-3:
            raise AtrousError(
                f"the affine is singular: two axes have one direction, or a voxel has no size: {affine.tolist()}."
            )
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along each axis, in millimetres."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @property
    def axes(self) -> str:
        """The direction in the patient that is nearest to each axis, such as "RAS" or "LPS"."""
        order, reverse = reorientation(self)
        letters = [""] * 3
        for direction, (axis, reversed_) in enumerate(zip(order, reverse, strict=True)):
            letters[axis] = _LETTERS[direction][not reversed_]
        return "".join(letters)

    def positions(self, voxels: np.ndarray) -> np.ndarray:
        """Returns the positions of voxels.

        Args:
            voxels: N×3 indices; fractions are positions between voxels.

        Returns:
            N×3 millimetres to the patient's right, anterior and superior.
        """
        return voxels @ self.affine[:3, :3].T + self.affine[:3, 3]


class Reorientation(NamedTuple):
    """The change from the axes of a file to axes that point right, anterior and superior.

    Attributes:
        order: for each of right, anterior and superior, the axis of the file that is nearest to it.
        reverse: for each of them, whether that axis points the opposite way.
    """

    order: tuple[int, int, int]
    reverse: tuple[bool, bool, bool]

    def to_ras(self, values: np.ndarray) -> np.ndarray:
        """Returns a view with the axes right, anterior, superior.

        Args:
            values: array of the file; axes after the first three stay.
        """
        return self._reversed(values.transpose(*self.order, *range(3, values.ndim)))

    def from_ras(self, values: np.ndarray) -> np.ndarray:
        """Returns a view with the axes of the file: the inverse of `to_ras`."""
        back = np.argsort(self.order).tolist()
        return self._reversed(values).transpose(*back, *range(3, values.ndim))

    def ras_grid(self, grid: Grid) -> Grid:
        """Returns the grid of `to_ras`'s result; every voxel keeps its position.

        Args:
            grid: grid of the file.
        """
        change = np.zeros((4, 4))
        change[3, 3] = 1
        for direction, (axis, reverse) in enumerate(zip(self.order, self.reverse, strict=True)):
            change[axis, direction] = -1 if reverse else 1
            change[axis, 3] = grid.shape[axis] - 1 if reverse else 0
        x, y, z = (grid.shape[axis] for axis in self.order)
        return Grid((x, y, z), grid.affine @ change)

    def _reversed(self, values: np.ndarray) -> np.ndarray:
        return values[tuple(slice(None, None, -1 if one else None) for one in self.reverse)]


def reorientation(grid: Grid) -> Reorientation:
    """Returns the change that brings a grid nearest to right, anterior and superior.

    Of the six orders of the axes, it is the one whose axes have the largest sum of |cosine| to the three directions.
    Oblique volumes stay oblique: nothing is resampled.

    Args:
        grid: grid of a file.
    """
    cosines = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    x, y, z = max(permutations(range(3)), key=lambda order: round(float(np.abs(cosines[range(3), order]).sum()), 9))
    right, anterior, superior = (cosines[range(3), (x, y, z)] < 0).tolist()
    return Reorientation((x, y, z), (right, anterior, superior))


def check_same_grid(one: Grid, other: Grid, name: str, other_name: str) -> None:
    """Checks that the voxels of two volumes have the same positions, up to rounding.

    Args:
        one: grid of the first volume, with RAS axes.
        other: grid of the second volume, with RAS axes.
        name: name of the first volume, for the message.
        other_name: name of the second volume, for the message.

    Raises:
        AtrousError: the shapes differ, or a corner of one grid is more than a tenth of a voxel side from the same
            corner of the other; the message shows both grids.
    """
    if one.shape == other.shape:
        corners = np.array(np.meshgrid(*((0, side - 1) for side in one.shape))).reshape(3, -1).T
        apart = float(np.abs(one.positions(corners) - other.positions(corners)).max())
        if apart <= SAME_GRID * min(one.spacing):
            return
        what = f"their corners are up to {apart:.4g} mm apart"
    else:
        what = "they differ in their number of voxels"
    raise AtrousError(
        f"{other_name} is not on the grid of {name}: {what}. {name} has {in_words(one)}; {other_name} has "
        f"{in_words(other)}. Resample one of them to the grid of the other."
    )


def in_words(grid: Grid) -> str:
    """Returns a grid's size, voxel sides and affine, for messages."""
    size = "×".join(map(str, grid.shape))
    sides = "×".join(f"{side:.4g}" for side in grid.spacing)
    rows = "; ".join(" ".join(f"{value:.5g}" for value in row) for row in grid.affine[:3])
    return f"{size} voxels of {sides} mm, affine [{rows}]"
