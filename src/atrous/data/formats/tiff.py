"""Reads TIFF files as pictures and masks, whole or by windows; all kinds of TIFF are returned in the same form."""

from __future__ import annotations

import io
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from atrous.data.class_colors import Color
from atrous.data.file_version import raster_version
from atrous.data.formats.band_scaling import BandScaling
from atrous.data.formats.decoder_errors import in_words
from atrous.data.formats.empty_bands import SearchedFile, empty_bands
from atrous.data.formats.exif_orientation import ORIENTATION_TAG, stored_window, upright, upright_size
from atrous.data.formats.tiff_colors import STRETCH, check_colours, color_table, colors_of_indices, rgb_of_cmyk
from atrous.data.formats.tiff_header_checks import Directory, directories
from atrous.data.formats.tiff_metadata import BandMetadata, metadata_of_bands
from atrous.data.formats.tiff_page import JPEG, StoredPage, Window, check_size, page_at, silence_tifffile
from atrous.data.pixels import PictureKind, StoredPixels, as_picture_dtype, nodata_values
from atrous.errors import AtrousError

#: First bytes of TIFF and BigTIFF files, little and big endian.
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: In an untrusted file, all strips and tiles together may have at most this many times the bytes of the file. The
#: factor is above 1, because equal strips or tiles may share bytes.
MOST_TIMES_LISTED = 4
#: Allowed values of `pages`.
PAGES = ("first", "channels")

_PLACE_TAGS = {33550: "ModelPixelScale", 33922: "ModelTiepoint", 34264: "ModelTransformation"}
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_MOST_MASKS = 16
_WHITE_IS_ZERO, _PALETTE, _CMYK = 0, 3, 5  # PhotometricInterpretation
_GREY = (0, 1)  # WhiteIsZero, BlackIsZero


def is_tiff(start: bytes) -> bool:
    """Returns whether a file that begins with these bytes is a TIFF."""
    return start[:4] in TIFF_STARTS


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


