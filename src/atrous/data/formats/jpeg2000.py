"""Reads JPEG 2000 files with any bit depth and number of bands."""

from __future__ import annotations

import numpy as np

from atrous.data.pixels import StoredPixels, as_picture_dtype
from atrous.errors import AtrousError

#: First bytes of a JP2 file (ISO/IEC 15444-1, I.5.1) and of a bare codestream.
JPEG2000_STARTS = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_END = b"\xff\xd9"  # end marker of a codestream


def is_jpeg2000(start: bytes) -> bool:
    """Returns whether a file that begins with these bytes is JPEG 2000."""
    return start.startswith(JPEG2000_STARTS)


def read_jpeg2000(content: bytes, name: object) -> StoredPixels:
    """Decodes all bands of a JPEG 2000 file, in their stored bit depth.

    Args:
        content: the bytes of the file.
        name: name of the file, for messages.

    Raises:
        AtrousError: the file is damaged or cut short.
    """
    import imagecodecs  # imported here: it takes 0.1 s, and only JPEG 2000 files need it

    if _END not in _codestream(content)[-1024:]:
        raise AtrousError(f"{name}: cannot be read (its codestream has no end); the file may be damaged or cut short.")
    values = np.asarray(imagecodecs.jpeg2k_decode(content))
    if values.ndim == 2:
        values = values[:, :, None]
    return StoredPixels(np.ascontiguousarray(as_picture_dtype(values, name)), alpha=_alpha_of(content, values.shape[2]))


def _codestream(content: bytes) -> bytes:
    """Returns the codestream: the jp2c box of a JP2 file (ISO/IEC 15444-1, I.5.4), or a file without boxes as a whole.

    The result is empty if the box is cut short.
    """
    at = 0 if content.startswith(JPEG2000_STARTS[0]) else len(content)
    while at + 8 <= len(content):
        length, kind, head = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8], 8
        if length == 1:
            length, head = int.from_bytes(content[at + 8 : at + 16], "big"), 16
        end = len(content) if length == 0 else at + length
        if kind == b"jp2c":
            return content[at + head : end] if end <= len(content) else b""
        if end < at + head:
            break
        at = end
    return content


def _alpha_of(content: bytes, bands: int) -> int | None:
    """Returns the band that the channel definition box marks as opacity (ISO/IEC 15444-1, I.5.3.6), or None."""
    at = content[:65536].find(b"cdef")
    if at < 0:
        return None
    count = int.from_bytes(content[at + 4 : at + 6], "big")
    for start in range(at + 6, min(at + 6 + 6 * count, len(content) - 5), 6):
        channel, kind = (int.from_bytes(content[start + 2 * i : start + 2 * i + 2], "big") for i in (0, 1))
        if kind in (1, 2) and 0 < channel < bands:
            return channel
    return None
