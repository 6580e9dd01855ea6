"""A checkpoint of another library (a *foreign* checkpoint), converted to the keys and arguments of atrous; its checks.

"Ours" are the keys, tensors and models of atrous.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError
from atrous.models import Preprocessing

#: Mean and standard deviation of ImageNet's RGB in 0–255, as most libraries use (torchvision/transforms/_presets.py).
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

#: Last parts of the names of weights in PyTorch and TensorFlow. Names with other last parts belong to counters, losses
#: and flags.
LAYER_LEAVES = frozenset(
    {
        *("weight", "bias", "gamma", "beta", "running_mean", "running_var", "weights", "depthwise_weights", "biases"),
        *("moving_mean", "moving_variance", "weight_orig", "weight_mask", "weight_g", "weight_v"),
    }
)

#: End of the name of a batch norm's batch count, which inference does not use.
COUNT = "num_batches_tracked"

#: Number of inverted residuals in each stage of MobileNetV2 (arXiv:1801.04381 Table 2).
MOBILENETV2_STAGES = (1, 2, 3, 4, 3, 3, 1)

#: Pairs: a pattern for the beginning of a foreign key, and its replacement in our key (a template or a function).
Keys: TypeAlias = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


@dataclass(frozen=True)
class Adapted:
    """A foreign checkpoint converted for one of our models.

    Args:
        architecture: name of the model, a key of `models.ARCHITECTURES`.
        arguments: arguments of the model's class, including the user's options (`merge_user_options.merged`).
        state: tensors under our keys.
        left_over: foreign keys without a counterpart in our model.
        preprocessing: normalisation of the pictures; None for the normalisation of the backbone.
        preprocessing_told: whether the configuration in the file states the normalisation.
        classes: classes of the checkpoint; None if they are unknown, so that the model gets placeholders.
        classes_of: data set from which the classes were taken, because it has as many classes as the model has outputs;
            empty if the classes come from elsewhere.
        classes_fault: reason why the file's class names or colours do not fit its outputs; empty if they fit.
        untold: arguments that the file does not state. They have the source's defaults unless the user gave them.
        notes: further sentences for the user.
        fills: prefixes of our keys whose weights must be in the file; by default all keys. All other weights, such as
            those of the head over an ImageNet backbone, may keep their initial values.
    """

    architecture: str
    arguments: dict[str, Any]
    state: dict[str, Tensor]
    left_over: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    preprocessing_told: bool = False
    classes: ClassTable | None = None
    classes_of: str = ""
    classes_fault: str = ""
    untold: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fills: tuple[str, ...] = ("",)


def by_number(num_classes: int, known: Mapping[str, ClassTable]) -> dict[str, Any]:
    """Returns the fields `classes` and `classes_of` of `Adapted`, found only by the number of outputs.

    Args:
        num_classes: number of outputs, K.
        known: class tables by the name of their data set.

    Returns:
        The fields of `Adapted`; empty if no table has K classes.
    """
    for name, table in known.items():
        if len(table) == num_classes:
            return {"classes": table, "classes_of": name}
    return {}


def blocks_by_stage(lengths: Sequence[int]) -> tuple[str, ...]:
    """Returns timm's names of blocks that other libraries number consecutively over all stages.

    Args:
        lengths: number of blocks in each stage.

    Examples:
        >>> blocks_by_stage((1, 2))
        ('0.0', '1.0', '1.1')
    """
    return tuple(f"{stage}.{block}" for stage, length in enumerate(lengths) for block in range(length))


def normalisation(mean: Sequence[float], std: Sequence[float], channels: int) -> Preprocessing:
    """Returns the preprocessing with this mean and standard deviation.

    Args:
        mean: mean of each channel, in 0–255.
        std: standard deviation of each channel, in 0–255.
        channels: number of channels C of the pictures. If C differs from the number of means, each channel gets the
            average of all means and the average of all standard deviations.
    """
    if channels != len(mean):
        mean, std = [(sum(values) / len(values),) * channels for values in (mean, std)]
    return Preprocessing.of_pictures(mean, std)


def translate(state: Mapping[str, Tensor], keys: Keys) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Renames a state dict by a table.

    Args:
        state: tensors under foreign keys.
        keys: patterns and replacements. The first pattern that matches the beginning of a key is used; the rest of
            the key stays.

    Returns:
        The tensors under our keys, and the foreign keys that no pattern matched, without batch counts.

    Raises:
        AtrousError: two foreign keys become the same key of ours.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in keys]
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    left_over = []
    for key, tensor in state.items():
        name = _rename(key, compiled)
        if name is None:
            left_over.append(key)
        elif name in renamed:
            raise AtrousError(f"'{origin[name]}' and '{key}' both become '{name}': this file has another layout.")
        else:
            renamed[name], origin[name] = tensor, key
    return renamed, tuple(key for key in left_over if not key.endswith(COUNT))


def _rename(key: str, keys: Iterable[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]]) -> str | None:
    for pattern, replacement in keys:
        match = pattern.match(key)
        if match:
            beginning = match.expand(replacement) if isinstance(replacement, str) else replacement(match)
            return beginning + key[match.end() :]
    return None


def move_channels(weight: Tensor, order: Sequence[int], sizes: Sequence[int] | None = None) -> Tensor:
    """Reorders the blocks of a convolution's input channels to match our concatenation.

    Args:
        weight: weights of the convolution, C'×C×h×w.
        order: for each of our blocks, the index of the foreign block: (1, 2, 3, 4, 0) moves the first foreign block to
            the end.
        sizes: channels of each foreign block; by default all blocks have the same number.

    Returns:
        The reordered weights, C'×C×h×w.

    Raises:
        AtrousError: the blocks do not add up to the channels.

    Examples:
        >>> weight = torch.arange(6.0).reshape(1, 6, 1, 1)
        >>> move_channels(weight, (1, 2, 0)).flatten().tolist()
        [2.0, 3.0, 4.0, 5.0, 0.0, 1.0]
        >>> move_channels(weight, (1, 0), sizes=(1, 5)).flatten().tolist()
        [1.0, 2.0, 3.0, 4.0, 5.0, 0.0]
    """
    channels = weight.shape[1]
    parts = [channels // len(order)] * len(order) if sizes is None else list(sizes)
    if sum(parts) != channels or sorted(order) != list(range(len(parts))):
        raise AtrousError(
            f"{channels} input channels are not {len(order)} blocks of {parts}: the file has another layout."
        )
    blocks = weight.split(parts, dim=1)
    return torch.cat([blocks[index] for index in order], dim=1)


def check_fits(adapted: Adapted, ours: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Checks that a converted checkpoint fits the model that will load it.

    Args:
        adapted: the checkpoint.
        ours: the model's state dict.

    Returns:
        Names of our weights that the file does not have and that may keep their initial values.

    Raises:
        AtrousError: weights are missing, unknown to the model, of another shape or not floating-point numbers.
    """
    built = f"{adapted.architecture} over {adapted.arguments.get('backbone')}"
    advice = "Try another backbone (--backbone); otherwise the file is from another network, incomplete or altered."
    extra = [name for name in adapted.state if name not in ours and not name.endswith(COUNT)]
    if extra:
        raise AtrousError(f"the file has weights that {built} does not have: {some(extra)}. {advice}")
    for name, tensor in adapted.state.items():
        if name not in ours:
            continue
        count = name.endswith(COUNT)
        if tensor.shape != ours[name].shape and not (count and tensor.shape == (1,)):
            shapes = f"{tuple(tensor.shape)} in the file, {tuple(ours[name].shape)} in {built}"
            raise AtrousError(f"'{name}' differs in shape: {shapes}. {advice}")
        if not (count or tensor.is_floating_point()):
            raise AtrousError(
                f"'{name}' holds {tensor.dtype}, not floating-point numbers. Quantised files cannot be converted."
            )
    absent = [name for name in ours if name not in adapted.state and not name.endswith(COUNT)]
    missing = [name for name in absent if name.startswith(adapted.fills)]
    if missing:
        raise AtrousError(f"the file lacks {len(missing)} weights of {built}: {some(missing)}. {advice}")
    return tuple(absent)


