"""GeoTIFFs window by window: pictures of any size and number of bands in, masks in the same place on Earth out."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from atrous.atomic_write import atomic_path
from atrous.data.labels import IGNORE_INDEX, ClassTable
from atrous.errors import AtrousError, missing_extra
from atrous.outputs import MARK

#: Pixels in height and width of what is compressed at once in the masks.
BLOCK = 512
#: TIFF's tags of pixel scale, tie points and transformation (GeoTIFF 1.1, OGC 19-008).
PLACE_TAGS = (33550, 33922, 34264)
#: MB of decoded blocks that GDAL keeps, for the overlap of tiles; left alone it takes a twentieth of the memory.
CACHE_MB = 128


class GeoTiffSource:
    """A raster that rasterio can read, of which the first bands are the picture.

    Args:
        path: the file.
        channels: C ≥ 1 that the model takes. Of a file with more bands the first are taken; one band may stand for 3.

    Attributes:
        dataset: rasterio's, open for reading.

    Raises:
        AtrousError: rasterio is not installed, the file cannot be read, or it has too few bands or complex numbers.
    """

    def __init__(self, path: str | Path, channels: int) -> None:
        self.path, self.dataset = Path(path), _open(path)
        count = self.dataset.count
        if count < channels and not (count == 1 and channels == 3):
            self.close()
            raise AtrousError(
                f"{path}: {count} band(s), and the model takes the first {channels}: give a file with at least "
                f"{channels} bands, or train a model with in_channels={count}."
            )
        self._bands = list(range(1, min(count, channels) + 1))
        types = {np.dtype(self.dataset.dtypes[band - 1]) for band in self._bands}
        if any(kind.kind == "c" for kind in types):
            self.close()
            raise AtrousError(f"{path}: complex numbers; give magnitudes, as uint8, uint16 or float32.")
        # One type for all windows, whatever they hold.
        self._dtype = types.pop() if len(types) == 1 and types <= {np.dtype("u1"), np.dtype("u2")} else np.dtype("f4")
        flags = [set(self.dataset.mask_flag_enums[band - 1]) for band in self._bands]
        self._has_gaps = self._dtype.kind == "f" or any({flag.name for flag in of} != {"all_valid"} for of in flags)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C); C is 1 where one band stands for three."""
        return self.dataset.height, self.dataset.width, len(self._bands)

    def read(self, window: tuple[int, int, int, int]) -> np.ndarray:
        """The window's pixels.

        Args:
            window: (top, left, height, width) in pixels.

        Returns:
            H×W×C uint8 or uint16 as stored, float32 for all other types; a missing value is 0.

        Raises:
            AtrousError: the file is damaged.
        """
        values = self._read("read", window)
        if self._has_gaps:
            values = np.where(self._present(values, window), values, 0)
        return np.ascontiguousarray(values.transpose(1, 2, 0), self._dtype)

    def valid(self, window: tuple[int, int, int, int]) -> np.ndarray | None:
        """H×W booleans, False where every band is nodata, masked, transparent or no number; None without any gap."""
        if not self._has_gaps:
            return None
        values = self._read("read", window) if self._dtype.kind == "f" else None
        present = np.any(self._present(values, window), axis=0)
        return None if present.all() else present

    def close(self) -> None:
        """Closes the file."""
        self.dataset.close()

    def _present(self, values: np.ndarray | None, window: tuple[int, int, int, int]) -> np.ndarray:
        """C×H×W booleans: values that are there."""
        present = self._read("read_masks", window) > 0
        return present & np.isfinite(values) if values is not None and values.dtype.kind == "f" else present

    def _read(self, what: str, window: tuple[int, int, int, int]) -> np.ndarray:
        from rasterio.errors import RasterioError

        try:
            with _small_cache():
                return getattr(self.dataset, what)(self._bands, window=_rasterio_window(window))
        except RasterioError as error:
            raise AtrousError(
                f"{self.path}: cannot be read ({error}); the file may be damaged or cut short."
            ) from error


