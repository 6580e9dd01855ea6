"""Raw values of masks: whole numbers, or colours of colour-coded masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from atrous.data.class_colors import Color

Raw: TypeAlias = int | Color


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
