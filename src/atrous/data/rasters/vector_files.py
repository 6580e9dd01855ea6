"""Names of vector files, whose polygons are labels."""

from __future__ import annotations

from pathlib import Path

#: Suffixes of vector files with polygons.
VECTOR_SUFFIXES = (".gpkg", ".geojson", ".shp", ".fgb")


def is_vector_file(path: Path) -> bool:
    """Returns whether a file name has the suffix of a vector file.

    Args:
        path: any path.
    """
    return path.suffix.lower() in VECTOR_SUFFIXES
