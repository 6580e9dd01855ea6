"""What GDAL stores about the bands of a TIFF, in the file and in PATH.aux.xml: names, scale and offset, nodata."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from atrous.data.formats.band_scaling import BandScaling, scaling_in_metadata
from atrous.data.formats.gdal_aux_xml import descriptions_beside, nodata_of_bands_beside, scaling_beside
from atrous.data.formats.tiff_page import as_nodata, nodata_of
from atrous.data.rasters.band_names import checked_names, descriptions_in_metadata

if TYPE_CHECKING:
    from tifffile import TiffPage

_GDAL_METADATA = 42112


class BandMetadata(NamedTuple):
    """Metadata of the bands of a TIFF. As in GDAL, PATH.aux.xml has precedence, band by band.

    Attributes:
        names: description of each band, as for `checked_names`.
        scaling: scale and offset of the bands, as for `band_scaling`.
        nodata: nodata value of each stored band in the type of the file; None for a band without one.
    """

    names: tuple[str, ...]
    scaling: BandScaling | None
    nodata: tuple[Any, ...]


def metadata_of_bands(page: TiffPage, path: Path | str | None, bands: int) -> BandMetadata:
    """Reads the metadata of the bands of a page.

    Args:
        page: the page.
        path: path of the file; None for a file in memory, which has no ``.aux.xml``.
        bands: number of bands of the page.
    """
    found = page.tags.valueof(_GDAL_METADATA)
    text = found if isinstance(found, str) else ""
    scaling, nodata = scaling_in_metadata(text, bands), (nodata_of(page),) * bands
    described = descriptions_in_metadata(text, bands)
    if path is None:
        return BandMetadata(checked_names(described), scaling, nodata)
    dtype = np.dtype(page.dtype)
    names = [one or own for one, own in zip(descriptions_beside(path, bands), described, strict=True)]
    beside = zip(nodata_of_bands_beside(path, bands), nodata, strict=True)
    merged = tuple(own if text is None else as_nodata(text, dtype) for text, own in beside)
    return BandMetadata(checked_names(names), scaling_beside(path, bands, scaling), merged)
