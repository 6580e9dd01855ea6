"""The pixels of a picture, the pixels that hold data, and conversions to the channels and data type of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from atrous.data.formats.band_scaling import BandScaling
from atrous.errors import AtrousError

#: Numbers that programs write for "no data", often without declaring them. In signed integers and floats, they mean "no
#: data" even if the file does not declare them. Unsigned integers cannot represent them.
UNDECLARED_MISSING = (-9999.0, -32768.0)
_MANY_VALUES = 16  # an alpha band with so many different values between 0 and the maximum may be an ordinary channel
#: How to give a range of values on the command line and in Python, for messages; {0} and {1} are its two numbers.
GIVE_RANGE = "--range {0},{1} (in Python Segmenter(range=({0}, {1})))"
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as in Pillow's mode "L"


@dataclass(frozen=True)
class PictureKind:
    """Channels, type and pages of a picture, from its header.

    Attributes:
        channels: number of bands without an alpha band.
        dtype: "uint8", "uint16" or "float32".
        bands: number of bands including an alpha band.
        pages: number of pages or frames in the file.
        stacks: whether the pages can be read as channels, as in a TIFF.
        white_is_zero: whether the file declares 0 as white; None if it declares neither white nor black.
        may_lack_data: whether some pixels may hold no data because of a nodata value, alpha, a mask or NaN.
        names: names of the bands, including an alpha band; () if the file names none.
    """

    channels: int
    dtype: str
    bands: int
    pages: int = 1
    stacks: bool = False
    white_is_zero: bool | None = None
    may_lack_data: bool = True
    names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class StoredPixels:
    """The stored values of a picture or of a window, and the pixels without data.

    Attributes:
        values: H×W×C ``uint8``, ``uint16`` or ``float32``, as stored in the file.
        alpha: index of the alpha band, or None.
        missing: H×W×C booleans, True for values equal to the file's nodata value; None if there are no such values.
        masked: H×W booleans, True for pixels hidden by a mask in the file or beside it, or by an alpha band that is not
            in ``values``; None if no pixel is hidden.
        alpha_hides: whether pixels of alpha 0 hold no data. False if the file declares a nodata value, as in GDAL.
        pages: number of pages or frames in the file.
        stacks: whether the pages can be read as channels, as in a TIFF.
        names: names of the bands in ``values``; () if the file names none.
        empty: indices of bands without data in the whole file, such as the bands of a hyperspectral product in which
            the air absorbs all light. At a pixel, the other bands still hold data.
        scaling: scale and offset of the bands in ``values``; None if the stored numbers are the measured values.
    """

    values: np.ndarray
    alpha: int | None = None
    missing: np.ndarray | None = None
    masked: np.ndarray | None = None
    alpha_hides: bool = True
    pages: int = 1
    stacks: bool = False
    names: tuple[str, ...] = ()
    empty: tuple[int, ...] = ()
    scaling: BandScaling | None = None

    @property
    def channels(self) -> int:
        """Number of bands without the alpha band."""
        return self.values.shape[2] - (self.alpha is not None)

    @property
    def kind(self) -> PictureKind:
        """Channels, type and pages of the picture."""
        bands, dtype = self.values.shape[2], self.values.dtype.name if self.scaling is None else "float32"
        return PictureKind(self.channels, dtype, bands, self.pages, self.stacks, names=self.names)

    @property
    def measured(self) -> np.ndarray:
        """H×W×C values after scale and offset of the bands: float32 if the file declares them, else `values`."""
        return self.values if self.scaling is None else self.scaling.measured(self.values)

    @property
    def alpha_may_be_a_channel(self) -> bool:
        """Whether the alpha band looks like an ordinary channel, such as near infrared, that GDAL marked as alpha.

        This is the case if more than half of the band's non-zero values are below the maximum, and the values below the
        maximum are 16 or more different numbers. In a true alpha band, nearly all values are zero or the maximum, or
        there are few different values.
        """
        if self.alpha is None:
            return False
        alpha = self.values[:, :, self.alpha]
        full = 1 if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max
        shown = alpha[alpha != 0]
        between = shown[shown != full]
        return 2 * len(between) > len(shown) and len(np.unique(between[:: 1 + len(between) // 10**6])) >= _MANY_VALUES

    def window(self, window: tuple[int, int, int, int]) -> StoredPixels:
        """Returns the pixels of a window as views, without copying values.

        Args:
            window: (top, left, height, width) in pixels.
        """
        top, left, height, width = window
        at = slice(top, top + height), slice(left, left + width)
        missing, masked = (None if part is None else part[at] for part in (self.missing, self.masked))
        return replace(self, values=self.values[at], missing=missing, masked=masked, pages=1, stacks=False)

    def choosing(self, bands: Sequence[int] | None) -> StoredPixels:
        """Returns the pixels with some of the bands; a transparent pixel stays hidden if the alpha band is left out.

        Args:
            bands: indices of the bands, in the order of the result; None for all bands as they are.
        """
        if bands is None:
            return self
        index, masked = list(bands), self.masked
        if self.alpha is not None and self.alpha not in index and self.alpha_hides:
            masked = _either(masked, self.values[:, :, self.alpha] == 0)
        missing = None if self.missing is None else self.missing[:, :, index]
        names = tuple(self.names[one] for one in index) if self.names else ()
        empty = tuple(place for place, one in enumerate(index) if one in self.empty)
        scaling = None if self.scaling is None else self.scaling.choosing(index)
        return StoredPixels(
            self.values[:, :, index], None, missing, masked, self.alpha_hides, names=names, empty=empty, scaling=scaling
        )

    def for_model(
        self,
        channels: int | None = None,
        fill: Sequence[float] | None = None,
        missing_values: Sequence[float] = (),
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the channels for a model, and the pixels that hold data.

        A pixel holds no data if it is masked or transparent, or if any band is NaN or infinite. A pixel of floats, or
        of numbers with scale and offset, also holds no data if any band has the nodata value. For other whole numbers,
        all bands must have the nodata value, because a single 0 or 255 may be part of a colour. If there are more than
        four bands, the first C are used. An alpha band is a channel only if the model takes all bands. Bands that are
        empty in the whole file are ignored in these rules. Values are compared with "no data" as stored; then scale and
        offset of the bands are applied.

        Args:
            channels: number of channels C of the model; None for all bands except alpha.
            fill: value of each channel for bands that are empty in the whole file, such as the mean of the training
                data; with NaN, the values of such a picture become float32. None for 0.
            missing_values: values that mean "no data", in addition to the nodata value of the file; see
                `has_missing_value`.

        Returns:
            H×W×C with 0 for pixels without data, and H×W booleans, False for pixels without data; None instead of the
            booleans if all pixels hold data.

        Raises:
            AtrousError: no conversion from the picture's bands to ``channels`` is defined.
        """
        values, missing, gaps = self.values, self.missing, self.masked
        is_float = values.dtype.kind == "f" or self.scaling is not None
        bands = [*range(values.shape[2])]
        channels = channels or self.channels
        if self.alpha is not None and channels != values.shape[2]:
            if self.alpha_hides:
                gaps = _either(gaps, values[:, :, self.alpha] == 0)
            values = np.delete(values, self.alpha, axis=2)
            missing = None if missing is None else np.delete(missing, self.alpha, axis=2)
            bands.remove(self.alpha)
        if channels < values.shape[2] and values.shape[2] > 4:
            values, bands = values[:, :, :channels], bands[:channels]
            missing = None if missing is None else missing[:, :, :channels]
        empty = [band for band in self.empty if band < values.shape[2]]
        if empty and len(empty) < values.shape[2]:
            values = values.copy()
            values[:, :, empty] = 0
            missing = None if missing is None else np.delete(missing, empty, axis=2)
        if missing is not None:
            gaps = _either(gaps, missing.any(axis=2) if is_float else missing.all(axis=2))
        if _representable(missing_values, values.dtype):  # photographs of 8 bits need no comparison
            with_data = np.delete(values, empty, axis=2) if len(empty) < values.shape[2] and empty else values
            gaps = _either(gaps, has_missing_value(with_data, missing_values, is_float))
        if is_float:
            finite = np.isfinite(values)
            if not finite.all():
                gaps = _either(gaps, ~finite.all(axis=2))
                values = np.where(finite, values, np.float32(0))
        gaps = None if gaps is None or not gaps.any() else gaps
        if self.scaling is not None:
            values = self.scaling.choosing(bands).measured(values)
            values[:, :, empty] = 0
        if gaps is not None:
            values = np.where(gaps[:, :, None], values.dtype.type(0), values)
        values = np.ascontiguousarray(to_channels(values, channels))
        if empty and fill is not None and values.shape[2] == len(fill):
            filled = np.asarray(fill, np.float32)[empty]
            if np.isnan(filled).any():
                values = values.astype(np.float32)
            elif not is_float:
                filled = np.rint(filled).clip(0, np.iinfo(values.dtype).max)
            values[:, :, empty] = filled
        return values, None if gaps is None else ~gaps


