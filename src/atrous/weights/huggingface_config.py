"""What a Hugging Face folder's two records tell beyond the weights, or contradict in them.

Source: transformers 5.23, models/mobilenet_v2/modeling_mobilenet_v2.py (`apply_depth_multiplier`) and
image_processing_mobilenet_v2.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atrous.errors import AtrousError, shown
from atrous.weights.class_names import class_names
from atrous.weights.config_reader import Record

#: Channels at a depth multiplier of 1: of the stem, of the first block after it, and of the last.
NOMINAL = (32, 24, 320)
#: The configuration's defaults.
DEPTH = {"depth_multiplier": 1.0, "depth_divisible_by": 8, "min_depth": 8}
#: Steps of an image processor that are taken, or that change no mask.
TAKEN = ("do_rescale", "do_normalize", "do_flip_channel_order", "do_reduce_labels", "do_convert_rgb")
#: Steps that change a picture's size, and where their sizes are.
SIZES = {"do_resize": "size", "do_center_crop": "crop_size"}
#: Keys that say that masks have 0 for unlabelled.
REDUCING = ("do_reduce_labels", "do_reduce_label", "reduce_labels")
#: The files of the two records.
FILE = "config.json"
PROCESSOR_FILE = "preprocessor_config.json"
#: Above the classes and channels of any network.
MOST = 2**20


def check(config: Mapping[str, Any], widths: tuple[int, ...], num_classes: int, in_channels: int) -> None:
    """Compares what config.json and the weights tell.

    Args:
        config: of the folder; empty of a bare state dict.
        widths: channels of the stem, of the first block after it, and of the last, in the weights.
        num_classes: outputs of the classifier.
        in_channels: C of the pictures.

    Raises:
        AtrousError: they contradict each other; names both values.
    """
    if not config:
        return
    record = Record(config, "", FILE)
    record.whole("semantic_loss_ignore_index", -MOST, MOST)
    labels = record.part("id2label").values
    if labels:
        named = {_index(key) for key in labels}
        if len(labels) != num_classes:
            raise _contradiction("id2label", f"{len(labels)} classes", f"the classifier has {num_classes} outputs")
        if named != set(range(num_classes)):
            given = ", ".join(sorted(map(str, labels))[:6])
            raise _contradiction("id2label", f"the indices {given}", f"the outputs are 0 to {num_classes - 1}")
        in_order = [label for _, label in sorted(labels.items(), key=lambda pair: int(pair[0]))]
        fault = class_names(in_order, num_classes, "id2label")[1] if num_classes > 1 else ""
        if fault:
            raise AtrousError(f"config.json: {fault} Mend config.json, or give the weights' file alone.")
    for key, found, part in (
        ("num_labels", num_classes, "the classifier has {} outputs"),
        ("num_channels", in_channels, "the first convolution takes {} channels"),
    ):
        if record.whole(key, 0, MOST) not in (None, found):
            raise _contradiction(key, config[key], part.format(found))
    if "depth_multiplier" in config:
        depth = Record({**DEPTH, **config}, "", FILE)
        has = f"the weights have {_numbers(widths)}"
        if not isinstance(config["depth_multiplier"], int | float):
            told = config["depth_multiplier"]
            raise _contradiction("depth_multiplier", told if isinstance(told, str) else shown(told), has)
        multiplier, divisor, least = (depth.number(key, 0, 1000, above=True, below=True) or DEPTH[key] for key in DEPTH)
        expected = tuple(_divisible(round(size * multiplier), divisor, least) for size in NOMINAL)
        if expected != widths:
            means = f"{multiplier}, which means {_numbers(expected)} channels"
            raise _contradiction("depth_multiplier", means, has)


def check_processor(processor: Mapping[Any, Any]) -> None:
    """Refuses steps of an image processor that are neither on nor off.

    Args:
        processor: preprocessor_config.json.

    Raises:
        AtrousError: says which.
    """
    record = Record(processor, "", PROCESSOR_FILE)
    for key in processor:
        if str(key).startswith("do_") or key in REDUCING:
            record.flag(key)


def reads_bgr(processor: Mapping[str, Any], in_channels: int) -> bool:
    """Whether the network reads blue first, of three channels."""
    return in_channels == 3 and processor.get("do_flip_channel_order") is True


def reduces_labels(processor: Mapping[str, Any]) -> bool:
    """Whether masks have 0 for unlabelled and classes from 1."""
    return any(processor.get(key) is True for key in REDUCING)


def notes(processor: Mapping[str, Any]) -> tuple[str, ...]:
    """What the image processor does and a model here does not.

    Args:
        processor: preprocessor_config.json.
    """
    found = []
    resized = [
        f"{step} ({key} {_shown(processor[key])})" if key in processor else step
        for step, key in SIZES.items()
        if processor.get(step, key in processor) is True
    ]
    if resized:
        found.append(
            f"Its preprocessor_config.json also changes the size of pictures: {' and '.join(resized)}. Pictures are "
            "segmented at their own size here; give them about as large as that for the same masks."
        )
    others = sorted(
        key
        for key, value in ((str(key), value) for key, value in processor.items())
        if key.startswith("do_") and value is True and key not in (*TAKEN, *SIZES) and key != "do_reduce_label"
    )
    if others:
        found.append(f"Its preprocessor_config.json also says {', '.join(others)}, which is not done here.")
    if processor.get("do_flip_channel_order") is True:
        found.append("Its pictures are BGR: the first filters are turned, so that they are RGB here.")
    return tuple(found)


def _divisible(value: int, divisor: float, least: float) -> int:
    """The number of channels that a width has."""
    found = max(least, int(value + divisor / 2) // divisor * divisor)
    return int(found + divisor if found < 0.9 * value else found)


def _index(key: Any) -> int | None:
    text = str(key)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else None


def _numbers(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


def _shown(value: Any) -> str:
    """A size as people write it: 256×256."""
    if isinstance(value, Mapping):
        return "×".join(
            str(value[key])[:20] for key in ("height", "width", "shortest_edge", "longest_edge") if key in value
        )
    return str(value)[:40]


def _contradiction(name: str, told: Any, found: str) -> AtrousError:
    return AtrousError(
        f"config.json has {name} = {str(told)[:100]}, but {found}: the folder's files are not of one model, or one was "
        "changed. Mend config.json, or convert the weights' file alone from another folder."
    )
