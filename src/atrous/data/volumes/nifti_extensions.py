"""Checks the size of the extensions of a NIfTI header before nibabel reads them into memory.

nibabel has no limit for this size. An extension of two gigabytes may need only a few kilobytes in a compressed file.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from atrous.errors import AtrousError

#: Largest sum of the sizes of all extensions, in bytes.
MOST_BYTES = 2**26
#: For NIfTI-1 and NIfTI-2: size of the header, offset of the magic number, magic number, offset and type of vox_offset.
_HEADERS = ((348, 344, b"n+1\0", 108, "f"), (540, 4, b"n+2\0", 168, "q"))


def check_extensions(path: Path) -> None:
    """Checks that the extensions of a header are complete and not too large; other files than NIfTI are not checked.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file.

    Raises:
        AtrousError: an extension is damaged, or the extensions are larger than `MOST_BYTES`.
        OSError: the file cannot be read.
    """
    packed = path.name.lower().endswith(".gz")
    with path.open("rb") as stored:
        try:
            _check(path, gzip.GzipFile(fileobj=stored) if packed else stored)  # type: ignore[arg-type]
        except (EOFError, zlib.error, gzip.BadGzipFile):  # the error is raised when the volume is read
            return


def _check(path: Path, file: BinaryIO) -> None:
    """Checks the extensions in the decompressed content of a file."""
    start = file.read(_HEADERS[1][0] + 4)
    for size, at, magic, place, kind in _HEADERS:
        if len(start) < size + 4 or start[at : at + 4] != magic or not start[size]:
            continue
        order = "<" if struct.unpack_from("<i", start)[0] == size else ">"
        (end,) = struct.unpack_from(order + kind, start, place)
        if not size + 4 <= end <= size + MOST_BYTES:  # also true for NaN
            raise _damaged(path, f"the voxels begin at byte {end:g}")
        file.seek(size + 4)
        left = int(end) - size - 4
        while left >= 16:
            (length,) = struct.unpack(order + "i", file.read(4).rjust(4, b"\0"))
            if not 8 <= length <= left:
                raise _damaged(path, f"an extension has {length} bytes, but only {left} bytes precede the voxels")
            file.seek(length - 4, 1)
            left -= length


def _damaged(path: Path, reason: str) -> AtrousError:
    return AtrousError(
        f"{path}: the file is damaged: {reason}. Its header may have extensions of at most {MOST_BYTES >> 20} MiB."
    )
