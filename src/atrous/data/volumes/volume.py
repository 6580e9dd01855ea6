"""A volume in memory: its values along right, anterior and superior, and its grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from atrous.data.volumes.grid import Grid, Reorientation, reorientation


@dataclass(frozen=True, eq=False)
class Volume:
    """The values of a volume, with axes that point right, anterior and superior.

    Args:
        values: X×Y×Z×C of any number type; C is the number of contrasts or of points in time.
        stored: grid of the file, with the axes of the file.
        notes: sentences for the user about what the file leaves open.
    """

    values: np.ndarray
    stored: Grid
    notes: tuple[str, ...] = ()
    _statistics: dict[tuple[float, ...], tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict, init=False, repr=False
    )

    @cached_property
    def change(self) -> Reorientation:
        """The change from the file's axes to the axes of ``values``."""
        return reorientation(self.stored)

    @cached_property
    def grid(self) -> Grid:
        """Grid of ``values``."""
        return self.change.ras_grid(self.stored)

    def valid(self, missing: Sequence[float] = ()) -> np.ndarray:
        """Returns X×Y×Z booleans, False where a contrast is not finite or has one of the missing values.

        Args:
            missing: values that mean "no data", as in `Input.missing`.
        """
        gaps = ~np.isfinite(self.values)
        if len(missing):
            gaps |= np.isin(self.values, np.asarray(missing, np.float64).astype(self.values.dtype))
        return np.asarray(~gaps.any(axis=3))

    def mean_and_std(self, missing: Sequence[float] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean and the standard deviation of each of C contrasts, over its voxels with data that are not 0.

        Outside the head or body, MRI is 0, and how much of that is in the picture differs from scan to scan. The
        deviation of a constant contrast is 1. The result is computed once.

        Args:
            missing: as in `valid`.
        """
        key = tuple(missing)
        if key not in self._statistics:
            inside = [self.values[..., one][self.valid(missing)] for one in range(self.values.shape[3])]
            inside = [values[values != 0].astype(np.float64) for values in inside]
            means = np.array([values.mean() if values.size else 0.0 for values in inside])
            deviations = np.array([values.std() if values.size else 0.0 for values in inside])
            self._statistics[key] = means, np.where(deviations > 0, deviations, 1.0)
        return self._statistics[key]
