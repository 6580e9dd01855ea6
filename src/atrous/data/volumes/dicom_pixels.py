"""Decodes the pixels of one DICOM slice.

A compressed frame has its own header with the size of the picture. This size is checked before the frame is decoded,
because decoders allocate memory for it, even if the header of the file states another size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from atrous.data.volumes.dicom_files import damaged
from atrous.errors import AtrousError

_RLE = "1.2.840.10008.1.2.5"
#: The markers SOC and SIZ at the start of JPEG 2000 (ISO/IEC 15444-1, A.4 and A.5).
_JPEG_2000 = b"\xff\x4f\xff\x51"
#: Markers before the size in JPEG (ISO/IEC 10918-1, table B.1) and JPEG-LS (ISO/IEC 14495-1, C.1.1).
_FRAME_SIZES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def decode_slice(path: Path, number: int, dataset: Any, index: int, slope: float, intercept: float) -> np.ndarray:
    """Decodes one slice, which is a frame of a file, and applies its scale: slope · stored value + intercept.

    Args:
        path: the folder or ZIP file, for messages.
        number: index of the file, for messages.
        dataset: pydicom dataset of the file with its pixels and their tags.
        index: index of the frame in the file.
        slope: factor of the stored values.
        intercept: number that is added to the scaled values.

    Returns:
        H×W float32, NaN for pixels without data (padding).

    Raises:
        AtrousError: no decoder is installed, or the pixels are damaged or not H×W whole numbers.
    """
    from pydicom.pixels import get_decoder, pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed and not _decodes(get_decoder, syntax):
        raise AtrousError(
            f"{path}: no decoder is installed for the compression of the slices, {syntax.name}. Install one with: pip "
            "install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg (or: pip install python-gdcm)"
        )
    # pydicom's own correction of unused bits ignores HighBit, and changes values of padding that use the unused bits
    options: dict[str, Any] = {} if syntax.is_compressed else {"correct_unused_bits": False}
    try:
        if syntax.is_compressed:
            _check_frame(dataset, index)
        stored = pixel_array(dataset, index=index, **options)
        empty = _empty(dataset, stored)
    except Exception as error:  # decoders raise many types for damaged pixels
        raise damaged(path, number, error) from None
    if stored.shape != (int(dataset.Rows), int(dataset.Columns)) or stored.dtype.kind not in "iu":
        raise AtrousError(
            f"{path}: the pixels of file {number + 1} are {stored.dtype} {stored.shape}, which is not a grey slice of "
            "the size in its header."
        )
    bits, high = stored.dtype.itemsize * 8, high_bit(dataset)
    if not syntax.is_compressed and int(dataset.BitsStored) < bits:  # unused bits may have any value
        stored = (stored << (bits - 1 - high)) >> (bits - int(dataset.BitsStored))
    values = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    values[empty] = np.nan
    return values


def high_bit(dataset: Any) -> int:
    """Returns the index of the highest bit of a stored value; without HighBit, values are in the lowest bits.

    Args:
        dataset: pydicom dataset with its BitsStored.
    """
    return int(dataset.BitsStored) - 1 if dataset.get("HighBit") is None else int(dataset.HighBit)


def _empty(dataset: Any, stored: np.ndarray) -> np.ndarray:
    """Returns H×W booleans, True for padding. Padding of signed pixels may be given as an unsigned number."""
    padding = dataset.get("PixelPaddingValue")
    if padding is None:
        return np.zeros(stored.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = np.array([padding, padding if limit is None else limit], np.int64).astype(stored.dtype)
    return (stored >= ends.min()) & (stored <= ends.max())


def _decodes(get_decoder: Callable[[Any], Any], syntax: Any) -> bool:
    """Returns whether a decoder for a transfer syntax is installed."""
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _check_frame(dataset: Any, index: int) -> None:
    """Checks that a compressed frame has the size in the header of the file.

    Raises:
        ValueError: the frame has another size.
    """
    from pydicom.encaps import get_frame

    tables = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
    frame = get_frame(
        dataset.PixelData,
        index,
        number_of_frames=int(dataset.get("NumberOfFrames") or 1),
        extended_offsets=tables if all(tables) else None,  # pyright: ignore[reportArgumentType]
    )
    size = int(dataset.Rows), int(dataset.Columns)
    if dataset.file_meta.TransferSyntaxUID == _RLE:
        _check_runs(frame, size[0] * size[1])
    elif _size_of(frame) not in (None, size):
        raise ValueError("the compressed pixels have another size")


def _check_runs(frame: bytes, pixels: int) -> None:
    """Checks the lengths of the decoded segments of an RLE frame (PS3.5 annex G).

    Raises:
        ValueError: a segment is longer than one byte per pixel and 256 bytes of padding.
    """
    count, *offsets = struct.unpack("<16L", frame[:64])
    ends = [*offsets[1:count], len(frame)]
    for at, end in zip(offsets, ends, strict=False):
        length = 0
        while at < min(end, len(frame)):
            run = frame[at]
            length += run + 1 if run < 128 else 257 - run if run > 128 else 0
            at += run + 2 if run < 128 else 2 if run > 128 else 1
            if length > pixels + 256:
                raise ValueError("the compressed pixels have another size")


def _size_of(frame: bytes) -> tuple[int, int] | None:
    """Returns the numbers of rows and columns in a frame's own header; None for an unknown compression."""
    at = frame.find(_JPEG_2000)
    if at >= 0 and not frame.startswith(b"\xff\xd8"):
        right, bottom, left, top = struct.unpack_from(">4L", frame, at + 8)
        return bottom - top, right - left
    at = 2 if frame.startswith(b"\xff\xd8") else len(frame)
    while at + 9 <= len(frame):
        if frame[at] != 0xFF or frame[at + 1] == 0xFF:  # not a marker, or a fill byte before a marker
            at += 1
        elif frame[at + 1] in _FRAME_SIZES:
            rows, columns = struct.unpack_from(">2H", frame, at + 5)
            return rows, columns
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
