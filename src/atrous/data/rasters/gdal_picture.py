"""Reads windows of rasters that are no TIFF files, such as VRT and JPEG 2000, through GDAL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from atrous.data.class_colors import Color
from atrous.data.formats.band_scaling import band_scaling
from atrous.data.formats.empty_bands import SearchedFile, empty_bands, version_of
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
        palette: the colours by index, for one band of ``uint8`` with a colour table; None for other files. `pixels`
            returns the indices.
        white_is_zero: None.
        orientation: 1.
        lossy: whether the compression may change values: JPEG 2000.
        scaling: scale and offset of the bands; None if the stored numbers are the measured values.

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
        self.nodata, self.pages, self.white_is_zero, self.orientation = file.nodata, 1, None, 1
        has_table = file.count == 1 and file.dtypes[0] == "uint8" and file.colorinterp[0] == ColorInterp.palette
        self.palette = _colors_of(file.colormap(1)) if has_table else None
        self.lossy = path.suffix.lower() != ".vrt"
        alphas = [index for index, kind in enumerate(file.colorinterp) if kind == ColorInterp.alpha]
        self.alpha = alphas[0] if alphas and alphas[0] > 0 else None
        flags = file.mask_flag_enums[0]
        self._masks = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        self.band_names = checked_names(file.descriptions)
        self.scaling = band_scaling(file.scales, file.offsets)
        self._version = version_of(path)

    @property
    def kind(self) -> PictureKind:
        """The kind of the picture, from the header."""
        dtype = as_picture_dtype(np.zeros((1, 1, 1), self._file.dtypes[0]), self.name).dtype.name
        marked = self.alpha is not None or self._masks or any(one is not None for one in self._file.nodatavals)
        bands = self.shape[2]
        return PictureKind(
            bands - (self.alpha is not None),
            dtype if self.scaling is None else "float32",
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
        empty = () if self.alpha is not None else empty_bands(stored, missing, self._searched)
        declares = self.nodata is not None
        return StoredPixels(
            np.ascontiguousarray(values),
            self.alpha,
            missing,
            masked,
            not declares,
            names=self.band_names,
            empty=empty,
            scaling=self.scaling,
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

    @property
    def _searched(self) -> SearchedFile:
        file = self._file
        dtype, block, reading = np.dtype(file.dtypes[0]), file.block_shapes[0], repr(file.nodatavals)
        return SearchedFile(self._version, self.shape, dtype, block, reading, self.raw_mask, self._missing)

    def _missing(self, stored: np.ndarray) -> np.ndarray | None:
        """Returns H×W×C booleans, True for the nodata value of each band; None if there are none."""
        missing = np.zeros(stored.shape, bool)
        for band, nodata in enumerate(self._file.nodatavals):
            if nodata is not None and band != self.alpha:
                values = stored[:, :, band]
                missing[:, :, band] = np.isnan(values) if nodata != nodata else values == nodata
        return missing if missing.any() else None


def _colors_of(table: dict[int, tuple[int, ...]]) -> tuple[Color, ...]:
    """Returns the colours of GDAL's colour table by index, without alpha; an index without an entry is black."""
    colors = (table.get(index, (0, 0, 0)) for index in range(max(table, default=-1) + 1))
    return tuple((red, green, blue) for red, green, blue, *_ in colors)
