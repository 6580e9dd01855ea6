"""Converts DeepLabV3 and V3+ of VainF/DeepLabV3Plus-Pytorch over its ResNets and its MobileNetV2.

Source: network/modeling.py, network/_deeplab.py, network/backbone/{resnet,mobilenetv2}.py, main.py; commit 4e1087d.
Checkpoints of this repository do not contain the output stride; the default of the repository for training is 16. The
atrous rates are 6, 12, 18 at output stride 16, and twice as large at output stride 8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from atrous.data.layouts.cityscapes import CITYSCAPES_TRAIN_IDS
from atrous.data.layouts.voc import VOC_CLASSES
from atrous.errors import AtrousError
from atrous.weights.adapter import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MOBILENETV2_STAGES,
    Adapted,
    Keys,
    blocks_by_stage,
    by_number,
    move_channels,
    normalisation,
    translate,
)
from atrous.weights.merge_user_options import merged
from atrous.weights.read_checkpoint import Foreign

#: Blocks in a ResNet's third stage → timm's name.
RESNETS = {6: "resnet50", 23: "resnet101"}

#: Backbones of VainF's code that cannot be converted → a key that only this backbone has.
REFUSED = {"Xception": "backbone.block1.skip.weight", "HRNet": "backbone.transition1.0.0.weight"}

#: Data set that VainF's code trains on → its classes.
CLASSES = {"Cityscapes": CITYSCAPES_TRAIN_IDS, "Pascal VOC": VOC_CLASSES}

#: VainF's consecutive number of a block → timm's stage and block.
_BLOCKS = blocks_by_stage(MOBILENETV2_STAGES)
#: VainF's layer → timm's, in a block with expansion and in the first block, which has no expansion.
_INVERTED = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
_FIRST = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}


def _block(match: re.Match[str]) -> str:
    number, layer = int(match[1]), match[2]
    return f"backbone.net.blocks.{_BLOCKS[number - 1]}.{(_FIRST if number == 1 else _INVERTED)[layer]}."


#: The ASPP is `classifier.classifier.0` in V3 and `classifier.aspp` in V3+.
_ASPP = r"classifier\.(?:classifier\.0|aspp)\."

#: VainF's key → key of atrous, for layers that V3 and V3+ share. `body` is a separable convolution without a norm
#: between depthwise and pointwise.
KEYS: Keys = (
    (r"backbone\.(conv1|bn1|layer[1-4])\.", r"backbone.net.\1."),
    (r"backbone\.low_level_features\.0\.0\.", "backbone.net.conv_stem."),
    (r"backbone\.low_level_features\.0\.1\.", "backbone.net.bn1."),
    (r"backbone\.(?:low|high)_level_features\.(1)\.conv\.(0\.[01]|[12])\.", _block),
    (r"backbone\.(?:low|high)_level_features\.([2-9]|1[0-7])\.conv\.([01]\.[01]|[23])\.", _block),
    (rf"{_ASPP}convs\.0\.([01])\.", r"aspp.point.\1."),
    (rf"{_ASPP}convs\.([123])\.0\.body\.([01])\.", lambda m: f"aspp.atrous.{int(m[1]) - 1}.{m[2]}."),
    (rf"{_ASPP}convs\.([123])\.([01])\.", lambda m: f"aspp.atrous.{int(m[1]) - 1}.{m[2]}."),
    (rf"{_ASPP}convs\.4\.1\.", "aspp.image_pooling.unit.0."),
    (rf"{_ASPP}convs\.4\.2\.", "aspp.image_pooling.unit.1."),
    (rf"{_ASPP}project\.([01])\.", r"aspp.project.\1."),
)
#: Keys that only V3 has, and keys that only V3+ has.
V3_KEYS: Keys = (
    (r"classifier\.classifier\.1\.", "aspp_conv.0."),
    (r"classifier\.classifier\.2\.", "aspp_conv.1."),
    (r"classifier\.classifier\.4\.", "classifier."),
)
V3_PLUS_KEYS: Keys = (
    (r"classifier\.project\.([01])\.", r"decoder.reduce.\1."),
    (r"classifier\.classifier\.0\.body\.([01])\.", r"decoder.fuse.0.\1."),
    (r"classifier\.classifier\.([01])\.", r"decoder.fuse.0.\1."),
    (r"classifier\.classifier\.3\.", "classifier."),
)
#: Keys of networks with separable convolutions, in which the norm is the third layer. They precede the other patterns.
SEPARABLE_KEYS: Keys = (
    (rf"{_ASPP}convs\.([123])\.1\.", lambda m: f"aspp.atrous.{int(m[1]) - 1}.2."),
    (r"classifier\.classifier\.1\.", "decoder.fuse.0.2."),
)


def recognises(foreign: Foreign) -> bool:
    """Returns whether the keys are those of VainF's code."""
    return any(re.match(rf"{_ASPP}convs\.0\.0\.", key) for key in foreign.state)


