"""Reads picture and mask files into arrays in the bit depth of the files; damaged files raise an error."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from atrous.data.class_colors import Color
from atrous.data.formats.decoder_errors import TooLarge as TooLarge
from atrous.data.formats.decoder_errors import in_words
from atrous.data.formats.gdal_aux_xml import (
    descriptions_beside,
    nodata_beside,
    nodata_of_bands_beside,
    scaling_beside,
)
from atrous.data.formats.gdal_mask_file import hidden_beside
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
from atrous.data.pixels import PictureKind, StoredPixels, nodata_values
from atrous.data.pixels import to_channels as to_channels
from atrous.data.rasters.band_names import checked_names
from atrous.data.rasters.scene_windows import TIFF_SUFFIXES, window_kind, window_mask, window_pixels, window_to_read
from atrous.data.raw_values import NO_NUMBER as NO_NUMBER
from atrous.data.raw_values import whole_numbers as whole_numbers
from atrous.data.volumes.slice_pixels import read_slice_mask, slice_kind, slice_pixels
from atrous.data.volumes.slices import is_volume, slice_place
from atrous.errors import AtrousError

PICTURE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".avif"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
    # other suffixes of the same formats, as browsers and cameras write them
    | {".jfif", ".jpe", ".jif", ".pjpeg", ".pjp", ".apng", ".dib", ".j2k"}
)

#: Formats that `decode_pixels` accepts from untrusted senders: few, widely used decoders that start no other program.
SAFE_FORMATS = frozenset({"BMP", "GIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP"})


_GREY, _COLOUR = (
    frozenset({"1", "L", "LA", "La"}),
    frozenset({"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}),
)


def read_picture(path: Path | str, pages: str = "first") -> np.ndarray:
    """Reads a picture, turned upright, with the bit depth of its file.

    The values are the stored values. If the file declares a scale and an offset of its bands, as GDAL stores them,
    scale and offset are applied, and the values are ``float32``. All bands of a TIFF are read, independent of its
    photometric tag. Palette, CMYK and YCbCr pictures become RGB. Grey values of one, two or four bits are scaled to
    0…255. The transparency of grey and palette pictures is dropped; `read_pixels` marks their transparent pixels. The
    dtype depends on the stored dtype: signed integers and integers of more than 16 bits become ``float32``; ``float64``
    is rounded to ``float32``. The number of pixels is not limited, because local files are trusted.

    Args:
        path: a picture file.
        pages: for a TIFF, "first" for the first page or "channels" for the bands of all pages, one after the other.
            For other files with several frames, the first frame is read.

    Returns:
        H×W×C ``uint8``, ``uint16`` or ``float32``; C is 1 for grey, 3 for RGB, 4 for RGBA, all bands for TIFF.

    Raises:
        AtrousError: the file is missing, empty, truncated or not a picture, or it holds integers that
            ``float32`` cannot represent.
    """
    return read_pixels(path, pages).measured


def read_kind(path: Path | str, pages: str = "first") -> PictureKind:
    """Reads a picture's channels and type; `read_pixels` returns the same channels and type.

    The header of the file is enough, except for JPEG 2000 and a few rare kinds, which are decoded.

    Args:
        path: a picture file.
        pages: pages of a TIFF to read, "first" or "channels"; see `read_picture`.

    Raises:
        AtrousError: the file is missing, empty, damaged or not a picture.
    """
    path = Path(path)
    if (place := slice_place(path)) is not None:
        return slice_kind(place)
    if (window := window_to_read(path)) is not None:
        return window_kind(window, pages)
    start = _start_of(path)
    if is_tiff(start):
        with TiffPicture(path, pages=pages) as tiff:
            return tiff.kind
    if not is_jpeg2000(start):
        with in_words(path), opened(path) as picture:
            kind = _kind_of_mode(picture)
            if kind is not None:
                marked = any(nodata_of_bands_beside(path, max(kind.bands, 1))) or Path(f"{path}.msk").is_file()
                return replace(kind, may_lack_data=kind.may_lack_data or marked)
    return read_pixels(path, pages).kind


def _kind_of_mode(picture: Image.Image) -> PictureKind | None:
    """Returns the kind of a picture opened by Pillow; None for a rare mode.

    Only the alpha of RGBA counts as a band; the alpha of grey and palette pictures does not.
    """
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
    """Reads the values of a picture, as `read_picture` does, and the pixels that hold no data.

    Args:
        path: a picture file.
        pages: pages of a TIFF to read, "first" or "channels"; see `read_picture`.

    Raises:
        AtrousError: for the same reasons as in `read_picture`.
    """
    path = Path(path)
    if (place := slice_place(path)) is not None:
        return slice_pixels(place)
    if (window := window_to_read(path)) is not None:
        return window_pixels(window, pages)
    start = _start_of(path)
    if is_tiff(start):
        with TiffPicture(path, pages=pages) as tiff:
            return tiff.pixels()
    with in_words(path):
        if is_jpeg2000(start):
            pixels = read_jpeg2000(path.read_bytes(), path)
            bands = pixels.values.shape[2]
            names = checked_names(descriptions_beside(path, bands))
            pixels = replace(pixels, names=names, scaling=scaling_beside(path, bands))
        else:
            with opened(path) as picture:
                pixels = pixels_of_file(picture, lambda: np.fromfile(path, dtype=np.uint8), path)
        hidden = hidden_beside(path, pixels.values.shape[:2])
        if hidden is not None:
            pixels = replace(pixels, masked=hidden if pixels.masked is None else pixels.masked | hidden)
        texts = nodata_of_bands_beside(path, pixels.values.shape[2])
        return pixels if not any(texts) else _with_nodata(pixels, texts, path)


def _with_nodata(pixels: StoredPixels, texts: Sequence[str | None], path: Path) -> StoredPixels:
    """Marks pixels as missing if their stored value is the band's nodata value in GDAL's .aux.xml file."""
    stored = pixels.values
    if not is_jpeg2000(_start_of(path)):  # the stored values, before a palette or scaling is applied
        with opened(path) as picture:
            stored = mask_of_file(picture, lambda: np.fromfile(path, dtype=np.uint8), path)[0]
    stored = stored if stored.ndim == 3 else stored[:, :, None]
    nodata = [None if text is None else as_nodata(text, stored.dtype) for text in texts][: stored.shape[2]]
    if all(one is None for one in nodata):
        return pixels
    one_band = stored.shape[2] == 1
    missing = nodata_values(stored, nodata, None if one_band else pixels.alpha)
    if one_band and missing is not None:
        missing = np.repeat(missing, pixels.values.shape[2], axis=2)
        if pixels.alpha is not None:
            missing[:, :, pixels.alpha] = False
    return replace(pixels, missing=missing, alpha_hides=False)


def decode_pixels(content: bytes, most_pixels: int, name: str = "the picture", pages: str = "first") -> StoredPixels:
    """Decodes a picture from an untrusted sender, with the same result as `read_pixels` of a file.

    The size in its header is checked before memory is allocated or a pixel is decoded.

    Args:
        content: bytes of a JPEG, PNG, WebP, TIFF, BMP or GIF file.
        most_pixels: largest number of pixels (height × width) of a picture that is accepted.
        name: name of the picture in messages.
        pages: pages of a TIFF to read, "first" or "channels"; see `read_picture`.

    Raises:
        TooLarge: the picture has more than ``most_pixels`` pixels, or more bytes per pixel than allowed.
        AtrousError: the content is empty, damaged, or of another format.
    """
    with in_words(name):
        if is_tiff(content):
            with TiffPicture(content, name=name, pages=pages, most_pixels=most_pixels) as tiff:
                return tiff.pixels()
        return pixels_of_file(_identified(content, most_pixels, name), lambda: np.frombuffer(content, np.uint8), name)


def decoded_size(content: bytes, most_pixels: int, name: str = "the picture", pages: str = "first") -> tuple[int, int]:
    """Returns the number of pixels of a picture, and of bytes that `decode_pixels` would need, from the header alone.

    Args:
        content: bytes of a JPEG, PNG, WebP, TIFF, BMP or GIF file.
        most_pixels: largest number of pixels (height × width) of a picture that is accepted.
        name: name of the picture in messages.
        pages: pages of a TIFF to read, "first" or "channels"; see `read_picture`.

    Returns:
        The number of pixels, and the largest number of bytes of the decoded picture.

    Raises:
        TooLarge: for the same reasons as in `decode_pixels`.
        AtrousError: for the same reasons as in `decode_pixels`.
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
    """Opens a picture from an untrusted sender without decoding it; a TIFF is not accepted here."""
    if not content:
        raise AtrousError(f"{name}: it is empty (0 bytes).")
    _check_pixels(webp_size(content), most_pixels, name)  # the WebP reader allocates memory when it opens a picture
    picture = identify(io.BytesIO(content), SAFE_FORMATS)
    if picture is None:
        raise AtrousError(f"{name}: not a picture, damaged, or not one of {', '.join(sorted(SAFE_FORMATS))}.")
    _check_pixels(picture.size, most_pixels, name)
    if picture.format in ("JPEG", "MPO") and content.count(b"\xff\xda") > MOST_SCANS:
        raise AtrousError(f"{name}: the JPEG has more than {MOST_SCANS} scans; save it again.")
    return picture


