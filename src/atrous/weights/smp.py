"""segmentation-models-pytorch's DeepLabV3+ over its timm (`tu-`) encoders.

Source: segmentation_models_pytorch/decoders/deeplabv3/decoder.py, version 0.6.0.
"""

from __future__ import annotations

import re

from torch import Tensor

#: Its layout at output stride 16, as arguments of ours: rates 12, 24, 36, a separable 3×3 after the ASPP, one in the
#: decoder, nothing between depthwise and pointwise, corners aligned. (At stride 8 it keeps these rates, ours double.)
LAYOUT = {
    "atrous_rates": (12, 24, 36),
    "aspp_conv": True,
    "decoder_convs": 1,
    "separable": True,
    "depthwise_norm": False,
    "dropout": 0.5,
    "align_corners": True,
}

#: Its key → ours. A separable unit is (depthwise, pointwise), norm there and depthwise, pointwise, norm here.
KEYS = (
    (r"encoder\.model\.", "backbone.net."),
    (r"decoder\.aspp\.0\.convs\.0\.", "aspp.point."),
    (r"decoder\.aspp\.0\.convs\.([123])\.0\.0\.", lambda m: f"aspp.atrous.{int(m[1]) - 1}.0."),
    (r"decoder\.aspp\.0\.convs\.([123])\.0\.1\.", lambda m: f"aspp.atrous.{int(m[1]) - 1}.1."),
    (r"decoder\.aspp\.0\.convs\.([123])\.1\.", lambda m: f"aspp.atrous.{int(m[1]) - 1}.2."),
    (r"decoder\.aspp\.0\.convs\.4\.1\.", "aspp.image_pooling.unit.0."),
    (r"decoder\.aspp\.0\.convs\.4\.2\.", "aspp.image_pooling.unit.1."),
    (r"decoder\.aspp\.0\.project\.", "aspp.project."),
    (r"decoder\.aspp\.1\.([01])\.", r"aspp_conv.\1."),
    (r"decoder\.aspp\.2\.", "aspp_conv.2."),
    (r"decoder\.block1\.", "decoder.reduce."),
    (r"decoder\.block2\.0\.([01])\.", r"decoder.fuse.0.\1."),
    (r"decoder\.block2\.1\.", "decoder.fuse.0.2."),
    (r"segmentation_head\.0\.", "classifier."),
)


def translate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Its state dict under our keys.

    Args:
        state: of a `DeepLabV3Plus` over a `tu-` encoder.

    Returns:
        The same tensors; keys that match nothing stay as they are, so that loading names them.
    """
    return {_ours(key): tensor for key, tensor in state.items()}


def _ours(key: str) -> str:
    for pattern, replacement in KEYS:
        renamed, matched = re.subn(f"^{pattern}", replacement, key)
        if matched:
            return renamed
    return key
