"""Converts DeepLabV3 and DeepLabV3+ of segmentation-models-pytorch (smp), with its own and timm's encoders (`tu-`).

Source: segmentation_models_pytorch/decoders/deeplabv3/ and encoders/, version 0.6.0. The weights do not determine the
output stride (default: 8 for V3, 16 for V3+) and the atrous rates (default: 12, 24, 36). A folder of `save_pretrained`
has both in its config.json; a Lightning checkpoint usually has them in its hyperparameters.

smp's own encoders follow the dilation rule *full*, timm's encoders the rule *previous*. smp accepts only pictures whose
sides are multiples of the output stride. At these sizes atrous returns the same logits; it also accepts other sizes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import timm
from torch import Tensor

from atrous.errors import AtrousError, shown
from atrous.models.backbones import create_backbone
from atrous.models.meta_device import on_meta_device
from atrous.weights import smp_config
from atrous.weights.adapter import IMAGENET_MEAN, IMAGENET_STD, LAYER_LEAVES, Adapted, Keys, normalisation, translate
from atrous.weights.merge_user_options import merged
from atrous.weights.read_checkpoint import Foreign
from atrous.weights.smp_encoders import ENCODERS, REFUSED, TIMM_ENCODERS, Encoder

#: smp's DeepLabV3+ at output stride 16, as arguments of atrous: rates 12, 24, 36, a separable 3×3 convolution after the
#: ASPP and one in the decoder, no norm between depthwise and pointwise, aligned corners. (At stride 8 smp keeps these
#: rates, while atrous doubles them.)
LAYOUT = {
    "atrous_rates": (12, 24, 36),
    "aspp_conv": True,
    "decoder_convs": 1,
    "separable": True,
    "depthwise_norm": False,
    "dropout": 0.5,
    "align_corners": True,
}

#: Architecture → smp's defaults, with rates for output stride 16. At its own default stride, 16 or 8, each architecture
#: has the rates 12, 24, 36.
LAYOUTS = {
    "deeplabv3plus": {**LAYOUT, "output_stride": 16},
    "deeplabv3": {
        **{name: value for name, value in LAYOUT.items() if name != "decoder_convs"},
        "atrous_rates": (6, 12, 18),
        "separable": False,
        "multi_grid": (1, 1, 1),
        "output_stride": 8,
    },
}

#: Pattern of a block's key, and the number of the first block. efficientnet-pytorch and torchvision number the blocks
#: of all stages consecutively; timm numbers them in each stage.
NUMBERED = ((r"encoder\._blocks\.(\d+)\.", 0), (r"encoder\.features\.([1-9]\d*)\.", 1))

#: Mean and std of RGB in 0–255 (timm/data/constants.py, IMAGENET_DEFAULT and IMAGENET_INCEPTION).
SCALES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((127.5,) * 3, (127.5,) * 3),
}

_BLOCK = r"encoder\.(blocks\.\d+\.\d+)\."
_FIRST = r"encoder\.(blocks\.0\.\d+)\."  # blocks without expansion, so their norms have lower numbers
_ENCODER: Keys = (
    (r"encoder\.model\.", "backbone.net."),
    # efficientnet-pytorch
    (r"encoder\._conv_stem\.", "backbone.net.conv_stem."),
    (r"encoder\._bn0\.", "backbone.net.bn1."),
    (_FIRST + r"_depthwise_conv\.", r"backbone.net.\1.conv_dw."),
    (_FIRST + r"_bn1\.", r"backbone.net.\1.bn1."),
    (_FIRST + r"_project_conv\.", r"backbone.net.\1.conv_pw."),
    (_FIRST + r"_bn2\.", r"backbone.net.\1.bn2."),
    (_BLOCK + r"_expand_conv\.", r"backbone.net.\1.conv_pw."),
    (_BLOCK + r"_bn0\.", r"backbone.net.\1.bn1."),
    (_BLOCK + r"_depthwise_conv\.", r"backbone.net.\1.conv_dw."),
    (_BLOCK + r"_bn1\.", r"backbone.net.\1.bn2."),
    (_BLOCK + r"_project_conv\.", r"backbone.net.\1.conv_pwl."),
    (_BLOCK + r"_bn2\.", r"backbone.net.\1.bn3."),
    (_BLOCK + r"_se_reduce\.", r"backbone.net.\1.se.conv_reduce."),
    (_BLOCK + r"_se_expand\.", r"backbone.net.\1.se.conv_expand."),
    # torchvision's MobileNetV2
    (r"encoder\.features\.0\.0\.", "backbone.net.conv_stem."),
    (r"encoder\.features\.0\.1\.", "backbone.net.bn1."),
    (_FIRST + r"conv\.0\.0\.", r"backbone.net.\1.conv_dw."),
    (_FIRST + r"conv\.0\.1\.", r"backbone.net.\1.bn1."),
    (_FIRST + r"conv\.1\.", r"backbone.net.\1.conv_pw."),
    (_FIRST + r"conv\.2\.", r"backbone.net.\1.bn2."),
    (_BLOCK + r"conv\.0\.0\.", r"backbone.net.\1.conv_pw."),
    (_BLOCK + r"conv\.0\.1\.", r"backbone.net.\1.bn1."),
    (_BLOCK + r"conv\.1\.0\.", r"backbone.net.\1.conv_dw."),
    (_BLOCK + r"conv\.1\.1\.", r"backbone.net.\1.bn2."),
    (_BLOCK + r"conv\.2\.", r"backbone.net.\1.conv_pwl."),
    (_BLOCK + r"conv\.3\.", r"backbone.net.\1.bn3."),
    (_BLOCK + r"0\.", r"backbone.net.\1.conv."),
    (_BLOCK + r"1\.", r"backbone.net.\1.bn1."),
    # MobileOne
    (r"encoder\.stage0\.rbr_conv\.", "backbone.net.stem.conv_kxk."),
    (r"encoder\.stage0\.rbr_scale\.", "backbone.net.stem.conv_scale."),
    (r"encoder\.stage(\d)\.(\d+)\.rbr_conv\.", lambda m: f"backbone.net.stages_{int(m[1]) - 1}.{m[2]}.conv_kxk."),
    (r"encoder\.stage(\d)\.(\d+)\.rbr_scale\.", lambda m: f"backbone.net.stages_{int(m[1]) - 1}.{m[2]}.conv_scale."),
    (r"encoder\.stage(\d)\.(\d+)\.rbr_skip\.", lambda m: f"backbone.net.stages_{int(m[1]) - 1}.{m[2]}.identity."),
    (r"encoder\.stage(\d)\.(\d+)\.se\.reduce\.", lambda m: f"backbone.net.stages_{int(m[1]) - 1}.{m[2]}.attn.fc1."),
    (r"encoder\.stage(\d)\.(\d+)\.se\.expand\.", lambda m: f"backbone.net.stages_{int(m[1]) - 1}.{m[2]}.attn.fc2."),
    # torchvision's and timm's names; smp stores the last convolution of EfficientNets but does not use it.
    (r"encoder\.(?!_|conv_head\.|bn2\.)", "backbone.net."),
)

_ASPP = r"decoder\.(?:aspp\.)?(?:0\.)?"  # V3 "aspp.", V3+ "aspp.0.", V3 before version 0.4 "0."
_HEAD: Keys = (
    (_ASPP + r"convs\.0\.", "aspp.point."),
    (_ASPP + r"convs\.4\.1\.", "aspp.image_pooling.unit.0."),
    (_ASPP + r"convs\.4\.2\.", "aspp.image_pooling.unit.1."),
    (_ASPP + r"project\.", "aspp.project."),
    (r"decoder\.block1\.", "decoder.reduce."),
    (r"segmentation_head\.0\.", "classifier."),
)

#: smp's key → key of atrous, for V3+. A separable unit is ((depthwise, pointwise), norm) in smp and (depthwise,
#: pointwise, norm) in atrous.
KEYS: Keys = (
    *_ENCODER,
    *_HEAD,
    (_ASPP + r"convs\.([123])\.0\.([01])\.", lambda m: f"aspp.atrous.{int(m[1]) - 1}.{m[2]}."),
    (_ASPP + r"convs\.([123])\.1\.", lambda m: f"aspp.atrous.{int(m[1]) - 1}.2."),
    (r"decoder\.aspp\.1\.([01])\.", r"aspp_conv.\1."),
    (r"decoder\.aspp\.2\.", "aspp_conv.2."),
    (r"decoder\.block2\.0\.([01])\.", r"decoder.fuse.0.\1."),
    (r"decoder\.block2\.1\.", "decoder.fuse.0.2."),
)

#: The same mapping for heads without separable convolutions, as in V3.
PLAIN_KEYS: Keys = (
    *_ENCODER,
    *_HEAD,
    (_ASPP + r"convs\.([123])\.([01])\.", lambda m: f"aspp.atrous.{int(m[1]) - 1}.{m[2]}."),
    (r"decoder\.(?:conv|1|aspp\.1)\.", "aspp_conv.0."),
    (r"decoder\.(?:bn|2|aspp\.2)\.", "aspp_conv.1."),
    (r"decoder\.block2\.([01])\.", r"decoder.fuse.0.\1."),
)

#: Keys of the depthwise convolutions in the heads of V3 and V3+; a pointwise convolution follows each in its unit.
DEPTHWISE = rf"({_ASPP}convs\.[123]\.0|decoder\.aspp\.1|decoder\.block2\.0)\.0\.weight"

#: Key of the first convolution of timm's networks; its size depends on the number of input channels.
TIMM_STEM = r"(model\.)?(conv_stem|conv1|conv1\.0|stem_0|(stem|stem_0)\.conv|stem\.conv_kxk\.0\.conv)\.weight"


def recognises(foreign: Foreign) -> bool:
    """Returns whether the keys are those of smp's DeepLabV3 or V3+."""
    state = foreign.state
    begun = any(key.startswith("encoder.") for key in state)
    return "segmentation_head.0.weight" in state and begun and any(re.match(_ASPP + r"convs\.", key) for key in state)


