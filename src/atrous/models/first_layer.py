"""Adapts the first layer of a pretrained network to bands: bands of a colour get the filters of this colour."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import nn

#: The lowest and the highest wavelength of red, of green and of blue, in nanometres.
COLORS_NM = ((620.0, 690.0), (520.0, 600.0), (440.0, 520.0))
_WORDS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (r"(?<!infra[ -])\bred\b(?![ -]?edge)", r"\bgreen\b", r"(?<!coastal )\bblue\b")
)
#: Band names of Sentinel-2, and one name that only Sentinel-2 has.
_SENTINEL_2 = (re.compile(r"B0?4"), re.compile(r"B0?3"), re.compile(r"B0?2"))
_ONLY_SENTINEL_2 = re.compile(r"B0?8A|B12")


def spread_over_bands(model: nn.Module, names: Sequence[str], wavelengths: Sequence[float]) -> bool:
    """Gives the pretrained filters of red, green and blue to the bands of these colours, and their mean to other bands.

    timm repeats the three filters over the bands in the order of the bands, so a filter of one colour may be applied to
    a band of another colour. Here, all filters are multiplied by 3/C, as in timm. If all C bands are equal, the
    output is then that of an RGB picture with three equal channels.

    Args:
        model: model with ImageNet weights, which timm adapted to C channels; changed in place.
        names: names of the C bands; () if unknown.
        wavelengths: wavelengths of the C bands in nanometres; () if unknown.

    Returns:
        Whether the filters were changed. They are not changed if the model has fewer than three channels, or if a
        colour is not found among the bands.
    """
    layer = first_layer(model)
    found = _color_bands(names, wavelengths)
    channels = layer.in_channels
    if found is None or channels < 3:
        return False
    with torch.no_grad():
        filters = layer.weight[:, :3] * (channels / 3)  # timm repeats the filters, and multiplies them by 3 / channels
        spread = filters.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1)
        spread[:, list(found)] = filters
        layer.weight.copy_(spread * (3 / channels))
    return True


def start_first_layer_at_random(model: nn.Module) -> None:
    """Draws the weights of the first layer at random, as for a new network.

    Args:
        model: any model; changed in place.
    """
    first_layer(model).reset_parameters()


def first_layer(model: nn.Module) -> nn.Conv2d:
    """Returns the convolution of a model's backbone that reads the picture.

    Args:
        model: any model.
    """
    return next(module for module in model.get_submodule("backbone").modules() if isinstance(module, nn.Conv2d))


def _color_bands(names: Sequence[str], wavelengths: Sequence[float]) -> tuple[int, int, int] | None:
    """Returns the indices of the red, the green and the blue band; None if one of them is not certain."""
    if wavelengths:
        near = [_nearest(wavelengths, low, high) for low, high in COLORS_NM]
        return None if None in near else (near[0], near[1], near[2])  # pyright: ignore[reportReturnType]
    patterns = _WORDS
    if any(_ONLY_SENTINEL_2.fullmatch(name) for name in names):
        patterns = _SENTINEL_2
    found = [
        [index for index, name in enumerate(names) if _matches(pattern, name, patterns is _SENTINEL_2)]
        for pattern in patterns
    ]
    return (found[0][0], found[1][0], found[2][0]) if all(len(one) == 1 for one in found) else None


def _matches(pattern: re.Pattern[str], name: str, whole: bool) -> bool:
    return bool(pattern.fullmatch(name) if whole else pattern.search(name.replace("_", " ")))


def _nearest(wavelengths: Sequence[float], low: float, high: float) -> int | None:
    """Returns the band nearest to the middle of a range; None if no band is in the range."""
    middle = (low + high) / 2
    best = min(range(len(wavelengths)), key=lambda index: abs(wavelengths[index] - middle))
    return best if low <= wavelengths[best] <= high else None
