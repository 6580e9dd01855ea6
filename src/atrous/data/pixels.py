"""The pixels of one picture and which of them hold data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atrous.errors import AtrousError

_MANY_VALUES = 16  # different values between zero and full, from which an alpha band may be a channel
#: How a range is given on the command line and in Python, of two numbers.
GIVE_RANGE = "--range {0},{1} (in Python Segmenter(range=({0}, {1})))"
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, what Pillow's "L" uses


@dataclass(frozen=True)
class PictureKind:
    """What a picture's header says.

    Attributes:
        channels: number of bands that are no alpha.
        dtype: "uint8", "uint16" or "float32".
        bands: number of bands, with an alpha band.
        pages: number of pages or frames in the file.
        stacks: whether its pages can be read as channels, as those of a TIFF.
        white_is_zero: whether the file says that 0 is white; None where it says neither.
        may_lack_data: whether some pixels may hold no data: by nodata, alpha, a mask, NaN.
    """

    channels: int
    dtype: str
    bands: int
    pages: int = 1
    stacks: bool = False
    white_is_zero: bool | None = None
    may_lack_data: bool = True


@dataclass(frozen=True, eq=False)
class StoredPixels:
    """A picture, or a window of one, with what its file says about missing data.

    Attributes:
        values: H×W×C ``uint8``, ``uint16`` or ``float32``, as the file stores them.
        alpha: index of the band that holds transparency, or None.
        missing: H×W×C booleans, True where a value is the file's nodata value; None where the file declares none.
        masked: H×W booleans, True where a mask in the file or beside it, or an alpha that is not in ``values``,
            hides the pixel; None for nowhere.
        alpha_hides: whether pixels of alpha 0 hold no data; not so where the file declares a nodata value, as in GDAL.
        pages: number of pages or frames in the file.
        stacks: whether its pages can be read as channels, as those of a TIFF.
    """

    values: np.ndarray
    alpha: int | None = None
    missing: np.ndarray | None = None
    masked: np.ndarray | None = None
    alpha_hides: bool = True
    pages: int = 1
    stacks: bool = False

    @property
    def channels(self) -> int:
        """Number of bands that are no alpha."""
        return self.values.shape[2] - (self.alpha is not None)

    @property
    def kind(self) -> PictureKind:
        """What its file's header says."""
        return PictureKind(self.channels, self.values.dtype.name, self.values.shape[2], self.pages, self.stacks)

    @property
    def alpha_may_be_a_channel(self) -> bool:
        """Whether the alpha band looks like a channel, such as near infrared, that GDAL marked as alpha.

        An alpha is full or zero nearly everywhere, or holds few values. A channel has many values between.
        """
        if self.alpha is None:
            return False
        alpha = self.values[:, :, self.alpha]
        full = 1 if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max
        shown = alpha[alpha != 0]
        between = shown[shown != full]
        return 2 * len(between) > len(shown) and len(np.unique(between[:: 1 + len(between) // 10**6])) >= _MANY_VALUES

    def window(self, window: tuple[int, int, int, int]) -> StoredPixels:
        """A part, given as (top, left, height, width) in pixels; not copied."""
        top, left, height, width = window
        at = slice(top, top + height), slice(left, left + width)
        missing, masked = (None if part is None else part[at] for part in (self.missing, self.masked))
        return StoredPixels(self.values[at], self.alpha, missing, masked, self.alpha_hides)

    def for_model(self, channels: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """The channels that a model takes, and where they hold data.

        A pixel holds no data where it is masked or transparent, where any band is NaN or infinite, and where any band
        of floats or all bands of whole numbers are nodata: a single 0 or 255 may be part of a colour. Of more than four
        bands the first are taken. An alpha band counts as a channel only where the model takes all bands.

        Args:
            channels: C that the model takes; None for all bands that are no alpha.

        Returns:
            H×W×C with 0 where there is no data, and H×W booleans, False where there is no data; None where all is data.

        Raises:
            AtrousError: there is no agreed way from the picture's bands to ``channels``.
        """
        values, missing, gaps = self.values, self.missing, self.masked
        channels = channels or self.channels
        if self.alpha is not None and channels != values.shape[2]:
            if self.alpha_hides:
                gaps = _either(gaps, values[:, :, self.alpha] == 0)
            values = np.delete(values, self.alpha, axis=2)
            missing = None if missing is None else np.delete(missing, self.alpha, axis=2)
        if channels < values.shape[2] and values.shape[2] > 4:
            values = values[:, :, :channels]
            missing = None if missing is None else missing[:, :, :channels]
        if missing is not None:
            gaps = _either(gaps, missing.any(axis=2) if values.dtype.kind == "f" else missing.all(axis=2))
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            if not finite.all():
                gaps = _either(gaps, ~finite.all(axis=2))
                values = np.where(finite, values, np.float32(0))
        if gaps is None or not gaps.any():
            return np.ascontiguousarray(to_channels(values, channels)), None
        values = np.where(gaps[:, :, None], values.dtype.type(0), values)
        return np.ascontiguousarray(to_channels(values, channels)), ~gaps


def _either(first: np.ndarray | None, second: Any) -> np.ndarray:
    return np.asarray(second if first is None else first | second)


def fill_missing(image: np.ndarray, valid: np.ndarray | None, mean: Sequence[float]) -> np.ndarray:
    """Replace the pixels without data by the training mean, which a network sees as 0.

    Args:
        image: H×W×C in the model's range.
        valid: H×W booleans, False where there is no data; None for data everywhere.
        mean: C values in the model's range.

    Returns:
        H×W×C of the same dtype; the image itself where nothing is missing.
    """
    if valid is None or valid.all():
        return image
    fill = np.asarray(mean)
    if image.dtype.kind != "f":
        fill = np.clip(fill, 0, np.iinfo(image.dtype).max)
    return np.where(valid[:, :, None], image, fill.astype(image.dtype))


def without(values: np.ndarray, valid: np.ndarray | None, missing: Sequence[float]) -> np.ndarray | None:
    """Where there are data, if some values mean that there are none.

    Args:
        values: H×W×C; a pixel has no data where any channel of floats, or all channels of whole numbers, are missing.
        valid: H×W booleans, or None.
        missing: the values.
    """
    gaps = np.isin(values, np.asarray(missing, np.float64).astype(values.dtype))
    gaps = gaps.any(axis=2) if values.dtype.kind == "f" else gaps.all(axis=2)
    if not gaps.any():
        return valid
    return np.asarray(~gaps if valid is None else valid & ~gaps)


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Give an image the number of channels a model takes.

    Args:
        image: H×W×C of any dtype, C ≥ 1.
        channels: wanted channels; grey ↔ RGB and RGBA → RGB or grey are known, other changes are not.

    Returns:
        H×W×``channels`` of the same dtype; grey is repeated, RGB becomes its luminance, alpha is dropped.

    Raises:
        AtrousError: there is no agreed way from C to ``channels``.
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
        f"the image has {given} channels and {channels} are wanted. Known ways are 1 → 3, 3 → 1, 4 → 3 and "
        f"4 → 1; train a model with in_channels={given}, or convert the images."
    )


def to_depth(image: np.ndarray, dtype: str, give_range: str = GIVE_RANGE) -> np.ndarray:
    """Rescales between 8 and 16 bits where a picture's type is not the model's; for a float model values stay.

    Args:
        image: H×W×C of uint8, uint16 or float32.
        dtype: of the model's pictures: uint8, uint16 or float32.
        give_range: how a range is given here, for the message.

    Raises:
        AtrousError: float32 for a model of integers: the range of its values is unknown.
    """
    given = image.dtype.name
    if given == dtype:
        return image
    if dtype == "float32":
        return image.astype(np.float32)
    factors = {("uint16", "uint8"): 1 / 257, ("uint8", "uint16"): 257.0}
    if (given, dtype) not in factors:
        raise AtrousError(
            f"this model was trained on {dtype} pictures, 0–{np.iinfo(dtype).max}, and the picture holds {given}: "
            f"scale it to that range and give it as {dtype}, or say which values are black and white: "
            f"{give_range.format('LOW', 'HIGH')}."
        )
    return (image.astype(np.float32) * factors[given, dtype]).round().astype(dtype)


def gives_channels(channels: int, bands: int, wanted: int) -> bool:
    """Whether `StoredPixels.for_model` has a way from a picture to the channels that a model takes.

    Args:
        channels: number of the picture's bands that are no alpha.
        bands: number of its bands, with an alpha band.
        wanted: C ≥ 1 that the model takes.
    """
    known = (1, 3), (3, 1), (4, 1), (4, 3)
    return wanted in (channels, bands) or (channels, wanted) in known or 4 < channels > wanted


def as_picture_dtype(stored: np.ndarray, name: object, present: np.ndarray | None = None) -> np.ndarray:
    """Convert to a type that a picture may have; the result's type depends on the given type only.

    Args:
        stored: H×W×C of any integer or float type.
        name: of the file, for the message.
        present: H×W×C booleans, False for values that need not be kept exactly; None for all.

    Returns:
        ``uint8`` and ``uint16`` as given, ``float32`` for all other types; ``float64`` is rounded.

    Raises:
        AtrousError: ``float32`` cannot keep an integer, a float is too large, or the numbers are complex.
    """
    if stored.dtype.newbyteorder("=") in (np.uint8, np.uint16, np.float32):
        return stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if stored.dtype.kind not in "iuf":
        raise AtrousError(f"{name}: holds {stored.dtype} values; give magnitudes as uint8, uint16 or float32.")
    with np.errstate(over="ignore"):
        converted = stored.astype(np.float32)
    if stored.dtype.kind == "f":
        lost = np.isinf(converted) & np.isfinite(stored)
        reason = "numbers too large for float32"
    elif stored.dtype.itemsize <= 2:
        return converted
    else:
        # float64 keeps integers up to 2⁵³; one beyond is refused rather than compared after rounding.
        lost = converted.astype(np.float64) != stored.astype(np.float64)
        lost |= (stored > 2**53) | (stored < -(2**53) if stored.dtype.kind == "i" else False)
        reason = "integers beyond ±2²⁴, which float32 cannot keep"
    if (lost if present is None else lost & present).any():
        raise AtrousError(f"{name}: holds {reason}; scale them down or store floats.")
    return converted
