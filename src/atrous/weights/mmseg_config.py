"""What an mmsegmentation configuration tells of a network beyond its weights, in our words; or why ours cannot be so.

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
from atrous.weights.mmseg_config_parser import normalisations, part

#: Its backbones that are converted.
BACKBONES = ("ResNet", "ResNetV1c")
#: The strides of a ResNet's stages after the stem's, where none is lost.
STRIDES = (1, 2, 2, 2)
#: The threshold of a single output where the configuration says none (decode_head.py).
THRESHOLD = 0.3
#: eps and momentum of PyTorch's batch norms.
NORM = (1e-5, 0.1)
#: Above the channels, classes and mask values of any network.
MOST = 2**31


def arguments(config: Mapping[str, Any], output_stride: int | None) -> dict[str, Any]:
    """Arguments of ours, as far as the configuration tells them.

    Args:
        config: from `mmseg_config.read`.
        output_stride: that the user named; it changes neither rates nor multi-grid, which are named at 16 and 32.

    Raises:
        AtrousError: a value that has no counterpart here.
    """
    backbone, head = _parts(config)
    told: dict[str, Any] = {}
    strides = _strides(backbone)
    if strides:
        told["output_stride"] = 4 * math.prod(strides)
    stride = told.get("output_stride", output_stride or 8)
    rates = head.wholes("dilations", 1, MOST_RATE)
    if rates:
        if rates[0] != 1:
            raise head.refused("dilations", "the first branch here has rate 1")
        named = [rate * stride / 16 for rate in rates[1:]]
        told["atrous_rates"] = tuple(int(rate) if rate == int(rate) else rate for rate in named)
    grid = backbone.wholes("multi_grid", 1, MOST_RATE)
    if grid:
        told["multi_grid"] = tuple(rate * stride / 32 for rate in grid)
    elif strides:
        told["multi_grid"] = (1, 1, 1)
    if head.values:
        told["align_corners"] = head.flag("align_corners")
    dropout = head.number("dropout_ratio", 0, 1)
    if dropout is not None:
        told["dropout"] = dropout
    if not backbone.flag("contract_dilation") and "dilations" in backbone.values:
        told["dilation_rule"] = "full"
    norm = _norm(head)
    return told | ({"norm": norm} if norm != NORM else {})


def backbone_arguments(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Those of our backbone.

    Args:
        config: from `mmseg_config.read`.
        name: of the backbone, in timm.
    """
    backbone, _ = _parts(config)
    told: dict[str, Any] = {}
    style = backbone.text("style")
    if style not in (None, "pytorch", "caffe"):
        raise backbone.refused("style", "it is pytorch or caffe")
    if style == "caffe" and name not in ("resnet18", "resnet34"):
        told["stride_first"] = True
    norm = _norm(backbone)
    return told | ({"norm": norm} if norm != NORM else {})


