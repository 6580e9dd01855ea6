"""Reads the arguments that smp's `save_pretrained` stores with the weights.

Source: segmentation_models_pytorch/decoders/deeplabv3/model.py, base/hub_mixin.py, version 0.6.0. Each argument is
either used, or refused by a message that names the argument. If the weights also determine an argument, its value must
agree with the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atrous.weights.config_reader import MOST_RATE, Record

#: smp's class → architecture of atrous.
CLASSES = {"DeepLabV3": "deeplabv3", "DeepLabV3Plus": "deeplabv3plus"}

#: smp's arguments; the hyperparameters of a Lightning checkpoint may also contain them.
ARGUMENTS = (
    "encoder_name",
    "encoder_depth",
    "encoder_weights",
    "encoder_output_stride",
    "decoder_channels",
    "decoder_atrous_rates",
    "decoder_aspp_separable",
    "decoder_aspp_dropout",
)
#: Further arguments, which are read from config.json only.
FURTHER = ("_model_class", "in_channels", "classes", "activation", "upsampling", "aux_params", "drop_path_rate")

#: Number of outputs (2 means several) → activations that give the same mask as atrous computes from logits.
ACTIVATIONS = {1: (None, "identity", "sigmoid"), 2: (None, "identity", "softmax", "softmax2d", "logsoftmax")}

#: `encoder_weights` whose pictures are normalised as (x / 255 − 0.5) / 0.5 (timm's tf_*_ap).
HALF = ("advprop",)

#: Largest allowed number of channels and outputs and upsampling factor; far above the values of any network.
MOST_CHANNELS = 2**20


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """Reads smp's arguments from the metadata of a file: config.json, or the hyperparameters of a Lightning module.

    Args:
        config: `Foreign.config`.

    Returns:
        smp's name of an argument → value; empty if the metadata is not from smp.

    Raises:
        AtrousError: an argument has no counterpart in atrous.
    """
    if "_model_class" in config or "encoder_name" in config:
        known = {name: value for name, value in config.items() if name != "preprocessor"}
        for name, value in known.items():
            if name not in (*ARGUMENTS, *FURTHER) and not str(name).startswith("_") and value is not None:
                raise Record(config).refused(name, "atrous has no such argument")
        return {name: value for name, value in known.items() if name in (*ARGUMENTS, *FURTHER)}
    hyper = config.get("hyper_parameters")
    return {name: hyper[name] for name in ARGUMENTS if name in hyper} if isinstance(hyper, Mapping) else {}


def told(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """Translates the arguments that the weights do not determine.

    Args:
        config: result of `read`.
        architecture: name of the architecture in atrous, determined from the weights.

    Returns:
        The values of output_stride, atrous_rates and dropout that the configuration has. The rates are smp's own: they
        hold at smp's output stride.

    Raises:
        AtrousError: an argument has no counterpart in atrous, or two arguments contradict each other.
    """
    record = Record(config)
    kind = record.text("_model_class")
    if kind is not None and CLASSES.get(kind) != architecture:
        raise record.refused("_model_class", f"the weights are those of a {architecture}")
    for name in ("encoder_name", "encoder_weights"):
        record.text(name)
    if record.whole("encoder_depth", 1, 5) not in (None, 5):
        raise record.refused("encoder_depth", "only 5 is supported")
    arguments: dict[str, Any] = {}
    stride = record.whole("encoder_output_stride", 8, 16)
    if stride is not None:
        if stride not in (8, 16):
            raise record.refused("encoder_output_stride", "it must be 8 or 16")
        arguments["output_stride"] = stride
    _check_head(record, architecture, stride)
    rates = record.wholes("decoder_atrous_rates", 1, MOST_RATE, 3)
    if rates:
        arguments["atrous_rates"] = tuple(rates)
    dropout = record.number("decoder_aspp_dropout", 0, 1)
    if dropout is not None:
        arguments["dropout"] = dropout
    return arguments


def check(config: Mapping[str, Any], arguments: Mapping[str, Any], separable: bool) -> None:
    """Compares the configuration with the weights.

    Args:
        config: result of `read`.
        arguments: arguments of atrous that the weights determine.
        separable: whether the ASPP's 3×3 convolutions are separable in the file.

    Raises:
        AtrousError: the configuration contradicts the weights.
    """
    record = Record(config)
    found = {
        "classes": arguments["num_classes"],
        "in_channels": arguments["in_channels"],
        "decoder_channels": arguments["aspp_channels"],
    }
    for name, value in found.items():
        if record.whole(name, 1, MOST_CHANNELS) not in (None, value):
            raise record.refused(name, f"the weights have {value}")
    if record.flag("decoder_aspp_separable", separable) != separable:
        raise record.refused("decoder_aspp_separable", f"the weights have {separable}")
    outputs = arguments["num_classes"]
    if record.text("activation") not in ACTIVATIONS[min(outputs, 2)]:
        allowed = ", ".join(map(str, ACTIVATIONS[min(outputs, 2)]))
        raise record.refused("activation", f"for {outputs} outputs it must be one of {allowed}")


def _check_head(record: Record, architecture: str, stride: int | None) -> None:
    """Refuses an upsampling factor with which the logits do not have the size of the picture; checks drop_path_rate."""
    usual = 4 if architecture == "deeplabv3plus" else stride or 8
    found = record.number("upsampling", 0, MOST_CHANNELS)
    unset = record.values.get("upsampling", usual) is None and architecture != "deeplabv3"
    if found not in (None, usual) or unset:
        raise record.refused("upsampling", f"only {usual} is supported, which gives masks of the picture's size")
    record.number("drop_path_rate", 0, 1, below=True)
