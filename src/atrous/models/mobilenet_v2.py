"""MobileNetV2 of Google's DeepLab.

It differs from timm's MobileNetV2 in three points: it has SAME padding, its numbers of channels are not always rounded
to multiples of 8, and by default it has no final convolution to 1280 channels.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNetFeatures
from torch import nn

from atrous.errors import AtrousError

PREFIX = "google_mobilenetv2_"

#: Inverted residual stages (arXiv:1801.04381 Table 2) in timm's notation: repeats, kernel, stride, expansion, channels.
STAGES = [
    ["ds_r1_k3_s1_c16"],
    ["ir_r2_k3_s2_e6_c24"],
    ["ir_r3_k3_s2_e6_c32"],
    ["ir_r4_k3_s2_e6_c64"],
    ["ir_r3_k3_s1_e6_c96"],
    ["ir_r3_k3_s2_e6_c160"],
    ["ir_r1_k3_s1_e6_c320"],
]


def google_mobilenetv2(name: str, *, last_conv: bool = False, **arguments: Any) -> nn.Module:
    """Builds the network; it returns feature maps like timm's networks.

    Args:
        name: "google_mobilenetv2_" and the width in hundredths, two or three digits, 01–999. At widths other than 100
            channels are not rounded to multiples of 8: width 050 has 16, 8, 12, 16, 32, 48, 80 and 160 channels
            (tensorflow/models, research/deeplab/core/feature_extractor.py, `_mobilenet_v2`).
        last_conv: whether to add the 1×1 convolution to 1280 channels before the classifier (Table 2), as
            segmentation-models-pytorch does.
        arguments: arguments of timm's `EfficientNetFeatures`, such as in_chans, out_indices and output_stride.

    Raises:
        AtrousError: the name has another form.
    """
    width = re.fullmatch(rf"{PREFIX}(\d{{2,3}})", name)
    if width is None or not int(width[1]):
        raise AtrousError(
            f"unknown backbone '{name}': write {PREFIX} and the width in hundredths, as in {PREFIX}050 or {PREFIX}100."
        )
    divisor = 8 if int(width[1]) == 100 else 1
    return EfficientNetFeatures(
        decode_arch_def([*STAGES, ["cn_r1_k1_s1_c1280"]] if last_conv else STAGES),
        round_chs_fn=partial(round_channels, multiplier=int(width[1]) / 100, divisor=divisor),
        act_layer=nn.ReLU6,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
        **{"pad_type": "same", **arguments},
    )
