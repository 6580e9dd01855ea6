"""The inputs of a model: pictures, and further measurements of the same scene, such as depth or infrared bands."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from atrous.checked_arguments import as_float, checked_field_names
from atrous.errors import AtrousError, shown

#: The smallest normal and the largest number of float32, in which networks compute; smaller numbers lose digits.
SMALLEST, LARGEST = 2.0**-126, (2 - 2**-23) * 2.0**127
#: Name of the first input of every model.
IMAGE = "image"
#: Allowed types of the values of an input.
DTYPES = ("uint8", "uint16", "float32")
#: Planes of the slices of a volume.
PLANES = ("axial", "coronal", "sagittal")
#: Largest number of neighbouring slices of a volume that form the channels of one input.
MOST_SLICES = 31
#: Range (lowest, highest) to which values are clipped, in raw units.
Window: TypeAlias = tuple[float, float]
#: Voxel sides of a volume in millimetres, along right, anterior and superior.
Spacing: TypeAlias = tuple[float, float, float]
#: Allowed numbers of colour channels: none, grey, or red, green and blue.
COLORS = (0, 1, 3)


@checked_field_names
@dataclass(frozen=True)
class Input:
    """One input of a model, read from one file per scene.

    Args:
        mean: mean of each channel, in raw units (0–255 for 8-bit pictures).
        std: standard deviation of each channel, > 0, in raw units.
        name: name of the input, such as "image" or "depth".
        dtype: the type of the training values. Values of the other integer type (8-bit or 16-bit) are rescaled to this
            type.
        pages: pages to read from a multi-page TIFF: "first" for the first page, "channels" for the bands of all pages.
        bands: names of the channels, such as ("red", "nir"); () if they have no names.
        wavelengths: wavelength of each channel in nanometres; () if unknown.
        unit: unit of the values, such as "m"; "" if unknown.
        missing: values that mean "no data", in addition to the nodata values that the files declare.
        colors: number of first channels that are colours of a photograph: 0, 1 (grey) or 3 (red, green, blue).
            Training varies the brightness and colour of these channels only.
        normalize: "fixed" for (value − mean) / std; "window" to clip values to `window` first; "per_image" for the mean
            and the standard deviation of each picture itself, with `mean` 0 and `std` 1.
        window: (lowest, highest) value for the clipping, in raw units; None for no clipping. A volume may consist of
            several scans (contrasts, such as T1 and FLAIR). If the contrasts are normalised differently, `window` has
            one entry per contrast: a window, or None for a contrast that is normalised by its own mean and standard
            deviation in each volume. For such a contrast, `mean` is 0 and `std` is 1.
        slices: number of neighbouring slices of a volume that form the channels, odd, 1–31; 1 for a single slice
            and for pictures.
        planes: planes of the slices of a volume: "axial", "coronal", "sagittal"; () for pictures. Training uses the
            slices of all planes, and prediction averages their probabilities.
        spacing: voxel sides along right, anterior and superior to which volumes are resampled, > 0, in millimetres;
            None for volumes as they are stored, and for pictures.
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
    window: Window | tuple[Window | None, ...] | None = None
    slices: int = 1
    planes: tuple[str, ...] = ()
    spacing: Spacing | None = None

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
            raise AtrousError(f"bands must be a list of names, got {shown(self.bands)}.")
        for name in ("bands", "wavelengths"):
            if getattr(self, name) and len(getattr(self, name)) != self.channels:
                raise AtrousError(
                    f"{name} must have one value per channel, {self.channels}, got {len(getattr(self, name))}."
                )
        if not isinstance(self.unit, str):
            raise AtrousError(f"unit must be a text, got {shown(self.unit)}.")
        is_whole = isinstance(self.colors, int) and not isinstance(self.colors, bool)
        if not is_whole or self.colors not in COLORS or self.colors > self.channels:
            raise AtrousError(
                f"colors must be 0, 1 or 3, and at most the number of channels, got {shown(self.colors)}."
            )
        if (self.normalize == "window") != (self.window is not None):
            raise AtrousError(
                f"window must be given with normalize='window', and only then, got {shown(self.window)} with "
                f"normalize={self.normalize!r}."
            )
        if self.window is not None:
            object.__setattr__(self, "window", _checked_window(self.window))
        check_slices(self.slices, self.planes)
        object.__setattr__(self, "spacing", checked_spacing(self.spacing))
        if self.spacing is not None and not self.planes:
            raise AtrousError(f"spacing is only for volumes, got {shown(self.spacing)} without planes: leave it out.")
        if self.channels % self.slices:
            raise AtrousError(
                f"{self.slices} slices cannot have {self.channels} channels: give a multiple of {self.slices}."
            )
        if is_per_contrast(self.window):
            self._check_contrasts()
        own = {(mean, std) for mean, std, own in zip(self.mean, self.std, self.standardised, strict=True) if own}
        if own and (self.dtype != "float32" or own != {(0, 1)}):
            raise AtrousError(
                "normalize='per_image', or a contrast without window, needs dtype='float32', mean 0 and std 1 for "
                "its channels."
            )

    def _check_contrasts(self) -> None:
        """Checks a window that is given per contrast."""
        windows, contrasts = self.window or (), self.channels // self.slices
        if len(windows) != contrasts:
            raise AtrousError(
                f"window must have one entry per contrast, {contrasts}, got {len(windows)}: {shown(self.window)}."
            )
        if None in windows and not self.planes:
            raise AtrousError(
                f"window with None for a contrast is only for volumes, got {shown(self.window)}: give "
                "[LOW, HIGH] for each channel."
            )

    @property
    def channels(self) -> int:
        """Number of channels C of this input."""
        return len(self.mean)

    @property
    def windows(self) -> tuple[Window | None, ...]:
        """The window of each channel, None for a channel that is not clipped."""
        per_contrast: Any = (
            self.window if is_per_contrast(self.window) else (self.window,) * (self.channels // self.slices)
        )
        return tuple(per_contrast) * self.slices

    @property
    def standardised(self) -> tuple[bool, ...]:
        """For each channel, whether it is normalised by its mean and deviation in each picture or volume."""
        if self.normalize == "window":
            return tuple(window is None for window in self.windows)
        return (self.normalize == "per_image",) * self.channels


def is_per_contrast(window: Any) -> bool:
    """Returns whether a window has one entry per contrast, see `Input.window`.

    Args:
        window: value of `Input.window`, of any type.
    """
    return isinstance(window, tuple | list) and any(
        one is None or isinstance(one, str | tuple | list) for one in window
    )


def check_slices(slices: Any, planes: Any) -> None:
    """Checks the slices of an input.

    Args:
        slices: the given number of slices, of any type.
        planes: the given planes, of any type.

    Raises:
        AtrousError: `slices` is not an odd number from 1 to 31, or `planes` contains an unknown plane or a plane twice.
    """
    whole = isinstance(slices, int) and not isinstance(slices, bool)
    if not whole or slices % 2 == 0 or not 1 <= slices <= MOST_SLICES:
        raise AtrousError(f"slices must be an odd number from 1 to {MOST_SLICES}, got {shown(slices)}.")
    if not isinstance(planes, tuple | list) or not all(isinstance(one, str) for one in planes):
        raise AtrousError(f"planes must be a list of {', '.join(PLANES)}, got {shown(planes)}.")
    if unknown := [one for one in planes if one not in PLANES]:
        raise AtrousError(f"planes must be a list of {', '.join(PLANES)}, got {', '.join(map(shown, unknown))}.")
    if len(set(planes)) != len(planes):
        raise AtrousError(f"planes must differ, got {shown(planes)}.")


def checked_spacing(spacing: Any) -> Spacing | None:
    """Checks the target spacing of volumes, and returns it as floats.

    Args:
        spacing: the given spacing, of any type.

    Raises:
        AtrousError: the spacing is neither None nor three finite numbers above 0.
    """
    if spacing is None:
        return None
    sides = _floats(spacing, "spacing")
    if sides is None or len(sides) != 3 or not all(0 < side < math.inf for side in sides):
        raise AtrousError(
            "spacing must be three numbers of millimetres above 0, for the directions right, anterior and superior, "
            f"got {shown(spacing)}."
        )
    return sides[0], sides[1], sides[2]


def spacing_in_words(spacing: Sequence[float]) -> str:
    """Returns voxel sides as text for messages, such as "0.8×0.8×2.5 mm".

    Args:
        spacing: sides of a voxel, in millimetres.
    """
    return f"{'×'.join(f'{side:.4g}' for side in spacing)} mm"


def check_takes_pictures(one: Input) -> None:
    """Checks that an input of a model is a picture, not a slice of a volume.

    Args:
        one: the input.

    Raises:
        AtrousError: the model was trained on slices of volumes, so a picture alone cannot be normalised.
    """
    if one.planes:
        raise AtrousError(
            "the model was trained on slices of volumes, which are normalised by their whole volume, so pictures, "
            "arrays and uploads are refused. Give a NIfTI file to atrous predict, or the path of a slice, such as "
            "scan.nii.gz/axial/0012."
        )


def check_input_name(name: Any) -> None:
    """Checks the name of an input.

    Args:
        name: the given name, of any type.

    Raises:
        AtrousError: the name is not a text of 1 to 32 letters, digits, - and _ that begins with a letter.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,31}", name):
        raise AtrousError(
            f"the name of an input must have up to 32 letters, digits, - and _, and begin with a letter, got "
            f"{shown(name)}."
        )


def joint_dtype(inputs: Sequence[Input]) -> Literal["uint8", "uint16", "float32"]:
    """Returns the type of the concatenated inputs: their common type, or float32 if the types differ.

    Args:
        inputs: the inputs of a model, at least one.
    """
    return inputs[0].dtype if len({one.dtype for one in inputs}) == 1 else "float32"


def usual_colors(channels: int, dtype: str) -> int:
    """Returns the default of `Input.colors`: how many of the first channels are colours of a photograph.

    Args:
        channels: number of channels C of the picture.
        dtype: "uint8", "uint16" or "float32".

    Returns:
        1 for one channel of integers; 3 for three channels, and for four channels of integers, such as red, green, blue
        and infrared; 0 in all other cases, in which the channels are measurements.
    """
    return {1: 1, 3: 3, 4: 3}.get(channels, 0) if dtype != "float32" else {3: 3}.get(channels, 0)


def _floats(values: Any, name: str) -> tuple[float, ...] | None:
    """Converts numbers of any type to floats; None if the value is not a tuple or list of numbers."""
    if not isinstance(values, tuple | list):
        return None
    numbers = tuple(number for value in values if (number := as_float(value, name)) is not None)
    return numbers if len(numbers) == len(values) else None


def _checked_window(given: Any) -> Window | tuple[Window | None, ...]:
    """Returns the window, or the window of each contrast, as floats.

    Raises:
        AtrousError: a window is not two finite numbers, or no contrast has a window.
    """
    if is_per_contrast(given):
        found: tuple[Any, ...] = tuple(None if one is None else _checked_window(one) for one in given)
        if any(one is not None for one in found) and not any(map(is_per_contrast, found)):
            return found
    ends = _floats(given, "window")
    if ends is None or len(ends) != 2 or not -math.inf < ends[0] < ends[1] < math.inf:
        raise AtrousError(f"window must be two finite numbers, the lower first, got {shown(given)}.")
    return ends[0], ends[1]


def _check_choice(field: str, given: Any, allowed: Sequence[str]) -> None:
    if not isinstance(given, str) or given not in allowed:
        raise AtrousError(f"{field} must be one of {', '.join(allowed)}, got {shown(given)}.")
