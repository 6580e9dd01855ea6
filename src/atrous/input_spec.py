"""What a model sees of a scene: pictures, and what was measured beside them, such as depth or infrared bands."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from atrous.checked_arguments import as_float, checked_field_names
from atrous.errors import AtrousError, shown

#: The smallest and the largest positive number of float32, in which networks compute; smaller ones lose digits.
SMALLEST, LARGEST = 2.0**-126, (2 - 2**-23) * 2.0**127
#: The first input, which every model has.
IMAGE = "image"
#: Types of values that inputs have.
DTYPES = ("uint8", "uint16", "float32")
#: Channels that are the colours of a photograph: grey, or red, green and blue.
COLORS = (0, 1, 3)


@checked_field_names
@dataclass(frozen=True)
class Input:
    """One thing that a model sees of a scene, from one file.

    Args:
        mean: one per channel, in raw units (0–255 for 8-bit pictures).
        std: one per channel, > 0, in raw units.
        name: by which it is given, such as "image" or "depth".
        dtype: the type of values that the network was trained on; whole numbers of the other size are rescaled to it.
        pages: of TIFFs with several, "first" for the first page, "channels" for the bands of all of them.
        bands: names of the channels, such as ("red", "nir"); () if they have no names.
        wavelengths: of the channels in nanometres; () where they are not known.
        unit: of the values, such as "m"; "" where it is not known.
        missing: values that mean "no data", beside those that the files declare.
        colors: how many of the channels, the first ones, are colours of a photograph: 0, 1 (grey) or 3 (red, green,
            blue). Training varies the brightness and colour of these alone.
        normalize: "fixed" for (value − mean) / std; "window" for the same with values clipped to `window` before;
            "per_image" for values less the picture's own mean, divided by its own deviation: `mean` is 0 and `std` 1.
        window: (lowest, highest) value that is not clipped, in raw units; None where nothing is.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str = IMAGE
    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    pages: Literal["first", "channels"] = "first"
    bands: tuple[str, ...] = ()
    wavelengths: tuple[float, ...] = ()
    unit: str = ""
    missing: tuple[float, ...] = ()
    colors: int = 0
    normalize: Literal["fixed", "window", "per_image"] = "fixed"
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_input_name(self.name)
        for name in ("mean", "std", "wavelengths", "missing"):
            if (values := _floats(getattr(self, name), name)) is None:
                each = "one number per channel" if name in ("mean", "std") else "a tuple of numbers"
                raise AtrousError(f"{name} must be {each}, got {shown(getattr(self, name))}.")
            object.__setattr__(self, name, values)
        if len(self.mean) != len(self.std) or not self.mean:
            raise AtrousError(f"mean and std need one value per channel, got {len(self.mean)} and {len(self.std)}.")
        if not all(SMALLEST <= value <= LARGEST for value in self.std):
            raise AtrousError(f"std must be positive and finite in every channel, in float32, got {shown(self.std)}.")
        if not all(-LARGEST <= value <= LARGEST for value in self.mean):
            raise AtrousError(f"mean must be finite in every channel, in float32, got {shown(self.mean)}.")
        _check_choice("dtype", self.dtype, DTYPES)
        _check_choice("pages", self.pages, ("first", "channels"))
        _check_choice("normalize", self.normalize, ("fixed", "window", "per_image"))
        if not isinstance(self.bands, tuple | list) or not all(isinstance(band, str) for band in self.bands):
            raise AtrousError(f"bands must be names, got {shown(self.bands)}.")
        for name in ("bands", "wavelengths"):
            if getattr(self, name) and len(getattr(self, name)) != self.channels:
                raise AtrousError(f"{name} must be one per channel, {self.channels}, got {len(getattr(self, name))}.")
        if not isinstance(self.unit, str):
            raise AtrousError(f"unit must be a text, got {shown(self.unit)}.")
        is_whole = isinstance(self.colors, int) and not isinstance(self.colors, bool)
        if not is_whole or self.colors not in COLORS or self.colors > self.channels:
            raise AtrousError(f"colors must be 0, 1 or 3, and at most the channels, got {shown(self.colors)}.")
        if (self.normalize == "window") != (self.window is not None):
            raise AtrousError(f"window is for normalize='window' and needed there, got {shown(self.window)}.")
        if self.window is not None:
            ends = _floats(self.window, "window")
            if ends is None or len(ends) != 2 or not -math.inf < ends[0] < ends[1] < math.inf:
                raise AtrousError(f"window must be two finite numbers, the lower first, got {shown(self.window)}.")
            object.__setattr__(self, "window", ends)
        if self.normalize == "per_image" and (self.dtype != "float32" or set(self.mean) != {0} or set(self.std) != {1}):
            raise AtrousError("normalize='per_image' gives float32 with mean 0 and std 1: give these.")

    @property
    def channels(self) -> int:
        """C of this input."""
        return len(self.mean)


def check_input_name(name: Any) -> None:
    """Refuses what is no name of an input.

    Args:
        name: whatever was given as one.

    Raises:
        AtrousError: no text of letters, digits, - and _ that begins with a letter.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,31}", name):
        raise AtrousError(
            f"the name of an input is up to 32 letters, digits, - and _, and begins with a letter, got {shown(name)}."
        )


def joint_dtype(inputs: Sequence[Input]) -> Literal["uint8", "uint16", "float32"]:
    """The type of all inputs' channels in one array: their common type, or float32, which holds the values of all.

    Args:
        inputs: of a model, at least one.
    """
    return inputs[0].dtype if len({one.dtype for one in inputs}) == 1 else "float32"


def usual_colors(channels: int, dtype: str) -> int:
    """How many channels of a picture count as colours of a photograph by default.

    Args:
        channels: C of the picture.
        dtype: "uint8", "uint16" or "float32".

    Returns:
        All of one or three, and the first three of four, such as red, green, blue and infrared; 0 of other numbers of
        bands, which are measurements.
    """
    return {1: 1, 3: 3, 4: 3}.get(channels, 0) if dtype != "float32" else {3: 3}.get(channels, 0)


def _floats(values: Any, name: str) -> tuple[float, ...] | None:
    """Numbers of any type as floats; None for what is no tuple or list of numbers."""
    if not isinstance(values, tuple | list):
        return None
    numbers = tuple(number for value in values if (number := as_float(value, name)) is not None)
    return numbers if len(numbers) == len(values) else None


def _check_choice(field: str, given: Any, allowed: Sequence[str]) -> None:
    if not isinstance(given, str) or given not in allowed:
        raise AtrousError(f"{field} must be one of {', '.join(allowed)}, got {shown(given)}.")
