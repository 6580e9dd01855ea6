"""Converts torchvision's DeepLabV3 over ResNets and MobileNetV3.

Source: torchvision/models/segmentation/deeplabv3.py, torchvision/models/mobilenetv3.py, version 0.29.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from atrous.data.layouts.voc import VOC_CLASSES
from atrous.errors import AtrousError
from atrous.weights.adapter import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Adapted,
    Keys,
    blocks_by_stage,
    by_number,
    normalisation,
    translate,
)
from atrous.weights.merge_user_options import merged
from atrous.weights.read_checkpoint import Foreign

#: torchvision's MobileNetV3-Large numbers its blocks consecutively; timm's `mobilenetv3_large_100` numbers them
#: in each stage.
_BLOCKS = blocks_by_stage((1, 2, 3, 4, 2, 3))

_BLOCK = r"backbone\.(\d+)\.block\."
#: Layers of the first block, which has no expansion: depthwise, projection.
_DEPTHWISE = {"0.0.": "conv_dw.", "0.1.": "bn1.", "1.0.": "conv_pw.", "1.1.": "bn2."}
#: Layers of all other blocks: expansion, depthwise, squeeze and excite (in some blocks), projection.
_INVERTED = {
    "0.0.": "conv_pw.",
    "0.1.": "bn1.",
    "1.0.": "conv_dw.",
    "1.1.": "bn2.",
    "2.fc1.": "se.conv_reduce.",
    "2.fc2.": "se.conv_expand.",
    "2.0.": "conv_pwl.",
    "2.1.": "bn3.",
    "3.0.": "conv_pwl.",
    "3.1.": "bn3.",
}

HEAD: Keys = (
    (r"classifier\.0\.convs\.0\.([01])\.", r"aspp.point.\1."),
    (r"classifier\.0\.convs\.([123])\.([01])\.", lambda m: f"aspp.atrous.{int(m[1]) - 1}.{m[2]}."),
    (r"classifier\.0\.convs\.4\.([12])\.", lambda m: f"aspp.image_pooling.unit.{int(m[1]) - 1}."),
    (r"classifier\.0\.project\.([01])\.", r"aspp.project.\1."),
    (r"classifier\.1\.", "aspp_conv.0."),
    (r"classifier\.2\.", "aspp_conv.1."),
    (r"classifier\.4\.", "classifier."),
    (r"aux_classifier\.([01])\.", r"auxiliary.unit.\1."),
    (r"aux_classifier\.4\.", "auxiliary.classifier."),
)

#: torchvision's key → key of atrous. ResNets have timm's names; MobileNetV3 has numbers.
KEYS: Keys = (
    *HEAD,
    (r"backbone\.(conv1|bn1|layer\d)\.", r"backbone.net.\1."),
    (r"backbone\.0\.0\.", "backbone.net.conv_stem."),
    (r"backbone\.0\.1\.", "backbone.net.bn1."),
    (r"backbone\.16\.0\.", "backbone.net.blocks.6.0.conv."),
    (r"backbone\.16\.1\.", "backbone.net.blocks.6.0.bn1."),
    *(
        (r"backbone\.1\.block\." + re.escape(theirs), f"backbone.net.blocks.0.0.{ours}")
        for theirs, ours in _DEPTHWISE.items()
    ),
    *(
        (_BLOCK + re.escape(theirs), lambda m, ours=ours: f"backbone.net.blocks.{_BLOCKS[int(m[1]) - 1]}.{ours}")
        for theirs, ours in _INVERTED.items()
    ),
)

#: Number of blocks, and (output channels, input channels per group) of the first 3×3 convolution → timm's name of the
#: ResNet.
RESNETS = {
    (16, (64, 64)): "resnet50",
    (33, (64, 64)): "resnet101",
    (50, (64, 64)): "resnet152",
    (16, (128, 128)): "wide_resnet50_2",
    (33, (128, 128)): "wide_resnet101_2",
    (16, (128, 4)): "resnext50_32x4d",
    (33, (256, 8)): "resnext101_32x8d",
}

_COMMON: dict[str, Any] = {
    "multi_grid": (1, 1, 1),
    "dropout": 0.5,
    "align_corners": False,
}
#: torchvision has rates 12, 24, 36 at output stride 8; in atrous, rates are given at output stride 16 and double at 8.
RESNET: dict[str, Any] = {**_COMMON, "output_stride": 8, "atrous_rates": (6, 12, 18), "dilation_rule": "previous"}
#: For MobileNetV3, torchvision has the same rates 12, 24, 36 at output stride 16 (the defaults of `DeepLabHead`).
MOBILENET: dict[str, Any] = {
    **_COMMON,
    "output_stride": 16,
    "atrous_rates": (12, 24, 36),
    "dilation_rule": "full",
}


def recognises(foreign: Foreign) -> bool:
    """Returns whether the keys are those of torchvision's DeepLabV3, with the ASPP in `classifier.0`."""
    return {"classifier.0.convs.0.0.weight", "classifier.0.project.0.weight", "classifier.4.weight"} <= set(
        foreign.state
    ) and any(key.startswith("backbone.") for key in foreign.state)


