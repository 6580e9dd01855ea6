"""What an mmsegmentation configuration tells of a network beyond its weights, in our words; or why ours cannot be so.

Source: mmseg/models/backbones/resnet.py, mmseg/models/decode_heads/decode_head.py and aspp_head.py,
mmseg/models/data_preprocessor.py; version 1.2.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from atrous.errors import AtrousError, shown
from atrous.models import Preprocessing
from atrous.weights.mmseg_config import normalisations, part

#: Its backbones that are converted.
BACKBONES = ("ResNet", "ResNetV1c")
#: The strides of a ResNet's stages after the stem's, where none is lost.
STRIDES = (1, 2, 2, 2)
#: The threshold of a single output where the configuration says none (decode_head.py).
THRESHOLD = 0.3
#: eps and momentum of PyTorch's batch norms.
NORM = (1e-5, 0.1)


def arguments(config: Mapping[str, Any], output_stride: int | None) -> dict[str, Any]:
    """Arguments of ours, as far as the configuration tells them.

    Args:
        config: from `mmseg_config.read`.
        output_stride: that the user named; it changes neither rates nor multi-grid, which are named at 16 and 32.

    Raises:
        AtrousError: a value that has no counterpart here.
    """
    backbone, head = part(config, "backbone"), part(config, "decode_head")
    told: dict[str, Any] = {}
    strides = _numbers(backbone.get("strides"))
    if strides:
        told["output_stride"] = 4 * math.prod(strides)
    stride = told.get("output_stride", output_stride or 8)
    rates = _numbers(head.get("dilations"))
    if rates:
        if rates[0] != 1 or min(rates) < 1:
            raise _refused("decode_head.dilations", head["dilations"], "the first branch here has rate 1")
        named = [rate * stride / 16 for rate in rates[1:]]
        told["atrous_rates"] = tuple(int(rate) if rate == int(rate) else rate for rate in named)
    grid = _numbers(backbone.get("multi_grid"))
    if grid:
        told["multi_grid"] = tuple(rate * stride / 32 for rate in grid)
    elif backbone and strides:
        told["multi_grid"] = (1, 1, 1)
    if head:
        told["align_corners"] = head.get("align_corners") is True
    if isinstance(head.get("dropout_ratio"), int | float):
        told["dropout"] = head["dropout_ratio"]
    if "dilations" in backbone and backbone.get("contract_dilation") is not True:
        told["dilation_rule"] = "full"
    norm = _norm(head)
    return told | ({"norm": norm} if norm != NORM else {})


def backbone_arguments(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Those of our backbone.

    Args:
        config: from `mmseg_config.read`.
        name: of the backbone, in timm.
    """
    backbone = part(config, "backbone")
    told: dict[str, Any] = {}
    if backbone.get("style") == "caffe" and name not in ("resnet18", "resnet34"):
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
    backbone, head = part(config, "backbone"), part(config, "decode_head")
    depth = name.removeprefix("resnet")
    outputs = head.get("out_channels") or (None if num_classes == 1 else head.get("num_classes"))
    found = {
        "backbone.depth": (backbone.get("depth"), int(depth)),
        "backbone.in_channels": (backbone.get("in_channels"), in_channels),
        "decode_head.num_classes": (outputs, num_classes),
        "decode_head.dilations": (len(_numbers(head.get("dilations"))) or None, branches),
    }
    for key, (given, weights) in found.items():
        if given is not None and given != weights:
            raise _refused(key, given, f"the weights have {weights}")
    kind = backbone.get("type")
    if kind is not None and kind not in BACKBONES:
        raise _refused("backbone.type", kind, f"of its backbones {' and '.join(BACKBONES)} are read")
    for key in ("dcn", "plugins"):
        if backbone.get(key):
            raise _refused(f"backbone.{key}", backbone[key], "ours has none")
    if backbone.get("avg_down"):
        raise _refused("backbone.avg_down", True, "ours strides in the convolution")
    act = head.get("act_cfg")
    if isinstance(act, Mapping) and act.get("type", "ReLU") != "ReLU":
        raise _refused("decode_head.act_cfg", act["type"], "ours is ReLU")
    strides, dilations = _numbers(backbone.get("strides")), _numbers(backbone.get("dilations"))
    if strides and dilations:
        lost, rates = 1.0, []
        for usual, stride in zip(STRIDES, strides, strict=False):
            lost *= usual / stride
            rates.append(lost)
        if rates != dilations:
            raise _refused("backbone.dilations", dilations, f"with strides {strides} ours are {rates}")


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
    found = []
    for record in normalisations(config):
        for name in ("mean", "std"):
            row = record[name] if isinstance(record[name], list | tuple) else []
            if any(isinstance(value, list | tuple | Mapping) for value in row):  # whose comparison might never end
                raise _refused(name, row, f"needed are {channels} numbers, one for each channel")
        if record not in found:
            found.append(record)
    if len(found) > 1:
        raise _refused("mean, std and to_rgb", found[:2], "they contradict each other")
    if not found:
        return None, False
    reads_bgr = channels == 3 and not found[0]["turned"]
    mean, std = found[0]["mean"], found[0]["std"]
    mean = (0.0,) * channels if mean is None else mean
    std = (1.0,) * channels if std is None else std
    for name, values in (("mean", mean), ("std", std)):
        numbers = isinstance(values, list | tuple) and all(isinstance(value, int | float) for value in values)
        if not numbers or len(values) != channels:
            raise _refused(name, values, f"needed are {channels} numbers, one for each channel")
    turn = -1 if reads_bgr else 1
    mean, std = (tuple(float(value) for value in values)[::turn] for values in (mean, std))
    return Preprocessing.of_pictures(mean, std), reads_bgr


