"""Reading picture and mask files into arrays, losing no bits and hiding no damage."""

from __future__ import annotations

import io
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from atrous.errors import AtrousError

PICTURE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".avif"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)

#: What `decode_picture` takes from strangers: few decoders, each well worn, and none that runs another program.
SAFE_FORMATS = frozenset({"BMP", "GIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP"})
#: A JPEG of more scans than this is no photograph: each scan costs a pass over the whole picture, and only a few bytes.
MOST_SCANS = 200

_ORIENTATION_TAG = 274  # of EXIF and TIFF alike
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, what Pillow's "L" uses

# EXIF orientation -> (transpose first, flip rows, flip columns); EXIF 2.32, table 6
_UPRIGHT = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def read_picture(path: Path | str) -> np.ndarray:
    """Read a picture upright, in the depth its file holds.

    Palette, CMYK and other colour spaces become RGB, one-bit pictures become 0 and 255, and grey with alpha
    loses its alpha. Signed integers and integers beyond 16 bits become ``float32``; so does ``float64``,
    rounded. Of a file with several frames or pages the first is read. There is no limit on the number of
    pixels: local files are trusted to be pictures.

    Args:
        path: a picture file.

    Returns:
        H×W×C ``uint8``, ``uint16`` or ``float32``; C is 1 for grey, 3 for RGB, 4 for RGBA.

    Raises:
        AtrousError: the file is missing, empty, truncated or no picture, or it holds integers that
            ``float32`` cannot keep.
    """
    with _opened(path) as picture:
        if picture is None or _deeper_than_pillow_reads(picture):
            array = _read_deep(path, picture)
        else:
            array = _upright(_picture_array(picture), picture)
    return _as_image(array, path)


class TooLarge(AtrousError):
    """A picture of more pixels than are allowed."""


def decode_picture(content: bytes, most_pixels: int, name: str = "the picture") -> np.ndarray:
    """Decode a picture that a stranger sent, as `read_picture` reads a file.

    Its size is read from its header and compared before any pixel is decoded, or memory taken for one.

    Args:
        content: of a file: JPEG, PNG, WebP, TIFF, BMP or GIF.
        most_pixels: that are decoded.
        name: for the messages.

    Returns:
        H×W×C ``uint8``, ``uint16`` or ``float32``, as `read_picture` returns it.

    Raises:
        TooLarge: more pixels.
        AtrousError: empty, damaged, or of another format.
    """
    try:
        return _decode(content, most_pixels, name)
    except (AtrousError, MemoryError):
        raise
    except Exception as error:  # its decoders raise anything on files that were made to harm
        raise AtrousError(f"{name}: cannot be read ({error}); the file may be damaged or cut short.") from error


def _decode(content: bytes, most_pixels: int, name: str) -> np.ndarray:
    with _in_words(name):
        if not content:
            raise AtrousError(f"{name}: it is empty (0 bytes).")
        _check_pixels(_webp_size(content), most_pixels, name)  # its reader takes memory as soon as it is opened
        picture = _identify(io.BytesIO(content), SAFE_FORMATS)
        if picture is None:
            raise AtrousError(f"{name}: not a picture, damaged, or not one of {', '.join(sorted(SAFE_FORMATS))}.")
        _check_pixels(picture.size, most_pixels, name)
        if picture.format in ("JPEG", "MPO") and content.count(b"\xff\xda") > MOST_SCANS:
            raise AtrousError(f"{name}: a JPEG of more than {MOST_SCANS} scans; save it anew.")
        if _deeper_than_pillow_reads(picture):
            return _as_image(_decode_deep(np.frombuffer(content, np.uint8), picture, name), name)
        return _as_image(_upright(_picture_array(picture), picture), name)


def _check_pixels(size: tuple[int, int], most: int, name: str) -> None:
    if size[0] * size[1] > most:
        raise TooLarge(
            f"{name}: {size[0]}×{size[1]} px are {size[0] * size[1] / 1e6:.1f} megapixels, and {most / 1e6:g} are "
            "allowed."
        )


