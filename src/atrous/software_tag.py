"""The mark in PNG, TIFF, NIfTI and DICOM files of this program: "atrous" and a checksum of pixels and their position.

The mark is in the Software field (in NIfTI: descrip) and changes no pixel. If an editor changes pixels but keeps this
field, the checksum no longer matches the pixels. The checksum also covers the position on Earth of a GeoTIFF and the
header of a NIfTI file, because users may correct the position or the header. In DICOM, the mark is in the preamble,
with a checksum of all bytes that follow the preamble. Files of polygons contain the mark as a text, with a checksum of
all other bytes.
"""

from __future__ import annotations

import gzip
import io
import mmap
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

#: The Software field of a new file; `seal` replaces the zeros by the checksum.
UNSEALED = "atrous 00000000"
#: The mark of a file of polygons; `seal_text` replaces the zeros by the checksum.
UNSEALED_TEXT = f"[{UNSEALED}]"
#: TIFF 6.0's tags of the software, and of the offsets and byte counts of strips and tiles.
SOFTWARE, STRIPS, TILES = 305, (273, 279), (324, 325)
#: GeoTIFF 1.1's tags of the position on Earth: scale, tie points, matrix, and the three of the coordinate system.
POSITION = (33550, 33922, 34264, 34735, 34736, 34737)
#: TIFF's types of whole numbers and their `struct` codes: SHORT, LONG, and BigTIFF's LONG8.
NUMBERS = {3: "H", 4: "I", 16: "Q"}
#: Number of bytes of a value, for each of the types above and for DOUBLE. A value of any other type counts as one byte.
SIZES = {**{kind: struct.calcsize(code) for kind, code in NUMBERS.items()}, 12: 8}
#: Largest number of directory entries that is read; TIFFs of this program have fewer.
MOST_ENTRIES = 4096

PNG_START = b"\x89PNG\r\n\x1a\n"
GZIP_START = b"\x1f\x8b"
#: For NIfTI-1 and NIfTI-2: (offset of the magic number, magic number, offset of descrip).
NIFTI = ((344, b"n+1\0", 148), (4, b"n+2\0", 240))
#: Length of the preamble of DICOM files (PS3.10 section 7.1).
DICOM_PREAMBLE = 128
#: Length of the longer header, length of descrip, and the number of bytes of voxels that are read at once.
NIFTI_HEADER, NIFTI_TEXT, VOXELS_AT_ONCE = 540, 80, 2**24


def seal(path: Path) -> None:
    """Writes the checksum of the pixels and their position into a PNG or TIFF whose Software field is `UNSEALED`.

    Args:
        path: the file, which is changed in place.
    """
    with path.open("r+b") as file:
        place, _, checksum = _read(file, with_pixels=True)
        text = f"{UNSEALED[:-8]}{checksum:08x}".encode()
        file.seek(place)
        file.write(text)
        if _is_png(file):  # the chunk has its own checksum, which must be updated
            file.seek(place + len(text))
            file.write(struct.pack(">I", zlib.crc32(b"tEXtSoftware\0" + text)))


def seal_nifti(file: io.BytesIO) -> None:
    """Writes the checksum of its header and its voxels into descrip of a NIfTI file in memory.

    Args:
        file: the uncompressed file, whose descrip is `UNSEALED`; changed in place.
    """
    place, _, checksum = _read(file, with_pixels=True)
    file.seek(place)
    file.write(f"{UNSEALED[:-8]}{checksum:08x}".encode())


def sealed_dicom(content: bytes) -> bytes:
    """Returns a DICOM file whose preamble is the mark.

    Args:
        content: the file, whose preamble is replaced.
    """
    text = f"{UNSEALED[:-8]}{zlib.crc32(content[DICOM_PREAMBLE:]):08x}".encode()
    return text.ljust(DICOM_PREAMBLE, b"\0") + content[DICOM_PREAMBLE:]


def seal_text(path: Path) -> None:
    """Writes the checksum of a file that contains `UNSEALED_TEXT` into this text.

    Args:
        path: the file, which is changed in place.
    """
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        place, checksum = _text_mark(content)
        content[place : place + 8] = f"{checksum:08x}".encode()


def is_sealed_text(path: Path) -> bool:
    """Returns whether a file contains the mark that `seal_text` writes, and is unchanged since.

    Args:
        path: a file of any kind.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            place, checksum = _text_mark(content)
            return content[place : place + 8] == f"{checksum:08x}".encode()
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def _text_mark(content: mmap.mmap) -> tuple[int, int]:
    """Returns the place of the first mark's checksum, and the checksum of all other bytes."""
    mark = re.search(rf"\[{UNSEALED[:-8]}[0-9a-f]{{8}}\]".encode(), content)
    if mark is None:
        raise ValueError("the file has no mark")
    place, checksum = mark.end() - 9, 0
    for begin, end in ((0, place), (place + 8, len(content))):
        for at in range(begin, end, VOXELS_AT_ONCE):
            checksum = zlib.crc32(content[at : min(at + VOXELS_AT_ONCE, end)], checksum)
    return place, checksum


def is_sealed(file: Path | BinaryIO) -> bool:
    """Returns whether a PNG, TIFF, NIfTI or DICOM file has the mark, and unchanged pixels in the same position.

    Args:
        file: path of the file, or the file open for reading.
    """
    software, checksum = _mark_of(file, with_pixels=True)
    return software == f"{UNSEALED[:-8]}{checksum:08x}".encode()


def is_marked(file: Path | BinaryIO) -> bool:
    """Returns whether a PNG, TIFF, NIfTI or DICOM file has the mark, even if pixels or position were changed later.

    Args:
        file: path of the file, or the file open for reading.
    """
    software, _ = _mark_of(file, with_pixels=False)
    return re.fullmatch(rf"{UNSEALED[:-8]}[0-9a-f]{{8}}".encode(), software) is not None


