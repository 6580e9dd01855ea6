"""Reading picture and mask files into arrays, losing no bits and hiding no damage."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from atrous.data.class_colors import Color
from atrous.data.formats.decoder_errors import TooLarge as TooLarge
from atrous.data.formats.decoder_errors import in_words
from atrous.data.formats.gdal_aux_xml import nodata_beside
from atrous.data.formats.jpeg2000 import is_jpeg2000, read_jpeg2000
from atrous.data.formats.pillow import (
    deeper_than_pillow_reads,
    frames_of,
    identify,
    mask_of_file,
    opened,
    orientation_of,
    pixels_of_file,
)
from atrous.data.formats.tiff import TiffPicture, is_tiff
from atrous.data.formats.tiff_page import MOST_SCANS, as_nodata
from atrous.data.formats.webp import webp_is_lossless, webp_size
from atrous.data.pixels import PictureKind, StoredPixels
from atrous.data.pixels import to_channels as to_channels
from atrous.errors import AtrousError

PICTURE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".avif"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
    # other names of the same formats, as browsers and cameras write them
    | {".jfif", ".jpe", ".jif", ".pjpeg", ".pjp", ".apng", ".dib", ".j2k"}
)

#: What `decode_pixels` takes from strangers: few decoders, each well worn, and none that runs another program.
SAFE_FORMATS = frozenset({"BMP", "GIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP"})
#: What a mask of floats holds where it has no number, as ``nodata`` of `read_mask`.
NO_NUMBER = -(2**63)


_GREY, _COLOUR = (
    frozenset({"1", "L", "LA", "La"}),
    frozenset({"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}),
)


def read_picture(path: Path | str, pages: str = "first") -> np.ndarray:
    """Read a picture upright, in the depth its file holds.

    The numbers are those that the file stores, of a TIFF all bands whatever its photometric interpretation. Palette,
    CMYK and YCbCr become RGB, one-bit pictures become 0 and 255, and of PNG and WebP grey with alpha loses its alpha.
    The type follows from the file's: signed integers and integers beyond 16 bits become ``float32``; so does
    ``float64``, rounded. There is no limit on the number of pixels: local files are trusted to be pictures.

    Args:
        path: a picture file.
        pages: of a TIFF, "first" for the first page, "channels" for the bands of all pages, one after the other. Of
            other files with several frames the first is read.

    Returns:
        H×W×C ``uint8``, ``uint16`` or ``float32``; C is 1 for grey, 3 for RGB, 4 for RGBA, all bands for TIFF.

    Raises:
        AtrousError: the file is missing, empty, truncated or no picture, or it holds integers that
            ``float32`` cannot keep.
    """
    return read_pixels(path, pages).values


def read_kind(path: Path | str, pages: str = "first") -> PictureKind:
    """Read a picture's channels and type from its header; they are those of `read_pixels`.

    Args:
        path: a picture file.
        pages: as in `read_picture`.

    Raises:
        AtrousError: the file is missing, empty, damaged or no picture.
    """
    path = Path(path)
    start = _start_of(path)
    if is_tiff(start):
        with TiffPicture(path, pages=pages) as tiff:
            return tiff.kind
    if not is_jpeg2000(start):
        with in_words(path), opened(path) as picture:
            kind = _kind_of_mode(picture)
            if kind is not None:
                return replace(kind, may_lack_data=kind.may_lack_data or nodata_beside(path) is not None)
    return read_pixels(path, pages).kind


def _kind_of_mode(picture: Image.Image) -> PictureKind | None:
    """The kind of a picture that Pillow opened, of which only four bands hold an alpha; None where its mode is rare."""
    mode, deep = picture.mode, deeper_than_pillow_reads(picture)
    clear = "A" in mode.upper() or "transparency" in picture.info
    if mode.startswith("I;16") or (mode == "I" and picture.format in ("PNG", "PPM")):
        return PictureKind(1, "uint16", 1, frames_of(picture), may_lack_data=clear)
    if mode not in _GREY | _COLOUR or (deep and picture.format != "PNG"):
        return None
    channels = 1 if mode in _GREY else 3
    bands = 4 if mode in ("RGBA", "RGBa", "RGBX") else channels
    return PictureKind(
        channels, "uint16" if deep else "uint8", bands, frames_of(picture), may_lack_data=clear or bands == 4
    )


def read_pixels(path: Path | str, pages: str = "first") -> StoredPixels:
    """Read a picture as `read_picture` does, with which of its pixels hold data.

    Args:
        path: a picture file.
        pages: as in `read_picture`.

    Raises:
        AtrousError: as `read_picture`.
    """
    path = Path(path)
    start = _start_of(path)
    if is_tiff(start):
        with TiffPicture(path, pages=pages) as tiff:
            return tiff.pixels()
    with in_words(path):
        if is_jpeg2000(start):
            pixels = read_jpeg2000(path.read_bytes(), path)
        else:
            with opened(path) as picture:
                pixels = pixels_of_file(picture, lambda: np.fromfile(path, dtype=np.uint8), path)
        text = nodata_beside(path)
        return pixels if text is None else _with_nodata(pixels, text, path)


def _with_nodata(pixels: StoredPixels, text: str, path: Path) -> StoredPixels:
    """The pixels, with those missing that the file stores as the nodata value which GDAL keeps beside it."""
    stored = pixels.values
    if not is_jpeg2000(_start_of(path)):  # before a palette or the stretching of few bits
        with opened(path) as picture:
            stored = mask_of_file(picture, lambda: np.fromfile(path, dtype=np.uint8), path)[0]
    nodata = as_nodata(text, stored.dtype)
    if nodata is None:
        return pixels
    missing = np.isnan(stored) if nodata != nodata else stored == nodata
    if missing.ndim == 2:
        missing = missing[:, :, None]
    missing = np.repeat(missing, pixels.values.shape[2], axis=2) if missing.shape[2] == 1 else missing.copy()
    if pixels.alpha is not None:
        missing[:, :, pixels.alpha] = False
    return replace(pixels, missing=missing if missing.any() else None, alpha_hides=False)


def decode_pixels(content: bytes, most_pixels: int, name: str = "the picture", pages: str = "first") -> StoredPixels:
    """Decode a picture that a stranger sent, as `read_pixels` reads a file.

    Its size is read from its header and compared before any pixel is decoded, or memory taken for one.

    Args:
        content: of a file: JPEG, PNG, WebP, TIFF, BMP or GIF.
        most_pixels: that are decoded.
        name: for the messages.
        pages: as in `read_picture`.

    Raises:
        TooLarge: more pixels, or more bytes per pixel than a picture has.
        AtrousError: empty, damaged, or of another format.
    """
    with in_words(name):
        if is_tiff(content):
            with TiffPicture(content, name=name, pages=pages, most_pixels=most_pixels) as tiff:
                return tiff.pixels()
        return pixels_of_file(_identified(content, most_pixels, name), lambda: np.frombuffer(content, np.uint8), name)


def decoded_size(content: bytes, most_pixels: int, name: str = "the picture", pages: str = "first") -> tuple[int, int]:
    """What `decode_pixels` would take, by the header alone.

    Args:
        content: as for `decode_pixels`.
        most_pixels: as for `decode_pixels`.
        name: for the messages.
        pages: as in `read_picture`.

    Returns:
        Pixels, and bytes that the decoded picture takes at most.

    Raises:
        TooLarge: as `decode_pixels`.
        AtrousError: as `decode_pixels`.
    """
    with in_words(name):
        if is_tiff(content):
            with TiffPicture(content, name=name, pages=pages, most_pixels=most_pixels) as tiff:
                height, width, bands = tiff.shape
                return height * width, height * width * bands * max(tiff.dtype.itemsize, tiff.stored_bytes)
        picture = _identified(content, most_pixels, name)
        pixels = picture.size[0] * picture.size[1]
        bands = 4 if "P" in picture.mode else max(len(picture.getbands()), 3)
        return pixels, pixels * bands * (2 if deeper_than_pillow_reads(picture) or picture.mode.startswith("I") else 1)


def _identified(content: bytes, most_pixels: int, name: str) -> Image.Image:
    """A stranger's picture that is no TIFF, not yet decoded."""
    if not content:
        raise AtrousError(f"{name}: it is empty (0 bytes).")
    _check_pixels(webp_size(content), most_pixels, name)  # its reader takes memory as soon as it is opened
    picture = identify(io.BytesIO(content), SAFE_FORMATS)
    if picture is None:
        raise AtrousError(f"{name}: not a picture, damaged, or not one of {', '.join(sorted(SAFE_FORMATS))}.")
    _check_pixels(picture.size, most_pixels, name)
    if picture.format in ("JPEG", "MPO") and content.count(b"\xff\xda") > MOST_SCANS:
        raise AtrousError(f"{name}: a JPEG of more than {MOST_SCANS} scans; save it anew.")
    return picture