def read_raw_mask(path: Path | str) -> np.ndarray:
    """Read a mask's values as its file stores them: palette indices stay indices, alpha is dropped.

    Grey values of one, two and four bits are the stored ones (0…15), which Pillow would stretch to 0…255.

    Args:
        path: a mask file.

    Returns:
        H×W of any integer dtype, or H×W×3 (``uint8``, rarely ``uint16``) for masks stored in colours.

    Raises:
        AtrousError: the file is missing, empty, truncated or no picture, or its values are not whole numbers.
    """
    with _opened(path) as picture:
        if picture is None or _deeper_than_pillow_reads(picture):
            array = _read_deep(path, picture)
        else:
            array = _upright(_mask_array(picture), picture)
    if array.ndim == 3:
        array = array[:, :, 0] if array.shape[2] == 1 else array[:, :, :3]
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and (array == np.rint(array)).all()):
            raise AtrousError(f"{path}: the mask holds fractions; a mask holds whole numbers, one per class.")
        array = array.astype(np.int64)
    return np.ascontiguousarray(array)


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Give an image the number of channels a model takes.

    Args:
        image: H×W×C of any dtype, C ≥ 1.
        channels: wanted channels; grey ↔ RGB and RGBA → RGB or grey are known, other changes are not.

    Returns:
        H×W×``channels`` of the same dtype; grey is repeated, RGB becomes its luminance, alpha is dropped.

    Raises:
        AtrousError: there is no agreed way from C to ``channels``.
    """
    given = image.shape[2]
    if given == channels:
        return image
    if given == 4 and channels in (1, 3):
        return to_channels(image[:, :, :3], channels)
    if given == 1 and channels == 3:
        return np.repeat(image, 3, axis=2)
    if given == 3 and channels == 1:
        luminance = image.astype(np.float32) @ _LUMINANCE
        if image.dtype.kind != "f":
            luminance = np.rint(luminance)
        return luminance.astype(image.dtype)[:, :, None]
    raise AtrousError(
        f"the image has {given} channels and {channels} are wanted. Known ways are 1 → 3, 3 → 1, 4 → 3 and "
        f"4 → 1; train a model with in_channels={given}, or convert the images."
    )


def exif_orientation(path: Path | str) -> int:
    """Read the EXIF orientation that ``read_picture`` applies, 1 (upright) to 8; 5 and more swap H and W."""
    with _opened(path) as picture:
        return 1 if picture is None else int(picture.getexif().get(_ORIENTATION_TAG, 1))


def stored_lossily(path: Path | str) -> bool:
    """Whether the file's own compression changes values (JPEG, lossy WebP, …), whatever its name says."""
    with _opened(path) as picture:
        if picture is None:
            return False
        if picture.format == "WEBP":
            return not _webp_is_lossless(Path(path).read_bytes())
        lossy_tiff = picture.info.get("compression") in {"jpeg", "webp"}
        return lossy_tiff or picture.format in {"JPEG", "MPO", "AVIF"}


@contextmanager
def _opened(path: Path | str) -> Iterator[Image.Image | None]:
    """Open a file with Pillow, without its pixel limit, turning every way to fail into an AtrousError.

    Yields None for a TIFF that Pillow does not know; OpenCV may.
    """
    path = Path(path)
    with _in_words(path), path.open("rb") as file:
        if path.stat().st_size == 0:
            raise AtrousError(f"{path}: the file is empty (0 bytes).")
        picture = _identify(file)
        if picture is None and path.suffix.lower() not in (".tif", ".tiff"):
            raise AtrousError(f"{path}: not a picture, or damaged.")
        yield picture


@contextmanager
def _in_words(name: Path | str) -> Iterator[None]:
    """Turns every way in which a file cannot be read into an AtrousError."""
    try:
        yield
    except FileNotFoundError:
        raise AtrousError(f"{name}: no such file.") from None
    except AtrousError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise AtrousError(f"{name}: cannot be read ({reason}); the file may be damaged or cut short.") from error


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
                    # Without a name Pillow does not map the file into memory, which shows an uncompressed
                    # TIFF with an orientation tag scrambled (Pillow 13.0).
                    return reader(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error, UnidentifiedImageError):
                continue
    return None


def _deeper_than_pillow_reads(picture: Image.Image) -> bool:
    """Whether Pillow would silently cut this file's values to fewer bits; decided from its header."""
    if picture.format == "TIFF":
        tags: Any = picture.tag_v2  # type: ignore[attr-defined]
        bits, sample_formats = tags.get(258, (1,)), tags.get(339, (1,))
        return not picture.mode.startswith("I;16") and (max(bits) > 8 or set(sample_formats) != {1})
    tiles = getattr(picture, "tile", None) or ()
    arguments = tiles[0][3] if tiles else ()
    if picture.format == "PPM":
        return picture.mode == "RGB" and isinstance(arguments, tuple) and max(arguments[1:], default=0) > 255
    return isinstance(arguments, str) and "16" in arguments and not picture.mode.startswith("I")


