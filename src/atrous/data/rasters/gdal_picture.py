"""Reads windows of rasters that are not TIFF files, such as VRT and JPEG 2000, through GDAL."""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from atrous.data.class_colors import Color
from atrous.data.file_version import Version, file_version, raster_version
from atrous.data.formats.band_scaling import band_scaling
from atrous.data.formats.empty_bands import SearchedFile, empty_bands
from atrous.data.formats.tiff_colors import STRETCH
from atrous.data.pixels import PictureKind, StoredPixels, as_picture_dtype, nodata_values
from atrous.data.rasters.band_names import checked_names
from atrous.data.rasters.open_raster import VRT_SUFFIX, opened_raster, rasterio_errors, rasterio_window, source_files
from atrous.errors import AtrousError

#: Shortest time between two checks of the files of a VRT, in seconds.
CHECK_SECONDS = 1.0
#: The checks take at most one part in so many of the time, for a VRT of very many files.
CHECK_PART = 100

_Table = dict[int, tuple[int, ...]]


class GdalPicture:
    """A raster that is open for reading, with the methods of `TiffPicture` that windows of scenes need.

    A band may have a nodata value of its own, as in a VRT of several files. Values are converted as in `TiffPicture`:
    indices of a colour table become colours, and grey values of one, two or four bits are scaled to 0…255.

    Args:
        path: a file that rasterio reads.

    Attributes:
        shape: (H, W, C); C is 3 for a file with a colour table.
        nodata: the nodata value of the first band; None if it has none.
        pages: 1.
        palette: the colours by index, for one band of ``uint8`` with a colour table; None for other files.
            `raw_mask` returns the indices.
        white_is_zero: None.
        orientation: 1.
        lossy: whether the compression may change values: JPEG 2000.
        scaling: scale and offset of the bands; None if the stored numbers are the measured values.

    Raises:
        AtrousError: as for `opened_raster`, or the bands have different types or complex numbers, or the colours
            are CMYK.
    """

    def __init__(self, path: Path) -> None:
        self.name = path
        self._file: Any = opened_raster(path)
        try:
            self._open(path)
        except BaseException:
            self._file.close()
            raise

    def _open(self, path: Path) -> None:
        from rasterio.enums import ColorInterp, MaskFlags

        file = self._file
        if len(set(file.dtypes)) > 1 or "complex" in file.dtypes[0]:
            raise AtrousError(
                f"{path}: the bands are of the types {', '.join(dict.fromkeys(file.dtypes))}: convert them to one type "
                "of real numbers."
            )
        if ColorInterp.cyan in file.colorinterp:
            raise AtrousError(f"{path}: colours in CMYK, which is not supported; convert the file to RGB.")
        self.nodata, self.pages, self.white_is_zero, self.orientation = file.nodata, 1, None, 1
        table, bits = _table_of(file), _bits_of(file)
        if table is not None and _is_grey(table):
            table, bits = None, len(table).bit_length() - 1
        self.palette = None if table is None or file.dtypes[0] != "uint8" else _colors_of(table)
        self._colors = None if table is None else _array_of(table, file.dtypes[0])
        self._stretch = STRETCH.get(bits, 1) if table is None and path.suffix.lower() == VRT_SUFFIX else 1
        self._stored_shape = file.height, file.width, file.count
        self.shape = (file.height, file.width, file.count if table is None else 3)
        self.lossy = path.suffix.lower() != VRT_SUFFIX
        alphas = [index for index, kind in enumerate(file.colorinterp) if kind == ColorInterp.alpha]
        self.alpha = alphas[0] if alphas and alphas[0] > 0 else None
        flags = file.mask_flag_enums[0]
        self._masks = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        self.band_names = checked_names(file.descriptions) if table is None else ()
        self.scaling = band_scaling(file.scales, file.offsets) if table is None else None
        self._nodata_of_bands = tuple(file.nodatavals)
        self._sources = _versions_of_sources(path)
        self._next_check = time.monotonic() + CHECK_SECONDS
        self._version = (str(path), *raster_version(path), *self._sources.items())

    def sources_changed(self) -> bool:
        """Returns whether a file from which a VRT takes its pixels was changed since the VRT was opened.

        The files are checked at most once in `CHECK_SECONDS`, and in at most one part in `CHECK_PART` of the time.

        Raises:
            AtrousError: such a file is missing.
        """
        start = time.monotonic()
        if not self._sources or start < self._next_check:
            return False
        changed = any(file_version(path) != version for path, version in self._sources.items())
        taken = time.monotonic() - start
        self._next_check = start + max(CHECK_SECONDS, CHECK_PART * taken)
        return changed

    @property
    def kind(self) -> PictureKind:
        """The kind of the picture, from the header."""
        dtype = self._values(np.zeros((1, 1, 1), self._file.dtypes[0])).dtype.name
        marked = self.alpha is not None or self._masks or any(one is not None for one in self._nodata_of_bands)
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
        values = self._values(stored, None if missing is None else ~missing)
        masked = self.hidden(window)
        empty = () if self.alpha is not None else empty_bands(stored, missing, self._searched)
        declares = self.nodata is not None
        if missing is not None and self._colors is not None:  # the nodata value is an index of the colour table
            gone = missing[:, :, 0]
            masked, missing = gone if masked is None else masked | gone, None
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
        """Reads the stored values of a window, H×W×bands.

        Args:
            window: (top, left, height, width) in pixels.

        Raises:
            AtrousError: the file is damaged.
        """
        with rasterio_errors(self.name):
            return np.moveaxis(self._file.read(window=rasterio_window(window)), 0, 2)

    def hidden(self, window: tuple[int, int, int, int]) -> np.ndarray | None:
        """Returns H×W booleans, True where a mask hides pixels; None if the file has no mask besides alpha and nodata.

        Args:
            window: (top, left, height, width) in pixels.

        Raises:
            AtrousError: the file is damaged.
        """
        if not self._masks:
            return None
        with rasterio_errors(self.name):
            return self._file.dataset_mask(window=rasterio_window(window)) == 0

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    @cached_property
    def _searched(self) -> SearchedFile:
        file = self._file
        dtype, block, reading = np.dtype(file.dtypes[0]), file.block_shapes[0], repr(self._nodata_of_bands)
        return SearchedFile(self._version, self._stored_shape, dtype, block, reading, self.raw_mask, self._missing)

    def _values(self, stored: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
        """Converts stored values to the values of a picture, as `TiffPicture` does."""
        if self._colors is not None:
            return self._colors[stored[:, :, 0]]
        if self._stretch != 1:
            return stored * np.uint8(self._stretch)
        return as_picture_dtype(stored, self.name, present)

    def _missing(self, stored: np.ndarray) -> np.ndarray | None:
        """Returns H×W×C booleans, True for the nodata value of each band; None if there are none."""
        return nodata_values(stored, self._nodata_of_bands, self.alpha)


def _versions_of_sources(path: Path) -> dict[Path, Version]:
    """Returns the files from which a VRT takes its pixels, and their versions."""
    return {one: file_version(one) for one in source_files(path) if one.is_file()}


def _table_of(file: Any) -> _Table | None:
    """Returns the colour table of a file of one band; None if it has none."""
    from rasterio.enums import ColorInterp

    if file.count > 1 or file.dtypes[0] not in ("uint8", "uint16") or file.colorinterp[0] != ColorInterp.palette:
        return None
    try:
        return file.colormap(1)
    except ValueError:  # "NULL color table": a VRT may declare a palette and have no colour table
        return None


def _is_grey(table: _Table) -> bool:
    """Returns whether GDAL made the table itself: it does so for grey TIFFs of one bit, or in which 0 is white."""
    if len(table) not in (2, 4, 16, 256):
        return False
    values = [number * 255 // (len(table) - 1) for number in range(len(table))]
    colors = [color[:3] for _, color in sorted(table.items())]
    falling = [(value, value, value) for value in reversed(values)]
    return colors == falling or (len(table) == 2 and colors == falling[::-1])


def _bits_of(file: Any) -> int:
    """Returns 1, 2 or 4 if all bands declare so many bits per value, else 8."""
    declared = {file.tags(band, ns="IMAGE_STRUCTURE").get("NBITS") for band in file.indexes}
    known = {str(bits): bits for bits in STRETCH}
    return known.get(declared.pop() or "", 8) if len(declared) == 1 and file.dtypes[0] == "uint8" else 8


def _colors_of(table: _Table) -> tuple[Color, ...]:
    """Returns the colours of GDAL's colour table by index, without alpha; an index without an entry is black."""
    colors = (table.get(index, (0, 0, 0)) for index in range(max(table, default=-1) + 1))
    return tuple((red, green, blue) for red, green, blue, *_ in colors)


def _array_of(table: _Table, dtype: str) -> np.ndarray:
    """Returns the colours of all numbers of an integer type, N×3 ``uint8``."""
    colors = np.zeros((np.iinfo(dtype).max + 1, 3), np.uint8)
    known = _colors_of(table)[: len(colors)]
    colors[: len(known)] = np.reshape(known, (-1, 3))
    return colors
