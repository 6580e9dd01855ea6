"""The grid of a volume: the positions of its voxels, and the reordering of a file's axes to patient directions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np

from atrous.errors import AtrousError
from atrous.input_spec import spacing_in_words

#: Two grids count as the same if their corners are at most this distance apart, as a share of the smallest voxel side.
#: The tolerance is needed because files round their affine to float32 or to a few decimal digits.
SAME_GRID = 0.1
#: Letters of the negative and positive directions: left and right, posterior and anterior, inferior and superior.
_LETTERS = ("LR", "PA", "IS")


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxel grid of a volume, with its position in the patient.

    Args:
        shape: number of voxels along each of the three axes, each ≥ 1.
        affine: 4×4 float64 that maps voxel indices to positions, in millimetres to the patient's right, anterior and
            superior (RAS), as in NIfTI and nibabel. The centre of voxel (0, 0, 0) is at ``affine[:3, 3]``.

    Raises:
        AtrousError: the affine is not 4×4 finite numbers with the last row 0, 0, 0, 1, or it is singular.
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
                f"the affine is singular, because axes are not independent or a voxel has no size: {affine.tolist()}."
            )
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """The distance of neighbouring voxels along each axis, in millimetres."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @property
    def axes(self) -> str:
        """The nearest direction in the patient for each axis, such as "RAS" or "LPS"."""
        order, reverse = reorientation(self)
        letters = [""] * 3
        for direction, (axis, reversed_) in enumerate(zip(order, reverse, strict=True)):
            letters[axis] = _LETTERS[direction][not reversed_]
        return "".join(letters)

    def positions(self, voxels: np.ndarray) -> np.ndarray:
        """Returns the positions of voxels.

        Args:
            voxels: N×3 voxel indices; fractions mean positions between voxels.

        Returns:
            N×3 millimetres to the patient's right, anterior and superior.
        """
        return voxels @ self.affine[:3, :3].T + self.affine[:3, 3]


class Reorientation(NamedTuple):
    """The order and reversal of a file's axes that makes them point right, anterior and superior (RAS).

    Attributes:
        order: for each of right, anterior and superior, the axis of the file that is nearest to this direction.
        reverse: for each of right, anterior and superior, whether this axis points in the opposite direction.
    """

    order: tuple[int, int, int]
    reverse: tuple[bool, bool, bool]

    def to_ras(self, values: np.ndarray) -> np.ndarray:
        """Returns a view with the axes right, anterior, superior.

        Args:
            values: array of the file; axes after the first three keep their place.
        """
        return self._reversed(values.transpose(*self.order, *range(3, values.ndim)))

    def from_ras(self, values: np.ndarray) -> np.ndarray:
        """Returns a view with the axes of the file: the inverse of `to_ras`.

        Args:
            values: array with the axes right, anterior, superior; further axes keep their place.
        """
        back = np.argsort(self.order).tolist()
        return self._reversed(values).transpose(*back, *range(3, values.ndim))

    def ras_grid(self, grid: Grid) -> Grid:
        """Returns the grid of the result of `to_ras`, in which every voxel keeps its position in the patient.

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
    """Returns the order and reversal of axes that is nearest to right, anterior and superior.

    There are six possible orders of the axes. The chosen order has the largest sum of |cosine| between the axes and the
    three directions. Oblique volumes stay oblique, because nothing is resampled.

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
            corner of the other grid; the message shows both grids.
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
    """Returns a grid's shape, voxel sides and affine as text for messages.

    Args:
        grid: the grid.
    """
    size = "×".join(map(str, grid.shape))
    rows = "; ".join(" ".join(f"{value:.5g}" for value in row) for row in grid.affine[:3])
    return f"{size} voxels of {spacing_in_words(grid.spacing)}, affine [{rows}]"