def adapt(foreign: Foreign, given: Mapping[str, Any]) -> Adapted:
    """Converts a checkpoint of VainF's code.

    Args:
        foreign: checkpoint of `deeplabv3_*` or `deeplabv3plus_*` over resnet50, resnet101 or mobilenet.
        given: arguments of atrous that the user named, such as output_stride=8.

    Returns:
        The converted checkpoint. A model with 21 outputs gets the classes of Pascal VOC, and one with 19 outputs
        those of Cityscapes.

    Raises:
        AtrousError: the checkpoint has another backbone, or the keys have another layout.
    """
    state = foreign.state
    plus = "classifier.project.0.weight" in state
    separable = any(".body." in key for key in state)
    paper = V3_PLUS_KEYS if plus else V3_KEYS
    ours, left_over = translate(state, (*(SEPARABLE_KEYS if separable else ()), *KEYS, *paper))
    if "classifier.weight" not in ours:
        raise AtrousError("the keys have no classifier: the file is not a complete network of VainF's.")
    if plus:
        _low_last(ours, separable)
    num_classes = len(ours["classifier.weight"])
    backbone = _backbone(state)
    stem = "conv_stem" if "backbone.net.conv_stem.weight" in ours else "conv1"
    in_channels = ours[f"backbone.net.{stem}.weight"].shape[1]
    usual = {"output_stride": 16, "multi_grid": (1, 1, 1), "depthwise_norm": False, "dropout": 0.1}
    held = {
        **backbone,
        "num_classes": num_classes,
        "in_channels": in_channels,
        "aspp_channels": len(ours["aspp.point.0.weight"]),
        "separable": separable,
        "auxiliary": False,
        **({"depthwise_norm": False} if separable else {}),
        "aspp_conv": not plus,
        **({"decoder_convs": 1, "low_channels": len(ours["decoder.reduce.0.weight"])} if plus else {}),
    }
    return Adapted(
        architecture="deeplabv3plus" if plus else "deeplabv3",
        arguments=merged(usual, held, given, foreign.name),
        state=ours,
        left_over=left_over,
        preprocessing=normalisation(IMAGENET_MEAN, IMAGENET_STD, in_channels),
        untold=("output_stride",),
        **by_number(num_classes, CLASSES),
    )


def _backbone(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns the arguments of the backbone; its norms have the momentum 0.01 (main.py)."""
    for name, key in REFUSED.items():
        if key in state:
            raise AtrousError(
                f"this checkpoint of VainF's uses VainF's own {name}, which atrous does not have. Only VainF's ResNets "
                "and MobileNetV2 can be converted."
            )
    if "backbone.low_level_features.0.0.weight" in state:
        arguments = {"norm": (1e-5, 0.01), "pad_expansion": True}
        return {"backbone": "mobilenetv2_100", "backbone_arguments": arguments}
    blocks = sum(bool(re.fullmatch(r"backbone\.layer3\.\d+\.conv3\.weight", key)) for key in state)
    if blocks not in RESNETS:
        raise AtrousError(
            f"the backbone has {blocks} bottleneck blocks in its third stage; VainF's ResNets have 6 (ResNet-50) or 23 "
            "(ResNet-101)."
        )
    return {"backbone": RESNETS[blocks], "backbone_arguments": {"norm": (1e-5, 0.01)}}


def _low_last(ours: dict[str, Tensor], separable: bool) -> None:
    """Moves the low-level features of the decoder to the end: VainF's code has them first, and atrous has them last."""
    low = len(ours["decoder.reduce.0.weight"])
    mixing = "decoder.fuse.0.1.weight" if separable else "decoder.fuse.0.0.weight"
    ours[mixing] = move_channels(ours[mixing], (1, 0), sizes=(low, ours[mixing].shape[1] - low))
    if separable:  # the outputs of a depthwise convolution have the same order
        depthwise = ours["decoder.fuse.0.0.weight"]
        ours["decoder.fuse.0.0.weight"] = torch.cat([depthwise[low:], depthwise[:low]])
