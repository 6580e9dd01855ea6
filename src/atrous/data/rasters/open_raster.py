"""Opens rasters with rasterio; errors of rasterio become errors that name the file and the cause."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atrous.data.rasters.library_warnings import hide_rasterio_warnings
from atrous.errors import AtrousError, missing_extra

#: Size of GDAL's cache of blocks in MB; GDAL's default is 5 % of the memory.
CACHE_MB = 128
#: Suffix of GDAL's virtual rasters (VRT). A VRT names the files that contain its pixels.
VRT_SUFFIX = ".vrt"
#: Suffixes of scenes that are read window by window through GDAL.
GDAL_SUFFIXES = (VRT_SUFFIX, ".jp2")
#: Names of sources of a VRT that are no files of this machine: GDAL's virtual files, and names such as "NETCDF:a.nc:t".
_NO_FILE = re.compile(r"/vsi|[A-Za-z][A-Za-z0-9_+.-]+:")


@contextmanager
def rasterio_errors(path: object, failed: str = "cannot be read") -> Iterator[Any]:
    """Turns errors of rasterio in a `with` block into errors that name the file, and limits GDAL's cache.

    Warnings about rasters without coordinates are hidden, because such rasters are allowed.

    Args:
        path: the file, or its name in messages.
        failed: what failed, for the message.

    Yields:
        The module rasterio.

    Raises:
        AtrousError: rasterio is not installed, or the block raised an error of rasterio or of the
            operating system.
    """
    try:
        import rasterio
    except ImportError:
        raise missing_extra("rasterio", "geo") from None
    from rasterio.errors import RasterioError

    hide_rasterio_warnings()
    try:
        # GDAL reads the size of its cache only once, when it caches the first block
        # with shared sources, a VRT would read the old content of a changed file that another VRT has open
        with rasterio.Env(GDAL_CACHEMAX=CACHE_MB, VRT_SHARED_SOURCE=0):
            yield rasterio
    except (RasterioError, OSError) as error:
        # "Read failed. See previous exception for details."
        reason = getattr(error.__cause__, "errmsg", None) or error
        raise AtrousError(f"{path}: {failed} ({reason}).") from error


def opened_raster(path: str | Path) -> Any:
    """Returns a raster that is open for reading, as a rasterio dataset; the caller closes it.

    Args:
        path: the file.

    Raises:
        AtrousError: rasterio is not installed; the file is missing or damaged; or the file is a VRT that takes pixels
            from a missing file.
    """
    with rasterio_errors(path) as rasterio:
        dataset = rasterio.open(path)
    try:
        _check_source_files(path, dataset)
    except AtrousError:
        dataset.close()
        raise
    return dataset


@contextmanager
def open_raster(path: str | Path) -> Iterator[Any]:
    """Opens a raster with rasterio for a `with` block.

    Args:
        path: the file.

    Yields:
        The rasterio dataset.

    Raises:
        AtrousError: as for `opened_raster`, or the block raised an error of rasterio.
    """
    with rasterio_errors(path), opened_raster(path) as dataset:
        yield dataset


def rasterio_window(window: tuple[int, int, int, int]) -> Any:
    """Returns a window as an object of rasterio.

    Args:
        window: (top, left, height, width) in pixels.
    """
    from rasterio.windows import Window

    top, left, height, width = window
    return Window(left, top, width, height)  # type: ignore[call-arg]


def source_files(path: str | Path) -> list[Path]:
    """Returns the files from which a VRT takes its pixels, also missing files; [] for any other file.

    The files of a VRT in a VRT belong to both.

    Args:
        path: any file; [] for a VRT that cannot be read.
    """
    found: dict[Path, None] = {}
    left = [Path(path)] if Path(path).suffix.lower() == VRT_SUFFIX else []
    while left:
        new = [one for one in _files_of_vrt(left.pop()) if one not in found and one != Path(path)]
        found.update(dict.fromkeys(new))
        left += [one for one in new if one.suffix.lower() == VRT_SUFFIX]
    return [*found]


def _files_of_vrt(path: Path) -> list[Path]:
    """Returns the files that a VRT names; [] if it cannot be read."""
    try:
        with rasterio_errors(path) as rasterio, rasterio.open(path) as dataset:
            return _files_of(dataset)
    except AtrousError:
        return []


def _files_of(dataset: Any) -> list[Path]:
    return [Path(one) for one in dataset.files if not _NO_FILE.match(one)]


def _check_source_files(path: str | Path, dataset: Any) -> None:
    """Checks that the sources of a VRT exist, because GDAL notices a missing one only when it reads its pixels."""
    files = dict.fromkeys((*_files_of(dataset), *source_files(path))) if dataset.driver == "VRT" else ()
    missing = [one for one in files if not one.exists()]
    if missing:
        more = f" and from {len(missing) - 1} more files, which are" if len(missing) > 1 else ", which is"
        raise AtrousError(
            f"{path}: the VRT takes its pixels from {missing[0]}{more} missing. Copy the files to these places, or "
            "build the VRT again (gdalbuildvrt)."
        )
