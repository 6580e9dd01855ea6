"""Checks where the voxels of a NIfTI file begin, and its extensions, before nibabel reads them.

nibabel reads an extension of any size into memory, and unpacks a compressed file up to the first voxel. So a compressed
file of a few kilobytes can make nibabel use gigabytes of memory.
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


def check_extensions(path: Path) -> None:
    """Checks that the voxels begin near the header, and that extensions are complete; files that are not NIfTI pass.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file.

    Raises:
        AtrousError: an extension is damaged, or more than `MOST_BYTES` are between the header and the voxels.
        OSError: the file cannot be read.
    """
    packed = path.name.lower().endswith(".gz")
    with path.open("rb") as stored:
        try:
            _check(path, gzip.GzipFile(fileobj=stored) if packed else stored)  # type: ignore[arg-type]
        except (EOFError, zlib.error, gzip.BadGzipFile):  # the error is raised when the volume is read
            return


def _check(path: Path, file: BinaryIO) -> None:
    from nibabel import Nifti1Header, Nifti2Header

    start = file.read(Nifti2Header.sizeof_hdr + 4)
    for kind in (Nifti1Header, Nifti2Header):  # nibabel's own rules: other magic numbers and byte orders are read, too
        size = kind.sizeof_hdr
        if len(start) < size + 4 or not kind.may_contain_header(start[:size]):
            continue
        header = kind(start[:size], check=False)
        end, has_extensions = float(header["vox_offset"]), start[size] != 0
        if not (size + 4 if has_extensions else 0) <= end <= size + MOST_BYTES:  # also NaN
            raise _damaged(path, f"the voxels begin at byte {end:g}")
        if not has_extensions:
            continue
        file.seek(size + 4)
        left = int(end) - size - 4
        while left >= 16:
            (length,) = struct.unpack(header.endianness + "i", file.read(4).rjust(4, b"\0"))
            if not 8 <= length <= left:
                raise _damaged(path, f"an extension has {length} bytes, but only {left} bytes precede the voxels")
            file.seek(length - 4, 1)
            left -= length


def _damaged(path: Path, reason: str) -> AtrousError:
    return AtrousError(
        f"{path}: the file is damaged: {reason}. Its header may have extensions of at most {MOST_BYTES >> 20} MiB."
    )
