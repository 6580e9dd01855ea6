"""Reads windows of rasters that are no TIFF files, such as VRT and JPEG 2000, through GDAL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from atrous.data.formats.empty_bands import bands_without_data, empty_bands
from atrous.data.pixels import PictureKind, StoredPixels, as_picture_dtype
from atrous.data.rasters.band_names import checked_names
from atrous.data.rasters.open_raster import opened_raster, rasterio_errors, rasterio_window
from atrous.errors import AtrousError


class GdalPicture:
    """A raster that is open for reading, with the methods of `TiffPicture` that windows of scenes need.

    A band may have a nodata value of its own, as in a VRT of several files.

    Args:
        path: a file that rasterio reads.

    Attributes:
        shape: (H, W, bands).
        nodata: the nodata value of the first band; None if it has none.
        pages: 1.
        palette: None, because colours of indices are not read.
        white_is_zero: None.
        orientation: 1.
        lossy: whether the compression may change values: JPEG 2000.

    Raises:
        AtrousError: as for `opened_raster`, or the bands have different types or complex numbers.
    """

    def __init__(self, path: Path) -> None:
        self.name = path
        file: Any = opened_raster(path)
        self._file = file
        from rasterio.enums import ColorInterp, MaskFlags

        if len(set(file.dtypes)) > 1 or "complex" in file.dtypes[0]:
            self._file.close()
            raise AtrousError(
                f"{path}: the bands are of the types {', '.join(dict.fromkeys(file.dtypes))}: convert them to one type "
                "of real numbers."
            )
        self.shape = (file.height, file.width, file.count)
        self.nodata, self.pages, self.palette, self.white_is_zero, self.orientation = file.nodata, 1, None, None, 1
        self.lossy = path.suffix.lower() != ".vrt"
        alphas = [index for index, kind in enumerate(file.colorinterp) if kind == ColorInterp.alpha]
        self.alpha = alphas[0] if alphas and alphas[0] > 0 else None
        flags = file.mask_flag_enums[0]
        self._masks = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        self.band_names = checked_names(file.descriptions)
        self._empty_bands: frozenset[int] | None = None

    @property
    def kind(self) -> PictureKind:
        """The kind of the picture, from the header."""
        dtype = as_picture_dtype(np.zeros((1, 1, 1), self._file.dtypes[0]), self.name).dtype.name
        marked = self.alpha is not None or self._masks or any(one is not None for one in self._file.nodatavals)
        bands = self.shape[2]
        return PictureKind(
            bands - (self.alpha is not None),
            dtype,
            bands,
            may_lack_data=marked or dtype == "float32",
            names=tuple(name for band, name in enumerate(self.band_names) if band != self.alpha),
        )

    def pixels(self, window: tuple[int, int, int, int]) -> StoredPixels:
        """Reads the values of a window, and marks missing values; see `TiffPicture.pixels`.

        Args:
            window: (top, left, height, width) in pixels.

        Raises:
            AtrousError: the file is damaged.
        """
        stored = self.raw_mask(window)
        missing = self._missing(stored)
        values = as_picture_dtype(stored, self.name, None if missing is None else ~missing)
        masked = None
        if self._masks:
            with rasterio_errors(self.name):
                masked = self._file.dataset_mask(window=rasterio_window(window)) == 0
        gone = bands_without_data(stored, missing)
        empty: tuple[int, ...] = ()
        if gone is not None and self.alpha is None and gone.any() and not gone.all():
            if self._empty_bands is None:
                self._empty_bands = empty_bands(self._without_data, *self.shape[:2])
            empty = tuple(band for band in np.flatnonzero(gone).tolist() if band in self._empty_bands)
        declares = self.nodata is not None
        return StoredPixels(
            np.ascontiguousarray(values), self.alpha, missing, masked, not declares, names=self.band_names, empty=empty
        )

    def raw_mask(self, window: tuple[int, int, int, int]) -> np.ndarray:
        """Reads the stored values of a window, H×W×C.

        Args:
            window: (top, left, height, width) in pixels.

        Raises:
            AtrousError: the file is damaged.
        """
        with rasterio_errors(self.name):
            return np.moveaxis(self._file.read(window=rasterio_window(window)), 0, 2)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _without_data(self, window: tuple[int, int, int, int]) -> np.ndarray | None:
        stored = self.raw_mask(window)
        return bands_without_data(stored, self._missing(stored))

    def _missing(self, stored: np.ndarray) -> np.ndarray | None:
        """Returns H×W×C booleans, True for the nodata value of each band; None if there are none."""
        missing = np.zeros(stored.shape, bool)
        for band, nodata in enumerate(self._file.nodatavals):
            if nodata is not None and band != self.alpha:
                values = stored[:, :, band]
                missing[:, :, band] = np.isnan(values) if nodata != nodata else values == nodata
        return missing if missing.any() else None
