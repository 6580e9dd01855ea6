"""Checks that a backbone has the output stride that was set: some networks keep a stride or accept only one size."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from atrous.errors import AtrousError
from atrous.models.meta_device import meta_copy, on_meta_device

#: Side in pixels of the picture that tests the output stride. With this side, feature maps have odd sides at every
#: stride, and the picture is large enough for every kernel.
_PROBE_SIDE = 129

#: Settings of the backbones that were checked in this process.
_checked: set[str] = set()


def check_last_feature_map(net: nn.Module, name: str, in_channels: int, output_stride: int, settings: str) -> None:
    """Checks the size of the last feature map on the meta device; equal settings are checked once.

    Args:
        net: network that returns feature maps.
        name: name of the backbone, for messages.
        in_channels: number of channels of the pictures, ≥ 1.
        output_stride: output stride that the network should have.
        settings: text of all that the geometry of the network depends on.

    Raises:
        AtrousError: the network does not have the output stride.
    """
    if settings in _checked:
        return
    expected = -(-_PROBE_SIDE // output_stride)
    images = torch.empty(2, in_channels, _PROBE_SIDE, _PROBE_SIDE, device="meta")
    try:
        with warnings.catch_warnings(), torch.no_grad(), on_meta_device():
            warnings.simplefilter("ignore")  # the real forward pass gives these warnings too
            side: int = meta_copy(net)(images)[-1].shape[-1]
    except NotImplementedError:  # an operation is not implemented on the meta device
        side = expected
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise _wrong(name, output_stride, f"it fails ({type(error).__name__})") from None
    if abs(side - expected) > 1:
        found = f"its last feature map has {side}×{side} pixels, not {expected}×{expected}"
        raise _wrong(name, output_stride, found)
    _checked.add(settings)


def _wrong(name: str, output_stride: int, found: str) -> AtrousError:
    return AtrousError(
        f"backbone '{name}' cannot have output stride {output_stride}: for a picture of {_PROBE_SIDE}×{_PROBE_SIDE} px "
        f"{found}. Use a ResNet, MobileNet, EfficientNet, RegNet or Xception, such as resnet50 or mobilenetv2_100."
    )
