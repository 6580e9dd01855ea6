"""Converts a VGG-16 trained on ImageNet into the backbone and LargeFOV of a new DeepLabV1 or V2.

Sources: torchvision/models/vgg.py, version 0.29 (RGB, ImageNet's mean and deviation); Caffe's VGG_ILSVRC_16_layers and
variants with a reduced fc6, with Caffe's names (BGR, mean only).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import Tensor

from atrous import models
from atrous.models.meta_device import on_meta_device
from atrous.weights.adapter import IMAGENET_MEAN, IMAGENET_STD, Adapted, Keys, normalisation, translate
from atrous.weights.merge_user_options import merged
from atrous.weights.read_checkpoint import Foreign

#: torchvision's number of a convolution in `features` → Caffe's name, which is also the name in atrous.
CONVS = {
    0: "conv1_1",
    2: "conv1_2",
    5: "conv2_1",
    7: "conv2_2",
    10: "conv3_1",
    12: "conv3_2",
    14: "conv3_3",
    17: "conv4_1",
    19: "conv4_2",
    21: "conv4_3",
    24: "conv5_1",
    26: "conv5_2",
    28: "conv5_3",
}

TORCHVISION: Keys = (
    *((rf"features\.{number}\.", f"backbone.net.{name}.") for number, name in CONVS.items()),
    (r"classifier\.0\.", "fc6."),
    (r"classifier\.3\.", "fc7."),
)
CAFFE: Keys = (
    (r"(conv[1-5]_[1-3])\.", r"backbone.net.\1."),
    (r"(fc[67])\.", r"\1."),
)
KEYS: Keys = (*TORCHVISION, *CAFFE)

#: Caffe's mean of ImageNet in RGB order; Caffe does not divide by a deviation.
CAFFE_MEAN, CAFFE_STD = (123.68, 116.779, 103.939), (1.0, 1.0, 1.0)

#: Architecture → prefixes of its fc6 and fc7.
HEADS = {
    "deeplabv1": ("head.",),
    "deeplabv2": tuple(f"aspp.branches.{index}." for index in range(4)),
}


def recognises(foreign: Foreign) -> bool:
    """Returns whether the file has exactly the thirteen convolutions of VGG-16, without batch norms."""
    keys = set(foreign.state)
    torchvision = {f"features.{number}.weight" for number in CONVS}
    others = {key for key in keys if key.startswith("features.") and key.endswith(".weight")} - torchvision
    caffe = {f"{name}.weight" for name in CONVS.values()}
    return (torchvision <= keys and not others) or (caffe <= keys and "conv5_4.weight" not in keys)


def adapt(foreign: Foreign, given: Mapping[str, Any]) -> Adapted:
    """Creates a new DeepLabV1, or a model of another architecture, with the weights of VGG-16.

    fc6 (4096 filters of 7×7) and fc7 are subsampled to the width of the model, and fc6 to 3×3, as the paper does for
    DeepLab-LargeFOV (arXiv:1412.7062 §3.2). The paper does not state which filters are kept; atrous keeps every fourth
    filter and every third pixel. An fc6 that is already subsampled is not changed.

    Args:
        foreign: state dict of VGG-16, or content of a .caffemodel.
        given: arguments that the user named; the default of `architecture` is deeplabv1.

    Raises:
        AtrousError: the user named another backbone.
    """
    architecture = given.get("architecture", "deeplabv1")
    state, left_over = translate(foreign.state, KEYS)
    held: dict[str, Any] = {"backbone": "vgg16"}
    if state["backbone.net.conv1_1.weight"].shape[1] != 3:
        held["in_channels"] = state["backbone.net.conv1_1.weight"].shape[1]
    arguments = merged({}, held, given, foreign.name)
    with on_meta_device():
        ours = models.build(architecture, arguments).state_dict()
    caffe = "conv1_1.weight" in foreign.state
    first = state["backbone.net.conv1_1.weight"]
    channels = ours["backbone.net.conv1_1.weight"].shape[1]
    first = first.flip(1) if caffe and first.shape[1] == 3 else first  # BGR → RGB
    state["backbone.net.conv1_1.weight"] = first if first.shape[1] == channels else adapt_input_conv(channels, first)
    layers = {name: state.pop(name) for name in tuple(state) if name.startswith("fc")}
    placed = {
        f"{head}{name}": _thinned(tensor, ours[f"{head}{name}"])
        for head in HEADS.get(architecture, ())
        for name, tensor in layers.items()
        if f"{head}{name}" in ours
    }
    if not placed:
        left_over += tuple(
            key for key in foreign.state if key.startswith(("fc6.", "fc7.", "classifier.0", "classifier.3"))
        )
    return Adapted(
        architecture,
        arguments,
        {**state, **placed},
        left_over,
        normalisation(*((CAFFE_MEAN, CAFFE_STD) if caffe else (IMAGENET_MEAN, IMAGENET_STD)), channels),
        fills=("backbone.",),
    )


def _thinned(tensor: Tensor, ours: Tensor) -> Tensor:
    """Keeps every n-th filter, input channel and pixel, so that the weights get the shape of the model's weights."""
    if tensor.ndim == 2:  # fully connected: the inputs are 512 maps of 7×7, or 4096 values
        side = 7 if tensor.shape[1] == 512 * 49 else 1
        tensor = tensor.reshape(tensor.shape[0], -1, side, side)
    if tensor.ndim != ours.ndim or any(there < here for there, here in zip(tensor.shape, ours.shape, strict=True)):
        return tensor  # these weights cannot be subsampled; the later comparison of shapes reports this
    for dim, size in enumerate(ours.shape):
        # 7 pixels to 3: the first, middle and last; 4096 filters to 1024: every fourth.
        step = max(1, (tensor.shape[dim] - 1) // (size - 1)) if dim > 1 and size > 1 else tensor.shape[dim] // size
        index = torch.arange(size) * step
        tensor = tensor.index_select(dim, index)
    return tensor
