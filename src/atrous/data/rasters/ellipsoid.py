"""The ellipsoid of a coordinate reference system (CRS), and areas between its parallels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Ellipsoid(NamedTuple):
    """An ellipsoid of revolution.

    Attributes:
        radius: semi-major axis in metres.
        squared: the square e² of the eccentricity e; 0 for a sphere.
    """

    radius: float
    squared: float

    def area_below(self, latitude: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the area between the equator and a parallel, in m² for one radian of longitude.

        Source: J. Snyder, Map projections, 1987, equation 3-12.

        Args:
            latitude: latitudes in radians. The area for a negative latitude is negative.
        """
        sine, e = np.sin(latitude), np.sqrt(self.squared)
        logarithm = np.arctanh(e * sine) / e if e else sine
        return self.radius**2 * (1 - self.squared) / 2 * (sine / (1 - self.squared * sine**2) + logarithm)


def ellipsoid_of(crs: Any) -> Ellipsoid:
    """Returns the ellipsoid of a CRS.

    Args:
        crs: an object of pyproj that has an ellipsoid.
    """
    found = crs.ellipsoid
    return Ellipsoid(float(found.semi_major_metre), 1 - (found.semi_minor_metre / found.semi_major_metre) ** 2)


def horizontal_crs(crs: Any) -> Any:
    """Returns a CRS without heights and without a shift to another datum.

    Args:
        crs: an object of pyproj.
    """
    while crs.is_bound or crs.is_compound:
        crs = crs.source_crs if crs.is_bound else crs.sub_crs_list[0]
    return crs
