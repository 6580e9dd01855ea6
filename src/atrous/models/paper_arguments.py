"""The constructor arguments that the four paper classes share, and the checks of their values.

`DeepLabV1`, `DeepLabV2`, `DeepLabV3` and `DeepLabV3Plus` take these arguments. The docstring of each class gives the
defaults that depend on the paper.

- `backbone`: name of the backbone: "vgg16", "google_mobilenetv2_100" (or another width), or a timm network that
  supports the output stride; see `models.backbones`.
- `num_classes`: number of outputs K, 1–255; default 21. 1 means one logit, which separates two classes at
  probability 0.5.
- `output_stride`: ratio of the picture's side to the side of the last feature map: 8, 16 or 32.
- `in_channels`: number of channels C of the pictures, 1 or more; default 3.
- `dilation_rule`: rule for the atrous rate of the block that loses its stride: "previous" (default) or "full"; see
  `models.backbones`.
- `auxiliary`: whether training uses an auxiliary head, which classifies the features of the stage before the last;
  default False.
- `dropout`: dropout probability in the head, 0–1.
- `frozen_norm`: whether all batch norms keep their running statistics in training; their scales and shifts remain
  trainable. Default False.
- `norm`: (eps > 0, momentum 0–1) of the batch norms of all heads, the auxiliary head included, in PyTorch's sense of
  momentum; default (1e-5, 0.1). It does not change the batch norms of the backbone.
- `align_corners`: convention of every bilinear resize, as in `torch.nn.functional.interpolate`; default False.
  TensorFlow's DeepLab and segmentation-models-pytorch use True.
- `backbone_arguments`: further arguments of `models.backbones.Backbone`, by name; default None. "vgg16" takes none.

`DeepLabV3` and `DeepLabV3Plus` also take these arguments:

- `atrous_rates`: atrous rates of the ASPP at output stride 16, in feature pixels: whole or half numbers, 0.5 or more;
  default (6, 12, 18). The rates double at output stride 8 and halve at 32 (arXiv:1706.05587 §3.3). At each stride
  they are rounded down to whole numbers, 1 or more.
- `aspp_channels`: number of channels C of the ASPP, 1 or more; default 256, as in the papers.
- `aspp_conv`: whether one more 3×3 unit follows the projection of the ASPP, as in segmentation-models-pytorch; default
  False.
- `projection_kernel`: side of the kernel of the ASPP's projection, odd, 1–255; default 1, as in the papers;
  mmsegmentation uses 3.
- `separable`: whether the ASPP (in V3+ also the decoder) uses depthwise-separable convolutions. Default None: True for
  MobileNet, EfficientNet, Xception and similar backbones (`backbones.SEPARABLE_FAMILIES`), else False.
- `depthwise_norm`: whether batch norm and ReLU stand between the depthwise and the pointwise convolution, as in
  arXiv:1802.02611; default True.
- `multi_grid`: for ResNets, factors above 0 on the atrous rate of the last stage, one for each of its blocks
  (arXiv:1706.05587 §3.2.1).
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

from atrous.checked_arguments import checked_names
from atrous.errors import AtrousError, shown

OUTPUT_STRIDES = (8, 16, 32)
DILATION_RULES = ("previous", "full")

#: Smallest values allowed for arguments of the paper classes.
LEAST = {
    "aspp_channels": 1,
    "atrous_rate": 1,
    "cascade": 0,
    "decoder_convs": 1,
    "fov_channels": 0,
    "low_channels": 1,
    "projection_kernel": 1,
}
#: Largest values allowed; larger models would exceed any memory or take too long to build.
MOST = {"cascade": 64, "decoder_convs": 64, "projection_kernel": 255}
#: Largest number of channels; largest atrous rate and factor of a multi-grid.
MOST_CHANNELS = MOST_RATE = 2**20
#: Arguments whose value is True or False.
FLAGS = ("align_corners", "aspp_conv", "auxiliary", "depthwise_norm", "frozen_norm", "multi_scale", "separable")

#: Arguments that may be None even if their default is not None. With None, the model does not have this part.
LEFT_OUT = ("cascade", "multi_grid")

Given = ParamSpec("Given")


def checked_constructor(constructor: Callable[Given, None]) -> Callable[Given, None]:
    """Wraps the constructor of a paper class, so that every error in its arguments becomes an `AtrousError`.

    Args:
        constructor: `__init__` of the class; it takes keyword arguments only.
    """
    build: Any = checked_names(constructor)
    defaults = {name: one.default for name, one in inspect.signature(constructor).parameters.items()}

    @functools.wraps(constructor)
    def with_one_error(*args: Given.args, **kwargs: Given.kwargs) -> None:
        for name, value in kwargs.items():
            default = defaults.get(name)
            # Model files of earlier versions may contain None for a flag or for a part that is left out.
            if value is None and default is not None and not isinstance(default, bool) and name not in LEFT_OUT:
                raise AtrousError(f"{name} must not be None: leave it out for its default, {default!r}.")
        try:
            build(*args, **kwargs)
        except AtrousError:
            raise
        except Exception as error:  # layers raise errors of many types for invalid values
            title = constructor.__qualname__.removesuffix(".__init__")
            raise AtrousError(f"{title} cannot be built from {shown(dict(kwargs))}: {_said(error)}.") from error

    return with_one_error


def _said(error: Exception) -> str:
    """Returns the text of an error; its type if the text itself raises an error."""
    try:
        return str(error)
    except Exception:
        return type(error).__name__


def check_arguments(arguments: Mapping[str, Any], *, fewest_rates: int = 0, halves: bool = False, **least: int) -> None:
    """Checks the values of the arguments of a paper class.

    Args:
        arguments: values by argument name. `output_stride`, `dropout` and `norm` are required; other names may be
            absent.
        fewest_rates: smallest number of atrous rates allowed, ≥ 0.
        halves: whether atrous rates may be half numbers; they are whole at output stride 8.
        least: smallest values allowed, by argument name, in place of those in `LEAST`.

    Raises:
        AtrousError: a value is out of range; the message names the first one and its range.
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
    """Raises an `AtrousError` unless the output stride is 8, 16 or 32."""
    if not _is_whole(output_stride) or output_stride not in OUTPUT_STRIDES:
        raise AtrousError(f"output_stride must be 8, 16 or 32, got {shown(output_stride)}.")


def check_channels(in_channels: int) -> None:
    """Raises an `AtrousError` unless the number of channels is a whole number, 1 to 2^20."""
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
