"""Reads GeoTIFFs of any size and number of bands window by window; writes masks as Cloud Optimised GeoTIFFs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from atrous.atomic_write import atomic_path, temporary_folder
from atrous.data.formats.exif_orientation import stored_from_upright
from atrous.data.formats.tiff import TiffPicture, is_tiff
from atrous.data.mask_value_map import IGNORE_INDEX, ClassTable
from atrous.data.pictures import read_pixels
from atrous.data.rasters.band_names import bands_to_read, checked_names
from atrous.data.rasters.gdal_picture import GdalPicture
from atrous.data.rasters.open_raster import CACHE_MB as CACHE_MB
from atrous.data.rasters.open_raster import (
    GDAL_SUFFIXES,
    VRT_SUFFIX,
    open_raster,
    opened_raster,
    rasterio_errors,
    rasterio_window,
)
from atrous.data.sources.source import Pixels, Source
from atrous.errors import AtrousError
from atrous.software_tag import UNSEALED, seal

#: Height and width, in pixels, of the blocks in which masks are compressed.
BLOCK = 512
#: Options of GDAL's driver for Cloud Optimised GeoTIFFs. Each pixel of an overview has the most frequent class of the
#: mask pixels that it covers; a mean of class indices would be a wrong class.
COG: dict[str, Any] = {
    "driver": "COG", "BLOCKSIZE": BLOCK, "COMPRESS": "DEFLATE", "OVERVIEW_RESAMPLING": "MODE", "BIGTIFF": "IF_SAFER"
}  # fmt: skip
#: Suffixes of files that may have coordinates on Earth.
RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", VRT_SUFFIX)
#: The identifier of the JPEG 2000 box that contains GeoTIFF tags.
GEO_JP2 = bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03")
_NOT_WRITTEN = "cannot be written"


@dataclass(frozen=True)
class Place:
    """The position on Earth of a raster whose pixels are turned upright.

    Attributes:
        crs: coordinate reference system as a rasterio object, or None.
        transform: affine map from (column, row) to coordinates, as a rasterio object.
        points: ground control points as rasterio objects.
        points_crs: coordinate reference system of the ground control points, or None.
    """

    crs: Any
    transform: Any
    points: tuple[Any, ...]
    points_crs: Any


class GeoTiffSource:
    """A raster with coordinates, read window by window with the same values as `read_pixels`.

    rasterio reads the coordinates, and the pixels of a VRT. A JPEG 2000 file is decoded as a whole.

    Args:
        path: a TIFF, VRT or JPEG 2000 file.
        channels: number of channels C that the model takes, 1 or more. If the file has more than four bands, the first
            C are read. The bands of other files are converted as in `to_channels`. An alpha band is left out unless C
            is the number of all bands. A file with one band is also accepted for C = 3, and is read as one channel.
        pages: pages of a TIFF to read, "first" or "channels"; see `read_picture`.
        missing: values that mean "no data", in addition to the nodata value that the file declares.
        names: names of the bands that the model takes, as in `bands_to_read`.
        wavelengths: wavelengths of these bands in nanometres, as in `bands_to_read`.
        fill: value of each channel for bands without data in the whole file, as in `StoredPixels.for_model`.

    Attributes:
        geometry: position of the raster on Earth.
        bands: number of bands in the file, including an alpha band.

    Raises:
        AtrousError: rasterio is not installed, the file cannot be read, or it has too few bands or complex numbers.
    """

    def __init__(
        self,
        path: str | Path,
        channels: int,
        pages: str = "first",
        missing: Sequence[float] = (),
        names: Sequence[str] = (),
        wavelengths: Sequence[float] = (),
        fill: Sequence[float] | None = None,
    ) -> None:
        self.path, self._channels, self._missing, self._fill = Path(path), channels, tuple(missing), fill
        with open_raster(path) as dataset:
            crs, transform, (points, points_crs) = dataset.crs, dataset.transform, dataset.gcps
            descriptions = dataset.descriptions
        self._file: TiffPicture | GdalPicture | None = None
        self._whole = None
        through_gdal = self.path.suffix.lower() in GDAL_SUFFIXES
        if through_gdal or _is_tiff(path):
            self._file = GdalPicture(self.path) if through_gdal else TiffPicture(path, pages=pages)
            height, width, self.bands = self._file.shape
            alpha, orientation = self._file.alpha, self._file.orientation
        else:
            self._whole = read_pixels(path, pages)
            height, width, self.bands = self._whole.values.shape
            alpha, orientation = self._whole.alpha, 1
        own = self._file.band_names if self._file is not None else checked_names(descriptions)
        try:
            self._chosen = bands_to_read(own, names, wavelengths, self.bands - (alpha is not None))
        except AtrousError as error:
            self.close()
            raise AtrousError(f"{path}: {error}") from error
        count = self.bands - (alpha is not None and channels != self.bands)
        count = count if self._chosen is None else len(self._chosen)
        if count < channels and not (count == 1 and channels == 3):
            self.close()
            raise AtrousError(
                f"{path}: the file has {count} band(s), and the model takes the first {channels}: give a file with at "
                f"least {channels} bands, or train a model with in_channels={count}."
            )
        self._judges_alpha = True
        self._taken = 1 if count == 1 else channels
        self._size = height, width
        if orientation != 1:  # coordinates refer to stored pixels
            matrix = stored_from_upright(self._size, orientation)
            both = np.reshape([*transform][:9], (3, 3)) @ matrix
            transform = type(transform)(*both[:2].ravel().tolist())
            points = [_moved(point, np.linalg.inv(matrix)) for point in points]
        self.geometry = Place(crs, transform, tuple(points), points_crs)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C); C is 1 if the file has one band and the model takes three channels."""
        return *self._size, self._taken

    def read(self, window: tuple[int, int, int, int]) -> Pixels:
        """Reads a window; uint8 and uint16 stay as they are unless the file scales them; see `StoredPixels.for_model`.

        Args:
            window: (top, left, height, width) in pixels.

        Raises:
            AtrousError: the file is damaged.
        """
        window = tuple(window)  # pyright: ignore[reportAssignmentType]
        if self._file is not None:
            stored = self._file.pixels(window)
        else:
            assert self._whole is not None
            stored = self._whole.window(window)
        values, valid = stored.choosing(self._chosen).for_model(self._taken, self._fill, self._missing)
        doubtful = self._judges_alpha and self._taken < self.bands and stored.alpha_may_be_a_channel
        # the doubt about alpha is reported for one window only
        self._judges_alpha = self._judges_alpha and not doubtful
        return Pixels(values, valid, doubtful)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


