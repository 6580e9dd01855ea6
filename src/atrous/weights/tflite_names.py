"""Reads the convolutions of a .tflite file under TF-slim's names, which Google's checkpoints use."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atrous.errors import AtrousError
from atrous.weights import tflite_file

#: Normalisation x / 127.5 − 1 of pictures in 0–255, for files in float32; a quantised file states its mean and std.
MEAN = STD = 127.5


def read_tflite(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads the convolutions of a .tflite file under TF-slim's names, and the properties of its graph.

    Args:
        path: file in float32 or quantised to 8 bits; nothing in it is run.

    Returns:
        The state dict: `<layer>/weights` (O×kh×kw×I) or `<layer>/depthwise_weights` (1×kh×kw×C), and `<layer>/bias`,
        float32.
        The properties of the graph: "output_stride" (the product of the backbone's strides), "corners" of the last
        resize, "input_size" (H, W), "quantised" (a bool), "mean" and "std" of the input, and "strides", "dilations"
        and "activations" as dicts by layer.

    Raises:
        AtrousError: see `tflite_file.read_graph`; or two convolutions have the same name.
    """
    path = Path(path)
    graph = tflite_file.read_graph(path)
    state: dict[str, Tensor] = {}
    layers = {}
    for convolution in graph.convolutions:
        layer = layer_name(convolution.name)
        if layer in layers:
            raise AtrousError(f"{path.name} has two convolutions named '{layer}'.")
        layers[layer] = convolution
        leaf = "depthwise_weights" if convolution.depthwise else "weights"
        state[f"{layer}/{leaf}"] = torch.from_numpy(convolution.weights)
        state[f"{layer}/bias"] = torch.from_numpy(convolution.bias)
    strides = {layer: convolution.stride for layer, convolution in layers.items()}
    mean, std = MEAN, STD
    if graph.input_scale is not None:
        scale, zero = graph.input_scale
        mean, std = zero, 1 / scale
    config = {
        "output_stride": math.prod(stride for layer, stride in strides.items() if layer.startswith("MobilenetV2/")),
        "corners": graph.corners,
        "input_size": graph.input_shape[1:3],
        "quantised": graph.input_scale is not None,
        "mean": mean,
        "std": std,
        "strides": strides,
        "dilations": {layer: convolution.dilation for layer, convolution in layers.items()},
        "activations": {layer: convolution.activation for layer, convolution in layers.items()},
    }
    return state, config


def layer_name(tensor: str) -> str:
    """Extracts the layer from the name of a weights tensor.

    TensorFlow's converter joins several names by ";", and appends the names of its own operations.

    Args:
        tensor: name of the tensor in the file.

    Examples:
        >>> layer_name("aspp0/Conv2D_Fold;aspp0/weights_quant/FakeQuantWithMinMaxVars")
        'aspp0'
        >>> layer_name("MobilenetV2/expanded_conv/depthwise/depthwise_weights")
        'MobilenetV2/expanded_conv/depthwise'
    """
    for part in tensor.split(";"):
        match = re.match(r"(.+?)/(?:depthwise_)?weights(?:_quant)?(?:/|$)", part)
        if match:
            return match[1]
    return tensor
