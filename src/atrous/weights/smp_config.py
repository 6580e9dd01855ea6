"""The arguments that smp's `save_pretrained` writes beside the weights, and what of them ours must have.

Source: segmentation_models_pytorch/decoders/deeplabv3/model.py, base/hub_mixin.py, version 0.6.0. Each argument is
taken, or refused by its name; one that the weights tell, too, must agree with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atrous.errors import AtrousError, shown

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
                raise _refused(name, value, "no such argument is known here")
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
    given = config.get("_model_class")
    if given is not None and CLASSES.get(given) != architecture:
        raise _refused("_model_class", given, f"the weights are those of a {architecture}")
    if not isinstance(config.get("encoder_name", ""), str):
        raise _refused("encoder_name", config["encoder_name"], "it is no name")
    if config.get("encoder_depth", 5) != 5:
        raise _refused("encoder_depth", config["encoder_depth"], "only 5 is here")
    arguments: dict[str, Any] = {}
    stride = config.get("encoder_output_stride")
    if stride is not None:
        if stride not in (8, 16) or isinstance(stride, float):
            raise _refused("encoder_output_stride", stride, "it is 8 or 16")
        arguments["output_stride"] = stride
    _check_head(config, architecture, stride)
    rates = config.get("decoder_atrous_rates")
    if rates is not None:
        if not isinstance(rates, list | tuple) or len(rates) != 3 or not all(_is_rate(rate) for rate in rates):
            raise _refused("decoder_atrous_rates", rates, "they are three whole numbers, 1 or more")
        arguments["atrous_rates"] = tuple(rates)
    dropout = config.get("decoder_aspp_dropout")
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
    found = {
        "classes": arguments["num_classes"],
        "in_channels": arguments["in_channels"],
        "decoder_channels": arguments["aspp_channels"],
        "decoder_aspp_separable": separable,
    }
    for name, value in found.items():
        if config.get(name) is not None and config[name] != value:
            raise _refused(name, config[name], f"the weights have {value}")
    outputs = arguments["num_classes"]
    if config.get("activation") not in ACTIVATIONS[min(outputs, 2)]:
        allowed = ", ".join(map(str, ACTIVATIONS[min(outputs, 2)]))
        raise _refused(
            "activation", config["activation"], f"of {outputs} outputs a mask is made as after one of {allowed}"
        )


def _check_head(config: Mapping[str, Any], architecture: str, stride: int | None) -> None:
    """Whether the logits have the size of the picture."""
    usual = 4 if architecture == "deeplabv3plus" else stride or 8
    upsampling = config.get("upsampling", usual)
    if upsampling != usual and not (upsampling is None and architecture == "deeplabv3"):
        raise _refused("upsampling", upsampling, f"only {usual}, which gives masks of the picture's size, is here")
    drop_path = config.get("drop_path_rate")
    if drop_path is not None and not (isinstance(drop_path, int | float) and 0 <= drop_path < 1):
        raise _refused("drop_path_rate", drop_path, "it is a probability, 0 to 1")


def _is_rate(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _refused(name: str, value: Any, why: str) -> AtrousError:
    text = value[:200] if isinstance(value, str) else shown(value)
    return AtrousError(f"its configuration has {name} = {text}, which cannot be converted: {why}.")