def set_aside(adapted: Adapted, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Adapted:
    """Moves tensors without a counterpart in our network to `left_over`: counters, flags, a different auxiliary head.

    Args:
        adapted: the checkpoint.
        ours: the state dict of the model that will load the checkpoint.
        theirs: the foreign tensors by their names; `left_over` lists these names.

    Returns:
        The checkpoint without these tensors. If the auxiliary head was moved, the argument `auxiliary` is False, so the
        model must be built again.
    """
    removed = {name for name in adapted.state if name not in ours and name.rpartition(".")[2] not in LAYER_LEAVES}
    head = {name for name in (*ours, *adapted.state) if name.startswith("auxiliary.") and not name.endswith(COUNT)}
    other = [name for name in head if _shape(adapted.state, name) != _shape(ours, name)]
    notes = ()
    arguments = adapted.arguments
    if arguments.get("auxiliary") and other:
        removed |= {name for name in adapted.state if name.startswith("auxiliary.")}
        arguments = {**arguments, "auxiliary": False}
        found = _shape(adapted.state, "auxiliary.classifier.weight")
        notes = (
            "Its auxiliary head, which is used only in training, differs from ours "
            + (f"({found[0]} outputs instead of {arguments['num_classes']})" if found else "(other layers)")
            + " and is left over.",
        )
    if not removed:
        return adapted
    names = {id(tensor): key for key, tensor in theirs.items()}
    named = tuple(names.get(id(adapted.state[name]), name) for name in adapted.state if name in removed)
    return replace(
        adapted,
        arguments=arguments,
        state={name: tensor for name, tensor in adapted.state.items() if name not in removed},
        left_over=(*adapted.left_over, *(name for name in named if not name.endswith(COUNT))),
        notes=(*adapted.notes, *notes),
    )


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    return tuple(state[name].shape) if name in state else ()


def check_values(adapted: Adapted) -> None:
    """Refuses weights that no network can use.

    Args:
        adapted: the checkpoint.

    Raises:
        AtrousError: a weight has no values (meta device), is not finite as float32, or is a negative variance.
    """
    for name, tensor in adapted.state.items():
        if tensor.is_meta:
            raise AtrousError(
                f"'{name}' is on the meta device: it has a shape, but no values. Give the weights themselves."
            )
        if not tensor.isfinite().all():
            raise AtrousError(
                f"'{name}' has values that are not finite: the training diverged, or the file is damaged."
            )
        if name.endswith("running_var") and (tensor < 0).any():
            raise AtrousError(f"'{name}' has negative variances: the file is damaged, or the tensor is not a variance.")


def some(names: Sequence[str]) -> str:
    """Returns the first four names and the number of further names, as text."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