def _either(first: np.ndarray | None, second: Any) -> np.ndarray:
    return np.asarray(second if first is None else first | second)


def fill_missing(image: np.ndarray, valid: np.ndarray | None, mean: Sequence[float]) -> np.ndarray:
    """Replaces pixels without data by the mean of the training data; normalisation turns this mean into 0.

    Args:
        image: H×W×C, with values in the range of the training pictures.
        valid: H×W booleans, False for pixels without data; None if all pixels hold data.
        mean: mean of each of the C channels, in the same range.

    Returns:
        H×W×C of the same dtype; the image itself if no pixel is missing.
    """
    if valid is None or valid.all():
        return image
    fill = np.asarray(mean) if image.dtype.kind == "f" else np.clip(mean, 0, np.iinfo(image.dtype).max)
    return np.where(valid[:, :, None], image, fill.astype(image.dtype))


def has_missing_value(values: np.ndarray, missing: Sequence[float], one_is_enough: bool | None = None) -> np.ndarray:
    """Finds the pixels with given "no data" values.

    Args:
        values: H×W×C.
        missing: the values. Values that the type of ``values`` cannot represent do not occur.
        one_is_enough: True if a pixel has no data as soon as one of its channels has such a value; False if all
            channels must have such a value. None means True for floats and False for whole numbers.

    Returns:
        H×W booleans, True for pixels without data.
    """
    one_is_enough = values.dtype.kind == "f" if one_is_enough is None else one_is_enough
    gaps = np.isin(values, np.asarray(_representable(missing, values.dtype), values.dtype))
    return np.asarray(gaps.any(axis=2) if one_is_enough else gaps.all(axis=2))


