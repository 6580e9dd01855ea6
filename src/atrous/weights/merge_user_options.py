"""One rule for what the user names beside a checkpoint: it may add to what the file holds, and never contradicts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atrous.errors import AtrousError, shown

#: What a user may have otherwise than the file: the same weights run at each stride, the others change training alone.
FREE = ("output_stride", "dropout", "frozen_norm", "drop_path_rate", "drop_rate")


def merged(usual: Mapping[str, Any], held: Mapping[str, Any], given: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Arguments of ours: what the source mostly has, over it what the user named, over that what the file holds.

    Args:
        usual: what neither weights nor configuration tell, as the source mostly has it.
        held: what weights or configuration tell.
        given: what the user named; "architecture" is none of them.
        file: the file's name, in messages; empty for a state dict.

    Raises:
        AtrousError: an option of `given` is another in `held`; names both values.
    """
    named = {name: value for name, value in given.items() if name != "architecture"}
    file = file or "the state dict"
    both = {name: _agreed(name, held[name], value, file) for name, value in named.items() if name in held}
    return {**usual, **held, **named, **both}


def _agreed(name: str, held: Any, given: Any, file: str, before: str = "") -> Any:
    """The value of an option that both the file and the user name."""
    if name in FREE:
        return given
    if name == "backbone_arguments" and isinstance(given, Mapping):
        inner = held or {}
        named = {key: value for key, value in given.items() if key in inner}
        both = {key: _agreed(key, inner[key], value, file, f"{name}: ") for key, value in named.items()}
        return {**inner, **given, **both} or None
    if name == "norm" and _is_norm(given) and _is_norm(held) and given[0] == held[0]:
        return given  # (eps, momentum), the second of which is for training alone
    if _same(name, held, given):
        return held
    if name == "num_classes":
        raise AtrousError(
            f"{file} has {held} outputs, not {shown(given)}. Convert it as it is; training from it (--init) changes "
            "the number of classes."
        )
    raise AtrousError(
        f"{before}{name} is given as {shown(given)}, and {file} has {shown(held)}: leave {name} out, or convert "
        "another file."
    )


def _same(name: str, held: Any, given: Any) -> bool:
    if name == "backbone" and isinstance(given, str) and isinstance(held, str):
        return given.partition(".")[0] == held.partition(".")[0]  # after the point, timm names the pretrained weights
    if isinstance(held, bool) != isinstance(given, bool):
        return False
    try:
        return bool(_tupled(held) == _tupled(given))
    except Exception:  # of arrays, which are neither equal nor not
        return False


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list | tuple) else value


def _is_norm(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2
