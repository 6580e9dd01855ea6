"""Reads our arguments from an mmsegmentation configuration, and refuses values that our models cannot have.

Source: mmseg/models/backbones/resnet.py, mmseg/models/decode_heads/decode_head.py and aspp_head.py,
mmseg/models/data_preprocessor.py; version 1.2.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from atrous.models import Preprocessing
from atrous.models.paper_arguments import OUTPUT_STRIDES
from atrous.weights.config_reader import MOST_RATE, Record
from atrous.weights.python_config_parser import normalisations, part

#: Types of backbones that are converted.
BACKBONES = ("ResNet", "ResNetV1c")
#: Strides of a ResNet's stages after the stem, without atrous convolution.
STRIDES = (1, 2, 2, 2)
#: Default threshold of a single output (decode_head.py).
THRESHOLD = 0.3
#: Default eps and momentum of PyTorch's batch norms.
NORM = (1e-5, 0.1)
#: Largest whole number accepted; far above the channels, classes and mask values of any network.
MOST = 2**31


def arguments(config: Mapping[str, Any], output_stride: int | None) -> dict[str, Any]:
    """Returns the arguments of our model that the configuration states.

    Args:
        config: configuration from `python_config_parser.read`.
        output_stride: the user's output stride, or None. It is used if the configuration states no strides. Our
            atrous_rates are given for output stride 16, and our multi_grid for 32, so the conversion of both depends on
            the output stride.

    Raises:
        AtrousError: a value has no counterpart in our models.
    """
    backbone, head = _parts(config)
    stated: dict[str, Any] = {}
    strides = _strides(backbone)
    if strides:
        stated["output_stride"] = 4 * math.prod(strides)
    stride = stated.get("output_stride", output_stride or 8)
    rates = head.wholes("dilations", 1, MOST_RATE)
    if rates:
        if rates[0] != 1:
            raise head.refused("dilations", "the first branch of our models has rate 1")
        named = [rate * stride / 16 for rate in rates[1:]]
        stated["atrous_rates"] = tuple(int(rate) if rate == int(rate) else rate for rate in named)
    grid = backbone.wholes("multi_grid", 1, MOST_RATE)
    if grid:
        stated["multi_grid"] = tuple(rate * stride / 32 for rate in grid)
    elif strides:
        stated["multi_grid"] = (1, 1, 1)
    if head.values:
        stated["align_corners"] = head.flag("align_corners")
    dropout = head.number("dropout_ratio", 0, 1)
    if dropout is not None:
        stated["dropout"] = dropout
    if not backbone.flag("contract_dilation") and "dilations" in backbone.values:
        stated["dilation_rule"] = "full"
    norm = _norm(head)
    return stated | ({"norm": norm} if norm != NORM else {})


def backbone_arguments(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the arguments of our backbone that the configuration states.

    Args:
        config: configuration from `python_config_parser.read`.
        name: timm's name of the backbone.

    Raises:
        AtrousError: a value has no counterpart in our models.
    """
    backbone, _ = _parts(config)
    stated: dict[str, Any] = {}
    style = backbone.text("style")
    if style not in (None, "pytorch", "caffe"):
        raise backbone.refused("style", "it must be pytorch or caffe")
    if style == "caffe" and name not in ("resnet18", "resnet34"):
        stated["stride_first"] = True
    norm = _norm(backbone)
    return stated | ({"norm": norm} if norm != NORM else {})


def check(config: Mapping[str, Any], name: str, num_classes: int, in_channels: int, branches: int) -> None:
    """Checks that the configuration agrees with the weights and has no value that our models cannot have.

    Args:
        config: configuration from `python_config_parser.read`.
        name: timm's name of the backbone in the weights.
        num_classes: number of the classifier's outputs.
        in_channels: number of channels of the pictures.
        branches: number of branches of the ASPP, without image pooling.

    Raises:
        AtrousError: a value differs or is unsupported; the message names it.
    """
    backbone, head = _parts(config)
    outputs = head.whole("out_channels", 1, MOST) or (None if num_classes == 1 else head.whole("num_classes", 1, MOST))
    found = (
        (backbone, "depth", backbone.whole("depth", 1, MOST), int(name.removeprefix("resnet"))),
        (backbone, "in_channels", backbone.whole("in_channels", 1, MOST), in_channels),
        (head, "num_classes", outputs, num_classes),
        (head, "dilations", len(head.wholes("dilations", 1, MOST_RATE)) or None, branches),
    )
    for record, key, given, weights in found:
        if given is not None and given != weights:
            raise record.refused(key, f"the weights have {weights}", given)
    ignored(config)
    reduces_zero(config)
    kind = backbone.text("type")
    if kind is not None and kind not in BACKBONES:
        raise backbone.refused("type", f"of mmsegmentation's backbones {' and '.join(BACKBONES)} are supported")
    for key in ("dcn", "plugins"):
        if backbone.values.get(key):
            raise backbone.refused(key, "our ResNets have no such layers")
    if backbone.flag("avg_down"):
        raise backbone.refused("avg_down", "in our ResNets the shortcut's convolution has the stride")
    if head.part("act_cfg").text("type") not in (None, "ReLU"):
        raise head.part("act_cfg").refused("type", "our models use ReLU")
    strides, dilations = _strides(backbone), backbone.wholes("dilations", 1, MOST_RATE, len(STRIDES))
    if strides and dilations:
        lost, rates = 1, []
        for usual, stride in zip(STRIDES, strides, strict=True):
            lost = lost * usual // stride
            rates.append(lost)
        if rates != dilations:
            raise backbone.refused("dilations", f"with strides {strides} our models have the dilations {rates}")