def _check_pixels(size: tuple[int, int], most: int, name: str) -> None:
    if size[0] * size[1] > most:
        raise TooLarge(
            f"{name}: {size[0]}×{size[1]} px are {size[0] * size[1] / 1e6:.1f} megapixels, and at most {most / 1e6:g} "
            "are allowed."
        )


def read_raw_mask(path: Path | str) -> np.ndarray:
    """Reads the stored values of a mask, without its palette; see `read_mask`.

    Args:
        path: a mask file.
    """
    return read_mask(path).values


class StoredMask(NamedTuple):
    """The content of a mask file.

    Attributes:
        values: H×W of any integer dtype, or H×W×3 (``uint8``, rarely ``uint16``) for masks stored in colours.
        palette: up to 256 colours by index, or None if the file has no palette.
        nodata: the nodata value that the file declares, or None. A nodata value of 0 may be a class, because programs
            that rasterise outlines use 0 for the background, and also declare 0 as nodata by default.
        pages: number of pages or frames in the file; only the first is read.
        stacks: whether the file is a TIFF, whose pages may be stacked as channels.
        white_is_zero: whether the file declares that 0 is white; ``values`` are the stored values in both cases. None
            if the file declares neither white nor black.
        hidden: H×W booleans, True for pixels that a mask in the file or in ``PATH.msk`` hides; None if none is hidden.
    """

    values: np.ndarray
    palette: tuple[Color, ...] | None
    nodata: int | None
    pages: int
    stacks: bool
    white_is_zero: bool | None
    hidden: np.ndarray | None = None