def adapt(foreign: Foreign, given: Mapping[str, Any]) -> Adapted:
    """Converts a checkpoint of smp's DeepLabV3 or DeepLabV3+.

    If `decoder_aspp_separable` differs from smp's default, the head mixes separable and plain convolutions. atrous does
    not support this mixture, so each separable convolution of the head is converted to a plain convolution. The plain
    convolution computes the same function, because no norm lies between depthwise and pointwise.

    Args:
        foreign: content of the file.
        given: arguments that the user named. `backbone` is smp's or timm's name of the encoder; it is needed if the
            file does not determine its `tu-` encoder. `output_stride` is 8 or 16. All other arguments are those of
            atrous, such as `atrous_rates`, which are given for output stride 16.

    Returns:
        The converted checkpoint. The classification head of `aux_params` and layers that smp's encoders do not use
        are left over.

    Raises:
        AtrousError: the file does not determine its encoder, or the encoder is not supported (the message states why).
    """
    config = smp_config.read(foreign.config)
    state: Mapping[str, Tensor] = foreign.state
    architecture = "deeplabv3plus" if "decoder.block1.0.weight" in state else "deeplabv3"
    told = smp_config.told(config, architecture)
    encoder, own = _find_encoder(state, _named(config.get("encoder_name"), given.get("backbone")))
    _check_name(config.get("encoder_name"), encoder, own)
    if not own and config.get("drop_path_rate"):
        encoder = replace(encoder, arguments={**encoder.arguments, "drop_path_rate": config["drop_path_rate"]})
    arguments = _arguments(architecture, encoder, own, told, given, foreign.name)
    twin = _twin(arguments)
    aspp_separable = f"{_aspp(state)}convs.1.0.1.weight" in state
    state, separable = _unmix(state)
    keys = KEYS if separable else PLAIN_KEYS
    ours, left_over = translate(_number_by_stage(state, twin.net), keys)
    _check_depth(ours["aspp.point.0.weight"].shape[1], twin)
    held = {
        "num_classes": len(ours["classifier.weight"]),
        "aspp_channels": len(ours["aspp.point.0.weight"]),
        "in_channels": _in_channels(ours, twin.net),
        "separable": separable,
        "auxiliary": False,
        "aspp_conv": True,
        **({"depthwise_norm": False} if separable else {}),
    }
    if architecture == "deeplabv3plus":
        held |= {"low_channels": len(ours["decoder.reduce.0.weight"]), "decoder_convs": 1}
    arguments = merged(arguments, held, {name: given[name] for name in held if name in given}, foreign.name)
    smp_config.check(config, arguments, aspp_separable)
    scale = "half" if config.get("encoder_weights") in smp_config.HALF else encoder.scale
    return Adapted(
        architecture,
        arguments,
        ours,
        left_over,
        preprocessing=normalisation(*SCALES[scale], arguments["in_channels"]) if own else None,
        untold=tuple(name for name in ("output_stride", "atrous_rates") if name not in told),
    )


