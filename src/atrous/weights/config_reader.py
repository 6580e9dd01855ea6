"""One part of a foreign configuration, each value of which is checked for type and range where it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atrous.errors import AtrousError, shown

#: What a mean or a standard deviation may be at most, in raw units: far above any sensor's values.
MOST_VALUE = 1e9
#: Atrous rates in cells of features; beyond it no picture has a cell.
MOST_RATE = 1000


@dataclass(frozen=True)
class Record:
    """Values by key; a key that is missing, or whose value is None, tells nothing.

    Args:
        values: as the file has them.
        place: what messages put before a key, such as "decode_head.".
        file: what holds them, in words.
    """

    values: Mapping[Any, Any]
    place: str = ""
    file: str = "its configuration"

    def refused(self, key: str, why: str, value: Any = None) -> AtrousError:
        """An error that names key and value.

        Args:
            key: of the value.
            why: what is allowed.
            value: instead of the key's own.
        """
        value = self.values.get(key) if value is None else value
        text = value[:200] if isinstance(value, str) else shown(value)
        return AtrousError(f"{self.file} has {self.place}{key} = {text}, which cannot be converted: {why}.")

    def flag(self, key: str, default: bool = False) -> bool:
        """True or False.

        Args:
            key: of the value.
            default: what it is where nothing is told.

        Raises:
            AtrousError: anything else; a number or a text is neither.
        """
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.refused(key, "it must be True or False")
        return default if value is None else value

    def whole(self, key: str, low: int, high: int) -> int | None:
        """A whole number.

        Args:
            key: of the value.
            low: the least that is allowed.
            high: the most that is allowed.

        Raises:
            AtrousError: anything else, or out of range.
        """
        value = self.values.get(key)
        if value is not None and not _is_whole(value, low, high):
            raise self.refused(key, f"it must be a whole number, {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, *, above: bool = False, below: bool = False) -> float | None:
        """A number.

        Args:
            key: of the value.
            low: the least that is allowed.
            high: the most that is allowed.
            above: whether `low` itself is not.
            below: whether `high` itself is not.

        Raises:
            AtrousError: anything else, or out of range.
        """
        value = self.values.get(key)
        if value is None:
            return None
        if not _is_number(value, low, high) or (above and value == low) or (below and value == high):
            least = f"above {low:g}" if above else f"{low:g} or more"
            raise self.refused(key, f"it must be a number, {least} and {'below' if below else 'at most'} {high:g}")
        return value

    def text(self, key: str) -> str | None:
        """A text.

        Args:
            key: of the value.

        Raises:
            AtrousError: anything else.
        """
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.refused(key, "it must be a text")
        return value

    def wholes(self, key: str, low: int, high: int, count: int | None = None) -> list[int]:
        """A row of whole numbers; empty where nothing is told.

        Args:
            key: of the value.
            low: the least that is allowed.
            high: the most that is allowed.
            count: how many there must be; None for 1 to 16.

        Raises:
            AtrousError: anything else, or out of range.
        """
        value = self.values.get(key)
        if value is None:
            return []
        row = value if isinstance(value, list | tuple) else ()
        if not _is_as_many(row, count) or not all(_is_whole(one, low, high) for one in row):
            many = "whole numbers" if count is None else f"{count} whole numbers"
            raise self.refused(key, f"needed are {many}, {low} to {high}")
        return list(row)

    def part(self, key: str) -> Record:
        """A part of this part; an empty one where nothing is told.

        Args:
            key: of the value.

        Raises:
            AtrousError: it has no keys.
        """
        value = self.values.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.refused(key, "it must have keys and values")
        return Record({} if value is None else value, f"{self.place}{key}.", self.file)

    def channels(self, key: str, count: int) -> tuple[float, ...] | None:
        """Mean or standard deviation of each channel, which is positive.

        Args:
            key: "mean", or what is read as a deviation.
            count: of the channels.

        Raises:
            AtrousError: other than a number for each channel, or out of range.
        """
        value = self.values.get(key)
        if value is None:
            return None
        row = value if isinstance(value, list | tuple) else ()
        if len(row) != count or not all(_is_number(one, -MOST_VALUE, MOST_VALUE) for one in row):
            raise self.refused(key, f"needed are {count} numbers, one for each channel, at most {MOST_VALUE:g}")
        if "std" in key and not all(one > 0 for one in row):
            raise self.refused(key, "std must be positive in every channel")
        return tuple(map(float, row))


def _is_as_many(row: Sequence[Any], count: int | None) -> bool:
    return 1 <= len(row) <= 16 if count is None else len(row) == count


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any, low: float, high: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and low <= value <= high and math.isfinite(value)