class TiffPicture:
    """A TIFF that is open for reading; close it, or use it in a `with` statement.

    Values are returned as stored, independent of the photometric interpretation. There are three exceptions. Indices of
    a colour table become colours. CMYK, and YCbCr in JPEG, become RGB. Grey values of one, two or four bits are scaled
    to 0…255.

    Args:
        file: a path, or the bytes of a file.
        name: name of the file, for messages; None for the path.
        pages: "first" for the first page, "channels" for the bands of all pages, one after the other.
        most_pixels: largest number of pixels of a picture from an untrusted source; None for a trusted file, whose
            number of pixels is not limited.

    Attributes:
        shape: (H, W, C) of the upright picture.
        orientation: the TIFF orientation, 1 to 8; it is already applied.
        alpha: index of the band that contains transparency, or None.
        white_is_zero: whether the header of a grey picture states that 0 is white; None for other pictures. The values
            are not inverted.
        pages: number of pages, without reduced copies and masks.
        nodata: the nodata value, in the file's own data type. None if neither the file nor GDAL's ``.aux.xml`` beside
            it declares such a value, or if the data type cannot represent the value.

    Raises:
        TooLarge: the picture has more pixels than allowed.
        AtrousError: the file is missing, damaged, or of a kind that is not supported.
    """

    def __init__(
        self,
        file: Path | str | bytes,
        *,
        name: object = None,
        pages: str = "first",
        most_pixels: float | None = None,
    ) -> None:
        if pages not in PAGES:
            raise AtrousError(f"pages is '{pages}'; give 'first' or 'channels'.")
        self.name = name or (file if not isinstance(file, bytes) else "the picture")
        with in_words(self.name):
            from tifffile import TiffFile  # imported here: it takes 0.1 s, and only TIFFs need it

            silence_tifffile()
            if not isinstance(file, bytes) and Path(file).stat().st_size == 0:
                raise AtrousError(f"{self.name}: the file is empty (0 bytes).")
            with io.BytesIO(file) if isinstance(file, bytes) else Path(file).open("rb") as header:
                self._directories = directories(header, self.name, strangers=most_pixels is not None)
            content = io.BytesIO(file) if isinstance(file, bytes) else str(file)
            self._file, self._beside, self._strangers = TiffFile(content), None, most_pixels is not None
            self._path = None if isinstance(file, bytes) else file
            self._stored, self._masks = list[StoredPage](), list[StoredPage]()
            self._version = None if isinstance(file, bytes) else (str(file), *raster_version(file))
            try:
                self._open(pages, most_pixels)
                self._masks = self._mask_pages(most_pixels)
                self._check_listed()
                self._stored[0].nodata = self._metadata.nodata
                self.nodata = self._metadata.nodata[0]
                beside = None if isinstance(file, bytes) else Path(f"{file}.msk")  # as GDAL writes masks by default
                if beside is not None and beside.is_file() and is_tiff(_start_of(beside)):
                    self._beside = TiffPicture(beside)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        for page in (*self._stored, *self._masks):
            page.close()
        if self._beside is not None:
            self._beside.close()

    def __enter__(self) -> TiffPicture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def placed(self) -> bool:
        """Whether the file has coordinates: a pixel scale, tie points or a transformation (GeoTIFF 1.1, OGC 19-008)."""
        return any(tag in self._page.tags for tag in _PLACE_TAGS)

    @property
    def place_tags(self) -> dict[str, Any]:
        """The georeferencing tags by their GeoTIFF names; they refer to the stored pixels, which may not be upright."""
        keys = self._page.geotiff_tags or {}
        values = {name: self._page.tags.valueof(tag) for tag, name in _PLACE_TAGS.items()}
        return {**keys, **{name: value for name, value in values.items() if value is not None}}

    @property
    def stored_size(self) -> tuple[int, int]:
        """(H, W) of the stored picture, before it is turned upright."""
        height, width = self._stored[0].shape[:2]
        return height, width

    @property
    def nbytes(self) -> int:
        """Bytes of the whole picture in memory, in its stored data type."""
        return sum(page.nbytes for page in self._stored)

    @property
    def stored_bytes(self) -> int:
        """Bytes of one stored value."""
        return self._stored[0].dtype.itemsize

    @property
    def lossy(self) -> bool:
        """Whether the compression changes values, or may change them: JPEG and other lossy methods."""
        return self._page.compression in JPEG | {50001, 34927, 22610}

    @property
    def kind(self) -> PictureKind:
        """The kind of the picture, from the header."""
        name, bands = self.dtype.name if self.scaling is None else "float32", self.shape[2]
        marked = (
            self.alpha is not None
            or any(one is not None for one in self._nodata)
            or bool(self._masks)
            or self._beside is not None
        )
        return PictureKind(
            bands - (self.alpha is not None),
            name,
            bands,
            self.pages,
            stacks=True,
            white_is_zero=self.white_is_zero,
            may_lack_data=marked or name == "float32",
            names=tuple(name for band, name in enumerate(self.band_names) if band != self.alpha),
        )

    @cached_property
    def band_names(self) -> tuple[str, ...]:
        """The descriptions that GDAL stores for the bands; () if a band has none, or several pages are read."""
        return self._metadata.names if self._bands_as_stored else ()

    @cached_property
    def scaling(self) -> BandScaling | None:
        """Scale and offset of the bands, as GDAL stores them; None if there are none, or several pages are read."""
        return self._metadata.scaling if self._bands_as_stored else None

    @cached_property
    def _metadata(self) -> BandMetadata:
        """The metadata of the bands of the first page."""
        return metadata_of_bands(self._page, self._path, self._stored[0].shape[2])

    @property
    def _nodata(self) -> tuple[Any, ...]:
        """The nodata value of each stored band; other pages have that of the first band of the first page."""
        first = self._metadata.nodata
        return (*first, *first[:1] * ((len(self._stored) - 1) * len(first)))

    @property
    def _bands_as_stored(self) -> bool:
        """Whether the picture has the bands of the first page, and not those of several pages or of a palette."""
        return len(self._stored) == 1 and self.shape[2] == self._stored[0].shape[2]

    @property
    def dtype(self) -> np.dtype:
        """The data type of `StoredPixels.values`, from the header."""
        empty = np.zeros((1, 1, self._stored[0].shape[2]), self._stored[0].dtype)
        return self._values(empty).dtype

    def read(self, window: Window | None = None) -> np.ndarray:
        """Reads the values of the picture.

        Args:
            window: (top, left, height, width) in upright pixels; None for the whole picture.

        Returns:
            H×W×C ``uint8``, ``uint16`` or ``float32``.

        Raises:
            AtrousError: the file is damaged, or contains integers that ``float32`` cannot represent.
        """
        return self.pixels(window).measured

    def pixels(self, window: Window | None = None) -> StoredPixels:
        """Reads the values of the picture, and marks missing values.

        Args:
            window: (top, left, height, width) in upright pixels; None for the whole picture.

        Raises:
            AtrousError: for the same reasons as in `read`.
        """
        window = window or (0, 0, *self.shape[:2])
        with in_words(self.name):
            stored = self._read(window)
            missing = self._missing(stored)
            values = self._values(stored, None if missing is None else ~missing)
            masked = self.hidden(window)
            if missing is not None and missing.shape != values.shape:  # the nodata value is an index of a colour table
                gone = np.asarray(missing.all(axis=2))
                masked, missing = gone if masked is None else masked | gone, None
            return StoredPixels(
                np.ascontiguousarray(values),
                self.alpha,
                missing,
                masked,
                self.nodata is None,
                self.pages,
                stacks=True,
                names=self.band_names,
                empty=self._empty(stored, missing),
                scaling=self.scaling,
            )

    def raw_mask(self, window: Window | None = None) -> np.ndarray:
        """Reads the stored values of a mask; indices of a colour table stay indices, and grey values are not scaled.

        Args:
            window: (top, left, height, width) in upright pixels; None for the whole mask.

        Returns:
            H×W×C in the file's own data type; a mask in YCbCr or CMYK becomes RGB.
        """
        with in_words(self.name):
            stored = self._read(window or (0, 0, *self.shape[:2]))
            return rgb_of_cmyk(stored) if self._is_cmyk else stored

    def _open(self, pages: str, most_pixels: float | None) -> None:
        found = self._directories
        full = [one for one in found if not one.kind & (_REDUCED | _MASK)] or found[:1]
        self.pages = len(full)
        self._page = page_at(self._file, full[0], 0)
        if most_pixels is not None:
            check_size(self._page, most_pixels, len(full) if pages == "channels" else 1, self.name)
        chosen = [self._page, *(page_at(self._file, one, i) for i, one in enumerate(full[1:], 1) if pages != "first")]
        if most_pixels is not None:
            for page in chosen[1:]:
                check_size(page, most_pixels, len(chosen), self.name)
        self._stored = [StoredPage(page, self.name, strangers=self._strangers) for page in chosen]
        first = self._stored[0]
        for number, page in enumerate(self._stored[1:], 2):
            if page.shape != first.shape or page.dtype != first.dtype or page.page.photometric != self._photometric:
                raise AtrousError(
                    f"{self.name}: page {number} is {page.shape} {page.dtype} and page 1 is {first.shape} "
                    f"{first.dtype}; pages that are read as channels must have the same shape and type."
                )
        check_colours(self._page, self._is_cmyk, self.name)
        orientation = self._page.tags.valueof(ORIENTATION_TAG)
        self.orientation = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
        self.white_is_zero = self._photometric == _WHITE_IS_ZERO if self._photometric in _GREY else None
        channels = 3 if self._photometric == _PALETTE or self._is_cmyk else first.shape[2]
        self.alpha = self._alpha_of(first.shape[2]) if len(chosen) == 1 and channels == first.shape[2] else None
        height, width = upright_size(*first.shape[:2], self.orientation)
        self.shape = height, width, channels * len(chosen)

    @property
    def _photometric(self) -> int:
        return int(self._page.photometric)

    @property
    def _is_cmyk(self) -> bool:
        page = self._page
        return self._photometric == _CMYK and page.samplesperpixel == 4 and page.tags.valueof(332) in (None, 1)

    def _alpha_of(self, bands: int) -> int | None:
        extra = tuple(map(int, self._page.extrasamples))
        found = [bands - len(extra) + index for index, kind in enumerate(extra) if kind in (1, 2)]
        return found[0] if found and found[0] > 0 else None

    def _mask_pages(self, most_pixels: float | None) -> list[StoredPage]:
        """Returns a list with the first mask page of one band and of the size of the picture; [] if there is none."""
        masks = [one for one in self._directories if one.kind & _MASK and not one.kind & _REDUCED][:_MOST_MASKS]
        stored = [self._stored_mask(one, index) for index, one in enumerate(masks, 1)]
        read = [mask for mask in stored if mask.shape == (*self._stored[0].shape[:2], 1)][:1]
        if most_pixels is not None:
            for mask in read:
                check_size(mask.page, most_pixels, 1, self.name)
        return read

    def _check_listed(self) -> None:
        """Raises AtrousError if an untrusted file has strips and tiles that share too many bytes."""
        listed, size = sum(page.listed_bytes for page in [*self._stored, *self._masks]), self._file.filehandle.size
        if self._strangers and listed > MOST_TIMES_LISTED * size:
            raise AtrousError(
                f"{self.name}: cannot be read (its strips and tiles list {listed} bytes and the file has {size}); "
                "save it again."
            )

    def _stored_mask(self, directory: Directory, index: int) -> StoredPage:
        return StoredPage(page_at(self._file, directory, index), self.name, strangers=self._strangers)

    def _read(self, window: Window) -> np.ndarray:
        """Returns the stored values of a window, H×W×C, turned upright."""
        return upright(self._as_stored(stored_window(window, self.shape[:2], self.orientation)), self.orientation)

    def _as_stored(self, window: Window) -> np.ndarray:
        """Returns the values of a window of the stored pixels, which may not be upright."""
        parts = [page.read(window) for page in self._stored]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    def _missing(self, stored: np.ndarray) -> np.ndarray | None:
        """Returns H×W×C booleans, True for values that are the file's nodata value; None if there are none."""
        return nodata_values(stored, self._nodata, self.alpha)

    def _empty(self, stored: np.ndarray, missing: np.ndarray | None) -> tuple[int, ...]:
        """Returns those bands without data in a window that have no data in the whole file, either."""
        if self.alpha is not None:
            return ()
        page = self._stored[0]
        shape = (*page.shape[:2], stored.shape[2])
        reading = len(self._stored), repr(self._nodata)
        file = SearchedFile(self._version, shape, page.dtype, page.block, reading, self._as_stored, self._missing)
        return empty_bands(stored, missing, file)

    def hidden(self, window: Window) -> np.ndarray | None:
        """Returns H×W booleans, True where a mask in the file or beside it hides pixels; None if no pixel is hidden.

        Args:
            window: (top, left, height, width) in upright pixels.
        """
        hidden = None
        for mask in self._masks:
            place = stored_window(window, self.shape[:2], self.orientation)
            hidden = upright(mask.read(place), self.orientation)[:, :, 0] == 0
        if self._beside is not None and self._beside.shape[:2] == self.shape[:2]:
            beside = self._beside.read(window)[:, :, 0] == 0
            hidden = beside if hidden is None else hidden | beside
        return hidden if hidden is not None and hidden.any() else None

    def _values(self, stored: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
        """Converts stored values to the values of a picture."""
        if self._photometric == _PALETTE:
            return colors_of_indices(stored, color_table(self._page), self.name)
        if self._is_cmyk:
            return rgb_of_cmyk(stored)
        bits = self._page.bitspersample
        if stored.dtype == np.uint8 and bits in STRETCH and self._page.sampleformat == 1:
            return stored * np.uint8(STRETCH[bits])
        return as_picture_dtype(stored, self.name, present)

    @property
    def palette(self) -> tuple[Color, ...] | None:
        """The colours by index, for indices of at most 8 bits; None if the file has no such colour table."""
        table = color_table(self._page) if self._photometric == _PALETTE else None
        if table is None or len(table) > 256:
            return None
        return tuple((int(red), int(green), int(blue)) for red, green, blue in table)
