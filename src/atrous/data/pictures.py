"""Reading picture and mask files into arrays, losing no bits and hiding no damage."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from atrous.data.decoding import TooLarge as TooLarge
from atrous.data.decoding import in_words
from atrous.data.jpeg2000 import is_jpeg2000, read_jpeg2000
from atrous.data.labels import Color
from atrous.data.orientation import ORIENTATION_TAG, upright
from atrous.data.pixels import PictureKind, Pixels, as_picture_dtype
from atrous.data.pixels import to_channels as to_channels
from atrous.data.tiff import TiffPicture, is_tiff
from atrous.data.webp import webp_is_lossless, webp_size
from atrous.errors import AtrousError

PICTURE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".avif"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
    # other names of the same formats, as browsers and cameras write them
    | {".jfif", ".jpe", ".jif", ".pjpeg", ".pjp", ".apng", ".dib", ".j2k"}
)

#: What `decode_pixels` takes from strangers: few decoders, each well worn, and none that runs another program.
SAFE_FORMATS = frozenset({"BMP", "GIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP"})
#: A JPEG of more scans than this is no photograph: each scan costs a pass over the whole picture, and only a few bytes.
MOST_SCANS = 200


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
            return PictureKind(tiff.shape[2] - (tiff.alpha is not None), tiff.dtype.name, tiff.shape[2])
    if not is_jpeg2000(start):
        with in_words(path), _opened(path) as picture:
            if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
                return PictureKind(1, "uint16", 1)
            if picture.format == "PNG" and _deeper_than_pillow_reads(picture):
                return _kind_of_mode(picture.mode, "uint16")
            if not _deeper_than_pillow_reads(picture) and picture.mode in _GREY | _COLOUR:
                return _kind_of_mode(picture.mode, "uint8")
    pixels = read_pixels(path, pages)
    return PictureKind(pixels.channels, pixels.values.dtype.name, pixels.values.shape[2])


def _kind_of_mode(mode: str, dtype: str) -> PictureKind:
    """The kind of a picture of one of Pillow's modes; only four bands hold an alpha."""
    if mode in _GREY:
        return PictureKind(1, dtype, 1)
    return PictureKind(3, dtype, 4 if mode in ("RGBA", "RGBa", "RGBX") else 3)


def read_pixels(path: Path | str, pages: str = "first") -> Pixels:
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
            return read_jpeg2000(path.read_bytes(), path)
        with _opened(path) as picture:
            return _pixels_of(picture, lambda: np.fromfile(path, dtype=np.uint8), path)


def decode_pixels(content: bytes, most_pixels: int, name: str = "the picture", pages: str = "first") -> Pixels:
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
        if not content:
            raise AtrousError(f"{name}: it is empty (0 bytes).")
        if is_tiff(content):
            with TiffPicture(content, name=name, pages=pages, most_pixels=most_pixels) as tiff:
                return tiff.pixels()
        _check_pixels(webp_size(content), most_pixels, name)  # its reader takes memory as soon as it is opened
        picture = _identify(io.BytesIO(content), SAFE_FORMATS)
        if picture is None:
            raise AtrousError(f"{name}: not a picture, damaged, or not one of {', '.join(sorted(SAFE_FORMATS))}.")
        _check_pixels(picture.size, most_pixels, name)
        if picture.format in ("JPEG", "MPO") and content.count(b"\xff\xda") > MOST_SCANS:
            raise AtrousError(f"{name}: a JPEG of more than {MOST_SCANS} scans; save it anew.")
        return _pixels_of(picture, lambda: np.frombuffer(content, np.uint8), name)


def _check_pixels(size: tuple[int, int], most: int, name: str) -> None:
    if size[0] * size[1] > most:
        raise TooLarge(
            f"{name}: {size[0]}×{size[1]} px are {size[0] * size[1] / 1e6:.1f} megapixels, and {most / 1e6:g} are "
            "allowed."
        )


def read_raw_mask(path: Path | str) -> np.ndarray:
    """Read a mask's values as its file stores them, without its palette; see `read_mask`."""
    return read_mask(path)[0]


