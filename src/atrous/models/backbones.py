"""Any timm backbone at output stride 8, 16 or 32, on one set of weights.

timm dilates by the *previous* rule: the first block of a stage whose stride was removed keeps the rate of the stage
before. Then features at output stride 8 or 16, subsampled, equal those at 32.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.errors import AtrousError, unknown_name

OUTPUT_STRIDES = (8, 16, 32)


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding that exports at dynamic sizes and survives losing its stride.

    SAME pads what the stride leaves over, unevenly at even sizes. When `Backbone.set_output_stride` takes the stride
    away, the padding stays that of the strided convolution (`base_stride`), so the dense features, subsampled, equal
    the strided ones at every size. Differs: timm and TensorFlow switch to symmetric padding there, which shifts the
    features of pretrained weights by one pixel at even sizes.
    """

    base_stride: int  # the stride at output stride 32

    @classmethod
    def of(cls, conv: nn.Conv2d) -> SameConv2d:
        """The same convolution, weights shared, with this padding."""
        same = cls(
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            stride=(conv.stride[0], conv.stride[1]),
            dilation=(conv.dilation[0], conv.dilation[1]),
            groups=conv.groups,
            bias=conv.bias is not None,
            device="meta",
        )
        same.weight, same.bias = conv.weight, conv.bias
        same.base_stride = conv.stride[0]
        return same

    def _padding(self, size: int, dim: int) -> tuple[int, int]:
        """Pixels before and after one side, from the grid that the strided convolution would have seen."""
        kernel, rate, stride = self.kernel_size[dim], self.dilation[dim], self.base_stride
        if kernel < stride:
            return 0, 0
        grid = -(-size // rate)
        total = kernel - (grid - (-(-grid // stride) - 1) * stride)
        before = (total // 2) * rate
        after = total * rate - before if self.stride[dim] == stride else (kernel - 1) * rate - before
        return before, after

    def forward(self, input: Tensor) -> Tensor:
        """N×C×H×W → N×C'×ceil(H/stride)×ceil(W/stride)."""
        vertical, horizontal = self._padding(input.shape[-2], 0), self._padding(input.shape[-1], 1)
        padded = F.pad(input, (*horizontal, *vertical))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Backbone(nn.Module):
    """A timm network giving the two feature maps a DeepLab reads.

    Attributes:
        name: timm's name, without weights tag.
        low_channels: C of the low-level features, at stride 4 ("Conv2", arXiv:1802.02611 §3.1).
        high_channels: C of the last features, at the output stride.
        mean: what the pretrained weights expect, per channel, for pictures in 0–1.
        std: likewise.

    Args:
        name: any timm model that gives features and supports an output stride.
        in_channels: ≥ 1.
        output_stride: 8, 16 or 32: input side over the last features' side.

    Raises:
        AtrousError: unknown name, or a network without strided feature maps.
    """

    def __init__(self, name: str, *, in_channels: int = 3, output_stride: int = 16) -> None:
        super().__init__()
        if in_channels < 1:
            raise AtrousError(f"in_channels must be 1 or more, got {in_channels}.")
        self.name = name
        self.in_channels = in_channels
        self.out_indices = _low_and_high(name)
        self._arguments = {"in_chans": in_channels, "out_indices": self.out_indices}
        # Always built at stride 32, its true geometry; set_output_stride then takes strides away.
        self.net = _features(name, 32, **self._arguments)
        for path, module in list(self.net.named_modules()):
            if isinstance(module, Conv2dSame) and isinstance(module, nn.Conv2d):
                _replace(self.net, path, SameConv2d.of(module))
        self.low_channels, self.high_channels = self.net.feature_info.channels()
        config = timm.get_pretrained_cfg(name)
        self.mean, self.std = (config.mean, config.std) if config else ((0.5,) * 3, (0.5,) * 3)
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Changes strides and dilations in place; the weights stay.

        The geometry is read from a twin that timm builds on the meta device, so no rule of timm's is repeated here.

        Raises:
            AtrousError: a stride other than 8, 16, 32, or one this backbone cannot have.
        """
        if output_stride not in OUTPUT_STRIDES:
            raise AtrousError(f"output_stride must be 8, 16 or 32, got {output_stride}.")
        with torch.device("meta"):
            twin = _features(self.name, output_stride, **self._arguments)
        ours = dict(self.net.named_modules())
        for path, template in twin.named_modules():
            module = ours.get(path)
            if isinstance(template, nn.Conv2d) and isinstance(module, nn.Conv2d):
                module.stride, module.dilation = template.stride, template.dilation
                if not isinstance(module, SameConv2d):
                    # Where ConvNeXt's even kernels lose their stride, timm swaps in SAME padding.
                    module.padding = "same" if isinstance(template, Conv2dSame) else template.padding
            elif _has_no_state(template) and repr(template) != repr(module):
                _replace(self.net, path, template)  # pools of a shortcut become identities, and back
        self.output_stride = output_stride

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """N×C×H×W normalised → low-level features at stride 4, last features at the output stride.

        Raises:
            AtrousError: pictures smaller than this backbone can take; says its minimum.
        """
        if not torch.compiler.is_compiling() and min(images.shape[-2:]) < 32:
            return self._small(images)
        low, high = self.net(images)
        return low, high

    def _small(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As forward, but where the network fails for the size, says which size it needs."""
        try:
            low, high = self.net(images)
        except RuntimeError as error:
            minimum = self._minimum_side()
            if min(images.shape[-2:]) >= minimum:
                raise
            height, width = images.shape[-2:]
            raise AtrousError(
                f"backbone '{self.name}' takes pictures of at least {minimum}×{minimum} px, got {height}×{width}. "
                "Enlarge them, or choose a ResNet, MobileNet or EfficientNet, which take any size."
            ) from error
        return low, high

    def _minimum_side(self) -> int:
        with torch.device("meta"):
            twin = _features(self.name, self.output_stride, **self._arguments).eval()
            for side in range(1, 65):
                try:
                    twin(torch.empty(1, self.in_channels, side, side))
                except RuntimeError:
                    continue
                return side
        return 64


def _low_and_high(name: str) -> tuple[int, int]:
    """Indices of the last feature map at stride 4 and of the last one."""
    if not timm.is_model(name):
        raise unknown_name("backbone", name, timm.list_models())
    with torch.device("meta"):
        probe = _features(name, output_stride=16)
    reductions = probe.feature_info.reduction()
    if 4 not in reductions or getattr(probe, "output_fmt", "NCHW") != "NCHW":
        raise AtrousError(f"backbone '{name}' gives no features at stride 4, which the decoder needs.")
    return len(reductions) - 1 - reductions[::-1].index(4), len(reductions) - 1


def _features(name: str, output_stride: int, **arguments: Any) -> Any:
    """A timm network giving feature maps; what timm refuses in many ways is refused here in one."""
    try:
        return timm.create_model(name, features_only=True, output_stride=output_stride, **arguments)
    except (
        TypeError,
        AssertionError,
        AttributeError,
        RuntimeError,
        ValueError,
        NotImplementedError,
    ) as error:
        raise AtrousError(
            f"backbone '{name}' cannot have output stride {output_stride} in timm, so it cannot be made atrous. Use a "
            "ResNet, MobileNet, EfficientNet, RegNet or Xception, such as resnet50, mobilenetv2_100, "
            "tf_efficientnet_lite0 or xception65."
        ) from error


def _has_no_state(module: nn.Module) -> bool:
    return not list(module.children()) and not module.state_dict()


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)