class GeoTiffSink:
    """A mask as a GeoTIFF like the picture's: tiled, compressed, with coordinates, colours and the classes' names.

    To be used in a `with` statement: at the path stands a whole mask, or what was there before.

    Args:
        path: the file to write.
        source: the picture, whose size and place the mask takes.
        table: names, colours and raw values of the classes.
        raw: write the raw values that the training masks had, instead of class indices.

    Raises:
        AtrousError: the file cannot be written.
    """

    def __init__(self, path: str | Path, source: GeoTiffSource, table: ClassTable, raw: bool = False) -> None:
        import rasterio
        from rasterio.errors import RasterioError

        like = source.dataset
        self.path, self._table, self._raw = Path(path), table, raw
        self._unfinished = ExitStack()
        labels = np.array([[*range(len(table.names)), IGNORE_INDEX]], np.uint8)
        values = self._values(labels)[0]
        if values.ndim > 1:
            raise AtrousError("masks of colour triples cannot be GeoTIFFs of one band: leave --raw out.")
        profile: dict[str, Any] = {
            "driver": "GTiff", "dtype": values.dtype, "count": 1, "height": like.height, "width": like.width,
            "crs": like.crs, "transform": like.transform, "nodata": values[-1].item(), "compress": "deflate",
            "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "BIGTIFF": "IF_SAFER",
        }  # fmt: skip
        try:
            part = self._unfinished.enter_context(atomic_path(path))
            with warnings.catch_warnings(action="ignore"):  # rasters without a place on Earth are welcome
                self._dataset = rasterio.open(part, "w", **profile)
        except (RasterioError, OSError) as error:
            self._unfinished.__exit__(type(error), error, None)
            raise AtrousError(f"{path}: cannot be written ({error}).") from error
        self._dataset.update_tags(TIFFTAG_SOFTWARE=MARK)
        points, system = like.gcps
        if points:
            self._dataset.gcps = (points, system)
        self._dataset.update_tags(
            1, **{f"class_{value}": name for value, name in zip(values.tolist(), table.names, strict=False)}
        )
        if values.dtype == np.uint8:
            colors = {value: (*color, 255) for value, color in zip(values.tolist(), table.colors, strict=False)}
            self._dataset.write_colormap(1, {**colors, values[-1].item(): (0, 0, 0, 0)})
        self._rows = np.empty((0, like.width), values.dtype)  # not yet written, from self._top on
        self._top = 0

    def write(self, window: tuple[int, int, int, int], mask: np.ndarray) -> None:
        """Takes the mask of a window; windows come in rows from the top, each row from the left.

        What makes no whole row of blocks is kept until it does: width · (height of a window + 512) values at most.
        A block written in parts would be compressed, written, read and written again elsewhere in the file.

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
        from rasterio.errors import RasterioError

        try:
            self._dataset.close()  # which writes what is left
        except (RasterioError, OSError) as failed:
            self._unfinished.__exit__(type(failed), failed, failed.__traceback__)
            raise AtrousError(f"{self.path}: cannot be written ({failed}).") from failed
        self._unfinished.__exit__(kind, error, trace)

    def _flush(self, count: int) -> None:
        from rasterio.errors import RasterioError

        if not count:
            return
        place = _rasterio_window((self._top, 0, count, self._rows.shape[1]))
        try:
            with _small_cache():
                self._dataset.write(self._rows[:count], 1, window=place)
        except RasterioError as error:
            raise AtrousError(f"{self.path}: cannot be written ({error}).") from error
        self._rows, self._top = self._rows[count:].copy(), self._top + count

    def _values(self, mask: np.ndarray) -> np.ndarray:
        return self._table.decode(mask) if self._raw else mask


def needs_windows(path: str | Path, most_bytes: float) -> bool:
    """Whether a picture is one for `GeoTiffSource`: it has a place on Earth, more than 4 bands or too many pixels.

    Args:
        path: a file; only those named .tif or .tiff are opened, and none without rasterio.
        most_bytes: that its pixels may take.
    """
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        dataset = _open(path)
    except AtrousError:
        return False
    with dataset:
        placed = bool(dataset.crs or dataset.gcps[0]) or not dataset.transform.is_identity
        size = dataset.height * dataset.width * dataset.count * np.dtype(dataset.dtypes[0]).itemsize
        return placed or dataset.count > 4 or size > most_bytes


def has_place_tags(path: str | Path) -> bool:
    """Whether a TIFF has coordinates, seen without rasterio: its mask would lose them."""
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        with Image.open(path) as picture:
            return any(tag in getattr(picture, "tag_v2", ()) for tag in PLACE_TAGS)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _open(path: str | Path) -> Any:
    try:
        import rasterio
    except ImportError:
        raise missing_extra("rasterio", "geo") from None
    from rasterio.errors import RasterioError

    try:
        with warnings.catch_warnings(action="ignore"), _small_cache():
            return rasterio.open(path)
    except RasterioError as error:
        raise AtrousError(f"{path}: cannot be read ({error}).") from error


def _small_cache() -> Any:
    """GDAL asks for its cache's size when it first caches a block, in whatever thread that is."""
    import rasterio

    return rasterio.Env(GDAL_CACHEMAX=CACHE_MB)


def _rasterio_window(window: tuple[int, int, int, int]) -> Any:
    from rasterio.windows import Window

    top, left, height, width = window
    return Window(left, top, width, height)  # type: ignore[call-arg]
