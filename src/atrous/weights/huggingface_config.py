"""Compares a Hugging Face folder's config.json and preprocessor_config.json with its weights.

Source: transformers 5.23, models/mobilenet_v2/modeling_mobilenet_v2.py (`apply_depth_multiplier`) and
image_processing_mobilenet_v2.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atrous.errors import AtrousError, shown
from atrous.weights.class_names import class_names
from atrous.weights.config_reader import Record

#: Channels of the stem, of the first block after it and of the last block, at a depth multiplier of 1.
NOMINAL = (32, 24, 320)
#: Defaults of config.json.
DEPTH = {"depth_multiplier": 1.0, "depth_divisible_by": 8, "min_depth": 8}
#: Steps of an image processor that are converted, or that change no mask.
TAKEN = ("do_rescale", "do_normalize", "do_flip_channel_order", "do_reduce_labels", "do_convert_rgb")
#: Steps of an image processor that change a picture's size → key of the new size.
SIZES = {"do_resize": "size", "do_center_crop": "crop_size"}
#: Keys that are True if masks have 0 for unlabelled pixels.
REDUCING = ("do_reduce_labels", "do_reduce_label", "reduce_labels")
#: Names of the two configuration files.
FILE = "config.json"
PROCESSOR_FILE = "preprocessor_config.json"
#: Largest whole number accepted; far above the classes and channels of any network.
MOST = 2**20


def check(config: Mapping[str, Any], widths: tuple[int, ...], num_classes: int, in_channels: int) -> None:
    """Checks that config.json and the weights agree.

    Args:
        config: config.json; empty for a state dict without a folder.
        widths: channels of the stem, of the first block after it and of the last block, in the weights.
        num_classes: number of the classifier's outputs.
        in_channels: number of channels of the pictures.

    Raises:
        AtrousError: config.json and the weights contradict each other; the message names both values.
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
            raise AtrousError(f"config.json: {fault} Correct config.json, or give the weights file alone.")
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
            value = config["depth_multiplier"]
            raise _contradiction("depth_multiplier", value if isinstance(value, str) else shown(value), has)
        multiplier, divisor, least = (depth.number(key, 0, 1000, above=True, below=True) or DEPTH[key] for key in DEPTH)
        expected = tuple(_divisible(round(size * multiplier), divisor, least) for size in NOMINAL)
        if expected != widths:
            means = f"{multiplier}, which means {_numbers(expected)} channels"
            raise _contradiction("depth_multiplier", means, has)


def check_processor(processor: Mapping[Any, Any]) -> None:
    """Checks that each step of an image processor is True or False.

    Args:
        processor: preprocessor_config.json.

    Raises:
        AtrousError: a step has another value; the message names it.
    """
    record = Record(processor, "", PROCESSOR_FILE)
    for key in processor:
        if str(key).startswith("do_") or key in REDUCING:
            record.flag(key)


def reads_bgr(processor: Mapping[str, Any], in_channels: int) -> bool:
    """Returns whether the network reads BGR pictures.

    Args:
        processor: preprocessor_config.json.
        in_channels: number of channels of the pictures; only pictures of three channels can be BGR.
    """
    return in_channels == 3 and processor.get("do_flip_channel_order") is True


def reduces_labels(processor: Mapping[str, Any]) -> bool:
    """Returns whether masks have 0 for unlabelled pixels and classes from 1.

    Args:
        processor: preprocessor_config.json.
    """
    return any(processor.get(key) is True for key in REDUCING)


def notes(processor: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns notes for the user on steps of the image processor that differ in atrous.

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
            f"Its preprocessor_config.json also changes the size of pictures: {' and '.join(resized)}. atrous "
            "segments pictures at their own size. For the same masks, give pictures of about that size."
        )
    others = sorted(
        key
        for key, value in ((str(key), value) for key, value in processor.items())
        if key.startswith("do_") and value is True and key not in (*TAKEN, *SIZES) and key != "do_reduce_label"
    )
    if others:
        found.append(f"Its preprocessor_config.json also has the steps {', '.join(others)}, which atrous does not do.")
    if processor.get("do_flip_channel_order") is True:
        found.append(
            "The network takes BGR pictures. The channels of its first filters are reversed, so that it takes RGB "
            "pictures in atrous."
        )
    return tuple(found)


def _divisible(value: int, divisor: float, least: float) -> int:
    """Rounds a number of channels to a multiple of the divisor, as MobileNetV2 does."""
    found = max(least, int(value + divisor / 2) // divisor * divisor)
    return int(found + divisor if found < 0.9 * value else found)


def _index(key: Any) -> int | None:
    text = str(key)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else None


def _numbers(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


def _shown(value: Any) -> str:
    """Returns a size as text, such as 256×256."""
    if isinstance(value, Mapping):
        return "×".join(
            str(value[key])[:20] for key in ("height", "width", "shortest_edge", "longest_edge") if key in value
        )
    return str(value)[:40]


def _contradiction(name: str, value: Any, found: str) -> AtrousError:
    return AtrousError(
        f"config.json has {name} = {str(value)[:100]}, but {found}: the folder's files are not of one model, or one "
        "was changed. Correct config.json, or copy only the weights file to another folder and convert it there."
    )
