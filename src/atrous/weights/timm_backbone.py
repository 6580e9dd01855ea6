"""Creates a model whose backbone is an ImageNet network of timm, or a ResNet of torchvision, which has the same keys.

Sources, version 1.0: timm/models/_features.py (if a network is split into stages, `stages.0.` becomes `stages_0.`) and
timm/models/_hub.py (`save_config_for_hf`: a folder's config.json has `architecture`, `model_args`, `pretrained_cfg`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor

from atrous import models
from atrous.errors import AtrousError, shown
from atrous.models import Preprocessing
from atrous.models.meta_device import on_meta_device
from atrous.weights.adapter import Adapted, Keys, normalisation, translate
from atrous.weights.config_reader import Record
from atrous.weights.merge_user_options import merged
from atrous.weights.read_checkpoint import Foreign

#: timm's key → key of atrous; the second pattern is for networks in which timm flattens a sequence of stages.
KEYS: Keys = ((r"", "backbone.net."),)
FLATTENED: Keys = ((r"([^.]+)\.([^.]+)\.", r"backbone.net.\1_\2."),)

#: Pairs of prefixes by which the keys of timm's networks are recognised: those of the stem and the first stage.
FINGERPRINTS = (
    ("conv1.", "layer1.0."),
    ("conv_stem.", "blocks.0."),
    ("stem.", "stages.0."),
    ("stem.", "s1.b1."),
    ("stem.", "blocks.0."),
    ("conv1.", "block1."),
)


#: Name of the file that describes the network in a folder.
FILE = "config.json"
#: Largest accepted number of classes and picture side; far above those of any network.
MOST = 2**31

#: Arguments in a folder's `model_args` that are only for classifiers, or that a segmenter's backbone sets itself.
OF_CLASSIFIERS = ("num_classes", "in_chans", "global_pool", "img_size", "drop_rate", "num_features")


def recognises(foreign: Foreign) -> bool:
    """Returns whether the keys or config.json are those of a classification network of timm."""
    if isinstance(foreign.config.get("architecture"), str) and _pretrained(foreign.config).values:
        return foreign.config["architecture"] != "vgg16"  # VGG-16 has an adapter of its own
    return any(
        all(any(key.startswith(beginning) for key in foreign.state) for beginning in pair) for pair in FINGERPRINTS
    )


def adapt(foreign: Foreign, given: Mapping[str, Any]) -> Adapted:
    """Creates a new model with the weights of a classification network in its backbone.

    Args:
        foreign: state dict of a classification network, or its folder.
        given: arguments that the user named. `backbone` is needed unless a config.json names it; the default of
            `architecture` is deeplabv3plus.

    Raises:
        AtrousError: no backbone is named, or it cannot be the backbone of a segmenter.
    """
    told = _told(foreign, "backbone" in given)
    if "backbone" not in {**told, **given}:
        raise AtrousError(
            f"{foreign.name or 'the state dict'} holds a classification network, but its keys do not determine which "
            "network: give its name in timm with backbone= (--backbone), such as resnet50."
        )
    architecture = given.get("architecture", "deeplabv3plus")
    # If the installed timm lacks the network of config.json, the user must have named another backbone.
    if not timm.is_model(told.get("backbone", "")):
        told.pop("backbone", None)
        told.pop("backbone_arguments", None)
    arguments = merged({}, told, given, foreign.name)
    try:
        with on_meta_device():
            ours = models.build(architecture, arguments).state_dict()
    except AtrousError as error:
        if "backbone" in given or "backbone" not in told:
            raise
        raise AtrousError(
            f"{foreign.name} holds timm's image classifier '{told['backbone']}', which does not work as a backbone: "
            f"{error}"
        ) from error
    channels = arguments.get("in_channels", 3)
    state, left_over = {}, []
    for key, tensor in foreign.state.items():
        name = _ours(key, ours)
        if name is not None:
            state[name] = _spread(tensor, ours[name])
        elif not key.endswith("num_batches_tracked"):
            left_over.append(key)
    preprocessing, notes = _seen(foreign.config, channels)
    return Adapted(
        architecture,
        arguments,
        state,
        tuple(left_over),
        preprocessing,
        preprocessing_told=preprocessing is not None,
        notes=notes,
        fills=("backbone.",),
    )


def _pretrained(config: Mapping[str, Any]) -> Record:
    """Returns a folder's settings of pictures, from "pretrained_cfg" or, in older folders, from config.json itself."""
    given = config.get("pretrained_cfg")
    if isinstance(given, Mapping):
        return Record(given, "", FILE)
    return Record(config if "mean" in config and "std" in config else {}, "", FILE)


def _told(foreign: Foreign, named: bool) -> dict[str, Any]:
    """Returns the arguments of atrous that a folder's config.json and the weights of the stem determine."""
    told: dict[str, Any] = {}
    stem = next((tensor for tensor in foreign.state.values() if tensor.ndim == 4), None)
    if stem is not None and stem.shape[1] != 3:
        told["in_channels"] = stem.shape[1]
    name = foreign.config.get("architecture")
    if not isinstance(name, str) or not _pretrained(foreign.config).values:
        return told
    if not timm.is_model(name) and not named:
        raise AtrousError(
            f"config.json names the architecture '{name[:100]}', which timm {timm.__version__} does not have: name one "
            "of its networks with backbone= (--backbone)."
        )
    further = Record(foreign.config, "", FILE).part("model_args").values
    told |= {"backbone": name}
    inner = {key: value for key, value in further.items() if key not in OF_CLASSIFIERS and value is not None}
    return told | ({"backbone_arguments": inner} if inner else {})


def _seen(config: Mapping[str, Any], channels: int) -> tuple[Preprocessing | None, tuple[str, ...]]:
    """Returns the normalisation in a folder's config.json, and notes for the user."""
    record = _pretrained(config)
    if not isinstance(config.get("architecture"), str) or not record.values:
        return None, ()
    rows: list[list[float]] = []
    for name in ("mean", "std"):
        values = record.values.get(name)
        row = record.channels(name, len(values)) if isinstance(values, list | tuple) else None
        if row is None or len(row) not in (1, 3, channels):
            raise AtrousError(
                f"config.json has {name} = {shown(values)}; it must have a number in 0–1 for each channel."
            )
        rows.append([255 * value for value in (3 * row if len(row) == 1 else row)])
    classes = Record(config, "", FILE).whole("num_classes", 0, MOST)
    classes = record.whole("num_classes", 0, MOST) if classes is None else classes
    size = record.wholes("input_size", 1, MOST, 3)
    sized = f" for pictures of {size[2]}×{size[1]} px" if size else ""
    counted = f" of {classes} classes" if classes else ""
    note = (
        f"The file contains timm's image classifier {config['architecture']}{sized}. Its features become the backbone, "
        f"its classifier{counted} is left over, and the segmenter's head still needs training."
    )
    return normalisation(rows[0], rows[1], channels), (note,)


def _ours(key: str, ours: Mapping[str, Tensor]) -> str | None:
    """Returns our key for timm's key; None if our model does not have it."""
    for keys in (KEYS, FLATTENED):
        name = next(iter(translate({key: torch.empty(0)}, keys)[0]), None)
        if name in ours:
            return name
    return None


def _spread(tensor: Tensor, ours: Tensor) -> Tensor:
    """Adapts RGB filters to the model's number of input channels, if that is not 3."""
    rgb = tensor.ndim == 4 and tensor.shape[1] == 3
    if rgb and tensor.shape != ours.shape and tensor.shape[0] == ours.shape[0]:
        return adapt_input_conv(ours.shape[1], tensor)
    return tensor
