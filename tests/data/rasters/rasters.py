"""Small rasters and vector files for the tests of scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def write_raster(path: Path, values: np.ndarray, crs: Any, transform: Any, **profile: Any) -> Path:
    """Writes H×W or C×H×W values as a raster."""
    import rasterio

    bands = values if values.ndim == 3 else values[None]
    fixed = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    with rasterio.open(
        path, "w", **{**fixed, "dtype": values.dtype, "crs": crs, "transform": transform, **profile}
    ) as f:
        f.write(bands)
    return path


def write_vector(path: Path, shapes: list[Any], crs: str | None, layer: str | None = None, **columns: Any) -> Path:
    """Writes shapely geometries with attributes; the suffix decides the format."""
    import shapely
    from pyogrio.raw import write

    kinds = {shape.geom_type for shape in shapes if shape is not None}
    write(
        path,
        np.array([None if shape is None else shapely.to_wkb(shape) for shape in shapes], object),
        [np.array(one, object if isinstance(one[0], str) else None) for one in columns.values()],
        [*columns],
        geometry_type=kinds.pop() if len(kinds) == 1 else "Unknown",
        crs=crs,
        layer=layer,
        append=layer is not None and path.exists(),
    )
    return path
