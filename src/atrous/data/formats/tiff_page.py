"""Reads the stored values of one TIFF page, whole or by windows, with tifffile and its decoders."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from atrous.data.formats.decoded_blocks import drop_blocks, keep_block, kept_block, new_page
from atrous.data.formats.decoder_errors import TooLarge, in_words
from atrous.data.formats.tiff_header_checks import Directory
from atrous.data.many_channels import MOST_CHANNELS
from atrous.errors import AtrousError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

#: Largest number of bytes per pixel of a picture from an untrusted source: eight bands of float64.
MOST_BYTES_PER_PIXEL = 64
#: A window of fewer bytes is decoded in one thread, because starting more threads would take longer, and because small
#: files are often read in many processes at once.
THREADED_BYTES = 4 * 2**20
#: If a strip or tile has more bytes than this, and more than four times the bytes of the page, the header is damaged.
LARGEST_SEGMENT = 2**28
#: Limit of the decoded bytes per stored byte, by TIFF's number of the compression. Each limit is slightly above the
#: largest possible ratio: 1365 for LZW (12-bit codes), 1032 for deflate (RFC 1951) and 64 for PackBits.
MOST_EXPANDED = {5: 1400, 8: 1040, 32946: 1040, 32773: 66}
#: Largest number of scans of a JPEG; a photograph has fewer. Each scan has few bytes but needs a pass over all pixels.
MOST_SCANS = 200
#: Largest number of bytes of the tables that the JPEGs of an untrusted page share; the tables are read again for each
#: JPEG. Four tables of each kind take fewer than 3000 bytes.
MOST_BYTES_OF_TABLES = 4096
#: Largest number of markers before the first scan of a JPEG; a colour profile of the largest size has 255 markers.
MOST_MARKERS = 4096
#: Data types that OpenCV can merge.
_MERGED = (np.uint8, np.int8, np.uint16, np.int16, np.int32, np.float32, np.float64)
_NOT_FILLING = re.compile(rb"[^\xff]")
#: TIFF's numbers for JPEG.
JPEG = frozenset({6, 7, 34892, 33007})
#: Compressions that are allowed in untrusted files: none, LZW, JPEG, deflate, PackBits and Zstandard. Their decoders
#: return no more bytes than requested. Other decoders return as many bytes as the header of the compressed data states.
SAFE_COMPRESSIONS = frozenset({1, 5, 7, 8, 32946, 32773, 50000})

Window = tuple[int, int, int, int]


def page_at(file: TiffFile, directory: Directory, index: int) -> TiffPage:
    """Returns one page of a TIFF with its tags.

    Args:
        file: an open TIFF.
        directory: the directory of the page.
        index: the index of the page in the file, from 0.
    """
    from tifffile import TiffPage

    file.filehandle.seek(directory.offset)
    return TiffPage(file, index=index)


class StoredPage:
    """One page of an open TIFF.

    Args:
        page: the page with its tags.
        name: name of the file, for messages.
        strangers: whether the file is from an untrusted source; then its compression must be in `SAFE_COMPRESSIONS`.

    Attributes:
        shape: (H, W, S) with S samples per pixel.
        dtype: data type of the stored values, in this machine's byte order; values of one bit are ``uint8``.
        nodata: nodata value of each band, with which strips and tiles are filled that are missing in the file; None
            for a band without one, which is filled with 0.

    Raises:
        AtrousError: the data type or layout is not supported, or the header contradicts itself.
    """

    def __init__(self, page: TiffPage, name: object, strangers: bool = False) -> None:
        self.page, self.name, self._strangers = page, name, strangers
        if strangers and page.compression not in SAFE_COMPRESSIONS:
            raise AtrousError(
                f"{name}: compressed by {getattr(page.compression, 'name', page.compression)}, which is not accepted; "
                "send it uncompressed, or compressed by deflate, LZW, PackBits, JPEG or Zstandard."
            )
        planes, depth, height, width, together = page.shaped
        if page.dtype is None or page.dtype.kind not in "biufc":
            raise AtrousError(
                f"{name}: values of {page.bitspersample} bits in TIFF's SampleFormat {page.sampleformat}, which is not "
                "supported; store uint8, uint16 or float32."
            )
        if page.dtype.kind == "c":
            raise AtrousError(f"{name}: values are complex numbers; store magnitudes, as uint8, uint16 or float32.")
        if depth != 1:
            raise AtrousError(f"{name}: it is a volume of depth {depth}; store each slice as a separate picture.")
        if min(page.shaped) < 1:
            raise AtrousError(f"{name}: {width}×{height} px of {planes * together} bands is not a picture.")
        self.shape = height, width, planes * together
        self.dtype = np.dtype(np.uint8) if page.dtype.kind == "b" else page.dtype.newbyteorder("=")
        self._planes, self._together = planes, together
        if page.is_tiled:
            self._tall, self._wide = page.tilelength, page.tilewidth
        else:
            self._tall, self._wide = min(page.rowsperstrip, height) or height, width
        self._down, self._across = -(-height // max(self._tall, 1)), -(-width // max(self._wide, 1))
        self._raw = (
            page.compression == 1 and page.predictor == 1 and page.fillorder == 1 and not page.is_subsampled
            and page.bitspersample in (8, 16, 32, 64) and page.dtype.itemsize * 8 == page.bitspersample
        )  # fmt: skip
        self._lock = threading.Lock()
        self._number = new_page()
        self.nodata: tuple[Any, ...] = (nodata_of(page),) * (planes * together)
        self._checked = False
        if min(self._tall, self._wide) < 1:
            raise AtrousError(f"{name}: tiles of {self._wide}×{self._tall} px; the file is damaged.")

    def close(self) -> None:
        """Frees the memory of the decoded strips and tiles."""
        drop_blocks(self._number)

    @property
    def block(self) -> tuple[int, int]:
        """(height, width) of the strips or tiles, which are decoded as a whole."""
        return self._tall, self._wide

    @property
    def nbytes(self) -> int:
        """Bytes of the whole page in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def listed_bytes(self) -> int:
        """Bytes of all strips and tiles in the file; bytes that several strips or tiles share count several times."""
        return sum(map(int, self.page.databytecounts))

    def read(self, window: Window) -> np.ndarray:
        """Reads the stored values of a window.

        Args:
            window: (top, left, height, width) in stored pixels, inside the page.

        Returns:
            H×W×S of `dtype`; strips and tiles that are missing in the file are filled with its nodata value, or 0.

        Raises:
            AtrousError: the file is damaged or cut short, or it needs a decoder that is not installed.
        """
        if not self._checked:
            self._check()
            self._checked = True
        top, left, height, width = window
        out = np.zeros((height, width, self.shape[2]), self.dtype)
        parts = list(
            product(
                range(top // self._tall, math.ceil((top + height) / self._tall)),
                range(left // self._wide, math.ceil((left + width) / self._wide)),
            )
        )
        keep = (height, width) != self.shape[:2]

        def place(part: tuple[int, int]) -> None:
            row, column = part
            first, start = max(top, row * self._tall), max(left, column * self._wide)
            last, end = min(top + height, (row + 1) * self._tall), min(left + width, (column + 1) * self._wide)
            rows = first - row * self._tall, last - row * self._tall
            inside = slice(start - column * self._wide, end - column * self._wide)
            planes = [
                self._rows((plane * self._down + row) * self._across + column, row, *rows, keep)[:, inside]
                for plane in range(self._planes)
            ]
            out[first - top : last - top, start - left : end - left] = _interleaved(planes)

        if self._raw or len(parts) == 1 or out.nbytes < THREADED_BYTES:
            for part in parts:
                place(part)
        else:
            with ThreadPoolExecutor(min(8, len(parts), os.cpu_count() or 1)) as pool:
                for _ in pool.map(place, parts):  # getting the results raises the exceptions of the threads
                    pass
        return out

    def _check(self) -> None:
        """Compares the header with the file's size before memory is allocated."""
        page, height = self.page, self.shape[0]
        expected = self._planes * self._down * self._across
        offsets, counts = np.asarray(page.dataoffsets, np.uint64), np.asarray(page.databytecounts, np.uint64)
        if min(len(offsets), len(counts)) < expected:
            raise self._cut(f"it lists {min(len(offsets), len(counts))} of {expected} strips or tiles")
        offsets, counts = offsets[:expected], counts[:expected]
        size = self.page.parent.filehandle.size
        if (counts > size).any() or (offsets > size).any() or (offsets + counts > size).any():
            raise self._cut("a strip or tile ends beyond the end of the file")
        segment = self._tall * self._wide * self._together * self.dtype.itemsize
        if segment > max(LARGEST_SEGMENT, 4 * self.nbytes):
            raise AtrousError(f"{self.name}: a tile of {segment / 1e9:.1f} GB; the file is damaged.")
        stored = counts[offsets > 0]
        needed = [min(self._tall, height - row * self._tall) for row in (0, self._down - 1)]
        factor = MOST_EXPANDED.get(int(page.compression))
        if factor is not None and len(stored) and self._raw_bytes(min(needed)) > int(stored.max()) * factor + 65536:
            raise self._cut("its strips or tiles have too few bytes for its size")

    def _raw_bytes(self, rows: int) -> int:
        bits = self.page.bitspersample if isinstance(self.page.bitspersample, int) else sum(self.page.bitspersample)
        samples = self._together if isinstance(self.page.bitspersample, int) else 1
        return rows * (self._wide * samples * bits // 8)

    def _rows(self, index: int, row: int, first: int, last: int, keep: bool) -> np.ndarray:
        """Returns some rows of one strip or tile: L×W×S, with L rows."""
        offset, count = int(self.page.dataoffsets[index]), int(self.page.databytecounts[index])
        if offset == 0 or count == 0:  # missing in the file; GDAL does not write empty blocks
            return np.full((last - first, self._wide, self._together), self._empty(index), self.dtype)
        if self._raw:
            line = self._wide * self._together * self.dtype.itemsize
            if last * line > count:
                raise self._cut("a strip or tile is too short")
            stored = self.page.dtype.newbyteorder(self.page.parent.byteorder)  # type: ignore[union-attr]
            values = np.frombuffer(self._bytes(offset + first * line, (last - first) * line), stored)
            return values.reshape(last - first, self._wide, self._together).astype(self.dtype, copy=False)
        values = kept_block(self._number, index)
        if values is None:
            values = self._decoded(index, offset, count, min(self._tall, self.shape[0] - row * self._tall))
            if keep:
                keep_block(self._number, index, values)
        return values[first:last]

    def _decoded(self, index: int, offset: int, count: int, rows: int) -> np.ndarray:
        """Decodes one strip or tile to L×W×S; the part outside the picture may be missing."""
        data = self._bytes(offset, count)
        # libjpeg fills missing pixels with grey and reports no error.
        if self.page.compression in JPEG:
            if b"\xff\xd9" not in data[-64:]:
                raise self._cut("a JPEG in it has no end")
            self._check_jpeg(data, index)
        with in_words(self.name):
            if self.page.compression in JPEG and self._planes > 1:
                values = self._grey_jpeg(data)
            else:
                values = self.page.decode(data, index, jpegtables=self.page.jpegtables)[0]
        if values is None or values.ndim != 4 or values.shape[3] != self._together or values.shape[1] < rows:
            raise self._cut("a strip or tile decodes to another size")
        return values[0].astype(self.dtype, copy=False)

    def _grey_jpeg(self, data: bytes) -> np.ndarray:
        """Decodes one separately stored band to 1×L×W×1; tifffile would decode it as an RGB picture."""
        import imagecodecs

        band = imagecodecs.jpeg_decode(data, bitspersample=self.page.bitspersample, tables=self.page.jpegtables)
        return np.asarray(band)[None, :, :, None]

    def _check_jpeg(self, data: bytes, index: int) -> None:
        """Checks that a JPEG has the size of its strip or tile; the decoder uses only the size in the JPEG's header."""
        if self._strangers and data.count(b"\xff\xda") > MOST_SCANS:
            raise AtrousError(f"{self.name}: a JPEG of more than {MOST_SCANS} scans; save it again.")
        if self._strangers and len(self.page.jpegtables or b"") > MOST_BYTES_OF_TABLES:
            raise AtrousError(
                f"{self.name}: JPEG tables of more than {MOST_BYTES_OF_TABLES} bytes; save the file again."
            )
        sizes = jpeg_sizes(data)
        row = index % (self._down * self._across) // self._across
        column = index % self._across
        tall = {self._tall, min(self._tall, self.shape[0] - row * self._tall)}
        wide = {self._wide, min(self._wide, self.shape[1] - column * self._wide)}
        if len(sizes) != 1 or sizes[0][0] not in tall or sizes[0][1] not in wide:
            named = " and ".join(f"{width}×{height}" for height, width in sizes) or "no size"
            raise self._cut(f"a JPEG in it states {named}, but its strip or tile has {self._wide}×{self._tall} px")

    def _bytes(self, offset: int, count: int) -> bytes:
        handle = self.page.parent.filehandle
        with self._lock:
            handle.seek(offset)
            data = handle.read(count)
        if len(data) != count:
            raise self._cut("a strip or tile is missing")
        return data

    def _empty(self, index: int) -> list[Any]:
        """Returns the value of each band in a strip or tile that is missing in the file."""
        first = index // (self._down * self._across) * self._together
        return [0 if one is None else one for one in self.nodata[first : first + self._together]]

    def _cut(self, why: str) -> AtrousError:
        return AtrousError(f"{self.name}: cannot be read ({why}); the file may be damaged or cut short.")


def _interleaved(planes: list[np.ndarray]) -> np.ndarray:
    """Merges S planes of L×W×1 to L×W×S; uses OpenCV if possible, because it needs one pass, NumPy one per plane."""
    if len(planes) == 1:
        return planes[0]
    if planes[0].dtype in _MERGED and planes[0].shape[2] == 1 and len(planes) <= MOST_CHANNELS:
        return cv2.merge([np.ascontiguousarray(plane[:, :, 0]) for plane in planes])
    return np.concatenate(planes, axis=2)


def nodata_of(page: TiffPage) -> Any:
    """Returns the nodata value (GDAL's tag 42113) in the page's data type; None if there is none; see `as_nodata`."""
    text, dtype = page.tags.valueof(42113), page.dtype
    return as_nodata(text.strip().strip("\0"), dtype) if isinstance(text, str) and dtype is not None else None


def as_nodata(text: str, dtype: np.dtype) -> Any:
    """Converts a nodata value from text to the data type of the pixels; None if this type cannot represent the value.

    Args:
        text: a decimal number or "nan".
        dtype: data type of the stored pixels.
    """
    text = text.strip()
    try:
        if dtype.kind == "f":
            with np.errstate(over="ignore"):
                return dtype.type(float(text))
        value = int(text) if text.lstrip("+-").isdigit() else float(text)
        if dtype.kind == "b":
            return np.uint8(value) if value in (0, 1) else None
        inside = np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
        return dtype.type(int(value)) if inside and value == int(value) else None
    except (ValueError, OverflowError):
        return None


def jpeg_sizes(data: bytes) -> list[tuple[int, int]]:
    """Returns (H, W) of every frame header in a JPEG before its first scan (ITU-T T.81, B.2.2).

    Args:
        data: the JPEG, or its beginning.

    Returns:
        The sizes in pixels; an intact file has exactly one.
    """
    sizes, at = [], 2
    for _ in range(MOST_MARKERS):
        if at + 9 > len(data) or data[at] != 0xFF:
            break
        filled = _NOT_FILLING.search(data, at)  # any number of 0xFF bytes may precede a marker
        if filled is None or (at := filled.start() - 1) + 9 > len(data):
            break
        marker = data[at + 1]
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            at += 2
            continue
        if marker in (0xDA, 0xD9):
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            sizes.append((int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")))
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return sizes


def check_size(page: TiffPage, most_pixels: float, pages: int, name: object) -> None:
    """Checks from the header that an untrusted picture does not need too much memory.

    Args:
        page: the page to check.
        most_pixels: largest number of pixels that is allowed.
        pages: number of pages that are read.
        name: name of the file, for messages.

    Raises:
        TooLarge: too many pixels, or too many bytes per pixel.
    """
    planes, depth, height, width, together = page.shaped  # the decoded size may differ from the size in the header
    samples = max(planes * together, page.samplesperpixel)
    pixels = max(depth * height * width, page.imagewidth * page.imagelength)
    if pixels > most_pixels:
        raise TooLarge(
            f"{name}: {page.imagewidth}×{page.imagelength} px are {pixels / 1e6:.1f} megapixels, and "
            f"at most {most_pixels / 1e6:g} are allowed."
        )
    itemsize = page.dtype.itemsize if page.dtype is not None else 1
    total = pixels * samples * itemsize * pages
    if total > most_pixels * MOST_BYTES_PER_PIXEL:
        raise TooLarge(f"{name}: {samples * pages} bands of {itemsize} bytes take {total / 1e6:.0f} MB.")
    tile = page.tilewidth * page.tilelength * page.samplesperpixel * itemsize if page.is_tiled else 0
    if tile > max(most_pixels * MOST_BYTES_PER_PIXEL, 4 * total) or tile > max(2**26, 16 * total):
        raise TooLarge(f"{name}: tiles of {page.tilewidth}×{page.tilelength} px; save it with smaller tiles.")


def silence_tifffile() -> None:
    """Hides tifffile's log messages about unusual files; the errors of this package name the file."""
    logger = logging.getLogger("tifffile")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
