"""Augmentation of a picture and its mask by the same map, as a pure function of (seed, epoch, index).

All geometric variations are combined in one affine matrix, so each array is interpolated once. Coordinates are
continuous: pixel i covers [i, i + 1) and its centre is i + 0.5. Scaling, rotation and mirroring therefore need no
half-pixel corrections.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import cv2
import numpy as np

from atrous.data.affine_warp import resample
from atrous.data.many_channels import by_channels
from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.errors import AtrousError
from atrous.input_spec import Input
from atrous.option_fields import setting, settings

# ITU-R BT.601: luma from red, green and blue, and the two chroma axes (I, Q). A hue shift is a rotation in their plane.
_LUMA = np.array([0.299, 0.587, 0.114])
_RGB_TO_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])

# A crop grows in steps of 16 pixels: one cell of the feature map at output stride 16, which is usual in the papers.
_GROWTH_STEP = 16

#: Largest number of channels whose means OpenCV computes in one call.
_CHANNELS_AT_ONCE = 4


@settings("augment")
@dataclass(frozen=True)
class Augment:
    """Augmentation of training pictures; 0 turns a variation off."""

    crop: tuple[int, int] | None = setting(
        None, "height and width in pixels of the result; each picture keeps its own size when not given", ge=1
    )
    first_crop: tuple[int, int] | None = setting(
        None,
        "height and width in pixels of the crop in the first epoch; it then grows to `crop` in steps of 16 pixels, so "
        "that the early epochs take less time. When not given, all epochs use `crop`",
        ge=1,
    )
    growth: int = setting(1, "number of epochs in which the crop grows from `first_crop` to `crop`", ge=1)
    scale: tuple[float, float] = setting(
        (0.5, 2.0), "smallest and largest scale factor; drawn uniformly, and 1 keeps the size", gt=0
    )
    flip: float = setting(
        0.5,
        "probability of mirroring left and right; sagittal slices of volumes show neither side and are not mirrored",
        ge=0,
        le=1,
    )
    vertical_flip: float = setting(0.0, "probability of mirroring top and bottom", ge=0, le=1)
    rotation: float = setting(0.0, "largest rotation angle, in both directions", ge=0, le=180, unit="degrees")
    translation: float = setting(
        0.0, "largest horizontal and vertical shift as a fraction of the crop, in both directions", ge=0, le=1
    )
    focus: float = setting(
        0.0,
        "probability that the crop is centred on a random pixel of a random class; all classes in the picture are "
        "equally probable, so crops contain rare classes more often",
        ge=0,
        le=1,
    )
    brightness: float = setting(
        0.0, "strength b of the brightness change; all values are multiplied by a factor from 1−b to 1+b", ge=0
    )
    contrast: float = setting(
        0.0,
        "strength c of the contrast change; the distance from the mean is multiplied by a factor from 1−c to 1+c",
        ge=0,
    )
    saturation: float = setting(
        0.0,
        "strength s of the saturation change; the distance from grey is multiplied by a factor from 1−s to 1+s; for 3 "
        "channels only",
        ge=0,
    )
    hue: float = setting(
        0.0,
        "largest hue shift in both directions, as a fraction of the full colour circle; for 3 channels only",
        ge=0,
        le=0.5,
    )
    blur: float = setting(0.0, "probability of a Gaussian blur", ge=0, le=1)
    blur_sigma: tuple[float, float] = setting(
        (0.1, 2.0), "smallest and largest standard deviation of the blur, in pixels of the original picture", gt=0
    )

    def __post_init__(self) -> None:
        if self.first_crop is not None and (
            self.crop is None or any(first > last for first, last in zip(self.first_crop, self.crop, strict=True))
        ):
            raise AtrousError(f"augment.first_crop {self.first_crop} must not be larger than augment.crop {self.crop}.")
        for name in ("scale", "blur_sigma"):
            smallest, largest = getattr(self, name)
            if smallest > largest:
                raise AtrousError(f"augment.{name} must be two numbers, the smallest first, got {[smallest, largest]}.")


class ColorChannels(NamedTuple):
    """The channels of an image that hold the colours of one photograph, or the slices of one contrast of a volume.

    Attributes:
        start: index of the first of these channels.
        channels: number of these channels: 1 or 3; of a contrast of a volume, the number of its slices.
        dtype: the type of the photograph; varied values are clipped to its range.
        contrasts: number of contrasts of the volume. It is also the distance between the indices of these channels. 0
            for a photograph, whose channels are neighbours.
    """

    start: int
    channels: int
    dtype: str
    contrasts: int = 0


class _Recolouring(NamedTuple):
    """The colour variation that was drawn at random for one picture; a sigma of None means no blur."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    sigma: float | None

    @property
    def varies(self) -> bool:
        """Whether the variation changes any value."""
        return self != (1, 1, 1, 0, None)


