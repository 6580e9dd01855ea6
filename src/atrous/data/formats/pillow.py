"""Reads pictures and masks with Pillow, in the bit depth of their files."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from atrous.data.class_colors import Color
from atrous.data.formats.decoder_errors import in_words
from atrous.data.formats.exif_orientation import ORIENTATION_TAG, upright
from atrous.data.pixels import StoredPixels, as_picture_dtype
from atrous.errors import AtrousError


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Opens a file with Pillow, without Pillow's limit on the number of pixels.

    Args:
        path: a picture file.

    Raises:
        AtrousError: no reader of Pillow accepts the file.
    """
    with path.open("rb") as file:
        picture = identify(file)
        if picture is None:
            raise AtrousError(f"{path}: not a picture, or damaged.")
        yield picture


def identify(file: Any, formats: Collection[str] | None = None) -> Image.Image | None:
    """Opens the picture in a file without decoding it.

    Args:
        file: a file that is open for reading bytes, at its start.
        formats: Pillow's names of the formats to try; None for all.

    Returns:
        The picture, or None if no reader accepts the file.
    """
    # Image.open refuses large pictures. The limit is a global variable. It is not changed, because a server in the same
    # process may rely on it. This loop over the readers does the same as Image.open, but without the limit.
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


def deeper_than_pillow_reads(picture: Image.Image) -> bool:
    """Returns whether Pillow would silently cut this file's values to fewer bits; reads only the header."""
    tiles = getattr(picture, "tile", None) or ()
    arguments = tiles[0][3] if tiles else ()
    if picture.format == "PPM":
        return picture.mode == "RGB" and isinstance(arguments, tuple) and max(arguments[1:], default=0) > 255
    return isinstance(arguments, str) and "16" in arguments and not picture.mode.startswith("I")


def pixels_of_file(picture: Image.Image, content: Callable[[], np.ndarray], name: Path | str) -> StoredPixels:
    """Returns the upright pixels of a file that Pillow opened.

    Args:
        picture: the result of `opened` or `identify`.
        content: function that returns the file's bytes as ``uint8``; called only if Pillow would cut the values to
            fewer bits.
        name: name of the file, for messages.

    Raises:
        AtrousError: the file is damaged.
    """
    deep = deeper_than_pillow_reads(picture)
    array, alpha = _decode_deep(content(), picture, name) if deep else _picture_array(picture)
    pixels = _as_pixels(_upright(array, picture), None if alpha is None else _upright(alpha, picture), name)
    return replace(pixels, pages=frames_of(picture))


def frames_of(picture: Image.Image) -> int:
    """Returns the number of frames of an animation or MPO file; 1 if they cannot be counted.

    Args:
        picture: the result of `opened`. If its first frame is already decoded, counting does not change the frame.
    """
    try:
        return max(int(getattr(picture, "n_frames", 1)), 1)
    except Exception:  # the file is damaged after the first frame, and only the first frame is read
        return 1


def pixels_of_picture(picture: Image.Image) -> StoredPixels:
    """Returns the pixels of a PIL image without applying its EXIF orientation, so that masks have the image's size.

    Args:
        picture: a PIL image of any mode. The result has the same data type and channels as its file, read by
            `pixels_of_file`.

    Raises:
        AtrousError: the image is closed or damaged, or contains integers that ``float32`` cannot represent.
    """
    with in_words("the picture"):
        return _as_pixels(*_picture_array(picture), "the picture")


def mask_of_file(
    picture: Image.Image, content: Callable[[], np.ndarray], name: Path | str
) -> tuple[np.ndarray, tuple[Color, ...] | None]:
    """Returns the upright values of a mask that Pillow opened, and its palette.

    Args:
        picture: the result of `opened`.
        content: function that returns the file's bytes as ``uint8``; called only if Pillow would cut the values to
            fewer bits.
        name: name of the file, for messages.

    Returns:
        The values, H×W or H×W×C (palette indices stay indices), and the colours of the palette, or None.

    Raises:
        AtrousError: the file is damaged.
    """
    if deeper_than_pillow_reads(picture):
        return _upright(_decode_deep(content(), picture, name)[0], picture), None
    return _upright(_mask_array(picture), picture), _palette_of(picture)


def orientation_of(picture: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 if the EXIF data is damaged, because the pixels may still be intact."""
    try:
        found = picture.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # the EXIF parser raises exceptions of many types
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _as_pixels(array: np.ndarray, alpha: np.ndarray | None, name: object) -> StoredPixels:
    values = np.ascontiguousarray(as_picture_dtype(array if array.ndim == 3 else array[:, :, None], name))
    masked = None if alpha is None or alpha.all() else alpha == 0
    return StoredPixels(values, alpha=3 if values.shape[2] == 4 else None, masked=masked)


def _decode_deep(content: np.ndarray, picture: Image.Image, name: Path | str) -> tuple[np.ndarray, np.ndarray | None]:
    """Decodes a file with OpenCV; returns the values, and the alpha if it is not one of the bands of the values."""
    import cv2  # imported here: it takes 0.1 s, and only these files need it

    alpha, tile = None, picture.tile[0] if getattr(picture, "tile", None) else None  # type: ignore[attr-defined]
    try:
        array = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise AtrousError(f"{name}: cannot be read ({error.err}).") from error
    if array is None:
        raise AtrousError(f"{name}: cannot be read; the file may be damaged or cut short.")
    if array.ndim == 3:
        array = array[:, :, [2, 1, 0, 3][: array.shape[2]]]  # OpenCV's BGR(A) to RGB(A)
    if tile is not None and str(tile[3]).startswith("LA"):
        array, alpha = array[:, :, :1], array[:, :, 3]
    return array, alpha


def _picture_array(picture: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns H×W or H×W×C values, and the alpha if it is not one of the bands of the values, else None."""
    mode, stretch = picture.mode, _grey_stretch(picture)  # before decoding, which empties picture.tile
    if mode == "I" and picture.format in ("PNG", "PPM"):  # 16 bits in the file; some versions of Pillow widen them
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
    """Returns the H×W alpha if one grey value or colour is transparent (PNG's tRNS chunk); None without such a key."""
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
    """Returns the factor by which Pillow multiplies grey values of two (85) or four (17) bits to fill 0…255."""
    tiles = getattr(picture, "tile", None) or ()
    arguments = tiles[0][3] if tiles else ""
    raw_mode = arguments if isinstance(arguments, str) else (arguments[0] if arguments else "")
    depth = str(raw_mode).partition(";")[2][:1]
    return {"2": 85, "4": 17}.get(depth, 1)


def _upright(array: np.ndarray, picture: Image.Image) -> np.ndarray:
    return upright(array, orientation_of(picture))