def read_mask(path: Path | str) -> StoredMask:
    """Reads the stored values of a mask, and its palette: indices stay indices, alpha is dropped.

    Grey values of one, two and four bits are the stored values (0…15); Pillow would scale them to 0…255.

    Args:
        path: a mask file.

    Raises:
        AtrousError: the file is missing, empty, truncated or not a picture, or its values are not whole numbers.
    """
    path, palette, nodata, white_is_zero, pages, hidden = Path(path), None, None, None, 1, None
    if (place := slice_place(path)) is not None:
        values, nodata = read_slice_mask(place), None
        if values.dtype.kind == "f":
            values, nodata = whole_numbers(values, nodata, path)
        declared = None if nodata is None else int(nodata)
        return StoredMask(np.ascontiguousarray(values), None, declared, 1, False, None)
    window = window_to_read(path)
    start = b"" if window is not None else _start_of(path)
    if window is not None:
        array, tiff = window_mask(window)
        palette, nodata, white_is_zero, pages = tiff.palette, tiff.nodata, tiff.white_is_zero, tiff.pages
        hidden = tiff.hidden(window.window)
    elif is_tiff(start):
        with TiffPicture(path) as tiff:
            array, palette, nodata = tiff.raw_mask(), tiff.palette, tiff.nodata
            white_is_zero, pages, hidden = tiff.white_is_zero, tiff.pages, tiff.hidden((0, 0, *array.shape[:2]))
    elif is_jpeg2000(start):
        with in_words(path):
            array = read_jpeg2000(path.read_bytes(), path).values
    else:
        with in_words(path), opened(path) as picture:
            array, palette = mask_of_file(picture, lambda: np.fromfile(path, dtype=np.uint8), path)
            pages = frames_of(picture)
    if array.ndim == 3:
        if array.shape[2] > 4:
            raise AtrousError(
                f"{path}: the mask has {array.shape[2]} bands; a mask needs one band, or three for colours."
            )
        array = array[:, :, 0] if array.shape[2] <= 2 else array[:, :, :3]
    in_tiff = window is not None or is_tiff(start)
    if not in_tiff:
        hidden = hidden_beside(path, array.shape[:2])
        if (text := nodata_beside(path)) is not None:
            nodata = as_nodata(text, array.dtype)
    if array.dtype.kind == "f":
        array, nodata = whole_numbers(array, nodata, path)
    declared = None if nodata is None or array.ndim == 3 else int(nodata)
    return StoredMask(np.ascontiguousarray(array), palette, declared, pages, in_tiff, white_is_zero, hidden)