def color_channels(inputs: Sequence[Input]) -> tuple[ColorChannels, ...]:
    """Returns the channels whose colour is varied in training, in the concatenated inputs of a model.

    A contrast of a volume that is normalised by its own mean and deviation, such as MRI, is varied in all its slices.
    Its values have no unit, so other scans have another brightness and contrast. Each contrast is a separate group of
    channels, because the contrasts have different means. Contrasts of Hounsfield units are not varied.

    Args:
        inputs: the inputs of the model.
    """
    found: list[ColorChannels] = []
    starts = accumulate((one.channels for one in inputs), initial=0)
    for start, one in zip(starts, inputs, strict=False):
        contrasts = one.channels // one.slices
        own = one.standardised[:contrasts] if one.planes else ()
        if any(own):
            indices = np.flatnonzero(own).tolist()
            found += [ColorChannels(start + index, one.slices, one.dtype, contrasts) for index in indices]
        elif one.colors:
            found.append(ColorChannels(start, one.colors, one.dtype))
    return tuple(found)


def augment(
    image: np.ndarray,
    label: np.ndarray,
    config: Augment,
    *,
    seed: int,
    epoch: int,
    index: int,
    fill: float | Sequence[float] = 0.0,
    colors: Sequence[ColorChannels] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Augments a picture and its mask; both are moved by the same map.

    The result depends on the arguments alone: the same seed, epoch and index give the same variation in any
    process and in any order. No global random state is read or changed.

    Args:
        image: H×W×C, ``uint8``, ``uint16`` or ``float32``, any C ≥ 1. Not changed.
        label: H×W ``uint8`` of class indices, 255 = ignore. Not changed.
        config: the variations and their strength.
        seed: the run's seed, ≥ 0.
        epoch: the epoch, ≥ 0.
        index: the picture's number in its dataset, ≥ 0.
        fill: raw value outside the picture, one value or one per channel; the mask is 255 there.
        colors: the channels that hold colours of a photograph. Only the colour and the sharpness of these channels are
            varied. None for all channels.

    Returns:
        Image h×w×C of the given dtype and label h×w, where (h, w) is the epoch's crop or (H, W). The given arrays
        themselves are returned if nothing was varied.

    Raises:
        AtrousError: picture and mask differ in size, the dtype is not supported, or saturation or hue is
            set for a picture without 3 colour channels.
    """
    if colors is None:
        colors = (ColorChannels(0, image.shape[2], image.dtype.name),)
    _check(image, label, config, colors)
    rng = np.random.default_rng([seed, epoch, index])
    size = crop_at(config, epoch) or label.shape
    matrix = window(label, size, config, rng)
    # Colours are varied before the geometry, so that the fill value is not varied.
    return resample(recolour(image, config, rng, colors), label, matrix, size, fill)


def crop_at(config: Augment, epoch: int) -> tuple[int, int] | None:
    """Returns the crop's height and width in an epoch (counted from 0); None if pictures keep their own size."""
    if config.crop is None or config.first_crop is None or epoch >= config.growth:
        return config.crop
    return tuple(  # pyright: ignore[reportReturnType]
        min(last, first + round((last - first) * epoch / config.growth / _GROWTH_STEP) * _GROWTH_STEP)
        for first, last in zip(config.first_crop, config.crop, strict=True)
    )


def window(label: np.ndarray, size: tuple[int, ...], config: Augment, rng: np.random.Generator) -> np.ndarray:
    """Draws the position of a crop window at random, and returns the map from the window to the picture.

    The picture is scaled, and a window is placed on it. A window smaller than the scaled picture lies inside the
    picture; a larger window contains the picture. Without ``config.focus``, all possible positions have the same
    probability. Then the window is rotated and mirrored about its own centre, and shifted.

    Args:
        label: the picture's mask, H×W; only ``config.focus`` uses its classes.
        size: height and width of the window in pixels.
        config: the variations and their strength.
        rng: random number generator.

    Returns:
        3×3 matrix that maps a point (x, y, 1) of the window to a point of the picture.
    """
    picture, extent = np.array(label.shape[::-1]), np.array(size[::-1])  # (x, y) from here on
    # The scaled size and all offsets are whole pixels: a fraction would move the image, but not its mask.
    scaled = np.maximum(1, np.rint(picture * rng.uniform(*config.scale))).astype(int)
    slack = scaled - extent
    low, high = np.minimum(slack, 0), np.maximum(slack, 0)
    corner = rng.integers(low, high, endpoint=True)
    focused, which_class, which_pixel = rng.random(3)
    if focused < config.focus and (pixel := _pixel_of_a_class(label, which_class, which_pixel)) is not None:
        corner = np.clip(np.floor((pixel + 0.5) * scaled / picture - extent / 2).astype(int), low, high)
    shift = np.rint(rng.uniform(-1, 1, 2) * config.translation * extent)
    mirror = np.where(rng.random(2) < (config.flip, config.vertical_flip), -1.0, 1.0)
    angle = math.radians(config.rotation * rng.uniform(-1, 1))

    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * mirror
    linear = turn * (picture / scaled)[:, None]
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = (corner + extent / 2) * picture / scaled - linear @ (extent / 2 + shift)
    return matrix


def recolour(
    image: np.ndarray, config: Augment, rng: np.random.Generator, colors: Sequence[ColorChannels] | None = None
) -> np.ndarray:
    """Varies the brightness, contrast, saturation, hue and sharpness of the colour channels.

    All groups of colour channels get the same variation. The four colour variations are linear, so they are applied
    together as one matrix. Thus values are rounded and clipped to the range of the dtype only once before the blur. The
    hue is rotated about the grey axis, which does not change the luma.

    Args:
        image: H×W×C, ``uint8``, ``uint16`` or ``float32``; not changed.
        config: the variations and their strength.
        rng: random number generator.
        colors: the colour channels; None for all channels.

    Returns:
        H×W×C of the given dtype; the given array itself if nothing was varied.
    """
    drawn = _draw(config, rng)
    if colors is None or colors == (ColorChannels(0, image.shape[2], image.dtype.name),):
        return _recoloured(image, drawn, is_photograph=True)
    if not drawn.varies:
        return image
    image = image.copy()
    for start, channels, dtype, contrasts in colors:
        step = max(1, contrasts)
        own = slice(start, start + channels * step, step)
        values = np.ascontiguousarray(image[:, :, own]).astype(dtype)
        image[:, :, own] = _recoloured(values, drawn, is_photograph=not contrasts)
    return image


def _draw(config: Augment, rng: np.random.Generator) -> _Recolouring:
    brightness, contrast, saturation = np.maximum(
        0, 1 + rng.uniform(-1, 1, 3) * (config.brightness, config.contrast, config.saturation)
    )
    hue = rng.uniform(-1, 1) * config.hue
    blurred, sigma = rng.random() < config.blur, rng.uniform(*config.blur_sigma)
    return _Recolouring(brightness, contrast, saturation, hue, sigma if blurred else None)


def _recoloured(image: np.ndarray, drawn: _Recolouring, *, is_photograph: bool) -> np.ndarray:
    """Applies a drawn variation to an image whose channels are all colours, or all slices of one contrast."""
    brightness, contrast, saturation, hue, sigma = drawn
    gain, grey = brightness * contrast, 0.0
    if contrast != 1:
        is_rgb = is_photograph and image.shape[2] == 3
        weights = _LUMA if is_rgb else np.full(image.shape[2], 1 / image.shape[2])
        grey = (1 - contrast) * brightness * float(weights @ _channel_means(image))
    if saturation != 1 or hue != 0:
        colour = gain * _hue_and_saturation(2 * math.pi * hue, saturation)
        image = cv2.transform(image, np.column_stack([colour, np.full(3, grey)]))
    elif gain != 1 or grey != 0:
        flat = np.ascontiguousarray(image).reshape(len(image), -1)  # one gain for all channels
        image = cv2.transform(flat, np.array([[gain, grey]])).reshape(image.shape)
    if sigma is not None:
        image = by_channels(lambda part: cv2.GaussianBlur(part, (0, 0), sigma), image)
    return image


def _check(image: np.ndarray, label: np.ndarray, config: Augment, colors: Sequence[ColorChannels]) -> None:
    if image.ndim != 3 or image.dtype not in (np.uint8, np.uint16, np.float32):
        raise AtrousError(
            f"the image is {image.dtype} of shape {image.shape}; augmentation takes H×W×C of uint8, uint16 or float32."
        )
    if label.dtype != np.uint8 or label.shape != image.shape[:2]:
        raise AtrousError(
            f"the mask is {label.dtype} of shape {label.shape}; "
            f"this image needs a uint8 mask of shape {image.shape[:2]}."
        )
    counts = {group.channels for group in colors if not group.contrasts}
    if counts != {3} and (config.saturation or config.hue):
        found = " and ".join(map(str, sorted(counts))) or "none"
        raise AtrousError(
            f"saturation and hue need 3 colour channels, and this picture has {found}; "
            "set augment.saturation and augment.hue to 0."
        )


def _pixel_of_a_class(label: np.ndarray, which_class: float, which_pixel: float) -> np.ndarray | None:
    """Returns (x, y) of a pixel; numbers in [0, 1) choose its class and the pixel. None if all pixels are ignored."""
    present = np.flatnonzero(cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()[:IGNORE_INDEX])
    if not len(present):
        return None
    pixels = np.flatnonzero(label == present[int(which_class * len(present))])
    y, x = np.divmod(pixels[int(which_pixel * len(pixels))], label.shape[1])
    return np.array([x, y])


def _channel_means(image: np.ndarray) -> np.ndarray:
    if image.shape[2] <= _CHANNELS_AT_ONCE:
        return np.array(cv2.mean(image)[: image.shape[2]])
    return image.mean(axis=(0, 1), dtype=np.float64)


def _hue_and_saturation(angle: float, saturation: float) -> np.ndarray:
    """Returns the 3×3 RGB matrix that rotates chroma by an angle in radians and scales it; the luma is unchanged."""
    cosine, sine = saturation * math.cos(angle), saturation * math.sin(angle)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return np.linalg.solve(_RGB_TO_YIQ, turn @ _RGB_TO_YIQ)