def adapt(foreign: Foreign, given: Mapping[str, Any]) -> Adapted:
    """Converts the state dict of torchvision's `deeplabv3_*`.

    Args:
        foreign: state dict of one of these segmentation models.
        given: arguments that the user named.

    Raises:
        AtrousError: the shapes do not determine the backbone.
    """
    state, left_over = translate(foreign.state, KEYS)
    mobile = "backbone.0.0.weight" in foreign.state
    stem = foreign.state["backbone.0.0.weight" if mobile else "backbone.conv1.weight"]
    classifier = foreign.state["classifier.4.weight"]
    held: dict[str, Any] = {"aspp_conv": True, "separable": False}
    if mobile:
        held |= {"backbone": "mobilenetv3_large_100", "backbone_arguments": {"norm": (1e-3, 0.01)}}
        # Left over, because torchvision's auxiliary head takes features at stride 8, but atrous's auxiliary head takes
        # the features of the stage before the last one.
        left_over += tuple(key for key in foreign.state if key.startswith("aux_classifier.") and _is_weight(key))
        state = {name: tensor for name, tensor in state.items() if not name.startswith("auxiliary.")}
    elif "backbone" not in given or _size(foreign.state, "backbone.") in RESNETS:
        held["backbone"] = resnet(foreign.state)
    held |= {
        "num_classes": classifier.shape[0],
        "aspp_channels": classifier.shape[1],
        "in_channels": stem.shape[1],
        "auxiliary": "auxiliary.classifier.weight" in state,
    }
    return Adapted(
        architecture="deeplabv3",
        arguments=merged(MOBILENET if mobile else RESNET, held, given, foreign.name),
        state=state,
        left_over=left_over,
        preprocessing=normalisation(IMAGENET_MEAN, IMAGENET_STD, stem.shape[1]),
        # All published weights were trained on COCO with VOC's labels (metadata of DeepLabV3_*_Weights).
        **by_number(classifier.shape[0], {"Pascal VOC": VOC_CLASSES}),
    )


def resnet(state: Mapping[str, Tensor], prefix: str = "backbone.") -> str:
    """Returns timm's name of a ResNet, from its number of blocks and its widths.

    Args:
        state: state dict with torchvision's names.
        prefix: prefix of the ResNet's keys.

    Raises:
        AtrousError: the ResNet is not in `RESNETS`.
    """
    blocks, width = _size(state, prefix)
    if (blocks, width) not in RESNETS:
        raise AtrousError(
            f"the ResNet has {blocks} blocks and first filters {width}, unlike {', '.join(RESNETS.values())}; "
            "name it with backbone=."
        )
    return RESNETS[blocks, width]


def _size(state: Mapping[str, Tensor], prefix: str) -> tuple[int, tuple[int, int]]:
    """Returns the number of blocks, and (output channels, input channels per group) of the first 3×3 convolution."""
    blocks = sum(bool(re.fullmatch(rf"{re.escape(prefix)}layer\d\.\d+\.conv2\.weight", key)) for key in state)
    out, per_group = state[f"{prefix}layer1.0.conv2.weight"].shape[:2]
    return blocks, (out, per_group)


def _is_weight(key: str) -> bool:
    return not key.endswith("num_batches_tracked")
