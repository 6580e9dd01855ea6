"""Reads pictures from xarray's DataArrays, and writes masks as such arrays; xarray itself is never imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from atrous.data.formats.band_scaling import band_scaling
from atrous.data.formats.empty_bands import bands_without_data
from atrous.data.formats.tiff_page import as_nodata
from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.data.pixels import StoredPixels, as_picture_dtype
from atrous.data.rasters.band_names import checked_names
from atrous.errors import AtrousError, shown

#: Names of the dimension along the rows and along the columns of a raster, as rioxarray knows them.
_ROWS, _COLUMNS = ("y", "latitude", "lat"), ("x", "longitude", "lon")
#: The attributes of scale and offset, with their defaults. rioxarray uses the first name of each pair if the bands have
#: different values.
_SCALING = (("scales", "scale_factor", 1.0), ("offsets", "add_offset", 0.0))
#: Largest number of bands that a message names.
_SHOWN = 12

_T = TypeVar("_T")


def is_data_array(value: Any) -> bool:
    """Returns whether a value is an `xarray.DataArray`.

    Args:
        value: any object.
    """
    kind = type(value)
    return kind.__name__ == "DataArray" and kind.__module__.partition(".")[0] == "xarray"


def pixels_of_data_array(array: Any) -> StoredPixels:
    """Returns the pixels of a DataArray, with the names, the scaling and the "no data" of its bands.

    Names are taken from the coordinate of the bands or from the attribute ``long_name``, scaling from ``scales`` and
    ``offsets`` or ``scale_factor`` and ``add_offset``, and "no data" from ``_FillValue``, as rioxarray stores them. NaN
    also means "no data". If the coordinate of the bands contains whole numbers, they are the positions of the bands in
    these attributes, from 1. They are needed because xarray does not change attributes when bands are selected.

    The array is the whole picture, so a band without data in the array is empty, as in `empty_bands`.

    Args:
        array: DataArray with the dimensions y and x, and at most one further dimension, that of the bands. The
            dimensions may have any order.

    Raises:
        AtrousError: the array has other dimensions, is empty, or contains no numbers; or its scales or offsets do not
            belong to its bands.
    """
    rows, columns, band = _dimensions(array)
    values = np.asarray(array.transpose(rows, columns, *band).values)
    values = values if values.ndim == 3 else values[:, :, None]
    if 0 in values.shape or values.dtype.kind not in "iuf":
        raise AtrousError(f"a DataArray must contain numbers, got {values.dtype} of the shape {values.shape}.")
    attributes, bands = array.attrs, values.shape[2]
    missing = _missing(values, attributes.get("_FillValue", attributes.get("missing_value")))
    converted = as_picture_dtype(values, "the DataArray", None if missing is None else ~missing)
    gone = bands_without_data(values, missing)
    coordinate = _band_coordinate(array, band, bands)
    numbers = _band_numbers(coordinate)
    scales, offsets = (_per_band(attributes, names, default, numbers, bands) for *names, default in _SCALING)
    return StoredPixels(
        np.ascontiguousarray(converted),
        missing=missing,
        names=checked_names(_names(coordinate, numbers, attributes.get("long_name"), bands)),
        empty=() if gone is None or gone.all() else tuple(np.flatnonzero(gone).tolist()),
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


def _band_coordinate(array: Any, band: Sequence[str], bands: int) -> np.ndarray | None:
    """Returns the coordinate of the bands, one value per band; None if there is none."""
    name = band[0] if band else "band"  # a single band that was selected keeps its number or name
    found = np.atleast_1d(array.coords[name].values) if name in array.coords else None
    return found if found is not None and found.shape == (bands,) else None


def _band_numbers(coordinate: np.ndarray | None) -> list[int] | None:
    """Returns the numbers of the bands in the file, from 1; None if the coordinate does not contain whole numbers."""
    if coordinate is None or coordinate.dtype.kind not in "iuf":
        return None
    return [int(one) for one in coordinate] if all(float(one).is_integer() for one in coordinate) else None


def _of_bands(values: Sequence[_T], numbers: Sequence[int] | None, bands: int) -> list[_T] | None:
    """Chooses the values of the bands by their numbers, or all values without numbers; None if this is not possible."""
    numbers = range(1, len(values) + 1) if numbers is None else numbers
    fits = len(numbers) == bands and all(1 <= number <= len(values) for number in numbers)
    return [values[number - 1] for number in numbers] if fits else None


def _per_band(
    attributes: Mapping[str, Any], names: Sequence[str], default: float, numbers: Sequence[int] | None, bands: int
) -> list[float]:
    name = next((one for one in names if one in attributes), None)
    if name is None:
        return [default] * bands
    given = attributes[name]
    try:
        each = [float(one) for one in np.atleast_1d(given).tolist()]
    except (TypeError, ValueError):
        each = []
    found = each * bands if len(each) == 1 else _of_bands(each, numbers, bands)
    if found is None:
        has = f"{bands} bands" if numbers is None else f"the bands {', '.join(map(str, numbers[:_SHOWN]))}"
        raise AtrousError(
            f"the attribute {name} must be one number, or one number per band, got {shown(given)}; the array has "
            f"{has}. Numbers of bands in the coordinate are positions in this attribute, from 1."
        )
    return found


def _names(
    coordinate: np.ndarray | None, numbers: Sequence[int] | None, described: Any, bands: int
) -> list[str | None]:
    """Returns the name of each band, None for a band without one."""
    own = [] if coordinate is None else coordinate.tolist()
    if own and all(isinstance(one, str) for one in own):
        return own
    if isinstance(described, str):
        return [described] * bands
    if isinstance(described, list | tuple) and all(one is None or isinstance(one, str) for one in described):
        return _of_bands(described, numbers, bands) or [None] * bands
    return [None] * bands


def _grid_mapping(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the attribute that names the coordinate with the coordinate reference system."""
    return {name: value for name, value in attributes.items() if name == "grid_mapping"}