def _mark_of(file: Path | BinaryIO, with_pixels: bool) -> tuple[bytes, int]:
    """Returns the Software field of a file, b"" if it is missing, and the checksum of the pixels and their position."""
    try:
        with file.open("rb") if isinstance(file, Path) else nullcontext(file) as content:
            return _read(content, with_pixels)[1:]
    except (OSError, EOFError, ValueError, LookupError, OverflowError, struct.error, zlib.error):
        return b"", 0


def _read(file: BinaryIO, with_pixels: bool) -> tuple[int, bytes, int]:
    """Returns the offset and the text of the Software field, and the checksum of the pixels (0 if not read)."""
    if _is_png(file):
        return _read_png(file, with_pixels)
    return _read_dicom(file, with_pixels) or _read_nifti(file, with_pixels) or _read_tiff(file, with_pixels)


def _is_png(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(8) == PNG_START


def _read_png(file: BinaryIO, with_pixels: bool) -> tuple[int, bytes, int]:
    place, software, checksum = 0, b"", 0
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        at = file.tell()
        if kind == b"IDAT" and with_pixels:
            checksum = zlib.crc32(file.read(length), checksum)
        elif kind == b"tEXt" and length < 2**16 and (content := file.read(length)).startswith(b"Software\0"):
            place, software = at + len(b"Software\0"), content[len(b"Software\0") :]
        file.seek(at + length + 4)
    return place, software, checksum


def _read_nifti(file: BinaryIO, with_pixels: bool) -> tuple[int, bytes, int] | None:
    """Returns the same as `_read`, for NIfTI files with and without compression; None for another format."""
    file.seek(0)
    packed = file.read(len(GZIP_START)) == GZIP_START
    file.seek(0)
    content: Any = gzip.GzipFile(fileobj=file) if packed else file
    header = content.read(NIFTI_HEADER)
    for at, magic, place in NIFTI:
        if header[at : at + len(magic)] != magic:
            continue
        end = place + NIFTI_TEXT
        software, checksum = header[place:end].rstrip(b"\0"), zlib.crc32(header[:place] + header[end:])
        while with_pixels and (voxels := content.read(VOXELS_AT_ONCE)):
            checksum = zlib.crc32(voxels, checksum)
        return place, software, checksum
    return None


def _read_dicom(file: BinaryIO, with_pixels: bool) -> tuple[int, bytes, int] | None:
    """Returns the same as `_read`, for DICOM files; None for another format."""
    file.seek(0)
    preamble = file.read(DICOM_PREAMBLE + 4)
    if preamble[DICOM_PREAMBLE:] != b"DICM":
        return None
    checksum = zlib.crc32(b"DICM")
    while with_pixels and (content := file.read(VOXELS_AT_ONCE)):
        checksum = zlib.crc32(content, checksum)
    return 0, preamble[:DICOM_PREAMBLE].rstrip(b"\0"), checksum


def _read_tiff(file: BinaryIO, with_pixels: bool) -> tuple[int, bytes, int]:
    order, entries = _tiff_entries(file)
    kind, count, place = entries[SOFTWARE]
    file.seek(place)
    software = file.read(count if kind == 2 else 0).rstrip(b"\0")
    if not with_pixels:
        return place, software, 0
    size, checksum = _size_of(file), 0
    offsets, lengths = TILES if TILES[0] in entries else STRIPS
    numbers = zip(_numbers(file, order, entries[offsets]), _numbers(file, order, entries[lengths]), strict=True)
    for offset, length in list(numbers):
        file.seek(offset)
        checksum = zlib.crc32(file.read(min(length, size)), checksum)
    for tag in POSITION:
        kind, count, at = entries.get(tag, (0, 0, 0))
        file.seek(at)
        checksum = zlib.crc32(file.read(min(count * SIZES.get(kind, 1), size)), checksum)
    return place, software, checksum


def _tiff_entries(file: BinaryIO) -> tuple[str, dict[int, tuple[int, int, int]]]:
    """Returns the byte order, and for each tag of the first page the type, number and offset of its values."""
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}[head[:2]]
    big = struct.unpack(f"{order}H", head[2:4]) == (43,)  # BigTIFF
    start, counted, entry, offset = (8, "Q", "HHQ", "Q") if big else (4, "H", "HHI", "I")
    (at,) = struct.unpack_from(order + offset, head, start)
    file.seek(at)
    (entries,) = struct.unpack(order + counted, file.read(struct.calcsize(counted)))
    at, found = file.tell(), {}
    step = struct.calcsize(order + entry) + struct.calcsize(offset)
    table = file.read(step * min(entries, MOST_ENTRIES))
    for index in range(0, len(table) - step + 1, step):
        tag, kind, count = struct.unpack_from(order + entry, table, index)
        value = index + struct.calcsize(order + entry)
        inside = count * SIZES.get(kind, 1) <= struct.calcsize(offset)
        place = at + value if inside else struct.unpack_from(order + offset, table, value)[0]
        found[tag] = kind, count, place
    return order, found


def _numbers(file: BinaryIO, order: str, entry: tuple[int, int, int]) -> Iterator[int]:
    kind, count, place = entry
    code, size = NUMBERS[kind], _size_of(file)
    file.seek(place)
    content = file.read(min(count, size) * struct.calcsize(code))
    return iter(struct.unpack(f"{order}{len(content) // struct.calcsize(code)}{code}", content))


def _size_of(file: BinaryIO) -> int:
    return file.seek(0, 2)