def _aspp(state: Mapping[str, Tensor]) -> str:
    """Returns the prefix of the keys of the ASPP's layers."""
    return next(match[0] for match in (re.match(_ASPP + r"(?=convs\.)", key) for key in state) if match)


def _named(told: str | None, given: str | None) -> str | None:
    """Returns the encoder's name from the user or the configuration.

    If the configuration names one of smp's own encoders, the user may name it as timm does; `_find_encoder` checks it.

    Raises:
        AtrousError: the user and the configuration name different encoders.
    """
    if told and given and _timm_name(told) != _timm_name(given) and told not in ENCODERS:
        raise AtrousError(f"backbone is given as {shown(given)}, and the file has {shown(told)}: leave backbone out.")
    return given or told


def _check_name(named: str | None, encoder: Encoder, own: bool) -> None:
    """Refuses a configuration whose encoder name does not match the encoder that the weights are from."""
    if named is None:
        return
    theirs = ENCODERS.get(named)
    if own and theirs is not encoder:
        raise AtrousError(f"its configuration has encoder_name = {named}, but the weights are of {encoder.backbone}.")
    if not own and theirs is not None:
        raise AtrousError(
            f"its configuration has encoder_name = {named}, which is smp's own encoder, but the weights are of a timm "
            "network (tu-)."
        )


