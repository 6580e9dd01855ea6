"""Converts Google's mobile DeepLabV3 (MobileNetV2, image pooling, a 1×1 branch) from .tflite or TF-slim's arrays.

Source: tensorflow/models, research/deeplab (model.py, core/feature_extractor.py) and research/slim/nets/mobilenet.
In the published .tflite files, batch norms are folded into weights and biases. The converted model has norms in the
same places, which only add these biases. A quantised file becomes float32; the rounding of its activations to 8 bits is
not reproduced.

Difference: atrous pools the features of the whole picture. Google's network pools a window that has the size of the
training crop's features. For pictures of the size of the training crop, the results are equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from atrous.data.layouts.voc import VOC_CLASSES
from atrous.errors import AtrousError
from atrous.models import Preprocessing
from atrous.weights.adapter import (
    MOBILENETV2_STAGES,
    Adapted,
    blocks_by_stage,
    by_number,
    move_channels,
    translate,
)
from atrous.weights.merge_user_options import merged
from atrous.weights.read_checkpoint import Foreign
from atrous.weights.tflite_names import MEAN, STD

#: (eps, momentum) of batch norm: of slim's scope for MobileNetV2 (decay 0.997), and of DeepLab's head (decay 0.9997).
BACKBONE_NORM, HEAD_NORM = (1e-3, 0.003), (1e-5, 0.0003)
#: Pixel positions of the last resize of a graph → align_corners.
CORNERS = {"aligned": True, "half_pixel": False}
#: Output stride if the file does not determine it: Google trained and evaluated its mobile models at this stride.
OUTPUT_STRIDE = 16

#: timm's stage and block of each expanded_conv_<number>, and the stride of each of the 17 blocks (arXiv:1801.04381
#: Table 2).
PLACES = blocks_by_stage(MOBILENETV2_STAGES)
STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
LAST_CHANNELS = 320

_WEIGHTS = r"(?:depthwise_)?weights$"
_NORM = r"(?:BatchNorm/)?(gamma|beta|moving_mean|moving_variance|bias|biases)$"
_LEAVES = {"gamma": "weight", "beta": "bias", "bias": "bias", "biases": "bias"}
_LEAVES |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
#: TF-slim's layer → timm's convolution and norm. The first block has no expansion, so it has one norm fewer.
_FIRST = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
_BLOCK = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}


def _weights(match: re.Match[str]) -> str:
    return f"backbone.net.blocks.{PLACES[int(match[1])]}.{_BLOCK[match[2]][0]}.weight"


def _norm(match: re.Match[str]) -> str:
    return f"backbone.net.blocks.{PLACES[int(match[1])]}.{_BLOCK[match[2]][1]}.{_LEAVES[match[3]]}"


#: TF-slim's key → key of atrous, for norms that are stored as they are and for norms that are folded into a bias.
KEYS = (
    (rf"MobilenetV2/Conv/{_WEIGHTS}", "backbone.net.conv_stem.weight"),
    (rf"MobilenetV2/Conv/{_NORM}", lambda m: f"backbone.net.bn1.{_LEAVES[m[1]]}"),
    (
        rf"MobilenetV2/expanded_conv/(depthwise|project)/{_WEIGHTS}",
        lambda m: f"backbone.net.blocks.0.0.{_FIRST[m[1]][0]}.weight",
    ),
    (
        rf"MobilenetV2/expanded_conv/(depthwise|project)/{_NORM}",
        lambda m: f"backbone.net.blocks.0.0.{_FIRST[m[1]][1]}.{_LEAVES[m[2]]}",
    ),
    (rf"MobilenetV2/expanded_conv_(\d|1[0-6])/(expand|depthwise|project)/{_WEIGHTS}", _weights),
    (rf"MobilenetV2/expanded_conv_(\d|1[0-6])/(expand|depthwise|project)/{_NORM}", _norm),
    (rf"aspp0/{_WEIGHTS}", "aspp.point.0.weight"),
    (rf"aspp0/{_NORM}", lambda m: f"aspp.point.1.{_LEAVES[m[1]]}"),
    (rf"image_pooling/{_WEIGHTS}", "aspp.image_pooling.unit.0.weight"),
    (rf"image_pooling/{_NORM}", lambda m: f"aspp.image_pooling.unit.1.{_LEAVES[m[1]]}"),
    (rf"concat_projection/{_WEIGHTS}", "aspp.project.0.weight"),
    (rf"concat_projection/{_NORM}", lambda m: f"aspp.project.1.{_LEAVES[m[1]]}"),
    (rf"logits/semantic/{_WEIGHTS}", "classifier.weight"),
    (r"logits/semantic/bias(?:es)?$", "classifier.bias"),
)

#: Keys of other DeepLab networks of the same repository, which this module does not convert.
OTHERS = re.compile(r"(aspp[1-9]|decoder/|xception_|resnet_v1)")


def recognises(foreign: Foreign) -> bool:
    """Returns whether the names are TF-slim's for a mobile DeepLab."""
    return "MobilenetV2/Conv/weights" in foreign.state and "logits/semantic/weights" in foreign.state