def exif_orientation(path: Path | str) -> int:
    """Reads the EXIF orientation that ``read_picture`` applies: 1 (upright) to 8; orientations 5 to 8 exchange H and W.

    Args:
        path: a picture file.
    """
    path = Path(path)
    if slice_place(path) is not None:
        return 1
    if (window := window_to_read(path)) is not None:
        path = window.file
        if path.suffix.lower() not in TIFF_SUFFIXES:
            return 1
    if is_tiff(_start_of(path)):
        with TiffPicture(path) as tiff:
            return tiff.orientation
    with in_words(path), opened(path) as picture:
        return orientation_of(picture)


def stored_lossily(path: Path | str) -> bool:
    """Returns whether the file's compression changes values (JPEG, lossy WebP, …), independent of the file name.

    Args:
        path: a picture or mask file.
    """
    path = Path(path)
    if slice_place(path) is not None:
        return False
    if (window := window_to_read(path)) is not None:
        path = window.file
        if path.suffix.lower() not in TIFF_SUFFIXES:
            return path.suffix.lower() == ".jp2"
    if is_tiff(_start_of(path)):
        with TiffPicture(path) as tiff:
            return tiff.lossy
    with in_words(path), opened(path) as picture:
        if picture.format == "WEBP":
            return not webp_is_lossless(path.read_bytes())
        return picture.format in {"JPEG", "MPO", "AVIF"}


def _start_of(path: Path) -> bytes:
    """Returns the first 16 bytes of a file; raises AtrousError if it is empty or a whole volume."""
    with in_words(path), path.open("rb") as file:
        start = file.read(16)
        if not start:
            raise AtrousError(f"{path}: the file is empty (0 bytes).")
        if is_volume(path):
            raise AtrousError(
                f"{path}: this is a whole volume, and one picture is needed. Give one of its slices, such as "
                f"{path.name}/axial/0012, or segment the whole volume by atrous predict, with a model of volumes."
            )
        return start