def _find_encoder(state: Mapping[str, Tensor], named: str | None) -> tuple[Encoder, bool]:
    """Returns the encoder, and whether it is smp's own (True) or timm's (False)."""
    weights = {key.removeprefix("encoder."): tensor for key, tensor in state.items() if key.startswith("encoder.")}
    if not any(key.startswith("model.") for key in weights):
        own = next((name for name, encoder in ENCODERS.items() if _size(weights, encoder.stem) == encoder.size), None)
        if own is not None:
            if named not in (None, own, ENCODERS[own].backbone):
                raise AtrousError(f"the file's encoder is smp's {own}, not {named}: leave backbone out.")
            return ENCODERS[own], True
        for pattern, reason in REFUSED:
            if any(re.match(pattern, key) for key in weights):
                raise AtrousError(
                    f"this encoder cannot be converted: {reason}. Encoders that can be converted: {_possible()}."
                )
    # Keys without "model." are from smp before 0.4; later versions of smp also load such encoders into timm's networks.
    backbone = _timm_name(named) if named else _guess_timm(weights)
    return Encoder("", 0, backbone, {"padding": "tensorflow"}), False


def _size(weights: Mapping[str, Tensor], stem: str) -> int:
    """Counts the values in the weights, without the first convolution, whose key matches `stem`."""
    counted = (key for key in weights if key.rpartition(".")[2] in LAYER_LEAVES and not re.fullmatch(stem, key))
    return sum(weights[key].numel() for key in counted)


def _timm_name(named: str) -> str:
    """Returns an encoder's name in timm, as smp's `get_encoder` derives it from smp's name."""
    name = named.removeprefix("tu-").partition(".")[0]
    if name.startswith("timm-"):
        name = name.removeprefix("timm-")
        return f"tf_{name}" if name.startswith("mobilenetv3") else name
    return name


def _guess_timm(weights: Mapping[str, Tensor]) -> str:
    """Returns the common timm network with this number of weights."""
    name = TIMM_ENCODERS.get(_size(weights, TIMM_STEM))
    if name is None:
        raise AtrousError(
            "the file does not determine its encoder: name it with backbone= (--backbone), as in smp's encoder_name, "
            "such as tu-resnet50. (An encoder_depth other than 5 is not supported.)"
        )
    if timm.is_model(f"tf_{name}"):
        raise AtrousError(
            f"the encoder is tu-{name} or tu-tf_{name}: their weights have the same shapes, but their padding differs. "
            f"Name it with backbone= (--backbone tu-{name})."
        )
    return name


