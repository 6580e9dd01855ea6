"""Parses the configuration in an OpenMMLab checkpoint's metadata: Python text, which is never run.

Source: mmengine/config/config.py (`pretty_text`), mmsegmentation 1.2.2 (`data_preprocessor`) and 0.30 (`img_norm_cfg`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from atrous.weights.config_reader import Record

#: Result for values that are neither literals nor names that were assigned before, for example for calls other than
#: dict(…).
UNKNOWN = None


def read(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the configuration as plain dicts, lists and values.

    Args:
        meta: the checkpoint's metadata. Its "config" or "cfg" is Python text or a mapping.

    Returns:
        Name → value; empty if there is no configuration, or the configuration is not valid Python.
    """
    for key in ("config", "cfg"):
        given = meta.get(key)
        if isinstance(given, Mapping):
            return dict(given)
        if isinstance(given, str):
            return _assigned(given)
    return {}


def _assigned(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        for statement in ast.parse(text.strip()).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                found[statement.targets[0].id] = _value(statement.value, found)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return found


def _value(node: ast.expr, known: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return known.get(node.id, UNKNOWN)
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item, known) for item in node.elts]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {key.value: _value(value, known) for key, value in pairs if isinstance(key, ast.Constant)}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, known)
        return -value if isinstance(value, int | float) else UNKNOWN
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        words = [(word.arg, _value(word.value, known)) for word in node.keywords]
        return {key: value for word in words for key, value in _named(*word)}
    return UNKNOWN


def _named(word: str | None, value: Any) -> list[tuple[str, Any]]:
    """Returns the name and value of a keyword argument; for `**value`, all names and values in the mapping."""
    if word is not None:
        return [(word, value)]
    return [(key, item) for key, item in value.items() if isinstance(key, str)] if isinstance(value, Mapping) else []


def part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns one part of the model, such as "backbone" or "decode_head".

    Args:
        config: configuration from `read`.
        name: key of the part in `model`, or in `config` if `model` does not have it.

    Returns:
        The part; {} if it is missing.

    Raises:
        AtrousError: the value of this key in `model` is not a mapping.
    """
    model = config.get("model")
    for holder in (model, config):
        found = holder.get(name) if isinstance(holder, Mapping) else None
        if isinstance(found, list) and found and isinstance(found[-1], Mapping):
            found = found[-1]  # if there are several heads, the last head makes the prediction
        if isinstance(found, Mapping):
            return {key: value for key, value in found.items() if isinstance(key, str)}
        if found is not UNKNOWN and holder is model:
            raise Record(holder or {}, "model.").refused(name, "it must have keys and values")
    return {}


class Normalisation(NamedTuple):
    """A normalisation step of a configuration.

    Args:
        record: the step, with "mean" and "std".
        turned: whether the step reverses the order of the channels.
    """

    record: Record
    turned: bool


def normalisations(config: Mapping[str, Any]) -> Iterator[Normalisation]:
    """Yields every normalisation step of a configuration.

    Args:
        config: configuration from `read`.

    Raises:
        AtrousError: a flag is neither True nor False, or bgr_to_rgb and rgb_to_bgr are both True.
    """
    record = part(config, "data_preprocessor")
    if record:  # its default options mean no normalisation and no reversed channels
        options = Record(record, "data_preprocessor.")
        both = options.flag("bgr_to_rgb"), options.flag("rgb_to_bgr")
        if all(both):
            raise options.refused("bgr_to_rgb", "rgb_to_bgr is also True, but only one of them may be True")
        yield Normalisation(options, any(both))
    for step in _steps(config, set()):
        options = Record(step, "Normalize.")
        yield Normalisation(options, options.flag("to_rgb", True))


def _steps(value: Any, seen: set[int]) -> Iterator[Mapping[str, Any]]:
    """Yields each `Normalize` step of any pipeline and each `img_norm_cfg` (version 0.x), every object once."""
    if id(value) in seen:
        return
    if isinstance(value, Mapping):
        seen.add(id(value))
        if value.get("type") == "Normalize":
            yield value
        named = value.get("img_norm_cfg")
        if isinstance(named, Mapping):
            yield named
        for item in value.values():
            yield from _steps(item, seen)
    elif isinstance(value, list | tuple):
        seen.add(id(value))
        for item in value:
            yield from _steps(item, seen)
