"""Merges the user's options with a checkpoint's values: an option may add a value, but must not contradict the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atrous.errors import AtrousError, shown

#: Options that may differ from the file: weights can be used at every output stride, and the other options only change
#: training.
FREE = ("output_stride", "dropout", "frozen_norm", "drop_path_rate", "drop_rate")


def merged(usual: Mapping[str, Any], held: Mapping[str, Any], given: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Returns the arguments of our model.

    The user's options replace the source's defaults; options in `FREE` also replace the file's values.

    Args:
        usual: defaults of the source, for values that neither the weights nor the configuration state.
        held: values that the weights or the configuration state.
        given: the user's options; "architecture" is ignored.
        file: the file's name in messages; empty for a state dict.

    Raises:
        AtrousError: an option that is not in `FREE` differs from its value in `held`; the message names both values.
    """
    named = {name: value for name, value in given.items() if name != "architecture"}
    file = file or "the state dict"
    both = {name: _agreed(name, held[name], value, file) for name, value in named.items() if name in held}
    return {**usual, **held, **named, **both}


def _agreed(name: str, held: Any, given: Any, file: str, before: str = "") -> Any:
    """Returns the value of an option that both the file and the user give."""
    if name in FREE:
        return given
    if name == "backbone_arguments" and isinstance(given, Mapping):
        inner = held or {}
        named = {key: value for key, value in given.items() if key in inner}
        both = {key: _agreed(key, inner[key], value, file, f"{name}: ") for key, value in named.items()}
        return {**inner, **given, **both} or None
    if name == "norm" and _is_norm(given) and _is_norm(held) and given[0] == held[0]:
        return given  # (eps, momentum); momentum is used only in training
    if _same(name, held, given):
        return held
    if name == "num_classes":
        raise AtrousError(
            f"{file} has {held} outputs, not {shown(given)}. Convert it unchanged; training from it (--init) changes "
            "the number of classes."
        )
    raise AtrousError(
        f"{before}{name} is given as {shown(given)}, and {file} has {shown(held)}: leave {name} out, or convert "
        "another file."
    )


def _same(name: str, held: Any, given: Any) -> bool:
    if name == "backbone" and isinstance(given, str) and isinstance(held, str):
        # The part after the point is the name of the pretrained weights in timm.
        return given.partition(".")[0] == held.partition(".")[0]
    if isinstance(held, bool) != isinstance(given, bool):
        return False
    try:
        return bool(_tupled(held) == _tupled(given))
    except Exception:  # arrays cannot be compared with bool()
        return False


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list | tuple) else value


def _is_norm(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2
