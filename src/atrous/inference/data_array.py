"""Reads pictures from xarray's DataArrays, and writes masks as such arrays; xarray itself is never imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atrous.data.formats.band_scaling import band_scaling
from atrous.data.formats.tiff_page import as_nodata
from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.data.pixels import StoredPixels, as_picture_dtype
from atrous.data.rasters.band_names import checked_names
from atrous.errors import AtrousError, shown

#: Names of the dimension along the rows and along the columns of a raster, as rioxarray knows them.
_ROWS, _COLUMNS = ("y", "latitude", "lat"), ("x", "longitude", "lon")
#: The attributes of scale and offset, with their defaults.
_SCALING = (("scale_factor", 1.0), ("add_offset", 0.0))


def is_data_array(value: Any) -> bool:
    """Returns whether a value is an `xarray.DataArray`.

    Args:
        value: any object.
    """
    kind = type(value)
    return kind.__name__ == "DataArray" and kind.__module__.partition(".")[0] == "xarray"


def pixels_of_data_array(array: Any) -> StoredPixels:
    """Returns the pixels of a DataArray, with the names, the scaling and the "no data" of its bands.

    Names are taken from the coordinate of the bands or from the attribute ``long_name``, scaling from ``scale_factor``
    and ``add_offset``, and "no data" from ``_FillValue``, as rioxarray stores them. NaN is no data, too.

    Args:
        array: DataArray with the dimensions y and x, and at most one further dimension, that of the bands. The
            dimensions may have any order.

    Raises:
        AtrousError: the array has other dimensions, is empty, or contains no numbers.
    """
    rows, columns, band = _dimensions(array)
    values = np.asarray(array.transpose(rows, columns, *band).values)
    values = values if values.ndim == 3 else values[:, :, None]
    if 0 in values.shape or values.dtype.kind not in "iuf":
        raise AtrousError(f"a DataArray must contain numbers, got {values.dtype} of the shape {values.shape}.")
    attributes, bands = array.attrs, values.shape[2]
    missing = _missing(values, attributes.get("_FillValue", attributes.get("missing_value")))
    converted = as_picture_dtype(values, "the DataArray", None if missing is None else ~missing)
    scales, offsets = (_per_band(attributes, name, default, bands) for name, default in _SCALING)
    return StoredPixels(
        np.ascontiguousarray(converted),
        missing=missing,
        names=checked_names(_names(array, band, bands)),
        scaling=band_scaling(scales, offsets),
    )


def mask_like(array: Any, mask: np.ndarray) -> Any:
    """Returns a mask as a DataArray with the coordinates and the coordinate reference system of a picture.

    Args:
        array: the picture, a DataArray.
        mask: H×W uint8 class indices, 255 for no data.
    """
    rows, columns, band = _dimensions(array)
    one = array.isel(dict.fromkeys(band, 0), drop=True).transpose(rows, columns)
    found = one.copy(data=mask)
    found.name = "class_index"
    found.attrs = {**_grid_mapping(array.attrs), "_FillValue": IGNORE_INDEX}
    found.encoding = _grid_mapping(array.encoding)
    return found


def _dimensions(array: Any) -> tuple[str, str, tuple[str, ...]]:
    names = list(array.dims)
    rows = next((name for name in names if name in _ROWS), None)
    columns = next((name for name in names if name in _COLUMNS), None)
    band = tuple(name for name in names if name not in (rows, columns))
    if rows is None or columns is None or len(band) > 1:
        raise AtrousError(
            f"a DataArray needs the dimensions y and x, and at most one more, that of the bands; got "
            f"{', '.join(map(str, names))}. Rename the dimensions (array.rename), or choose one index of the others "
            "(array.isel)."
        )
    return rows, columns, band


def _missing(values: np.ndarray, fill: Any) -> np.ndarray | None:
    nodata = None if fill is None else as_nodata(str(fill), values.dtype)
    if nodata is None or nodata != nodata:  # NaN is found in the values
        return None
    missing = values == nodata
    return missing if missing.any() else None


def _per_band(attributes: Mapping[str, Any], name: str, default: float, bands: int) -> list[float]:
    given = attributes.get(name, default)
    each = list(given) if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str) else [given] * bands
    try:
        found = [float(one) for one in each]
    except (TypeError, ValueError):
        found = []
    if len(found) != bands:
        raise AtrousError(f"the attribute {name} must be one number, or one number per band, got {shown(given)}.")
    return found


def _names(array: Any, band: Sequence[str], bands: int) -> list[str | None]:
    """Returns the name of each band, None for a band without one."""
    coordinate = [*np.asarray(array.coords[band[0]].values).tolist()] if band and band[0] in array.coords else []
    described = array.attrs.get("long_name")
    described = [described] if isinstance(described, str) else described
    for names in (coordinate, described):
        if isinstance(names, list | tuple) and len(names) == bands and all(isinstance(one, str) for one in names):
            return list(names)
    return [None] * bands


def _grid_mapping(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the attribute that names the coordinate with the coordinate reference system."""
    return {name: value for name, value in attributes.items() if name == "grid_mapping"}