def check(config: Mapping[str, Any], name: str, num_classes: int, in_channels: int, branches: int) -> None:
    """Compares what the configuration and the weights tell, and refuses what ours cannot have.

    Args:
        config: from `mmseg_config.read`.
        name: of the backbone, as the weights have it.
        num_classes: outputs of the classifier.
        in_channels: C of the pictures.
        branches: of the ASPP, image pooling not counted.

    Raises:
        AtrousError: says which value.
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
        raise backbone.refused("type", f"of its backbones {' and '.join(BACKBONES)} are read")
    for key in ("dcn", "plugins"):
        if backbone.values.get(key):
            raise backbone.refused(key, "ours has none")
    if backbone.flag("avg_down"):
        raise backbone.refused("avg_down", "ours strides in the convolution")
    if head.part("act_cfg").text("type") not in (None, "ReLU"):
        raise head.part("act_cfg").refused("type", "ours is ReLU")
    strides, dilations = _strides(backbone), backbone.wholes("dilations", 1, MOST_RATE, len(STRIDES))
    if strides and dilations:
        lost, rates = 1, []
        for usual, stride in zip(STRIDES, strides, strict=True):
            lost = lost * usual // stride
            rates.append(lost)
        if rates != dilations:
            raise backbone.refused("dilations", f"with strides {strides} ours are {rates}")


def normalisation(config: Mapping[str, Any], channels: int) -> tuple[Preprocessing | None, bool]:
    """What is done to pixel values, for pictures that are RGB here, and whether the network reads BGR.

    Args:
        config: from `mmseg_config.read`.
        channels: C of the pictures.

    Returns:
        None where the configuration does not say.

    Raises:
        AtrousError: two different ones, or values that are no numbers, one for each channel.
    """
    found = [
        (told.record.channels("mean", channels), told.record.channels("std", channels), told.turned)
        for told in normalisations(config)
    ]
    if not found:
        return None, False
    different = [*dict.fromkeys(found)]
    if len(different) > 1:
        differing = "; ".join(f"mean {mean}, std {std}, turned {turned}" for mean, std, turned in different[:2])
        raise Record({}).refused("mean, std and to_rgb", "they contradict each other", differing)
    mean, std, turned = found[0]
    reads_bgr = channels == 3 and not turned
    turn = -1 if reads_bgr else 1
    mean, std = mean or (0.0,) * channels, std or (1.0,) * channels
    return Preprocessing.of_pictures(mean[::turn], std[::turn]), reads_bgr


def threshold(config: Mapping[str, Any], num_classes: int) -> float | None:
    """The probability from which a single output means the second class, where it is not one half; else None.

    Raises:
        AtrousError: no probability.
    """
    _, head = _parts(config)
    given = head.number("threshold", 0, 1, above=True, below=True)
    if num_classes != 1 or not head.values:
        return None
    value = THRESHOLD if given is None else given
    return None if value == 0.5 else float(value)


def notes(config: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    """What the user is told of a single output."""
    value = threshold(config, num_classes)
    if value is not None:
        return (
            f"Its threshold {value} is in the bias of the classifier: what has a probability of {value} there has 0.5 "
            "here.",
        )
    if num_classes == 1 and not part(config, "decode_head"):
        return (f"The threshold of its one output is not told: 0.5 here, {THRESHOLD} there unless it was set.",)
    return ()


def ignored(config: Mapping[str, Any]) -> int:
    """The value of unlabelled pixels in its masks.

    Raises:
        AtrousError: no whole number.
    """
    _, head = _parts(config)
    value = head.whole("ignore_index", -MOST, MOST)
    return 255 if value is None or value < 0 else value


def reduces_zero(value: Any, seen: set[int] | None = None) -> bool:
    """Whether masks have 0 for unlabelled and classes from 1, as any part of the configuration says.

    Raises:
        AtrousError: a part says neither True nor False.
    """
    seen = set() if seen is None else seen
    if id(value) in seen or not isinstance(value, Mapping | list | tuple):
        return False
    seen.add(id(value))
    if isinstance(value, Mapping):
        told = Record(value).flag("reduce_zero_label")
        return told or any(reduces_zero(item, seen) for item in value.values())
    return any(reduces_zero(item, seen) for item in value)


def _parts(config: Mapping[str, Any]) -> tuple[Record, Record]:
    """The backbone and the head."""
    return Record(part(config, "backbone"), "backbone."), Record(part(config, "decode_head"), "decode_head.")


def _strides(backbone: Record) -> list[int]:
    """The strides of a ResNet's stages; [] where they are not told."""
    strides = backbone.wholes("strides", 1, 2, len(STRIDES))
    output_stride = 4 * math.prod(strides)
    if strides and output_stride not in OUTPUT_STRIDES:
        raise backbone.refused("strides", f"they give output stride {output_stride}, not 8, 16 or 32")
    return strides


def _norm(record: Record) -> tuple[float, float]:
    norm = record.part("norm_cfg")
    norm.text("type")
    eps, momentum = norm.number("eps", 0, 1, above=True), norm.number("momentum", 0, 1)
    return NORM[0] if eps is None else eps, NORM[1] if momentum is None else momentum