def read_mask(path: Path | str) -> tuple[np.ndarray, tuple[Color, ...] | None]:
    """Read a mask's values as its file stores them, and its palette: indices stay indices, alpha is dropped.

    Grey values of one, two and four bits are the stored ones (0…15), which Pillow would stretch to 0…255.

    Args:
        path: a mask file.

    Returns:
        H×W of any integer dtype, or H×W×3 (``uint8``, rarely ``uint16``) for masks stored in colours; and up to 256
        colours by index, or None where the file has no palette.

    Raises:
        AtrousError: the file is missing, empty, truncated or no picture, or its values are not whole numbers.
    """
    path, palette = Path(path), None
    start = _start_of(path)
    if is_tiff(start):
        with TiffPicture(path) as tiff:
            array, palette = tiff.raw_mask(), tiff.palette
    elif is_jpeg2000(start):
        with in_words(path):
            array = read_jpeg2000(path.read_bytes(), path).values
    else:
        with in_words(path), _opened(path) as picture:
            if _deeper_than_pillow_reads(picture):
                array, _ = _decode_deep(np.fromfile(path, dtype=np.uint8), picture, path)
            else:
                array, palette = _upright(_mask_array(picture), picture), _palette_of(picture)
    if array.ndim == 3:
        if array.shape[2] > 4:
            raise AtrousError(f"{path}: the mask has {array.shape[2]} bands; a mask has one, or three for colours.")
        array = array[:, :, 0] if array.shape[2] <= 2 else array[:, :, :3]
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and (array == np.rint(array)).all()):
            raise AtrousError(f"{path}: the mask holds fractions; a mask holds whole numbers, one per class.")
        array = array.astype(np.int64)
    return np.ascontiguousarray(array), palette


def exif_orientation(path: Path | str) -> int:
    """Read the orientation that ``read_picture`` applies, 1 (upright) to 8; 5 and more swap H and W."""
    path = Path(path)
    if is_tiff(_start_of(path)):
        with TiffPicture(path) as tiff:
            return tiff.orientation
    with in_words(path), _opened(path) as picture:
        return _orientation(picture)


def stored_lossily(path: Path | str) -> bool:
    """Whether the file's own compression changes values (JPEG, lossy WebP, …), whatever its name says."""
    path = Path(path)
    if is_tiff(_start_of(path)):
        with TiffPicture(path) as tiff:
            return tiff.lossy
    with in_words(path), _opened(path) as picture:
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


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a file with Pillow, without its pixel limit."""
    with path.open("rb") as file:
        picture = _identify(file)
        if picture is None:
            raise AtrousError(f"{path}: not a picture, or damaged.")
        yield picture


def _identify(file: Any, formats: Collection[str] | None = None) -> Image.Image | None:
    """The picture in a file, of any of these formats, not yet decoded."""
    # Image.open refuses large pictures, and lifting its limit means changing a global that a server in the
    # same process relies on. Asking each reader directly is what Image.open does, less the limit.
    start = file.read(16)
    for load_readers in (Image.preinit, Image.init):
        load_readers()
        for format_name in tuple(Image.ID):
            if formats is not None and format_name not in formats:
                continue
            reader, accepts = Image.OPEN[format_name]
            file.seek(0)
            try:
                if accepts is None or accepts(start) is True:
                    return reader(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error, UnidentifiedImageError):
                continue
    return None


def _deeper_than_pillow_reads(picture: Image.Image) -> bool:
    """Whether Pillow would silently cut this file's values to fewer bits; decided from its header."""
    tiles = getattr(picture, "tile", None) or ()
    arguments = tiles[0][3] if tiles else ()
    if picture.format == "PPM":
        return picture.mode == "RGB" and isinstance(arguments, tuple) and max(arguments[1:], default=0) > 255
    return isinstance(arguments, str) and "16" in arguments and not picture.mode.startswith("I")


def _pixels_of(picture: Image.Image, content: Callable[[], np.ndarray], name: Path | str) -> Pixels:
    """The pixels of a picture that Pillow opened; the file's bytes are asked for where Pillow would cut them."""
    if _deeper_than_pillow_reads(picture):
        array, alpha = _decode_deep(content(), picture, name)
    else:
        array, alpha = _picture_array(picture)
        array = _upright(array, picture)
        alpha = None if alpha is None else _upright(alpha, picture)
    array = array if array.ndim == 3 else array[:, :, None]
    values = np.ascontiguousarray(as_picture_dtype(array, name))
    masked = None if alpha is None or alpha.all() else alpha == 0
    return Pixels(values, alpha=3 if values.shape[2] == 4 else None, masked=masked)