class GeoTiffSink:
    """A mask that is written as a Cloud Optimised GeoTIFF with coordinates, overviews, colours and class names.

    Use it in a `with` statement. The windows are written to a temporary GeoTIFF in the same folder. At the end of the
    statement, GDAL copies it to the final file, because the overviews of a Cloud Optimised GeoTIFF precede its pixels
    (OGC 21-026). If an error occurs, no incomplete mask is written, and an existing file is unchanged.

    Args:
        path: the file to write.
        source: the picture; the mask gets its size and its coordinates.
        table: names, colours and raw values of the classes.
        raw: whether to write the first raw value of each class instead of class indices.

    Raises:
        AtrousError: the file cannot be written, or ``raw`` is True and the raw values are colours.
    """

    def __init__(self, path: str | Path, source: Source, table: ClassTable, raw: bool = False) -> None:
        import rasterio

        height, width, _ = source.shape
        like = source.geometry or Place(None, rasterio.Affine.identity(), (), None)
        self.path, self._table, self._raw = Path(path), table, raw
        self._unfinished = ExitStack()
        # if a class has the raw value 255, there may be no value for ignored pixels; masks with ignored pixels are then
        # refused
        void = [IGNORE_INDEX] if table.has_ignore_value or not raw else []
        values = self._values(np.array([[*range(len(table.names)), *void]], np.uint8))[0]
        if values.ndim > 1:
            raise AtrousError("masks of colour triples cannot be GeoTIFFs of one band: leave --raw out.")
        profile: dict[str, Any] = {
            "driver": "GTiff", "dtype": values.dtype, "count": 1, "height": height, "width": width,
            "crs": like.crs, "transform": like.transform, "nodata": values[-1].item() if void else None,
            "compress": "deflate", "zlevel": 1, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
            "BIGTIFF": "IF_SAFER",
        }  # fmt: skip
        try:
            with rasterio_errors(path, _NOT_WRITTEN):
                self._part = self._unfinished.enter_context(atomic_path(path))
                self._temporary = self._unfinished.enter_context(temporary_folder(path))
                self._dataset = rasterio.open(self._temporary / "windows.tif", "w", **profile)
        except AtrousError as error:
            self._unfinished.__exit__(type(error), error, None)
            raise
        self._dataset.update_tags(TIFFTAG_SOFTWARE=UNSEALED)
        if like.points:
            self._dataset.gcps = (list(like.points), like.points_crs)
        self._dataset.update_tags(
            1, **{f"class_{value}": name for value, name in zip(values.tolist(), table.names, strict=False)}
        )
        if values.dtype == np.uint8:
            colors = {value: (*color, 255) for value, color in zip(values.tolist(), table.colors, strict=False)}
            clear = {values[-1].item(): (0, 0, 0, 0)} if void else {}
            self._dataset.write_colormap(1, {**colors, **clear})
        self._rows = np.empty((0, width), values.dtype)  # rows not yet written, starting at row self._top
        self._top = 0

    def write(self, window: tuple[int, int, int, int], mask: np.ndarray) -> None:
        """Writes the mask of a window; windows must be given in rows from the top, and in each row from the left.

        Values are kept in memory until they fill a whole row of blocks: at most width · (height of a window + 512)
        values. Otherwise, a block would be written in parts: compressed, read again, and rewritten elsewhere in the
        file.

        Args:
            window: (top, left, height, width) in pixels.
            mask: H×W uint8 class indices, 255 for no data.
        """
        top, left, height, width = window
        missing = top + height - self._top - len(self._rows)
        if missing > 0:
            self._rows = np.concatenate([self._rows, np.empty((missing, self._rows.shape[1]), self._rows.dtype)])
        self._rows[top - self._top : top - self._top + height, left : left + width] = self._values(mask)
        if left + width == self._dataset.width:
            last = top + height == self._dataset.height
            self._flush(len(self._rows) if last else len(self._rows) // BLOCK * BLOCK)

    def __enter__(self) -> GeoTiffSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._dataset.close()  # closing writes the remaining data
            if error is None:
                self._copy_with_overviews()
                seal(self._part)
        except Exception as failed:
            self._unfinished.__exit__(type(failed), failed, failed.__traceback__)
            raise AtrousError(f"{self.path}: {_NOT_WRITTEN} ({failed}).") from failed
        self._unfinished.__exit__(kind, error, trace)

    def _copy_with_overviews(self) -> None:
        import rasterio
        from rasterio.shutil import copy

        # GDAL also writes a temporary file of the overviews, in the folder CPL_TMPDIR
        environment = rasterio.Env(GDAL_CACHEMAX=CACHE_MB, CPL_TMPDIR=str(self._temporary))
        with environment:
            copy(self._temporary / "windows.tif", self._part, **COG)

    def _flush(self, count: int) -> None:
        if not count:
            return
        place = rasterio_window((self._top, 0, count, self._rows.shape[1]))
        with rasterio_errors(self.path, _NOT_WRITTEN):
            self._dataset.write(self._rows[:count], 1, window=place)
        self._rows, self._top = self._rows[count:].copy(), self._top + count

    def _values(self, mask: np.ndarray) -> np.ndarray:
        return self._table.decode(mask) if self._raw else mask


def needs_windows(path: str | Path, most_bytes: float) -> bool:
    """Returns whether a picture must be read with `GeoTiffSource`.

    This is the case if the picture is a VRT, or has coordinates, more than four bands, or more than ``most_bytes``
    bytes.

    Args:
        path: path of a file; only TIFF, VRT and JPEG 2000 are opened, and only if rasterio is installed.
        most_bytes: if the decoded pixels have more bytes than this, the picture must be read in windows.
    """
    if Path(path).suffix.lower() not in RASTER_SUFFIXES:
        return False
    try:
        dataset = opened_raster(path)
    except AtrousError:
        return False
    with dataset:
        placed = bool(dataset.crs or dataset.gcps[0]) or not dataset.transform.is_identity
        size = dataset.height * dataset.width * dataset.count * np.dtype(dataset.dtypes[0]).itemsize
        return placed or dataset.driver == "VRT" or dataset.count > 4 or size > most_bytes


def place_of(path: str | Path) -> tuple[Place, tuple[int, int]]:
    """Returns the position on Earth and the (height, width) of a raster; only its header is read.

    Both refer to the pixels as stored, before they are turned upright.

    Args:
        path: a file that rasterio reads.

    Raises:
        AtrousError: rasterio is not installed, or the file cannot be read.
    """
    with open_raster(path) as dataset:
        points, points_crs = dataset.gcps
        return Place(dataset.crs, dataset.transform, tuple(points), points_crs), (dataset.height, dataset.width)


def has_place_tags(path: str | Path) -> bool:
    """Returns whether a raster has coordinates; rasterio is not needed for this check.

    If rasterio is not installed, the caller warns that the masks of such rasters have no coordinates.

    Args:
        path: path of a file; only TIFF and JPEG 2000 are opened.
    """
    path = Path(path)
    if path.suffix.lower() not in RASTER_SUFFIXES or path.suffix.lower() == VRT_SUFFIX:
        return False
    try:
        if not _is_tiff(path):
            with path.open("rb") as file:
                return GEO_JP2 in file.read(65536)
        with TiffPicture(path) as tiff:
            return tiff.placed
    except (AtrousError, OSError):
        return False


def _is_tiff(path: str | Path) -> bool:
    try:
        with Path(path).open("rb") as file:
            return is_tiff(file.read(4))
    except OSError as error:
        raise AtrousError(f"{path}: cannot be read ({error.strerror}).") from error


def _moved(point: Any, matrix: np.ndarray) -> Any:
    """Returns a ground control point, moved from its stored pixel to its upright pixel."""
    column, row, _ = matrix @ (point.col, point.row, 1.0)
    return type(point)(row=row, col=column, x=point.x, y=point.y, z=point.z, id=point.id, info=point.info)
