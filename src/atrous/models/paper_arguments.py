"""The arguments that the classes of the papers and the backbones share, and the checks of their values."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

from atrous.checked_arguments import checked_names
from atrous.errors import AtrousError, shown

OUTPUT_STRIDES = (8, 16, 32)
DILATION_RULES = ("previous", "full")

#: The least that arguments of the papers' classes may be.
LEAST = {
    "aspp_channels": 1,
    "atrous_rate": 1,
    "cascade": 0,
    "decoder_convs": 1,
    "fov_channels": 0,
    "low_channels": 1,
    "projection_kernel": 1,
}
#: The most that they may be: more would fill any memory, or take for ever to build.
MOST = {"cascade": 64, "decoder_convs": 64, "projection_kernel": 255}
MOST_CHANNELS = MOST_RATE = 2**20
#: Arguments that are True or False.
FLAGS = ("align_corners", "aspp_conv", "auxiliary", "depthwise_norm", "frozen_norm", "multi_scale", "separable")


Given = ParamSpec("Given")


def checked_constructor(constructor: Callable[Given, None]) -> Callable[Given, None]:
    """For a paper's class: whatever is wrong with its arguments is an AtrousError.

    Args:
        constructor: its `__init__`, which takes keywords alone.
    """
    build: Any = checked_names(constructor)

    @functools.wraps(constructor)
    def with_one_error(*args: Given.args, **kwargs: Given.kwargs) -> None:
        try:
            build(*args, **kwargs)
        except AtrousError:
            raise
        except Exception as error:  # what layers raise of odd values is of many types
            title = constructor.__qualname__.removesuffix(".__init__")
            raise AtrousError(f"{title} cannot be built from {shown(dict(kwargs))}: {_said(error)}.") from error

    return with_one_error


def _said(error: Exception) -> str:
    try:
        return str(error)
    except Exception:
        return type(error).__name__


def check_arguments(arguments: Mapping[str, Any], *, fewest_rates: int = 0, halves: bool = False, **least: int) -> None:
    """Refuses values out of range among the arguments of a paper's class.

    Args:
        arguments: by name; what is not there is not asked for.
        fewest_rates: how many atrous rates there must be.
        halves: whether atrous rates may be half numbers, which are whole at output stride 8.
        least: instead of those in `LEAST`.

    Raises:
        AtrousError: names the first value out of range, and the range.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    check_output_stride(given["output_stride"])
    for name in FLAGS:
        if name in given and not isinstance(given[name], bool):
            raise AtrousError(f"{name} must be True or False, got {shown(given[name])}.")
    for name, lowest in {**LEAST, **least}.items():
        most = MOST.get(name, MOST_CHANNELS)
        if name in given and not (_is_whole(given[name]) and given[name] >= lowest):
            raise AtrousError(f"{name} must be a whole number, {lowest} or more, got {shown(given[name])}.")
        if name in given and given[name] > most:
            raise AtrousError(f"{name} must be a whole number, {lowest} to {most:,}, got {shown(given[name])}.")
    if not given.get("projection_kernel", 1) % 2:
        raise AtrousError(
            f"projection_kernel must be odd, to keep the map's size, got {shown(given['projection_kernel'])}."
        )
    if not (_is_number(given["dropout"]) and 0 <= given["dropout"] <= 1):
        raise AtrousError(f"dropout must be a probability, 0 to 1, got {shown(given['dropout'])}.")
    if not _is_norm(arguments["norm"]):
        raise AtrousError(
            f"norm must be (eps above 0, momentum from 0 to 1), such as (1e-5, 0.1), got {shown(arguments['norm'])}."
        )
    rates = given.get("atrous_rates", ())
    if not _is_list(rates) or len(rates) < fewest_rates or not all(_is_rate(rate, halves) for rate in rates):
        kind = "whole or half numbers, 0.5 or more" if halves else "whole numbers, 1 or more"
        raise AtrousError(f"atrous_rates must be {kind}, such as (6, 12, 18), got {shown(rates)}.")
    grid = given.get("multi_grid", ())
    if not _is_list(grid) or not all(_is_number(factor) and 0 < factor <= MOST_RATE for factor in grid):
        raise AtrousError(f"multi_grid must be factors above 0, such as (1, 2, 4), got {shown(grid)}.")


def check_output_stride(output_stride: int) -> None:
    """Refuses a stride other than 8, 16, 32."""
    if not _is_whole(output_stride) or output_stride not in OUTPUT_STRIDES:
        raise AtrousError(f"output_stride must be 8, 16 or 32, got {shown(output_stride)}.")


def check_channels(in_channels: int) -> None:
    """Refuses pictures without channels."""
    if not _is_whole(in_channels) or in_channels < 1:
        raise AtrousError(f"in_channels must be 1 or more, got {shown(in_channels)}.")
    if in_channels > MOST_CHANNELS:
        raise AtrousError(f"in_channels must be 1 to {MOST_CHANNELS:,}, got {shown(in_channels)}.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_rate(value: Any, halves: bool) -> bool:
    return (_is_whole(value) and 1 <= value <= MOST_RATE) or (
        halves and isinstance(value, float) and 0.5 <= value <= MOST_RATE and float(2 * value).is_integer()
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_norm(value: Any) -> bool:
    if not (_is_list(value) and len(value) == 2 and all(map(_is_number, value))):
        return False
    eps, momentum = value
    return 0 < eps < math.inf and 0 <= momentum <= 1