def _decode_deep(content: np.ndarray, picture: Image.Image, name: Path | str) -> tuple[np.ndarray, np.ndarray | None]:
    """The values, upright, and the alpha where it is no band of them."""
    import cv2  # only these files need it, and it takes 0.1 s to import

    alpha, tile = None, picture.tile[0] if getattr(picture, "tile", None) else None  # type: ignore[attr-defined]
    try:
        array = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise AtrousError(f"{name}: cannot be read ({error.err}).") from error
    if array is None:
        raise AtrousError(f"{name}: cannot be read; the file may be damaged or cut short.")
    if array.ndim == 3:
        array = array[:, :, [2, 1, 0, 3][: array.shape[2]]]  # OpenCV's BGR(A) to RGB(A)
    array = _upright(array, picture)
    if tile is not None and str(tile[3]).startswith("LA"):
        array, alpha = array[:, :, :1], array[:, :, 3]
    return array, alpha


def _picture_array(picture: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """H×W or H×W×C, and an alpha that is no band of it: that of grey, of a palette or of a transparent colour."""
    mode, stretch = picture.mode, _grey_stretch(picture)  # before decoding, which empties picture.tile
    if mode == "I" and picture.format in ("PNG", "PPM"):  # 16 bits, which some versions of Pillow widen
        return np.asarray(picture).astype(np.uint16), None
    if mode in ("L", "RGB", "RGBA", "I", "F") or mode.startswith("I;16"):
        values = np.asarray(picture)
        return values, _alpha_of_key(picture.info.get("transparency"), values, stretch)
    if mode == "1":
        values = np.asarray(picture.convert("L"))
        return values, _alpha_of_key(picture.info.get("transparency"), values, 255)
    if mode in ("LA", "La"):
        both = np.asarray(picture.convert("LA"))
        return both[:, :, 0], both[:, :, 1]
    if mode == "PA" or (mode == "P" and "transparency" in picture.info):
        both = np.asarray(picture.convert("RGBA"))
        return both[:, :, :3], both[:, :, 3]
    return np.asarray(picture.convert("RGBA" if mode in ("RGBa", "RGBX") else "RGB")), None


def _alpha_of_key(key: object, values: np.ndarray, stretch: int = 1) -> np.ndarray | None:
    """H×W alpha of a picture in which one grey value or colour is transparent (PNG's tRNS); None without such a key."""
    if isinstance(key, int) and values.ndim == 2:
        return (values != key * stretch).astype(np.uint8) * 255
    if isinstance(key, tuple) and values.ndim == 3 and len(key) == values.shape[2]:
        return (values != np.array(key)).any(axis=2).astype(np.uint8) * 255
    return None


def _mask_array(picture: Image.Image) -> np.ndarray:
    mode = picture.mode
    if mode == "1":
        return np.asarray(picture).astype(np.uint8)
    if mode == "L":
        stretch = _grey_stretch(picture)  # before decoding, which empties picture.tile
        return np.asarray(picture) // np.uint8(stretch)
    if mode in ("P", "I", "F") or mode.startswith("I;16"):
        return np.asarray(picture)
    if mode in ("LA", "La", "PA"):
        return np.asarray(picture)[:, :, 0]
    return np.asarray(picture.convert("RGB") if mode not in ("RGB", "RGBA") else picture)


def _palette_of(picture: Image.Image) -> tuple[Color, ...] | None:
    flat = picture.getpalette("RGB") if picture.mode == "P" else None
    return None if flat is None else tuple(zip(flat[::3], flat[1::3], flat[2::3], strict=True))


def _grey_stretch(picture: Image.Image) -> int:
    """The factor by which Pillow multiplies grey values of two (85) or four (17) bits to fill 0…255."""
    tiles = getattr(picture, "tile", None) or ()
    arguments = tiles[0][3] if tiles else ""
    raw_mode = arguments if isinstance(arguments, str) else (arguments[0] if arguments else "")
    depth = str(raw_mode).partition(";")[2][:1]
    return {"2": 85, "4": 17}.get(depth, 1)


def _upright(array: np.ndarray, picture: Image.Image) -> np.ndarray:
    return upright(array, _orientation(picture))


def _orientation(picture: Image.Image) -> int:
    """The orientation in EXIF, 1 to 8; 1 where the chunk is broken, which says nothing about the pixels."""
    try:
        found = picture.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # its parser raises many kinds
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1
