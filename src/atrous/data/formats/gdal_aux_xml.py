"""Reads the nodata value that GDAL stores beside a picture if the format of the picture cannot store it."""

from __future__ import annotations

import re
import struct
from pathlib import Path

_MOST_BYTES = 2**24
_NODATA = re.compile(r'<NoDataValue(?:\s+le_hex_equiv="(?P<hex>[0-9A-Fa-f]{16})")?\s*>(?P<text>[^<]*)</NoDataValue>')


def nodata_beside(path: Path | str) -> str | None:
    """Reads the nodata value of the first band from ``PATH.aux.xml`` (GDAL's Persistent Auxiliary Metadata).

    Args:
        path: a picture file.

    Returns:
        The number as text; None if there is no such file or no nodata value in it.
    """
    beside = Path(f"{path}.aux.xml")
    try:
        if not beside.is_file() or beside.stat().st_size > _MOST_BYTES:
            return None
        found = _NODATA.search(beside.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    if found is None:
        return None
    if found["hex"]:  # the exact value; the decimal text is rounded
        return repr(struct.unpack("<d", bytes.fromhex(found["hex"]))[0])
    return found["text"].strip()
