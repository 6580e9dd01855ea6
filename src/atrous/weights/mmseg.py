"""Converts DeepLabV3 and V3+ of mmsegmentation over its ResNets (R-18 to R-152, v1c or plain).

Source: mmseg/models/decode_heads/{aspp_head,sep_aspp_head,fcn_head}.py, mmseg/models/backbones/resnet.py,
mmseg/models/utils/res_layer.py, configs/_base_/models/deeplabv3*_r50-d8.py; version 1.2.2.

The weights do not contain these settings: output stride, rates of the ASPP, `align_corners` (True in the 769×769
configurations), multi-grid ("d16-mg124"), normalisation and channel order of the pictures, and threshold of a single
output. If the checkpoint contains its configuration, mmseg_config reads these settings from the configuration.
Otherwise, the defaults are those of a d8 configuration (`UNTOLD`). For other configurations give output_stride=16,
align_corners=True or multi_grid=(0.5, 1, 2). This multi-grid gives the same rates as mmsegmentation's multi-grid 1, 2,
4. In mmsegmentation, the multi-grid replaces the rate of the last stage, which is 2 at output stride 16. In atrous and
in the paper, the multi-grid multiplies this rate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from atrous.data.layouts.ade20k import ADE20K_CLASSES
from atrous.data.layouts.cityscapes import CITYSCAPES_TRAIN_IDS
from atrous.data.layouts.coco_stuff import COCO_STUFF_TRAIN_IDS
from atrous.data.layouts.voc import VOC_CLASSES
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError
from atrous.weights import mmseg_config, python_config_parser
from atrous.weights.adapter import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Adapted,
    Keys,
    by_number,
    move_channels,
    normalisation,
    translate,
)
from atrous.weights.class_names import class_colors, class_names, with_background, with_black
from atrous.weights.config_reader import Record
from atrous.weights.merge_user_options import merged
from atrous.weights.read_checkpoint import Foreign

#: (number of blocks in a ResNet's third stage, whether they are bottlenecks) → timm's name.
RESNETS = {
    (2, False): "resnet18",
    (6, False): "resnet34",
    (6, True): "resnet50",
    (23, True): "resnet101",
    (36, True): "resnet152",
}

#: Class tables of the published checkpoints, by data set.
CLASSES = {
    "Cityscapes": CITYSCAPES_TRAIN_IDS,
    "Pascal VOC": VOC_CLASSES,
    "ADE20K": ADE20K_CLASSES,
    "COCO-Stuff": COCO_STUFF_TRAIN_IDS,
}

#: mmsegmentation's class name → its synonym in the tables above.
SPELT = {"television receiver": "television"}

#: Settings that only the configuration states → most common value.
UNTOLD = {"output_stride": 8, "atrous_rates": (6, 12, 18), "align_corners": False, "multi_grid": (1, 1, 1)}

#: Name of a layer in mmsegmentation's unit → its index in our unit.
_PLACES = {
    "conv": 0,
    "bn": 1,
    "depthwise_conv.conv": 0,
    "depthwise_conv.bn": 1,
    "pointwise_conv.conv": 3,
    "pointwise_conv.bn": 4,
}
_LAYER = rf"({'|'.join(map(re.escape, _PLACES))})\."

#: Foreign key → our key. The deep stem's last norm is timm's `bn1`.
KEYS: Keys = (
    (r"backbone\.stem\.7\.", "backbone.net.bn1."),
    (r"backbone\.stem\.([0-6])\.", r"backbone.net.conv1.\1."),
    (r"backbone\.(conv1|bn1|layer[1-4])\.", r"backbone.net.\1."),
    (rf"decode_head\.image_pool\.1\.{_LAYER}", lambda m: f"aspp.image_pooling.unit.{_PLACES[m[1]]}."),
    (rf"decode_head\.aspp_modules\.0\.{_LAYER}", lambda m: f"aspp.point.{_PLACES[m[1]]}."),
    (rf"decode_head\.aspp_modules\.(\d)\.{_LAYER}", lambda m: f"aspp.atrous.{int(m[1]) - 1}.{_PLACES[m[2]]}."),
    (rf"decode_head\.bottleneck\.{_LAYER}", lambda m: f"aspp.project.{_PLACES[m[1]]}."),
    (rf"decode_head\.c1_bottleneck\.{_LAYER}", lambda m: f"decoder.reduce.{_PLACES[m[1]]}."),
    (rf"decode_head\.sep_bottleneck\.(\d)\.{_LAYER}", lambda m: f"decoder.fuse.{m[1]}.{_PLACES[m[2]]}."),
    (r"decode_head\.conv_seg\.", "classifier."),
    (rf"auxiliary_head\.convs\.0\.{_LAYER}", lambda m: f"auxiliary.unit.{_PLACES[m[1]]}."),
    (r"auxiliary_head\.conv_seg\.", "auxiliary.classifier."),
)


def recognises(foreign: Foreign) -> bool:
    """Returns whether the keys are those of mmsegmentation's ASPP heads.

    Args:
        foreign: the checkpoint as read from its file.
    """
    return any(key.startswith("decode_head.aspp_modules.") for key in foreign.state)


def adapt(foreign: Foreign, given: Mapping[str, Any]) -> Adapted:
    """Converts a checkpoint to our keys and arguments.

    Args:
        foreign: checkpoint of an `EncoderDecoder` with an `ASPPHead` or a `DepthwiseSeparableASPPHead` over a
            `ResNet` or `ResNetV1c`. `config["meta"]` is its metadata, if the file has metadata.
        given: arguments that the user gave, such as output_stride=16 or align_corners=True.

    Returns:
        The checkpoint as `deeplabv3` or `deeplabv3plus`. Its classes are those of the metadata, else those of the data
        set in `CLASSES` with the same number of classes.

    Raises:
        AtrousError: the checkpoint has another backbone or layout, or multi_grid is given in mmsegmentation's terms.
    """
    if isinstance(given.get("multi_grid"), list | tuple) and tuple(given["multi_grid"]) == (1, 2, 4):
        raise AtrousError(
            "multi_grid=(1, 2, 4) gives the rates 2, 4, 8 in atrous, but mg124 gives the rates 1, 2, 4 in "
            "mmsegmentation. Use multi_grid=(0.5, 1, 2) with output_stride=16."
        )
    meta = _mapping(foreign.config.get("meta"))
    state, left_over = translate(foreign.state, KEYS)
    if "classifier.weight" not in state or "aspp.project.0.weight" not in state:
        raise AtrousError(
            "decode_head has no conv_seg or no bottleneck: the file is not a whole network of mmsegmentation."
        )
    # mmsegmentation concatenates image pooling, the 1×1 branch and the atrous branches, in this order
    branches = len({key.split(".")[2] for key in foreign.state if key.startswith("decode_head.aspp_modules.")})
    state["aspp.project.0.weight"] = move_channels(state["aspp.project.0.weight"], (*range(1, branches + 1), 0))
    plus = "decoder.reduce.0.weight" in state
    num_classes, channels = state["classifier.weight"].shape[:2]
    stem = "backbone.stem.0.weight" if "backbone.stem.0.weight" in foreign.state else "backbone.conv1.weight"
    in_channels = foreign.state[stem].shape[1]
    config = python_config_parser.read(meta)
    backbone = _backbone(foreign.state)
    mmseg_config.check(config, backbone["backbone"], num_classes, in_channels, branches)
    stated = _told(config, given.get("output_stride"))
    inner = {**(backbone["backbone_arguments"] or {}), **mmseg_config.backbone_arguments(config, backbone["backbone"])}
    preprocessing, reads_bgr = mmseg_config.normalisation(config, in_channels)
    if reads_bgr:
        first = "backbone.net.conv1.0.weight" if "backbone.net.conv1.0.weight" in state else "backbone.net.conv1.weight"
        state[first] = state[first].flip(1)
    notes = mmseg_config.notes(config, num_classes)
    threshold = mmseg_config.threshold(config, num_classes)
    if threshold is not None:
        state["classifier.bias"] = state["classifier.bias"] - math.log(threshold / (1 - threshold))
    held = {
        **backbone,
        "backbone_arguments": inner or None,
        "num_classes": num_classes,
        "in_channels": in_channels,
        "aspp_channels": channels,
        "projection_kernel": state["aspp.project.0.weight"].shape[-1],
        "separable": any("depthwise_conv" in key for key in foreign.state),
        "auxiliary": "auxiliary.classifier.weight" in state,
        "aspp_conv": False,
        **({"low_channels": len(state["decoder.reduce.0.weight"]), "decoder_convs": 2} if plus else {}),
        **stated,
    }
    return Adapted(
        architecture="deeplabv3plus" if plus else "deeplabv3",
        arguments=merged({**UNTOLD, "dropout": 0.1}, held, given, foreign.name),
        state=state,
        left_over=left_over,
        preprocessing=preprocessing or normalisation(IMAGENET_MEAN, IMAGENET_STD, in_channels),
        preprocessing_told=preprocessing is not None,
        untold=tuple(name for name in UNTOLD if name not in stated),
        notes=notes,
        **_classes(meta, num_classes),
    )


def _backbone(state: Mapping[str, Tensor]) -> dict[str, Any]:
    blocks = {key.split(".")[2] for key in state if key.startswith("backbone.layer3.")}
    bottlenecks = "backbone.layer3.0.conv3.weight" in state
    name = RESNETS.get((len(blocks), bottlenecks))
    if name is None or "backbone.layer4.0.conv2.weight" not in state:
        raise AtrousError(
            "atrous converts only these backbones of mmsegmentation: ResNet-18, 34, 50, 101 and 152, v1c or plain. Its "
            "MobileNetV2 cannot be converted, because it dilates only the first block of a stage."
        )
    arguments: dict[str, Any] = {} if bottlenecks else {"dilate_second": False}
    if "backbone.stem.0.weight" in state:
        width = len(state["backbone.stem.0.weight"])
        arguments |= {"stem_type": "deep", "stem_width": width}
    return {"backbone": name, "backbone_arguments": arguments or None}


def _told(config: str | Mapping[str, Any], output_stride: int | None = None) -> dict[str, Any]:
    """Returns the arguments that a configuration states, given as Python text or as a parsed mapping."""
    return mmseg_config.arguments(python_config_parser.read({"config": config}), output_stride)


def _classes(meta: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Returns the `Adapted` fields on classes, from the checkpoint's metadata or from their number."""
    record = {key.lower(): value for key, value in {**meta, **_mapping(meta.get("dataset_meta"))}.items()}
    count = max(num_classes, 2)  # one output separates two classes
    named, wrong = class_names(with_background(record.get("classes"), num_classes), count, "CLASSES")
    colors, other = class_colors(with_black(record.get("palette"), num_classes), count, "PALETTE")
    fault = {"classes_fault": f"in its metadata, {wrong or other}"} if wrong or other else {}
    if named is None:
        return {**by_number(num_classes, CLASSES), **fault}
    usual = tuple(SPELT.get(name, name) for name in named)
    for table in CLASSES.values():
        if table.names == usual:
            return {"classes": table, **fault}
    reduced = Record(record).flag("reduce_zero_label") or mmseg_config.reduces_zero(python_config_parser.read(meta))
    first = int(reduced)
    ignored = mmseg_config.ignored(python_config_parser.read(meta))
    table = ClassTable(
        names=named,
        colors=colors,
        raw=tuple((index + first,) for index in range(count)),
        ignore=(0, 255) if reduced else tuple(value for value in (ignored,) if value >= count),
    )
    return {"classes": table, **fault}


def _mapping(value: Any) -> dict[str, Any]:
    return {key: item for key, item in value.items() if isinstance(key, str)} if isinstance(value, Mapping) else {}
