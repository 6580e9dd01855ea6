"""Converts DeepLabV2 over Caffe's ResNet-101 from kazuto1011/deeplab-pytorch.

Source: libs/models/{deeplabv2,msc,resnet}.py, configs/*.yaml, demo.py; commit 4219467. The source subtracts a mean from
BGR pictures. The adapter reverses the input channels of the first convolution, so that the model takes RGB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from atrous.data.class_colors import default_colors
from atrous.data.layouts.coco_stuff import COCO_STUFF_CLASSES
from atrous.data.layouts.voc import VOC_CLASSES
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError
from atrous.weights.adapter import Adapted, Keys, by_number, normalisation, translate
from atrous.weights.merge_user_options import merged
from atrous.weights.read_checkpoint import Foreign

#: Number of blocks in the third stage (`layer4` in the source) → timm's name.
RESNETS = {6: "resnet50", 23: "resnet101", 36: "resnet152"}

_SHOWN = {raw[0]: name for name, raw in zip(COCO_STUFF_CLASSES.names, COCO_STUFF_CLASSES.raw, strict=True)}
#: Data sets of the published checkpoints. COCO-Stuff has 182 class numbers, eleven of which occur in no picture.
CLASSES = {
    "Pascal VOC": VOC_CLASSES,
    "COCO-Stuff": ClassTable(
        names=tuple(_SHOWN.get(value, f"unused {value}") for value in range(182)),
        colors=default_colors(183)[1:],
        raw=tuple((value,) for value in range(182)),
        ignore=(255,),
    ),
}

#: Convolution or norm of a bottleneck in the source → in timm.
_UNITS = {
    "reduce.conv": "conv1",
    "reduce.bn": "bn1",
    "conv3x3.conv": "conv2",
    "conv3x3.bn": "bn2",
    "increase.conv": "conv3",
    "increase.bn": "bn3",
    "shortcut.conv": "downsample.0",
    "shortcut.bn": "downsample.1",
}


def _unit(match: re.Match[str]) -> str:
    return f"backbone.net.layer{int(match[1]) - 1}.{int(match[2]) - 1}.{_UNITS[match[3]]}."


#: Foreign key → our key. Keys begin with `base` if the network runs at several scales.
KEYS: Keys = (
    (r"(?:base\.)?layer1\.conv1\.conv\.", "backbone.net.conv1."),
    (r"(?:base\.)?layer1\.conv1\.bn\.", "backbone.net.bn1."),
    (rf"(?:base\.)?layer([2-5])\.block(\d+)\.({'|'.join(map(re.escape, _UNITS))})\.", _unit),
    (r"(?:base\.)?aspp\.c(\d)\.", r"aspp.branches.\1."),
)

_CAFFE = re.compile(r"(base\.)?layer5\.block1\.reduce\.conv\.weight")


def recognises(foreign: Foreign) -> bool:
    """Returns whether the keys are those of kazuto1011/deeplab-pytorch.

    Args:
        foreign: the checkpoint as read from its file.
    """
    return any(map(_CAFFE.fullmatch, foreign.state))


def adapt(foreign: Foreign, given: Mapping[str, Any]) -> Adapted:
    """Converts a checkpoint to our keys and arguments.

    Args:
        foreign: checkpoint of `DeepLabV2_ResNet101_MSC`, or of `DeepLabV2` alone.
        given: arguments that the user gave. `DeepLabV2S_ResNet101_MSC` has the same keys and needs
            atrous_rates=(3, 6, 9, 12).

    Returns:
        The checkpoint as `deeplabv2`. A model with 21 outputs gets the classes of Pascal VOC, a model with 182 outputs
        those of COCO-Stuff.

    Raises:
        AtrousError: the checkpoint is the source's DeepLabV1, V3 or V3+, or has another layout.
    """
    state, left_over = translate(foreign.state, KEYS)
    branches = sum(bool(re.fullmatch(r"aspp\.branches\.\d\.weight", key)) for key in state)
    if branches != 4:
        raise AtrousError(
            "atrous converts only DeepLabV2 of kazuto1011's networks; its ASPP has the keys aspp.c0 to aspp.c3. The "
            "source's DeepLabV1 has only initial weights, and V3 and V3+ have neither tests nor published weights."
        )
    stem = "backbone.net.conv1.weight"
    in_channels = state[stem].shape[1]
    if in_channels == 3:
        state[stem] = state[stem].flip(1)
    several = any(key.startswith("base.") for key in foreign.state)
    num_classes = len(state["aspp.branches.0.weight"])
    usual = {
        "output_stride": 8,
        "atrous_rates": (6, 12, 18, 24),
        "scales": (0.5, 0.75, 1.0) if several else (1.0,),
        "dropout": 0.0,
    }
    held = {
        "backbone": _resnet(foreign),
        "backbone_arguments": {"norm": (1e-5, 0.001), "stride_first": True, "ceil_pool": True},
        "num_classes": num_classes,
        "in_channels": in_channels,
        "fov_channels": 0,
        "dilation_rule": "full",
        "auxiliary": False,
    }
    return Adapted(
        architecture="deeplabv2",
        arguments=merged(usual, held, given, foreign.name),
        state=state,
        left_over=left_over,
        preprocessing=normalisation((122.675, 116.669, 104.008), (1.0, 1.0, 1.0), in_channels),
        untold=("atrous_rates",),
        **by_number(num_classes, CLASSES),
    )


def _resnet(foreign: Foreign) -> str:
    blocks = sum(bool(re.fullmatch(r"(base\.)?layer4\.block\d+\.reduce\.conv\.weight", key)) for key in foreign.state)
    if blocks not in RESNETS:
        raise AtrousError(f"the backbone has {blocks} blocks in layer4, but a ResNet-50, 101 or 152 has 6, 23 or 36.")
    return RESNETS[blocks]
