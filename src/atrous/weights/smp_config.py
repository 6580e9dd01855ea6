"""The arguments that smp's `save_pretrained` writes beside the weights, and what of them ours must have.

Source: segmentation_models_pytorch/decoders/deeplabv3/model.py, base/hub_mixin.py, version 0.6.0. Each argument is
taken, or refused by its name; one that the weights tell, too, must agree with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atrous.weights.config_reader import MOST_RATE, Record

#: Its classes → ours.
CLASSES = {"DeepLabV3": "deeplabv3", "DeepLabV3Plus": "deeplabv3plus"}

#: Its arguments, which a Lightning checkpoint's hyperparameters may have, too.
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
#: The further ones, of config.json alone.
FURTHER = ("_model_class", "in_channels", "classes", "activation", "upsampling", "aux_params", "drop_path_rate")

#: What its activations are after logits, with one output and with several: what is made of logits here, too.
ACTIVATIONS = {1: (None, "identity", "sigmoid"), 2: (None, "identity", "softmax", "softmax2d", "logsoftmax")}

#: Weights of encoders whose pictures are (x / 255 − 0.5) / 0.5 (timm's tf_*_ap).
HALF = ("advprop",)

#: Far above the channels, outputs and factors of any network.
MOST_CHANNELS = 2**20


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of smp in a file's record: of its config.json, or of a Lightning module's hyperparameters.

    Args:
        config: `Foreign.config`.

    Returns:
        By smp's names; empty where the record is none of smp's.

    Raises:
        AtrousError: an argument that has no counterpart here.
    """
    if "_model_class" in config or "encoder_name" in config:
        known = {name: value for name, value in config.items() if name != "preprocessor"}
        for name, value in known.items():
            if name not in (*ARGUMENTS, *FURTHER) and not str(name).startswith("_") and value is not None:
                raise Record(config).refused(name, "no such argument is known here")
        return {name: value for name, value in known.items() if name in (*ARGUMENTS, *FURTHER)}
    hyper = config.get("hyper_parameters")
    return {name: hyper[name] for name in ARGUMENTS if name in hyper} if isinstance(hyper, Mapping) else {}


def told(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """Arguments of ours that the weights do not tell.

    Args:
        config: from `read`.
        architecture: ours, as the weights have it.

    Returns:
        Of output_stride, atrous_rates (named at output stride 16) and dropout those that it has.

    Raises:
        AtrousError: an argument that has no counterpart here, or that contradicts another.
    """
    record = Record(config)
    kind = record.text("_model_class")
    if kind is not None and CLASSES.get(kind) != architecture:
        raise record.refused("_model_class", f"the weights are those of a {architecture}")
    for name in ("encoder_name", "encoder_weights"):
        record.text(name)
    if record.whole("encoder_depth", 1, 5) not in (None, 5):
        raise record.refused("encoder_depth", "only 5 is here")
    arguments: dict[str, Any] = {}
    stride = record.whole("encoder_output_stride", 8, 16)
    if stride is not None:
        if stride not in (8, 16):
            raise record.refused("encoder_output_stride", "it is 8 or 16")
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
    """Compares what both the record and the weights tell.

    Args:
        config: from `read`.
        arguments: ours, as the weights tell them.
        separable: whether the ASPP's 3×3 convolutions were separable in the file.

    Raises:
        AtrousError: they contradict each other.
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
        raise record.refused("activation", f"of {outputs} outputs a mask is made as after one of {allowed}")


def _check_head(record: Record, architecture: str, stride: int | None) -> None:
    """Whether the logits have the size of the picture."""
    usual = 4 if architecture == "deeplabv3plus" else stride or 8
    found = record.number("upsampling", 0, MOST_CHANNELS)
    unset = record.values.get("upsampling", usual) is None and architecture != "deeplabv3"
    if found not in (None, usual) or unset:
        raise record.refused("upsampling", f"only {usual}, which gives masks of the picture's size, is here")
    record.number("drop_path_rate", 0, 1, below=True)
