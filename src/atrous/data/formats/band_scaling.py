"""Scale and offset of the bands of a raster, as GDAL stores them: measured value = stored number · scale + offset."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_ITEM = re.compile(
    r'<Item\b(?=[^>]*\brole="(scale|offset)")(?=[^>]*\bsample="(\d{1,5})")[^>]*>\s*([^<\s]+)\s*</Item>', re.IGNORECASE
)


@dataclass(frozen=True)
class BandScaling:
    """Scale and offset of each band.

    Attributes:
        scales: factor of each band, finite and not 0.
        offsets: number that is added to each band after the multiplication, finite.
    """

    scales: tuple[float, ...]
    offsets: tuple[float, ...]

    def choosing(self, bands: Sequence[int]) -> BandScaling:
        """Returns the scaling of some of the bands.

        Args:
            bands: indices of the bands.
        """
        return BandScaling(tuple(self.scales[one] for one in bands), tuple(self.offsets[one] for one in bands))

    def measured(self, stored: np.ndarray) -> np.ndarray:
        """Converts stored numbers to measured values.

        Args:
            stored: H×W×C numbers.

        Returns:
            H×W×C float32; the computation is in float32, too.
        """
        with np.errstate(over="ignore"):  # a nodata value may overflow
            return stored * np.array(self.scales, np.float32) + np.array(self.offsets, np.float32)


def band_scaling(scales: Sequence[float], offsets: Sequence[float]) -> BandScaling | None:
    """Returns the scaling of a file's bands; None if the stored numbers are the measured values.

    Args:
        scales: factor of each band. 0 and numbers that are not finite count as 1, because they would lose the values.
        offsets: offset of each band; numbers that are not finite count as 0.
    """
    known = tuple(float(one) if math.isfinite(one) and one else 1.0 for one in scales)
    added = tuple(float(one) if math.isfinite(one) else 0.0 for one in offsets)
    return None if {*known} <= {1.0} and {*added} <= {0.0} else BandScaling(known, added)


def scaling_in_metadata(text: str, bands: int) -> BandScaling | None:
    """Returns the scaling in GDAL's metadata of a TIFF (tag 42112).

    Args:
        text: the content of the tag, XML.
        bands: number of bands of the file.

    Returns:
        As for `band_scaling`.
    """
    found = {(role.lower(), int(sample)): number for role, sample, number in _ITEM.findall(text)}
    return band_scaling(
        [number_or(found.get(("scale", band)), 1.0) for band in range(bands)],
        [number_or(found.get(("offset", band)), 0.0) for band in range(bands)],
    )


def number_or(text: str | None, default: float) -> float:
    """Returns the number that a text contains, or a default for None and for a text that is no number.

    Args:
        text: the text of an element or an item of GDAL's metadata.
        default: the default.
    """
    try:
        return default if text is None else float(text)
    except ValueError:
        return default