def adapt(foreign: Foreign, given: Mapping[str, Any]) -> Adapted:
    """Converts a mobile DeepLabV3.

    Args:
        foreign: content of a .tflite file, from `tflite_names.read_tflite`, or arrays with TF-slim's names. The arrays
            have the layout of .tflite files with folded norms, or that of a TensorFlow checkpoint (kh×kw×I×O, norms
            not folded).
        given: arguments that the user named. Arrays do not determine output_stride; its default is 16.

    Returns:
        DeepLabV3 over `google_mobilenetv2_<width>`. A model with 21 outputs gets the classes of Pascal VOC.

    Raises:
        AtrousError: the file contains another network, or its strides, dilations or activations differ.
    """
    _refuse_others(foreign)
    config = foreign.config
    if "strides" in config:
        _check_geometry(config)
    if config.get("corners") == "top_left" and "align_corners" not in given:
        raise AtrousError(
            "its last resize has neither align_corners nor half_pixel_centers (TensorFlow 1's default). This resize "
            "is not supported: masks would shift by up to half a feature cell. Export the model with one of the two, "
            "or accept the shift in Python: atrous.convert(file, align_corners=False)."
        )
    renamed, left_over = translate(foreign.state, KEYS)
    state = _with_norms(_torch_layout(renamed))
    last, projection, classifier, stem = (
        _convolution(state, name, foreign.name)
        for name in (
            "backbone.net.blocks.6.0.conv_pwl.weight",
            "aspp.project.0.weight",
            "classifier.weight",
            "backbone.net.conv_stem.weight",
        )
    )
    # In TensorFlow, image pooling is the first branch; in atrous, it is the last one.
    state["aspp.project.0.weight"] = move_channels(projection, (1, 0))
    channels = stem.shape[1]
    usual = {
        "output_stride": config.get("output_stride", OUTPUT_STRIDE),
        "multi_grid": (1, 1, 1),
        "dropout": 0.1,
        "align_corners": True,
    }
    held = {
        "backbone": f"google_mobilenetv2_{round(100 * last.shape[0] / LAST_CHANNELS):03d}",
        "backbone_arguments": {"norm": BACKBONE_NORM, "padding": "tensorflow"},
        "num_classes": classifier.shape[0],
        "in_channels": channels,
        "aspp_channels": projection.shape[0],
        "aspp_conv": False,
        "auxiliary": False,
        "atrous_rates": (),
        "norm": HEAD_NORM,
    }
    if config.get("corners") in CORNERS:
        held["align_corners"] = CORNERS[config["corners"]]
    return Adapted(
        architecture="deeplabv3",
        arguments=merged(usual, held, given, foreign.name),
        state=state,
        left_over=left_over,
        preprocessing=Preprocessing.of_pictures(
            (config.get("mean", MEAN),) * channels, (config.get("std", STD),) * channels
        ),
        untold=() if config else ("output_stride",),
        notes=_notes(config),
        **by_number(classifier.shape[0], {"Pascal VOC": VOC_CLASSES}),
    )