def _possible() -> str:
    return ", ".join([*ENCODERS, "and timm's (tu-…)"])


def _arguments(
    architecture: str, encoder: Encoder, own: bool, told: Mapping[str, Any], given: Mapping[str, Any], file: str
) -> dict[str, Any]:
    """Completes the configuration with the user's arguments and smp's defaults; see `merged` for contradictions."""
    output_stride = given.get("output_stride", told.get("output_stride", LAYOUTS[architecture]["output_stride"]))
    if output_stride not in encoder.output_strides:
        allowed = " or ".join(str(stride) for stride in encoder.output_strides)
        raise AtrousError(
            f"{encoder.backbone} from smp can have output_stride {allowed}, not {output_stride}: no backbone of "
            "atrous is dilated like smp's at this stride."
        )
    # smp's rates are for the output stride of its configuration; in atrous, rates are given for output stride 16
    stride = told.get("output_stride", output_stride)
    rates = (rate * stride / 16 for rate in told.get("atrous_rates", LAYOUT["atrous_rates"]))
    usual = {
        **LAYOUTS[architecture],
        "atrous_rates": tuple(int(rate) if rate == int(rate) else rate for rate in rates),
        "dilation_rule": "full" if own else "previous",
    }
    held = {
        **{name: usual[name] if name == "atrous_rates" else value for name, value in told.items()},
        "backbone_arguments": dict(encoder.arguments),
        "backbone": encoder.backbone,
        **({"dilation_rule": "full"} if own else {}),
    }
    return merged(usual, held, {**given, "backbone": encoder.backbone}, file)


def _twin(arguments: Mapping[str, Any]) -> Any:
    """Creates the backbone on the meta device, for names, shapes and channels."""
    with on_meta_device():
        return create_backbone(
            arguments["backbone"],
            arguments["backbone_arguments"],
            in_channels=3,
            output_stride=arguments["output_stride"],
            dilation_rule=arguments["dilation_rule"],
            multi_grid=None,
        )


def _unmix(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """Makes the 3×3 convolutions of the head plain, unless all are separable; also returns if all are separable."""
    depthwise = [match for match in (re.fullmatch(DEPTHWISE, key) for key in state) if match]
    unmixed = dict(state)
    if len(depthwise) == 5:  # three convolutions in the ASPP, two after it
        return unmixed, True
    for match in depthwise:
        spatial, mixing = unmixed.pop(match[0]), unmixed.pop(f"{match[1]}.1.weight")
        unmixed[f"{match[1]}.weight"] = mixing * spatial[:, 0]
    return unmixed, False


def _number_by_stage(state: Mapping[str, Tensor], net: Any) -> dict[str, Tensor]:
    """Renames consecutively numbered blocks ("_blocks.3", "features.4") as in timm ("blocks.2.0")."""
    stages = net.blocks.named_children() if hasattr(net, "blocks") else ()
    paths = [f"{stage}.{index}" for stage, blocks in stages for index, _ in blocks.named_children()]

    def numbered(key: str) -> str:
        for pattern, first in NUMBERED:
            match = re.match(pattern, key)
            if match:
                return f"encoder.blocks.{paths[int(match[1]) - first]}.{key[match.end() :]}"
        return key

    return {numbered(key): tensor for key, tensor in state.items()}


def _check_depth(channels: int, twin: Any) -> None:
    if channels != twin.high_channels:
        raise AtrousError(
            f"the ASPP takes {channels} channels, but the last stage of {twin.name} has {twin.high_channels}. The "
            "file has another backbone, or an encoder_depth other than 5, which is not supported."
        )


def _in_channels(ours: Mapping[str, Tensor], net: Any) -> int:
    """Returns the number of input channels, from the convolution that takes 3 channels in a network for RGB."""
    for key, weight in net.state_dict().items():
        found = ours.get(f"backbone.net.{key}", weight).shape
        if weight.dim() == 4 and weight.shape[1] == 3 and found[0] == weight.shape[0] and found[2:] == weight.shape[2:]:
            return found[1]
    return 3
