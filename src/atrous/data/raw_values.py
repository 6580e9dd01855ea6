"""Raw values of masks: whole numbers, or colours of colour-coded masks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from atrous.data.class_colors import Color
from atrous.data.pixels import UNDECLARED_MISSING
from atrous.errors import AtrousError

Raw: TypeAlias = int | Color

#: Value of hidden pixels, and of pixels of a float mask that are NaN, infinite or equal to a non-zero nodata value.
#: It is also the ``nodata`` of such a mask.
NO_NUMBER = -(2**63)


def tupled(value: Any) -> Any:
    """Converts lists to tuples, at any depth."""
    return tuple(map(tupled, value)) if isinstance(value, list | tuple) else value


def is_whole(value: Any) -> bool:
    """Returns whether a value is a whole number of at most 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_triple(value: Any) -> bool:
    """Returns whether a value is a colour: three whole numbers of at most 16 bits each, see `packed_colors`."""
    if not (isinstance(value, tuple) and len(value) == 3):
        return False
    return all(is_whole(part) and 0 <= part <= 0xFFFF for part in value)


def numbers_of(values: Iterable[Raw]) -> tuple[int, ...]:
    """Returns the raw values that are numbers; a colour-coded mask has no such values.

    Args:
        values: raw values of a class table.
    """
    return tuple(value for value in values if isinstance(value, int))


def is_number_text(text: str) -> bool:
    """Returns whether a text is a whole number of at most 64 bits, as Python and YAML write it: "7", but not "007"."""
    try:
        return str(number := int(text)) == text and is_whole(number)
    except ValueError:
        return False


def smallest_dtype(values: Sequence[Raw]) -> np.dtype:
    """Returns the smallest integer type that can represent all values, and all channels of colours."""
    low, high = np.min(values), np.max(values)
    for dtype in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.int64)


def plain(value: Raw) -> int | list[int]:
    """Returns a raw value for YAML and JSON; a colour becomes a list."""
    return list(value) if isinstance(value, tuple) else value


def with_hidden_void(
    values: np.ndarray, hidden: np.ndarray, nodata: int | None, listed: Collection[int] | None
) -> tuple[np.ndarray, int]:
    """Gives the pixels of a mask that GDAL's mask hides the value that means no data.

    Args:
        values: H×W whole numbers.
        hidden: H×W booleans, True for hidden pixels.
        nodata: value that means no data; None if there is none.
        listed: raw values of the class table, also those that are ignored; None without a class table. A listed nodata
            value is a class, and so may be 0 without a table; hidden pixels then become `NO_NUMBER`.

    Returns:
        The values, and the value that means no data.
    """
    may_be_class = nodata == 0 if listed is None else nodata in listed
    void = NO_NUMBER if nodata is None or may_be_class else nodata
    return np.where(hidden, np.int64(void), values.astype(np.int64)), void


def with_undeclared_void(
    values: np.ndarray, nodata: int | None, listed: Collection[int]
) -> tuple[np.ndarray, int | None]:
    """Makes the numbers of `UNDECLARED_MISSING` in a mask void, except for numbers that the class table lists.

    Args:
        values: H×W whole numbers.
        nodata: value that means "no data"; None if there is no such value.
        listed: raw values of the class table, also those that are ignored.

    Returns:
        The values of the mask, and the value that means "no data". If several values mean "no data", they are replaced
        by one value.
    """
    if values.dtype.kind != "i":
        return values, nodata
    unlisted = [int(one) for one in UNDECLARED_MISSING if int(one) != nodata and int(one) not in listed]
    found = [one for one in unlisted if (values == one).any()]
    if not found:
        return values, nodata
    void = found[0] if nodata is None or nodata in listed else nodata
    others = [one for one in found if one != void]
    return (np.where(np.isin(values, others), np.int64(void), values) if others else values), void


def whole_numbers(array: np.ndarray, nodata: float | None, path: Path) -> tuple[np.ndarray, float | None]:
    """Converts a mask of floats to int64; NaN, infinite values and a non-zero nodata value become ``NO_NUMBER``.

    Args:
        array: values of the mask, of any float type and shape.
        nodata: value that the file declares as no data; None if it declares none.
        path: file of the mask, for the message.

    Returns:
        The mask as int64, and the nodata value of this mask: 0 if the file declares 0 and every value is finite, else
        ``NO_NUMBER``.

    Raises:
        AtrousError: a value is not a whole number.
    """
    void = ~np.isfinite(array) if not nodata else ~np.isfinite(array) | (array == nodata)
    whole = np.where(void, 0, array)
    if not ((whole == np.rint(whole)).all() and (np.abs(whole) < 2.0**63).all()):
        raise AtrousError(f"{path}: the mask holds fractions; a mask must hold whole numbers, one per class.")
    return np.where(void, NO_NUMBER, whole.astype(np.int64)), 0 if nodata == 0 and not void.any() else NO_NUMBER