def normalisation(config: Mapping[str, Any], channels: int) -> tuple[Preprocessing | None, bool]:
    """Returns the normalisation for RGB pictures, and whether the network reads BGR pictures.

    Args:
        config: configuration from `python_config_parser.read`.
        channels: number of channels of the pictures.

    Returns:
        The normalisation and True or False; None and False if the configuration states no normalisation.

    Raises:
        AtrousError: the configuration states two different normalisations, or values that are not one number for each
            channel.
    """
    found = [
        (step.record.channels("mean", channels), step.record.channels("std", channels), step.turned)
        for step in normalisations(config)
    ]
    if not found:
        return None, False
    different = [*dict.fromkeys(found)]
    if len(different) > 1:
        differing = "; ".join(
            f"mean {mean}, std {std}, channels reversed: {turned}" for mean, std, turned in different[:2]
        )
        raise Record({}).refused("mean, std and to_rgb", "they contradict each other", differing)
    mean, std, turned = found[0]
    reads_bgr = channels == 3 and not turned
    turn = -1 if reads_bgr else 1
    mean, std = mean or (0.0,) * channels, std or (1.0,) * channels
    return Preprocessing.of_pictures(mean[::turn], std[::turn]), reads_bgr


def threshold(config: Mapping[str, Any], num_classes: int) -> float | None:
    """Returns the probability at or above which a single output means the second class.

    Args:
        config: configuration from `python_config_parser.read`.
        num_classes: number of the classifier's outputs.

    Returns:
        The probability, between 0 and 1. None if it is 0.5, if the configuration has no head, or if there are several
        outputs.

    Raises:
        AtrousError: the threshold is not a probability between 0 and 1.
    """
    _, head = _parts(config)
    given = head.number("threshold", 0, 1, above=True, below=True)
    if num_classes != 1 or not head.values:
        return None
    value = THRESHOLD if given is None else given
    return None if value == 0.5 else float(value)


def notes(config: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    """Returns notes for the user on the threshold of a single output.

    Args:
        config: configuration from `python_config_parser.read`.
        num_classes: number of the classifier's outputs.
    """
    value = threshold(config, num_classes)
    if value is not None:
        return (
            f"Its threshold {value} is in the bias of the classifier: a probability of {value} in mmsegmentation is "
            "0.5 in atrous.",
        )
    if num_classes == 1 and not part(config, "decode_head"):
        return (
            "The file does not state the threshold of its single output. atrous uses 0.5; mmsegmentation uses "
            f"{THRESHOLD} by default.",
        )
    return ()


def ignored(config: Mapping[str, Any]) -> int:
    """Returns the ignore index: the value of unlabelled pixels in masks, 255 by default.

    Args:
        config: configuration from `python_config_parser.read`.

    Raises:
        AtrousError: the value is not a whole number.
    """
    _, head = _parts(config)
    value = head.whole("ignore_index", -MOST, MOST)
    return 255 if value is None or value < 0 else value


def reduces_zero(value: Any, seen: set[int] | None = None) -> bool:
    """Returns whether a part of the configuration states that masks have 0 for unlabelled pixels and classes from 1.

    Args:
        value: the configuration, or any value in it.
        seen: ids of the parts that are already searched; None for an empty set.

    Raises:
        AtrousError: `reduce_zero_label` of a part is neither True nor False.
    """
    seen = set() if seen is None else seen
    if id(value) in seen or not isinstance(value, Mapping | list | tuple):
        return False
    seen.add(id(value))
    if isinstance(value, Mapping):
        stated = Record(value).flag("reduce_zero_label")
        return stated or any(reduces_zero(item, seen) for item in value.values())
    return any(reduces_zero(item, seen) for item in value)


def _parts(config: Mapping[str, Any]) -> tuple[Record, Record]:
    """Returns the configuration of the backbone and of the head."""
    return Record(part(config, "backbone"), "backbone."), Record(part(config, "decode_head"), "decode_head.")


def _strides(backbone: Record) -> list[int]:
    """Returns the strides of a ResNet's stages; [] if they are not stated."""
    strides = backbone.wholes("strides", 1, 2, len(STRIDES))
    output_stride = 4 * math.prod(strides)
    if strides and output_stride not in OUTPUT_STRIDES:
        raise backbone.refused("strides", f"they give output stride {output_stride}, but it must be 8, 16 or 32")
    return strides


def _norm(record: Record) -> tuple[float, float]:
    norm = record.part("norm_cfg")
    norm.text("type")
    eps, momentum = norm.number("eps", 0, 1, above=True), norm.number("momentum", 0, 1)
    return NORM[0] if eps is None else eps, NORM[1] if momentum is None else momentum