def threshold(config: Mapping[str, Any], num_classes: int) -> float | None:
    """The probability from which a single output means the second class, where it is not one half; else None.

    Raises:
        AtrousError: no probability.
    """
    head = part(config, "decode_head")
    if num_classes != 1 or not head:
        return None
    given = head.get("threshold")
    value = THRESHOLD if given is None else given
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
        raise _refused("decode_head.threshold", value, "it must be a probability above 0 and below 1")
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
    """The value of unlabelled pixels in its masks."""
    value = part(config, "decode_head").get("ignore_index", 255)
    return value if isinstance(value, int) and value >= 0 else 255


def reduces_zero(value: Any, seen: set[int] | None = None) -> bool:
    """Whether masks have 0 for unlabelled and classes from 1, as any part of the configuration says."""
    seen = set() if seen is None else seen
    if id(value) in seen or not isinstance(value, Mapping | list | tuple):
        return False
    seen.add(id(value))
    if isinstance(value, Mapping):
        return value.get("reduce_zero_label") is True or any(reduces_zero(item, seen) for item in value.values())
    return any(reduces_zero(item, seen) for item in value)


def _norm(record: Mapping[str, Any]) -> tuple[float, float]:
    given = record.get("norm_cfg")
    given = given if isinstance(given, Mapping) else {}
    eps, momentum = given.get("eps"), given.get("momentum")
    return (
        eps if isinstance(eps, int | float) else NORM[0],
        momentum if isinstance(momentum, int | float) else NORM[1],
    )


def _numbers(value: Any) -> list[int]:
    """A row of whole numbers; [] where it is none."""
    row = value if isinstance(value, list | tuple) else []
    return (
        list(row) if 0 < len(row) < 10 and all(isinstance(number, int) and 0 < number < 10**4 for number in row) else []
    )


def _refused(name: str, value: Any, why: str) -> AtrousError:
    text = value[:200] if isinstance(value, str) else shown(value)
    return AtrousError(f"its configuration has {name} = {text}, which cannot be converted: {why}.")
