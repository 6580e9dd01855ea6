"""A volume in memory: its values along right, anterior and superior, and its grid."""

from __future__ import annotations

from dataclasses import dataclass
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

    @cached_property
    def change(self) -> Reorientation:
        """The change from the file's axes to the axes of ``values``."""
        return reorientation(self.stored)

    @cached_property
    def grid(self) -> Grid:
        """Grid of ``values``."""
        return self.change.ras_grid(self.stored)

    @cached_property
    def mean_and_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each of C contrasts, over its voxels that are finite and not 0.

        Outside the head or body, MRI is 0, and how much of that is in the picture differs from scan to scan. The
        deviation of a constant contrast is 1.
        """
        means, deviations = [], []
        for contrast in range(self.values.shape[3]):
            values = self.values[..., contrast]
            inside = values[np.isfinite(values) & (values != 0)].astype(np.float64)
            means.append(inside.mean() if inside.size else 0.0)
            deviations.append(inside.std() if inside.size and inside.std() > 0 else 1.0)
        return np.array(means), np.array(deviations)
