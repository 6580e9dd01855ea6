"""A volume in memory: its values, with axes that point right, anterior and superior, and its grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from atrous.data.volumes.grid import Grid, Reorientation, reorientation

#: Approximate number of values that are processed at once.
SLAB = 2**22


@dataclass(frozen=True, eq=False)
class Volume:
    """The values of a volume, with axes that point right, anterior and superior.

    Args:
        values: X×Y×Z×C of any number type; C is the number of contrasts or of points in time.
        stored: grid of the volume with the axes of its file.
        notes: sentences for the user, for example if the file does not state its orientation.
    """

    values: np.ndarray
    stored: Grid
    notes: tuple[str, ...] = ()
    _statistics: dict[tuple[float, ...], tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict, init=False, repr=False
    )

    @cached_property
    def change(self) -> Reorientation:
        """The order and reversal of the file's axes that gives the axes of ``values``."""
        return reorientation(self.stored)

    @cached_property
    def grid(self) -> Grid:
        """The grid of ``values``, with RAS axes."""
        return self.change.ras_grid(self.stored)

    def valid(self, missing: Sequence[float] = ()) -> np.ndarray:
        """Returns X×Y×Z booleans, False where any contrast is not finite or has one of the missing values.

        Args:
            missing: values that mean "no data", as in `Input.missing`.
        """
        valid = np.empty(self.values.shape[:3], bool)
        for slab in self._slabs():
            valid[:, :, slab] = _with_data(self.values[:, :, slab], missing).all(axis=3)
        return valid

    def mean_and_std(self, missing: Sequence[float] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean and the standard deviation of each of C contrasts, over its voxels with data that are not 0.

        Voxels of value 0 are left out, because MRI is 0 outside the head or body, and the number of voxels outside
        differs from scan to scan. The standard deviation of a constant contrast is given as 1. The result is computed
        once.

        Args:
            missing: as in `valid`.
        """
        key = tuple(missing)
        if key not in self._statistics:
            contrasts = range(self.values.shape[3])
            means = [self._mean_power(one, missing, 0.0, 1) for one in contrasts]
            deviations = np.sqrt([self._mean_power(one, missing, means[one], 2) for one in contrasts])
            self._statistics[key] = np.array(means), np.where(deviations > 0, deviations, 1.0)
        return self._statistics[key]

    def _mean_power(self, contrast: int, missing: Sequence[float], center: float, power: int) -> float:
        """Returns the mean of (value − center)^power over the voxels of a contrast with data that are not 0."""
        total, count = 0.0, 0
        for slab in self._slabs():
            values = self.values[:, :, slab]
            inside = values[..., contrast][_with_data(values, missing).all(axis=3)]
            inside = inside[inside != 0].astype(np.float64) - center
            total, count = total + float((inside**power).sum()), count + inside.size
        return total / count if count else 0.0

    def _slabs(self) -> Iterator[slice]:
        """Yields parts of the third axis, so that temporary arrays stay small."""
        depth = self.values.shape[2]
        thickness = max(1, SLAB * depth // self.values.size)
        return (slice(first, first + thickness) for first in range(0, depth, thickness))


def _with_data(values: np.ndarray, missing: Sequence[float]) -> np.ndarray:
    """Returns booleans, False for values that are not finite or that mean "no data"."""
    found = np.isfinite(values)
    for value in missing:
        found &= values != np.float32(value)  # compared as numbers, so that -1 does not equal 255 in a volume of uint8
    return found
