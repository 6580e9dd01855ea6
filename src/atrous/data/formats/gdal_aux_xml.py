"""Reads nodata, names and scaling of bands, which GDAL stores beside a picture if its format cannot store them."""

from __future__ import annotations

import html
import re
import struct
from pathlib import Path

from atrous.data.formats.band_scaling import BandScaling, band_scaling, number_or

_MOST_BYTES = 2**24
_NODATA = re.compile(r'<NoDataValue(?:\s+le_hex_equiv="(?P<hex>[0-9A-Fa-f]{16})")?\s*>(?P<text>[^<]*)</NoDataValue>')


_BAND = re.compile(r'<PAMRasterBand\s+band=["\'](\d{1,5})["\']\s*>(.*?)</PAMRasterBand>', re.DOTALL)


def descriptions_beside(path: Path | str, bands: int) -> list[str | None]:
    """Reads the descriptions of bands from ``PATH.aux.xml``.

    Args:
        path: a picture file.
        bands: number of bands of the file.

    Returns:
        One description per band, None for a band without one.
    """
    return [None if text is None else html.unescape(text) for text in _elements(path, "Description", bands)]


def scaling_beside(path: Path | str, bands: int, inside: BandScaling | None = None) -> BandScaling | None:
    """Reads scale and offset of the bands from ``PATH.aux.xml``.

    Args:
        path: a picture file.
        bands: number of bands of the file.
        inside: scale and offset that the file itself stores. As in GDAL, they are used for bands without scale and
            offset in ``PATH.aux.xml``.

    Returns:
        As for `band_scaling`.
    """
    scales, offsets = (_elements(path, name, bands) for name in ("Scale", "Offset"))
    beside = [(number_or(scale, 1.0), number_or(offset, 0.0)) for scale, offset in zip(scales, offsets, strict=True)]
    if inside is not None:
        listed = [scale is not None or offset is not None for scale, offset in zip(scales, offsets, strict=True)]
        stored = zip(inside.scales, inside.offsets, strict=True)
        beside = [one if known else other for one, other, known in zip(beside, stored, listed, strict=True)]
    return band_scaling(*zip(*beside, strict=True))


def _elements(path: Path | str, name: str, bands: int) -> list[str | None]:
    """Returns the text of an element of each band; None for a band without this element."""
    element = re.compile(f"<{name}>([^<]*)</{name}>")
    found = {int(band): element.search(content) for band, content in _BAND.findall(_text_beside(path))}
    texts = (found.get(band) for band in range(1, bands + 1))
    return [None if text is None else text[1] for text in texts]


def nodata_beside(path: Path | str) -> str | None:
    """Reads the nodata value of the first band from ``PATH.aux.xml`` (GDAL's Persistent Auxiliary Metadata).

    Args:
        path: a picture file.

    Returns:
        The number as text; None if there is no such file or no nodata value of the first band in it.
    """
    return nodata_of_bands_beside(path, 1)[0]


def nodata_of_bands_beside(path: Path | str, bands: int) -> list[str | None]:
    """Reads the nodata value of each band from ``PATH.aux.xml``.

    Args:
        path: a picture file.
        bands: number of bands of the file.

    Returns:
        One number as text per band, None for a band without one.
    """
    found = {int(band): _NODATA.search(content) for band, content in _BAND.findall(_text_beside(path))}
    return [_nodata_text(found.get(band)) for band in range(1, bands + 1)]


def _nodata_text(found: re.Match[str] | None) -> str | None:
    if found is None:
        return None
    if found["hex"]:  # the exact value; the decimal text is rounded
        return repr(struct.unpack("<d", bytes.fromhex(found["hex"]))[0])
    return found["text"].strip()


def _text_beside(path: Path | str) -> str:
    """Returns the content of ``PATH.aux.xml``; "" if there is no such file."""
    beside = Path(f"{path}.aux.xml")
    try:
        if not beside.is_file() or beside.stat().st_size > _MOST_BYTES:
            return ""
        return beside.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
