"""Converts transformers' MobileNetV2ForSemanticSegmentation from a folder with config.json, or from a state dict.

Source: transformers 5.23, models/mobilenet_v2/modeling_mobilenet_v2.py and image_processing_mobilenet_v2.py. The
head is called DeepLabV3Plus in transformers, but it is Google's mobile DeepLabV3: it has neither a decoder nor atrous
branches.

Differences: dropout drops whole channels in transformers and single values in atrous. By default, transformers' image
processor resizes pictures to 256 and crops them to 224; atrous segments pictures at their own size.

The batch norm momentum of 0.997 is taken from transformers, but TensorFlow's decay of 0.997 is a momentum of 0.003 in
PyTorch. So fine-tune with `frozen_norm`, or change the momentum.
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
#: Momentum of every batch norm, and eps of the head's batch norms; config.json does not change them.
MOMENTUM, HEAD_EPS = 0.997, 1e-5
#: Output stride for a state dict without configuration, as in Google's segmenters in transformers.
OUTPUT_STRIDE = 8
#: Defaults of config.json.
DEFAULTS: dict[str, Any] = {
    "output_stride": 32,
    "tf_padding": True,
    "layer_norm_eps": 1e-3,
    "classifier_dropout_prob": 0.8,
    "semantic_loss_ignore_index": 255,
}
#: Values of config.json that a checkpoint must have for the conversion.
FIXED = {"first_layer_is_expansion": True, "hidden_act": "relu6", "expand_ratio": 6}
#: Defaults of preprocessor_config.json: (x / 255 − 0.5) / 0.5 on 0–255.
PROCESSOR: dict[str, Any] = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": 0.5,
    "image_std": 0.5,
}

STATISTICS = ("image_mean", "image_std")

#: Channels of the stem, of the first block with expansion and of the last block → timm's name of that width.
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

#: timm's names of the 16 blocks in `layer`; timm's first block is in the stem in transformers.
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


#: Foreign key → our key.
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
    """Returns whether the keys are those of this model, or config.json belongs to another model of transformers.

    `adapt` refuses any other model of transformers with a message that names the model.

    Args:
        foreign: the checkpoint as read from its file or folder.
    """
    model_type = foreign.config.get("model_type")
    wrapped = str(model_type).startswith("timm_")  # a network of timm in transformers' format
    others = model_type is not None and not wrapped
    return "segmentation_head.conv_aspp.convolution.weight" in foreign.state or others


def adapt(foreign: Foreign, given: Mapping[str, Any]) -> Adapted:
    """Converts a MobileNetV2ForSemanticSegmentation to our DeepLabV3.

    Args:
        foreign: the checkpoint. For a folder, `config` is its config.json, with preprocessor_config.json under
            "preprocessor". For a state dict, `config` is empty. Then the output stride is 8, and the padding is
            TensorFlow's.
        given: arguments that the user gave.

    Returns:
        DeepLabV3 without atrous branches over timm's MobileNetV2 of the same width, with the classes of id2label. If
        channels are not rounded to 8, the backbone is `google_mobilenetv2_<width>`. `conv_1x1`, which the head does
        not use, is left over.

    Raises:
        AtrousError: the folder is of another model of transformers, or its configuration has no counterpart in atrous.
    """
    config = {**DEFAULTS, **(foreign.config or {"output_stride": OUTPUT_STRIDE})}
    config |= {key: value for key, value in DEFAULTS.items() if config[key] is None}
    settings = Record(config, "", huggingface_config.FILE)
    if settings.whole("output_stride", 8, 32) not in OUTPUT_STRIDES:
        raise settings.refused("output_stride", "it must be 8, 16 or 32")
    _check_kind(foreign)
    renamed, left_over = translate(foreign.state, KEYS)
    stem, first, last = (_channels(foreign, name) for name in _WIDTHS)
    # In transformers, image pooling is the first branch; in atrous, it is the last one.
    renamed["aspp.project.0.weight"] = move_channels(_weight(renamed, "aspp.project.0.weight"), (1, 0))
    num_classes = _weight(renamed, "classifier.weight").shape[0]
    in_channels = foreign.state[_WIDTHS[0]].shape[1]
    huggingface_config.check(foreign.config, (stem, first, last), num_classes, in_channels)
    processor = config.get("preprocessor", {})
    huggingface_config.check_processor(processor)
    normalisation = preprocessing(processor, in_channels)
    if huggingface_config.reads_bgr(processor, in_channels):
        renamed["backbone.net.conv_stem.weight"] = renamed["backbone.net.conv_stem.weight"].flip(1)
        normalisation = normalisation.normalized_by(normalisation.mean[::-1], normalisation.std[::-1])
    usual = {"output_stride": OUTPUT_STRIDE, "multi_grid": (1, 1, 1), "align_corners": False}
    inner = {
        "norm": (settings.number("layer_norm_eps", 0, 1, above=True), MOMENTUM),
        "pad_type": "same" if settings.flag("tf_padding") else "",
        "padding": "tensorflow",
    }
    untold = {"norm": "layer_norm_eps", "pad_type": "tf_padding"}  # argument → key of config.json that states it
    held = {
        "backbone": BACKBONES.get((stem, first, last), f"google_mobilenetv2_{round(last / 3.2):03d}"),
        "backbone_arguments": {
            name: value for name, value in inner.items() if untold.get(name, "") in ("", *foreign.config)
        },
        "num_classes": num_classes,
        "in_channels": in_channels,
        "output_stride": settings.values["output_stride"],
        "aspp_channels": len(_weight(renamed, "aspp.project.0.weight")),
        "aspp_conv": False,
        "auxiliary": False,
        "atrous_rates": (),
        "norm": (HEAD_EPS, MOMENTUM),
        "dropout": settings.number("classifier_dropout_prob", 0, 1),
    }
    arguments = merged(usual, held, given, foreign.name)
    if isinstance(arguments["backbone_arguments"], Mapping):
        arguments["backbone_arguments"] = {**inner, **arguments["backbone_arguments"]}
    return Adapted(
        architecture="deeplabv3",
        arguments=arguments,
        state=renamed,
        left_over=left_over,
        preprocessing=normalisation,
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
            f"{name} is of transformers' model type {shown(kind)}; the only DeepLab of transformers is '{MODEL_TYPE}' "
            "(MobileNetV2ForSemanticSegmentation)."
        )
    if "segmentation_head.classifier.convolution.weight" not in foreign.state:
        made = foreign.config.get("architectures") or "without segmentation head"
        named = isinstance(made, list) and len(made) == 1 and isinstance(made[0], str)
        made = made[0][:100] if named else made if isinstance(made, str) else shown(made)
        raise AtrousError(f"{name} ({made}) does not segment pictures; give a MobileNetV2ForSemanticSegmentation.")
    for option, value in FIXED.items():
        found = foreign.config.get(option, value)
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            raise AtrousError(f"{name} has {option} = {shown(found)}; only {value!r} can be converted.")
    if any(key.startswith("mobilenet_v2.conv_stem.expand_1x1.") for key in foreign.state):
        raise AtrousError(
            f"{name} has one more expansion in its stem (first_layer_is_expansion = False), which cannot be converted."
        )


def _channels(foreign: Foreign, name: str) -> int:
    return _weight(foreign.state, name).shape[0]


def _weight(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state or state[name].ndim != 4:
        raise AtrousError(f"'{name}' is missing or not a convolution; the file is incomplete or altered.")
    return state[name]


def preprocessing(processor: Mapping[str, Any], channels: int) -> Preprocessing:
    """Returns the normalisation of an image processor, in raw units.

    Args:
        processor: preprocessor_config.json; absent fields have the processor's defaults.
        channels: number of channels of the pictures, C ≥ 1.

    Raises:
        AtrousError: the values are not numbers, or not one per channel.
    """
    settings = {**PROCESSOR, **{key: value for key, value in processor.items() if value is not None}}
    if not Record(settings, "", huggingface_config.PROCESSOR_FILE).flag("do_normalize"):
        settings |= {"image_mean": 0, "image_std": 1}
    given = {key: settings[key] for key in STATISTICS}
    rows = {key: value if isinstance(value, list | tuple) else [value] * channels for key, value in given.items()}
    options = Record({**settings, **rows}, "", huggingface_config.PROCESSOR_FILE)
    scale = options.number("rescale_factor", 1e-9, 1e9) if options.flag("do_rescale") else 1.0
    mean, std = (options.channels(key, channels) for key in STATISTICS)
    assert scale and mean and std  # each has a default value
    return Preprocessing.of_pictures([value / scale for value in mean], [value / scale for value in std])


def classes(config: Mapping[str, Any], num_classes: int) -> ClassTable | None:
    """Returns the classes of id2label.

    Args:
        config: config.json.
        num_classes: number of the classifier's outputs, K.

    Returns:
        The classes; None if id2label has no names, has only placeholders or does not fit the outputs.
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