def _representable(values: Sequence[float], dtype: np.dtype) -> list[float]:
    """Returns the values that a type of numbers can represent."""
    if dtype.kind == "f":
        return list(values)
    limits = np.iinfo(dtype)
    return [int(one) for one in values if limits.min <= one <= limits.max and float(one).is_integer()]


def nodata_values(stored: np.ndarray, nodata: Sequence[Any], alpha: int | None) -> np.ndarray | None:
    """Returns H×W×C booleans, True for the nodata value of the band, never in the alpha band; None if there are none.

    Args:
        stored: H×W×C stored values.
        nodata: nodata value of each band; None for a band without one.
        alpha: index of the alpha band, or None.
    """
    same = len({*map(repr, nodata)}) == 1  # one comparison of all bands is faster
    if same and nodata[0] is None:
        return None
    missing = np.zeros(stored.shape, bool)
    for place, value in [(slice(None), nodata[0])] if same else enumerate(nodata):
        if value is not None:
            missing[..., place] = np.isnan(stored[..., place]) if value != value else stored[..., place] == value
    if alpha is not None:
        missing[..., alpha] = False
    return missing if missing.any() else None


def without(values: np.ndarray, valid: np.ndarray | None, missing: Sequence[float]) -> np.ndarray | None:
    """Excludes pixels with given "no data" values from the pixels that hold data.

    Args:
        values: H×W×C.
        valid: H×W booleans, True for pixels that hold data; None if all pixels hold data.
        missing: the values that mean "no data", as in `has_missing_value`.

    Returns:
        H×W booleans, True for pixels that hold data; ``valid`` itself if no pixel is excluded.
    """
    gaps = has_missing_value(values, missing)
    if not gaps.any():
        return valid
    return np.asarray(~gaps if valid is None else valid & ~gaps)


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Converts an image to the number of channels of a model.

    Args:
        image: H×W×C of any dtype, C ≥ 1.
        channels: number of channels of the result. Defined conversions are grey ↔ RGB, and RGBA → RGB or grey.

    Returns:
        H×W×``channels`` of the same dtype; grey is repeated, RGB becomes its luminance, alpha is dropped.

    Raises:
        AtrousError: no conversion from C to ``channels`` is defined.
    """
    given = image.shape[2]
    if given == channels:
        return image
    if given == 4 and channels in (1, 3):
        return to_channels(image[:, :, :3], channels)
    if given == 1 and channels == 3:
        return np.repeat(image, 3, axis=2)
    if given == 3 and channels == 1:
        luminance = image.astype(np.float32) @ _LUMINANCE
        if image.dtype.kind != "f":
            luminance = np.rint(luminance)
        return luminance.astype(image.dtype)[:, :, None]
    raise AtrousError(
        f"the image has {given} channels, but {channels} are needed. Only conversions 1 → 3, 3 → 1, 4 → 3 and 4 → 1 "
        f"are defined; train a model with in_channels={given}, or convert the images."
    )


def to_depth(image: np.ndarray, dtype: str, give_range: str = GIVE_RANGE) -> np.ndarray:
    """Converts a picture to the data type that a model was trained on.

    Between ``uint8`` and ``uint16``, values are rescaled. Values that are converted to ``float32`` are not rescaled.

    Args:
        image: H×W×C of uint8, uint16 or float32.
        dtype: data type of the training pictures: uint8, uint16 or float32.
        give_range: how to give a range of values, for the error message, with {0} and {1} for its two numbers.

    Raises:
        AtrousError: the picture is float32 and the model takes integers, so the range of the values is unknown.
    """
    given = image.dtype.name
    if given == dtype:
        return image
    if dtype == "float32":
        return image.astype(np.float32)
    factors = {("uint16", "uint8"): 1 / 257, ("uint8", "uint16"): 257.0}
    if (given, dtype) not in factors:
        raise AtrousError(
            f"this model was trained on {dtype} pictures, 0–{np.iinfo(dtype).max}, and the picture is {given} (as are "
            f"files whose bands declare a scale): convert the picture to that range and to {dtype}, or give the "
            f"values of black and white: {give_range.format('LOW', 'HIGH')}."
        )
    return (image.astype(np.float32) * factors[given, dtype]).round().astype(dtype)


def gives_channels(channels: int, bands: int, wanted: int) -> bool:
    """Returns whether `StoredPixels.for_model` can convert a picture to the channels of a model.

    Args:
        channels: number of the picture's bands without an alpha band.
        bands: number of the picture's bands including an alpha band.
        wanted: number of channels C of the model, ≥ 1.
    """
    known = (1, 3), (3, 1), (4, 1), (4, 3)
    return wanted in (channels, bands) or (channels, wanted) in known or 4 < channels > wanted


def as_picture_dtype(stored: np.ndarray, name: object, present: np.ndarray | None = None) -> np.ndarray:
    """Converts values to ``uint8``, ``uint16`` or ``float32``; the new type depends only on the old type.

    Args:
        stored: H×W×C of any integer or float type.
        name: name of the file, for the error message.
        present: H×W×C booleans, True for values that must stay exact in the new type; None for all values.

    Returns:
        ``uint8`` and ``uint16`` as given, ``float32`` for all other types; ``float64`` is rounded.

    Raises:
        AtrousError: ``float32`` cannot represent an integer, a float is too large, or the numbers are complex.
    """
    if stored.dtype.newbyteorder("=") in (np.uint8, np.uint16, np.float32):
        return stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if stored.dtype.kind not in "iuf":
        raise AtrousError(f"{name}: holds {stored.dtype} values; store magnitudes as uint8, uint16 or float32.")
    with np.errstate(over="ignore"):
        converted = stored.astype(np.float32)
    if stored.dtype.kind == "f":
        lost = np.isinf(converted) & np.isfinite(stored)
        reason = "numbers too large for float32"
    elif stored.dtype.itemsize <= 2:
        return converted
    else:
        # float64 is exact up to 2⁵³; a larger integer is refused, because the comparison would round both sides.
        lost = converted.astype(np.float64) != stored.astype(np.float64)
        lost |= (stored > 2**53) | (stored < -(2**53) if stored.dtype.kind == "i" else False)
        reason = "integers beyond ±2²⁴, which float32 cannot represent exactly"
    if (lost if present is None else lost & present).any():
        raise AtrousError(f"{name}: holds {reason}; scale them down or store floats.")
    return converted
