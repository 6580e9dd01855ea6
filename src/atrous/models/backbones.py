"""Backbones at output stride 8, 16 or 32 with the same weights: timm's networks, VGG-16 and Google's MobileNetV2.

A stride that is reduced to 1 makes the features denser. The later convolutions are then dilated, so that their weights
still cover the same positions of the picture. Two dilation rules exist for the block whose stride is reduced to 1:

- *previous* (timm, torchvision's ResNets, mmsegmentation, TensorFlow): the block keeps the rate of the stage before.
  Then every second feature at output stride 16, and every fourth feature at 8, equals a feature at 32; docs/models.md
  lists exceptions.
- *full* (Caffe, detectron2, segmentation-models-pytorch's own encoders): the whole stage has the new rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

import timm
import torch
from timm.layers import Conv2dSame
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from atrous.errors import AtrousError, unknown_name
from atrous.models import mobilenet_v2
from atrous.models.backbone_features import Features
from atrous.models.foreign_quirks import ForeignQuirks
from atrous.models.layers import Norm, multiply_rate, set_norm, set_rate
from atrous.models.meta_device import meta_copy, on_meta_device
from atrous.models.output_stride_check import check_last_feature_map
from atrous.models.paper_arguments import DILATION_RULES, check_channels, check_output_stride
from atrous.models.tensorflow_same_padding import SameConv2d
from atrous.models.vgg import VGG16, vgg16


def create_backbone(name: str, arguments: Mapping[str, Any] | None = None, **common: Any) -> Backbone | VGG16:
    """Creates a backbone by name.

    Args:
        name: a timm network that supports an output stride, "vgg16", or "google_mobilenetv2_100" (or another width).
        arguments: further arguments of `Backbone`, by name; None for no further arguments.
        common: the arguments in_channels, output_stride, dilation_rule and multi_grid of `Backbone`.

    Raises:
        AtrousError: the name or an argument is unknown, or the network cannot have this output stride.
    """
    if common["dilation_rule"] not in DILATION_RULES:
        raise unknown_name("dilation rule", common["dilation_rule"], DILATION_RULES)
    make = vgg16 if name == "vgg16" else Backbone
    given = {} if make is vgg16 else {"name": name}
    try:
        return make(**given, **common, **dict(arguments or {}))
    except TypeError as error:
        raise AtrousError(f"backbone '{name}' cannot be built from backbone_arguments {arguments}: {error}.") from error


#: Arguments of timm that a model's record must not set: they open connections or files, or this package sets them.
RESERVED = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "features_only",
    "out_indices",
    "in_chans",
)

#: Errors that timm's networks raise for invalid arguments.
TIMM_ERRORS = (
    TypeError,
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    ZeroDivisionError,
)

#: Families of networks made of depthwise-separable convolutions. Over such a backbone, the ASPP and the decoder are
#: separable by default, too (arXiv:1802.02611 §4.3).
SEPARABLE_FAMILIES = ("mobilenet", "efficientnet", "xception", "mnasnet", "mixnet", "fbnet", "ghostnet")


def is_separable_family(name: str) -> bool:
    """Returns whether a backbone is made of separable convolutions, judged by its name."""
    return any(family in name for family in SEPARABLE_FAMILIES)


class Backbone(nn.Module):
    """A timm network that returns the three feature maps of `Features`.

    Attributes:
        low_channels: C of the low-level features, at stride 4.
        middle_channels: C of the features before the last stage.
        high_channels: C of the last features, at the output stride.
        mean: channel means of the normalisation that the pretrained weights need, for pictures in 0–1.
        std: channel standard deviations of this normalisation.

    Args:
        name: a timm model that returns feature maps and supports an output stride, or Google's MobileNetV2.
        in_channels: number of channels of the pictures, ≥ 1.
        output_stride: ratio of the picture's side to the side of the last feature map: 8, 16 or 32.
        dilation_rule: "previous" or "full", see the module's docstring.
        multi_grid: for ResNets, factors on the last stage's rate, one for each of its blocks (arXiv:1706.05587
            §3.2.1). Factors of 1, or None, leave the rates to the dilation rule.
        norm: (eps > 0, momentum 0–1) of every batch norm; None leaves them unchanged.
        others: fields of `foreign_quirks.ForeignQuirks`, and arguments of `timm.create_model`. Only plain values are
            allowed, and no name in `RESERVED`.

    Raises:
        AtrousError: the name is unknown, an argument is not allowed, or the network has no feature map at stride 4 or
            does not support the output stride.
    """

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        output_stride: int = 16,
        dilation_rule: str = "previous",
        multi_grid: Sequence[float] | None = None,
        norm: Norm | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        check_channels(in_channels)
        _check_others(others)
        self.name = name
        self.in_channels = in_channels
        self.dilation_rule = dilation_rule
        self.multi_grid = _or_none(multi_grid)
        known = {field.name for field in fields(ForeignQuirks)} & others.keys()
        self.peculiarities = ForeignQuirks(**{name: others.pop(name) for name in known})
        self.out_indices = _indices(name)
        self._arguments = {"in_chans": in_channels, "out_indices": self.out_indices, **others}
        # Built at stride 32, the network's own geometry; `set_output_stride` then reduces strides.
        self.net = _features(name, 32, **self._arguments)
        convolutions = (item for item in self.net.named_modules() if isinstance(item[1], nn.Conv2d))
        self._strides = {path: convolution.stride[0] for path, convolution in convolutions}
        for path, module in list(self.net.named_modules()):
            if isinstance(module, Conv2dSame) and isinstance(module, nn.Conv2d):
                _replace(self.net, path, SameConv2d.of(module))
        if norm is not None:
            set_norm(self.net, norm)
        self.low_channels, self.middle_channels, self.high_channels = self.net.feature_info.channels()
        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
        self.mean, self.std = (config.mean, config.std) if config else ((0.5,) * 3, (0.5,) * 3)
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Changes strides and dilations in place; the weights stay the same.

        Args:
            output_stride: 8, 16 or 32.

        Raises:
            AtrousError: the output stride is not 8, 16 or 32, or this backbone does not support it.
        """
        check_output_stride(output_stride)
        self._set_geometry(output_stride)
        settings = (self.name, output_stride, self.dilation_rule, self.multi_grid, self.peculiarities, self._arguments)
        check_last_feature_map(self.net, self.name, self.in_channels, output_stride, repr(settings))

    def _set_geometry(self, output_stride: int) -> None:
        self._take_geometry(output_stride)
        if self.multi_grid is not None:
            self._apply_multi_grid(self.multi_grid, 32 // output_stride)
        self.peculiarities.apply(self.net, output_stride)
        self.output_stride = output_stride

    def _take_geometry(self, output_stride: int) -> None:
        """Sets strides, rates and paddings by the dilation rule.

        Their values are copied from a second network that timm builds on the meta device, so timm's own code computes
        the rule *previous*. For *full*, the rate of a convolution is then multiplied by the stride that was removed
        from it.
        """
        with on_meta_device():
            twin = dict(_features(self.name, output_stride, **self._arguments).named_modules())
        for path, module in list(self.net.named_modules()):
            template = twin.get(path)
            if template is None or (_has_no_state(template) and not _has_no_state(module)):
                _take_stride_away(self.net, path, module)
            elif isinstance(template, nn.Conv2d) and isinstance(module, nn.Conv2d):
                before = self._strides[path]
                module.stride, module.dilation = template.stride, template.dilation
                if isinstance(module, SameConv2d):
                    module.base_stride = before
                else:
                    # timm uses SAME padding for ConvNeXt's even kernels if their stride becomes 1.
                    module.padding = "same" if isinstance(template, Conv2dSame) else template.padding
                if self.dilation_rule == "full":
                    multiply_rate(module, before // module.stride[0])
            elif _has_no_state(template) and repr(template) != repr(module):
                _replace(self.net, path, template)  # pools of a shortcut become identities, or identities become pools

    def set_multi_grid(self, multi_grid: Sequence[float] | None) -> None:
        """Changes the multi-grid in place; the weights stay the same."""
        self.multi_grid = _or_none(multi_grid)
        self._set_geometry(self.output_stride)

    def _apply_multi_grid(self, multi_grid: Sequence[float], rate: int) -> None:
        """Sets the rate of each block of a ResNet's last stage to its factor times the stage's rate.

        Both dilation rules get the same rates. For the factors (1, 2, 4), the rates are 2·(1, 2, 4) at output stride 16
        and 4·(1, 2, 4) at 8, as in the paper. Then every second feature at 8 equals a feature at 16.
        """
        blocks = plain_blocks(self.net)
        if not blocks:
            raise AtrousError(
                f"multi_grid is for ResNets, whose last stage has blocks of plain 3×3 convolutions; '{self.name}' is "
                "not such a ResNet. Leave multi_grid out, or choose a ResNet or ResNeXt."
            )
        if len(blocks) != len(multi_grid):
            raise AtrousError(
                f"multi_grid needs one factor for each of the {len(blocks)} blocks of {self.name}'s last stage, "
                f"got {tuple(multi_grid)}."
            )
        for block, factor in zip(blocks, multi_grid, strict=True):
            set_rate(block, max(1, round(rate * factor)))

    def forward(self, images: Tensor) -> Features:
        """Returns the features at stride 4, of the stage before the last, and at the output stride.

        Args:
            images: N×C×H×W, normalised.

        Raises:
            AtrousError: the pictures are too small for this backbone; the message names the minimum.
        """
        if not torch.compiler.is_compiling() and min(images.shape[-2:]) < 32:
            return self._small(images)
        return Features(*self.net(images))

    def _small(self, images: Tensor) -> Features:
        """Runs the network on small pictures; if it fails because of their size, the error names the smallest size."""
        try:
            return Features(*self.net(images))
        except RuntimeError as error:
            minimum = self._minimum_side()
            if min(images.shape[-2:]) >= minimum:
                raise
            height, width = images.shape[-2:]
            raise AtrousError(
                f"backbone '{self.name}' takes pictures of at least {minimum}×{minimum} px, got {height}×{width}. "
                "Enlarge them, or choose a ResNet, MobileNet or EfficientNet, which accept any size."
            ) from error

    def _minimum_side(self) -> int:
        twin = meta_copy(self.net)
        for side in range(1, 65):
            try:
                twin(torch.empty(1, self.in_channels, side, side, device="meta"))
            except RuntimeError:
                continue
            return side
        return 64


def _check_others(others: Mapping[str, Any]) -> None:
    """Raises an `AtrousError` for arguments by which a model file could access the internet or the disk."""
    for name, value in others.items():
        if name in RESERVED:
            raise AtrousError(
                f"backbone_arguments cannot have '{name}': atrous sets it. Use the model's pretrained, in_channels and "
                "output_stride, or convert the weights of a file: atrous convert FILE."
            )
        if not _is_plain(value):
            raise AtrousError(
                f"backbone_arguments['{name}'] is of type {type(value).__name__}; give a number, text, None, or a list "
                "or dict of these, which a model file can store."
            )


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _indices(name: str) -> tuple[int, int, int]:
    """Returns the indices of the last feature map at stride 4, of the last map but one, and of the last map."""
    if "/" in name or "\\" in name:  # a file, a folder, or an address on a model hub
        raise AtrousError(
            f"backbone must be the name of a network, such as resnet50, got '{name[:200]}'. For "
            "weights of a file or a folder use atrous.convert(path, num_classes=…) (`atrous convert PATH --out "
            "model.safetensors`, then --init)."
        )
    if not timm.is_model(name) and not name.startswith(mobilenet_v2.PREFIX):
        raise unknown_name("backbone", name, [*timm.list_models(), "vgg16", f"{mobilenet_v2.PREFIX}100"])
    reductions = _reductions(name)
    return len(reductions) - 1 - reductions[::-1].index(4), len(reductions) - 2, len(reductions) - 1


@lru_cache(maxsize=256)
def _reductions(name: str) -> tuple[int, ...]:
    """Returns the strides of the feature maps of a network; one of them is 4."""
    with on_meta_device():
        probe = _features(name, output_stride=16)
    reductions = tuple(probe.feature_info.reduction())
    if 4 not in reductions or getattr(probe, "output_fmt", "NCHW") != "NCHW":
        raise AtrousError(
            f"backbone '{name}' has no N×C×H×W feature map at stride 4, which the decoder needs. Use another backbone."
        )
    return reductions


def _features(name: str, output_stride: int, **arguments: Any) -> Any:
    """Builds a network that returns feature maps; every error of timm becomes an `AtrousError`."""
    if name.startswith(mobilenet_v2.PREFIX):
        return mobilenet_v2.google_mobilenetv2(name, output_stride=output_stride, **arguments)
    try:
        return timm.create_model(name, features_only=True, output_stride=output_stride, **arguments)
    except TIMM_ERRORS as error:
        further = {key: value for key, value in arguments.items() if key not in RESERVED}
        if further and _exists(name, output_stride):
            raise AtrousError(
                f"backbone '{name}' cannot be built from backbone_arguments {further}: {type(error).__name__}: {error}."
            ) from error
        raise AtrousError(
            f"backbone '{name}' cannot have output stride {output_stride} in timm, so it cannot be made atrous. Use a "
            "ResNet, MobileNet, EfficientNet, RegNet or Xception, such as resnet50, mobilenetv2_100, "
            "tf_efficientnet_lite0 or xception65."
        ) from error


def _exists(name: str, output_stride: int) -> bool:
    """Returns whether timm builds the network without further arguments; if so, these arguments caused the error."""
    try:
        with on_meta_device():
            timm.create_model(name, features_only=True, output_stride=output_stride)
    except TIMM_ERRORS:
        return False
    return True


def plain_blocks(net: nn.Module) -> list[nn.Module]:
    """Returns the blocks of a ResNet's last stage if their 3×3 convolutions are plain; [] for other networks.

    A multi-grid has one factor per block. So it does not fit Res2Nets, whose blocks have several 3×3 convolutions in a
    row, and selective kernel networks, whose blocks have two convolutions of different rates.
    """
    blocks: list[Any] = list(getattr(net, "layer4", ()))
    plain = all(type(block) in (BasicBlock, Bottleneck) and isinstance(block.conv2, nn.Conv2d) for block in blocks)
    return blocks if plain else []


def _or_none(multi_grid: Sequence[float] | None) -> Sequence[float] | None:
    """Returns None for a multi-grid of factors 1, of any length."""
    return None if multi_grid is None or set(multi_grid) == {1} else multi_grid


def _take_stride_away(root: nn.Module, path: str, module: nn.Module) -> None:
    """Removes the stride of a layer; timm omits such layers at stride 1, as in Xception-71's third shortcut."""
    if isinstance(module, nn.Conv2d):
        module.stride = (1, 1)
    elif isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
        _replace(root, path, nn.Identity())


def _has_no_state(module: nn.Module) -> bool:
    return not list(module.children()) and not module.state_dict()


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)