def _read_deep(path: Path | str, picture: Image.Image | None) -> np.ndarray:
    return _decode_deep(np.fromfile(path, dtype=np.uint8), picture, path)


def _decode_deep(content: np.ndarray, picture: Image.Image | None, name: Path | str) -> np.ndarray:
    import cv2  # only these files need it, and it takes 0.1 s to import

    try:
        array = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise AtrousError(f"{name}: cannot be read ({error.err}).") from error
    if array is None:
        bands = "it may have more than 4 bands, or " if picture is None else ""
        raise AtrousError(f"{name}: cannot be read; {bands}the file may be damaged or cut short.")
    if array.ndim == 3:
        array = array[:, :, [2, 1, 0, 3][: array.shape[2]]]  # OpenCV's BGR(A) to RGB(A)
    if picture is None or picture.format == "TIFF":
        return array  # OpenCV turns a TIFF upright itself, other formats it leaves as stored
    tile = picture.tile[0] if getattr(picture, "tile", None) else None  # type: ignore[attr-defined]
    if tile is not None and str(tile[3]).startswith("LA"):
        array = array[:, :, :1]
    return _upright(array, picture)


def _picture_array(picture: Image.Image) -> np.ndarray:
    mode = picture.mode
    if mode in ("L", "RGB", "RGBA", "I", "F") or mode.startswith("I;16"):
        return np.asarray(picture)
    if mode == "1":
        return np.asarray(picture.convert("L"))
    if mode in ("LA", "La"):
        return np.asarray(picture.convert("LA"))[:, :, 0]
    return np.asarray(picture.convert("RGBA" if mode in ("RGBa", "RGBX") else "RGB"))


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


def _grey_stretch(picture: Image.Image) -> int:
    """The factor by which Pillow multiplies grey values of two (85) or four (17) bits to fill 0…255."""
    tiles = getattr(picture, "tile", None) or ()
    arguments = tiles[0][3] if tiles else ""
    raw_mode = arguments if isinstance(arguments, str) else (arguments[0] if arguments else "")
    depth = str(raw_mode).partition(";")[2][:1]
    return {"2": 85, "4": 17}.get(depth, 1)


def _upright(array: np.ndarray, picture: Image.Image) -> np.ndarray:
    # Asked only after decoding: Pillow turns a TIFF upright while decoding and then drops its tag.
    orientation = picture.getexif().get(_ORIENTATION_TAG, 1)
    transpose, flip_rows, flip_columns = _UPRIGHT.get(orientation, (False, False, False))
    if transpose:
        array = array.swapaxes(0, 1)
    return array[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def _as_image(array: np.ndarray, path: Path | str) -> np.ndarray:
    """H×W or H×W×C of any type → H×W×C of one that a picture may have."""
    return np.ascontiguousarray(_as_image_dtype(array if array.ndim == 3 else array[:, :, None], path))


def _as_image_dtype(array: np.ndarray, path: Path | str) -> np.ndarray:
    if array.dtype in (np.uint8, np.uint16, np.float32):
        return array
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.itemsize > 2 and array.min() >= 0 and array.max() <= np.iinfo(np.uint16).max:
        return array.astype(np.uint16)
    converted = array.astype(np.float32)
    if not np.array_equal(converted.astype(np.float64), array.astype(np.float64)):
        raise AtrousError(
            f"{path}: holds integers beyond ±2²⁴, which float32 cannot keep; scale them down or store floats."
        )
    return converted


def _webp_size(content: bytes) -> tuple[int, int]:
    """Width and height that a WebP's header names (RFC 9649 §2); 0×0 for all else."""
    kind, head = content[12:16], content[:30].ljust(30, b"\0")
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return 0, 0
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _webp_is_lossless(data: bytes) -> bool:
    position = 12  # after "RIFF", the size and "WEBP"
    while position + 8 <= len(data):
        name = data[position : position + 4]
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        if name in (b"VP8 ", b"VP8L"):
            return name == b"VP8L"
        position += 8 + size + size % 2
    return False