def _check_pixels(size: tuple[int, int], most: int, name: str) -> None:
    if size[0] * size[1] > most:
        raise TooLarge(
            f"{name}: {size[0]}×{size[1]} px are {size[0] * size[1] / 1e6:.1f} megapixels, and {most / 1e6:g} are "
            "allowed."
        )


def read_raw_mask(path: Path | str) -> np.ndarray:
    """Read a mask's values as its file stores them, without its palette; see `read_mask`."""
    return read_mask(path).values


class StoredMask(NamedTuple):
    """What the file of a mask holds.

    Attributes:
        values: H×W of any integer dtype, or H×W×3 (``uint8``, rarely ``uint16``) for masks stored in colours.
        palette: up to 256 colours by index, or None where the file has none.
        nodata: the value that the file declares as no data; None where it declares none. Programs that draw outlines
            into rasters declare 0 by default and use it for the background.
        pages: number of pages or frames in the file, of which the first is read.
        stacks: whether they are pages of a TIFF.
        white_is_zero: whether the file says that 0 is white, which changes no value; None where it says neither.
    """

    values: np.ndarray
    palette: tuple[Color, ...] | None
    nodata: int | None
    pages: int
    stacks: bool
    white_is_zero: bool | None


def read_mask(path: Path | str) -> StoredMask:
    """Read a mask's values as its file stores them, and its palette: indices stay indices, alpha is dropped.

    Grey values of one, two and four bits are the stored ones (0…15), which Pillow would stretch to 0…255.

    Args:
        path: a mask file.

    Raises:
        AtrousError: the file is missing, empty, truncated or no picture, or its values are not whole numbers.
    """
    path, palette, nodata, white_is_zero, pages = Path(path), None, None, None, 1
    start = _start_of(path)
    if is_tiff(start):
        with TiffPicture(path) as tiff:
            array, palette, nodata = tiff.raw_mask(), tiff.palette, tiff.nodata
            white_is_zero, pages = tiff.white_is_zero, tiff.pages
    elif is_jpeg2000(start):
        with in_words(path):
            array = read_jpeg2000(path.read_bytes(), path).values
    else:
        with in_words(path), opened(path) as picture:
            array, palette = mask_of_file(picture, lambda: np.fromfile(path, dtype=np.uint8), path)
            pages = frames_of(picture)
    if array.ndim == 3:
        if array.shape[2] > 4:
            raise AtrousError(f"{path}: the mask has {array.shape[2]} bands; a mask has one, or three for colours.")
        array = array[:, :, 0] if array.shape[2] <= 2 else array[:, :, :3]
    if not is_tiff(start) and (text := nodata_beside(path)) is not None:
        nodata = as_nodata(text, array.dtype)
    if array.dtype.kind == "f":
        array, nodata = _whole_numbers(array, nodata, path)
    declared = None if nodata is None or array.ndim == 3 else int(nodata)
    return StoredMask(np.ascontiguousarray(array), palette, declared, pages, is_tiff(start), white_is_zero)