def _notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns notes for the user on the picture size and the quantisation of a .tflite file."""
    found = []
    size = config.get("input_size", ())
    if len(size) == 2 and min(size) > 1:
        found.append(
            f"The network was made for pictures of {size[1]}×{size[0]} px. Other sizes work, too, best if objects have "
            "the same size in pixels."
        )
    if config.get("quantised"):
        found.append("The 8-bit rounding of its activations is not reproduced: about 2 % of the pixels may differ.")
    return tuple(found)


def _refuse_others(foreign: Foreign) -> None:
    others = sorted(key for key in foreign.state if OTHERS.match(key))
    if others:
        raise AtrousError(
            f"'{others[0]}' is not part of a TensorFlow DeepLab that can be converted. Only networks over MobileNetV2 "
            "without atrous branches and decoder can be converted, such as mobilenetv2_coco_voc_trainaug."
        )


def _convolution(state: Mapping[str, Tensor], name: str, file: str) -> Tensor:
    """Returns the weights of a convolution; refuses a file in which they are missing or not 4-dimensional."""
    tensor = state.get(name)
    if tensor is None or tensor.ndim != 4:
        what = "is missing" if tensor is None else f"has {tensor.ndim} dimensions instead of 4"
        raise AtrousError(f"{file or 'the state dict'}: the weight for '{name}' {what}; the file is not complete.")
    return tensor


def _check_geometry(config: Mapping[str, Any]) -> None:
    """Refuses a graph whose strides, dilations or activations differ from those of the converted network."""
    strides, dilations, activations = config["strides"], config["dilations"], config["activations"]
    rate = 1
    for number, nominal in enumerate(STRIDES):
        block = f"MobilenetV2/expanded_conv_{number}" if number else "MobilenetV2/expanded_conv"
        layer = f"{block}/depthwise"
        found = strides.get(layer), dilations.get(layer)
        allowed = {(1, rate), (nominal if rate == 1 else 1, rate)}
        if found not in allowed:
            raise AtrousError(
                f"'{layer}' has stride and dilation {found}, not {' or '.join(map(str, sorted(allowed)))} as in this "
                "network. Dilation by SpaceToBatch and BatchToSpace is not supported: export it as native dilation."
            )
        rate *= nominal // strides[layer]
    for layer, activation in activations.items():
        if layer.startswith("MobilenetV2/"):
            expected = "none" if layer.endswith("/project") else "relu6"
        else:
            expected = "none" if layer.startswith("logits/") else "relu"
        if activation != expected:
            raise AtrousError(f"'{layer}' ends in activation '{activation}'; in this network it must be '{expected}'.")


def _torch_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Permutes every convolution to O×I×kh×kw, or to C×1×kh×kw if it is depthwise."""
    depthwise = next((tensor for name, tensor in state.items() if name.endswith("conv_dw.weight")), None)
    # .tflite: O×kh×kw×I and 1×kh×kw×C; checkpoint: kh×kw×I×O and kh×kw×C×1. Depthwise weights show which layout it is.
    lite = depthwise is not None and depthwise.shape[0] == 1
    plain, grouped = ((0, 3, 1, 2), (3, 0, 1, 2)) if lite else ((3, 2, 0, 1), (2, 3, 0, 1))
    return {
        name: tensor.permute(grouped if name.endswith("conv_dw.weight") else plain).contiguous()
        if tensor.ndim == 4
        else tensor
        for name, tensor in state.items()
    }


def _with_norms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Completes each norm that was folded into a bias, so that it adds this bias and changes nothing else."""
    complete = dict(state)
    for name, bias in state.items():
        norm = name.removesuffix(".bias")
        if not name.endswith(".bias") or norm == "classifier" or f"{norm}.running_var" in state:
            continue
        eps = (BACKBONE_NORM if norm.startswith("backbone.") else HEAD_NORM)[0]
        complete[f"{norm}.weight"] = torch.ones_like(bias)
        complete[f"{norm}.running_mean"] = torch.zeros_like(bias)
        complete[f"{norm}.running_var"] = torch.full_like(bias, 1 - eps)
    return complete
