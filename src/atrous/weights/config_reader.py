"""Reads one part of a foreign configuration and checks the type and range of each value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atrous.errors import AtrousError, shown

#: Largest mean or standard deviation, in raw units: far above any sensor's values.
MOST_VALUE = 1e9
#: Largest atrous rate, in positions of a feature map: more than any feature map has.
MOST_RATE = 1000


@dataclass(frozen=True)
class Record:
    """Values of a configuration by key. A missing key and a value of None mean that the value is not stated.

    Args:
        values: values as the file has them.
        place: prefix of the key in messages, such as "decode_head.".
        file: name of the configuration in messages.
    """

    values: Mapping[Any, Any]
    place: str = ""
    file: str = "its configuration"

    def refused(self, key: str, why: str, value: Any = None) -> AtrousError:
        """Returns an error that names the key and its value.

        Args:
            key: key of the value.
            why: what is allowed, or the reason for the refusal, as a clause without a full stop.
            value: value to show; None for the value under the key.
        """
        value = self.values.get(key) if value is None else value
        text = value[:200] if isinstance(value, str) else shown(value)
        return AtrousError(f"{self.file} has {self.place}{key} = {text}, which cannot be converted: {why}.")

    def flag(self, key: str, default: bool = False) -> bool:
        """Reads True or False.

        Args:
            key: key of the value.
            default: result if the value is not stated.

        Raises:
            AtrousError: the value is neither True nor False; numbers and strings are refused.
        """
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.refused(key, "it must be True or False")
        return default if value is None else value

    def whole(self, key: str, low: int, high: int) -> int | None:
        """Reads a whole number.

        Args:
            key: key of the value.
            low: least allowed value.
            high: largest allowed value.

        Returns:
            The number; None if it is not stated.

        Raises:
            AtrousError: the value is not a whole number, or out of range.
        """
        value = self.values.get(key)
        if value is not None and not _is_whole(value, low, high):
            raise self.refused(key, f"it must be a whole number, {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, *, above: bool = False, below: bool = False) -> float | None:
        """Reads a number.

        Args:
            key: key of the value.
            low: lower bound.
            high: upper bound.
            above: whether the number must be greater than `low`.
            below: whether the number must be less than `high`.

        Returns:
            The number; None if it is not stated.

        Raises:
            AtrousError: the value is not a number, or out of range.
        """
        value = self.values.get(key)
        if value is None:
            return None
        if not _is_number(value, low, high) or (above and value == low) or (below and value == high):
            least = f"above {low:g}" if above else f"{low:g} or more"
            raise self.refused(key, f"it must be a number, {least} and {'below' if below else 'at most'} {high:g}")
        return value

    def text(self, key: str) -> str | None:
        """Reads a string.

        Args:
            key: key of the value.

        Returns:
            The string; None if it is not stated.

        Raises:
            AtrousError: the value is not a string.
        """
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.refused(key, "it must be a string")
        return value

    def wholes(self, key: str, low: int, high: int, count: int | None = None) -> list[int]:
        """Reads a list of whole numbers.

        Args:
            key: key of the value.
            low: least allowed number.
            high: largest allowed number.
            count: required length; None for 1 to 16.

        Returns:
            The numbers; empty if they are not stated.

        Raises:
            AtrousError: the value is not a list of whole numbers with the required length, or a number is out of range.
        """
        value = self.values.get(key)
        if value is None:
            return []
        row = value if isinstance(value, list | tuple) else ()
        if not _is_as_many(row, count) or not all(_is_whole(one, low, high) for one in row):
            many = "whole numbers" if count is None else f"{count} whole numbers"
            raise self.refused(key, f"it must be a list of {many}, {low} to {high}")
        return list(row)

    def part(self, key: str) -> Record:
        """Reads a nested part of the configuration.

        Args:
            key: key of the part.

        Returns:
            The part; empty if it is not stated.

        Raises:
            AtrousError: the value is not a mapping.
        """
        value = self.values.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.refused(key, "it must have keys and values")
        return Record({} if value is None else value, f"{self.place}{key}.", self.file)

    def channels(self, key: str, count: int) -> tuple[float, ...] | None:
        """Reads the mean or the standard deviation of each channel.

        Args:
            key: key of the value; under a key that contains "std", all numbers must be positive.
            count: number of channels.

        Returns:
            One number for each channel; None if they are not stated.

        Raises:
            AtrousError: the value is not one number for each channel, or a number is out of range.
        """
        value = self.values.get(key)
        if value is None:
            return None
        row = value if isinstance(value, list | tuple) else ()
        if len(row) != count or not all(_is_number(one, -MOST_VALUE, MOST_VALUE) for one in row):
            raise self.refused(
                key, f"it must be a list of {count} numbers, one for each channel, at most {MOST_VALUE:g}"
            )
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
