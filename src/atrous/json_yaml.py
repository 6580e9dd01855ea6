"""Reads JSON and YAML for all of atrous, with the same checks; a text that fails a check raises AtrousError.

Python's readers raise RecursionError for deep nesting, and ValueError for numbers of thousands of digits and for
invalid dates. They accept NaN, Infinity and 1e999, and silently keep the last of two equal keys.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from atrous.errors import AtrousError

#: Largest accepted number of values of a YAML text after its aliases are expanded.
MOST_VALUES = 10**6


def read_json(path: Path, *, finite: bool = True) -> Any:
    """Reads a JSON file.

    Args:
        path: the file, in UTF-8.
        finite: whether NaN and infinite numbers are refused.

    Raises:
        AtrousError: the file is missing, unreadable, or not valid JSON.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AtrousError(f"{path} cannot be read: {error.strerror or error}.") from error
    return parse_json(content, str(path), finite=finite)


def parse_json(text: str | bytes | bytearray, name: str, *, finite: bool = True) -> Any:
    """Parses a JSON text.

    Args:
        text: the text, of any length.
        name: name of the source, at the beginning of messages.
        finite: whether NaN and infinite numbers are refused.

    Raises:
        AtrousError: the text is not valid JSON, is nested too deeply, has a key twice in one object, or has a number
            that is too long or not finite.
    """
    numbers: dict[str, Any] = {"parse_constant": _refuse, "parse_float": _finite} if finite else {}
    try:
        return json.loads(text, object_pairs_hook=_object, **numbers)
    except RecursionError as error:
        raise AtrousError(f"{name} cannot be read as JSON: it is nested too deeply.") from error
    except (ValueError, OverflowError) as error:  # invalid JSON, invalid UTF-8, or an integer of too many digits
        raise AtrousError(f"{name} cannot be read as JSON: {error}.") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:100]!r} occurs twice in one object")
            seen.add(key)
    return made


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:40]} is too large")
    return value


def parse_yaml(text: str, name: str) -> Any:
    """Parses a YAML text of plain values.

    Args:
        text: the text of one document.
        name: name of the source, at the beginning of messages.

    Raises:
        AtrousError: the text is not valid YAML, is nested too deeply or contains itself, or has a key twice in one
            mapping; a value is not finite or an invalid date; or aliases expand to more than a million values.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_nodes(node, {})
            return _constructed(loader, node)
        finally:
            loader.dispose()
    except RecursionError as error:
        raise AtrousError(f"{name} cannot be read as YAML: it is nested too deeply.") from error
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:  # such as invalid dates
        raise AtrousError(f"{name} cannot be read as YAML: {error}") from error


def _constructed(loader: Any, node: Any) -> Any:
    import yaml

    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, RecursionError):
        raise
    except Exception as error:  # PyYAML does not check the values of tags such as !!int, !!bool or !!timestamp
        raise ValueError("a value does not fit its tag") from error


def _check_nodes(node: Any, sizes: dict[int, int | None]) -> int:
    """Checks the keys and numbers of a node, and returns its number of values after its aliases are expanded.

    Args:
        node: a node of the tree of a YAML text.
        sizes: number of values of each visited node, by its `id`; None for the nodes that contain this node.
    """
    import yaml

    if isinstance(node, yaml.ScalarNode):
        if node.tag.endswith(":float") and re.fullmatch(r"[-+]?\.(inf|nan)", node.value, re.IGNORECASE):
            raise ValueError(f"{node.value} is not a finite number ({node.start_mark})")
        return 1
    if id(node) in sizes:
        size = sizes[id(node)]
        if size is None:
            raise ValueError(f"a value contains itself ({node.start_mark})")
        return size
    sizes[id(node)] = None
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise ValueError(f"the key {key.value[:100]!r} occurs twice in one mapping ({key.start_mark})")
                seen.add((key.tag, key.value))
        parts = [part for pair in node.value for part in pair]
    else:
        parts = node.value
    size = 1
    for part in parts:
        size += _check_nodes(part, sizes)
        if size > MOST_VALUES:
            raise ValueError("its aliases expand to more than a million values")
    sizes[id(node)] = size
    return size