def _whole_numbers(array: np.ndarray, nodata: float | None, path: Path) -> tuple[np.ndarray, float | None]:
    """A mask of floats as int64, ``NO_NUMBER`` where it is NaN, infinite or its nodata value, and its nodata value."""
    void = ~np.isfinite(array) if not nodata else ~np.isfinite(array) | (array == nodata)
    whole = np.where(void, 0, array)
    if not ((whole == np.rint(whole)).all() and (np.abs(whole) < 2.0**63).all()):
        raise AtrousError(f"{path}: the mask holds fractions; a mask holds whole numbers, one per class.")
    return np.where(void, NO_NUMBER, whole.astype(np.int64)), 0 if nodata == 0 and not void.any() else NO_NUMBER


def exif_orientation(path: Path | str) -> int:
    """Read the orientation that ``read_picture`` applies, 1 (upright) to 8; 5 and more swap H and W."""
    path = Path(path)
    if is_tiff(_start_of(path)):
        with TiffPicture(path) as tiff:
            return tiff.orientation
    with in_words(path), opened(path) as picture:
        return orientation_of(picture)


def stored_lossily(path: Path | str) -> bool:
    """Whether the file's own compression changes values (JPEG, lossy WebP, …), whatever its name says."""
    path = Path(path)
    if is_tiff(_start_of(path)):
        with TiffPicture(path) as tiff:
            return tiff.lossy
    with in_words(path), opened(path) as picture:
        if picture.format == "WEBP":
            return not webp_is_lossless(path.read_bytes())
        return picture.format in {"JPEG", "MPO", "AVIF"}


def _start_of(path: Path) -> bytes:
    """The first bytes of a file that is not empty."""
    with in_words(path), path.open("rb") as file:
        start = file.read(16)
        if not start:
            raise AtrousError(f"{path}: the file is empty (0 bytes).")
        return start
