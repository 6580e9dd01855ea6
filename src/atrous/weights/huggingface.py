"""transformers' MobileNetV2ForSemanticSegmentation: a folder with config.json, or a state dict.

Source: transformers 5.23, models/mobilenet_v2/modeling_mobilenet_v2.py and image_processing_mobilenet_v2.py. It calls
its head DeepLabV3Plus, but there is neither decoder nor atrous branch: it is Google's mobile DeepLabV3.

Differs: dropout falls on single values here, there on whole channels. Its image processor also resizes to 256 and crops
to 224 by default; here pictures are segmented at their own size. Its batch norm momentum of 0.997 is kept, though
TensorFlow's decay of 0.997 is a momentum of 0.003 in PyTorch: fine-tune with `frozen_norm`, or change it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from atrous.data.class_colors import default_colors
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError, shown
from atrous.models import Preprocessing
from atrous.models.paper_arguments import OUTPUT_STRIDES
from atrous.weights import huggingface_config
from atrous.weights.adapter import MOBILENETV2_STAGES, Adapted, blocks_by_stage, move_channels, translate
from atrous.weights.class_names import class_names
from atrous.weights.config_reader import Record
from atrous.weights.merge_user_options import merged
from atrous.weights.read_checkpoint import Foreign

MODEL_TYPE = "mobilenet_v2"
#: Momentum of every batch norm, and eps of the head's, which its configuration does not change.
MOMENTUM, HEAD_EPS = 0.997, 1e-5
#: Of a bare state dict: that of the segmenters which Google's checkpoints became there.
OUTPUT_STRIDE = 8
#: Its configuration's defaults.
DEFAULTS: dict[str, Any] = {
    "output_stride": 32,
    "tf_padding": True,
    "layer_norm_eps": 1e-3,
    "classifier_dropout_prob": 0.8,
    "semantic_loss_ignore_index": 255,
}
#: What cannot be otherwise here.
FIXED = {"first_layer_is_expansion": True, "hidden_act": "relu6", "expand_ratio": 6}
#: Its image processor's defaults: (x / 255 − 0.5) / 0.5 on 0–255.
PROCESSOR: dict[str, Any] = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": 0.5,
    "image_std": 0.5,
}

STATISTICS = ("image_mean", "image_std")

#: Channels of the stem, of the first block with expansion, and of the last → timm's name, at every width it has.
BACKBONES = {
    (16, 8, 112): "mobilenetv2_035",
    (16, 16, 160): "mobilenetv2_050",
    (24, 24, 240): "mobilenetv2_075",
    (32, 24, 320): "mobilenetv2_100",
    (48, 32, 448): "mobilenetv2_140",
}
_WIDTHS = (
    "mobilenet_v2.conv_stem.first_conv.convolution.weight",
    "mobilenet_v2.layer.0.reduce_1x1.convolution.weight",
    "mobilenet_v2.layer.15.reduce_1x1.convolution.weight",
)

#: Where timm has its 16 blocks; the stem holds the first.
_PLACES = blocks_by_stage(MOBILENETV2_STAGES)[1:]
_LAYERS = {
    ("expand_1x1", "convolution"): "conv_pw",
    ("expand_1x1", "normalization"): "bn1",
    ("conv_3x3", "convolution"): "conv_dw",
    ("conv_3x3", "normalization"): "bn2",
    ("reduce_1x1", "convolution"): "conv_pwl",
    ("reduce_1x1", "normalization"): "bn3",
}


def _block(match: re.Match[str]) -> str:
    return f"backbone.net.blocks.{_PLACES[int(match[1])]}.{_LAYERS[match[2], match[3]]}."


def _unit(match: re.Match[str]) -> str:
    place = {"conv_pool": "image_pooling.unit", "conv_aspp": "point", "conv_projection": "project"}[match[1]]
    return f"aspp.{place}.{int(match[2] == 'normalization')}."


#: Its key → ours.
KEYS = (
    (r"mobilenet_v2\.conv_stem\.first_conv\.convolution\.", "backbone.net.conv_stem."),
    (r"mobilenet_v2\.conv_stem\.first_conv\.normalization\.", "backbone.net.bn1."),
    (r"mobilenet_v2\.conv_stem\.conv_3x3\.convolution\.", "backbone.net.blocks.0.0.conv_dw."),
    (r"mobilenet_v2\.conv_stem\.conv_3x3\.normalization\.", "backbone.net.blocks.0.0.bn1."),
    (r"mobilenet_v2\.conv_stem\.reduce_1x1\.convolution\.", "backbone.net.blocks.0.0.conv_pw."),
    (r"mobilenet_v2\.conv_stem\.reduce_1x1\.normalization\.", "backbone.net.blocks.0.0.bn2."),
    (
        r"mobilenet_v2\.layer\.(\d|1[0-5])\.(expand_1x1|conv_3x3|reduce_1x1)\.(convolution|normalization)\.",
        _block,
    ),
    (r"segmentation_head\.(conv_pool|conv_aspp|conv_projection)\.(convolution|normalization)\.", _unit),
    (r"segmentation_head\.classifier\.convolution\.", "classifier."),
)


def recognises(foreign: Foreign) -> bool:
    """Whether the names are this model's; or a configuration says it is one of transformers', which `adapt` names."""
    told = foreign.config.get("model_type")
    others = told is not None and not str(told).startswith("timm_")  # a network of timm, wrapped by transformers
    return "segmentation_head.conv_aspp.convolution.weight" in foreign.state or others


def adapt(foreign: Foreign, given: Mapping[str, Any]) -> Adapted:
    """A MobileNetV2ForSemanticSegmentation as our DeepLabV3.

    Args:
        foreign: of a folder: `config` is its config.json, with preprocessor_config.json under "preprocessor". Of a
            bare state dict `config` is empty, and the stride is taken to be 8 and the padding TensorFlow's.
        given: overrides.

    Returns:
        DeepLabV3 without atrous branches over timm's MobileNetV2 of the width, or `google_mobilenetv2_<width>` where
        channels are not rounded to 8; the classes of id2label. `conv_1x1`, which its head does not read, is left over.

    Raises:
        AtrousError: another model of transformers, or a configuration that has no counterpart here.
    """
    config = {**DEFAULTS, **(foreign.config or {"output_stride": OUTPUT_STRIDE})}
    config |= {key: value for key, value in DEFAULTS.items() if config[key] is None}
    told = Record(config, "", huggingface_config.FILE)
    if told.whole("output_stride", 8, 32) not in OUTPUT_STRIDES:
        raise told.refused("output_stride", "it is 8, 16 or 32")
    _check_kind(foreign)
    renamed, left_over = translate(foreign.state, KEYS)
    stem, first, last = (_channels(foreign, name) for name in _WIDTHS)
    renamed["aspp.project.0.weight"] = move_channels(_weight(renamed, "aspp.project.0.weight"), (1, 0))  # pool first
    num_classes = _weight(renamed, "classifier.weight").shape[0]
    in_channels = foreign.state[_WIDTHS[0]].shape[1]
    huggingface_config.check(foreign.config, (stem, first, last), num_classes, in_channels)
    processor = config.get("preprocessor", {})
    huggingface_config.check_processor(processor)
    seen = preprocessing(processor, in_channels)
    if huggingface_config.reads_bgr(processor, in_channels):
        renamed["backbone.net.conv_stem.weight"] = renamed["backbone.net.conv_stem.weight"].flip(1)
        seen = seen.normalized_by(seen.mean[::-1], seen.std[::-1])
    usual = {"output_stride": OUTPUT_STRIDE, "multi_grid": (1, 1, 1), "align_corners": False}
    inner = {
        "norm": (told.number("layer_norm_eps", 0, 1, above=True), MOMENTUM),
        "pad_type": "same" if told.flag("tf_padding") else "",
        "padding": "tensorflow",
    }
    untold = {"norm": "layer_norm_eps", "pad_type": "tf_padding"}  # by these, where there is a configuration
    held = {
        "backbone": BACKBONES.get((stem, first, last), f"google_mobilenetv2_{round(last / 3.2):03d}"),
        "backbone_arguments": {
            name: value for name, value in inner.items() if untold.get(name, "") in ("", *foreign.config)
        },
        "num_classes": num_classes,
        "in_channels": in_channels,
        "output_stride": told.values["output_stride"],
        "aspp_channels": len(_weight(renamed, "aspp.project.0.weight")),
        "aspp_conv": False,
        "auxiliary": False,
        "atrous_rates": (),
        "norm": (HEAD_EPS, MOMENTUM),
        "dropout": told.number("classifier_dropout_prob", 0, 1),
    }
    arguments = merged(usual, held, given, foreign.name)
    if isinstance(arguments["backbone_arguments"], Mapping):
        arguments["backbone_arguments"] = {**inner, **arguments["backbone_arguments"]}
    return Adapted(
        architecture="deeplabv3",
        arguments=arguments,
        state=renamed,
        left_over=left_over,
        preprocessing=seen,
        preprocessing_told="preprocessor" in config,
        classes=classes(config, num_classes),
        untold=() if foreign.config else ("output_stride",),
        notes=huggingface_config.notes(processor),
    )


def _check_kind(foreign: Foreign) -> None:
    kind = foreign.config.get("model_type", MODEL_TYPE)
    name = foreign.name or "the state dict"
    if kind != MODEL_TYPE:
        raise AtrousError(
            f"{name} is of transformers' model type {shown(kind)}; the one DeepLab among them is '{MODEL_TYPE}' "
            "(MobileNetV2ForSemanticSegmentation)."
        )
    if "segmentation_head.classifier.convolution.weight" not in foreign.state:
        made = foreign.config.get("architectures") or "without segmentation head"
        named = isinstance(made, list) and len(made) == 1 and isinstance(made[0], str)
        made = made[0][:100] if named else made if isinstance(made, str) else shown(made)
        raise AtrousError(f"{name} ({made}) does not segment; MobileNetV2ForSemanticSegmentation is read.")
    for option, value in FIXED.items():
        found = foreign.config.get(option, value)
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            raise AtrousError(f"{name} has {option} = {shown(found)}; only {value!r} is read.")
    if any(key.startswith("mobilenet_v2.conv_stem.expand_1x1.") for key in foreign.state):
        raise AtrousError(
            f"{name} expands once more in its stem (first_layer_is_expansion = False), which is not read."
        )


def _channels(foreign: Foreign, name: str) -> int:
    return _weight(foreign.state, name).shape[0]


def _weight(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state or state[name].ndim != 4:
        raise AtrousError(f"'{name}' is missing or no convolution; the file is incomplete or altered.")
    return state[name]


def preprocessing(processor: Mapping[str, Any], channels: int) -> Preprocessing:
    """What an image processor's configuration does to pixel values, in raw units.

    Args:
        processor: preprocessor_config.json; what it leaves out is the processor's default.
        channels: C ≥ 1 of the pictures.

    Raises:
        AtrousError: values that are no numbers, or not one per channel.
    """
    told = {**PROCESSOR, **{key: value for key, value in processor.items() if value is not None}}
    if not Record(told, "", huggingface_config.PROCESSOR_FILE).flag("do_normalize"):
        told |= {"image_mean": 0, "image_std": 1}
    rows = {key: told[key] if isinstance(told[key], list | tuple) else [told[key]] * channels for key in STATISTICS}
    options = Record({**told, **rows}, "", huggingface_config.PROCESSOR_FILE)
    scale = options.number("rescale_factor", 1e-9, 1e9) if options.flag("do_rescale") else 1.0
    mean, std = (options.channels(key, channels) for key in STATISTICS)
    assert scale and mean and std  # each has a default
    return Preprocessing.of_pictures([value / scale for value in mean], [value / scale for value in std])


def classes(config: Mapping[str, Any], num_classes: int) -> ClassTable | None:
    """The classes of id2label; None where it names none, or not these.

    Args:
        config: config.json.
        num_classes: K of the classifier.
    """
    labels = config.get("id2label")
    if not isinstance(labels, Mapping):
        return None
    named, _ = class_names(
        [labels.get(str(index), labels.get(index, "")) for index in range(num_classes)], num_classes, "id2label"
    )
    if named is None or all(re.fullmatch(r"LABEL_\d+", name) for name in named):
        return None
    ignore = Record({**DEFAULTS, **config}, "", huggingface_config.FILE).whole(
        "semantic_loss_ignore_index", -(2**31), 2**31
    )
    first = int(huggingface_config.reduces_labels(config.get("preprocessor", {})))
    ignored = (ignore,) if ignore is not None and ignore >= num_classes + first else ()
    return ClassTable(
        names=named,
        colors=default_colors(num_classes),
        raw=tuple((index + first,) for index in range(num_classes)),
        ignore=(0, *ignored) if first else ignored,
    )
