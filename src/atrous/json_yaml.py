"""JSON and YAML read in one way everywhere: whatever is wrong with a text becomes one kind of error.

Python's readers raise RecursionError at deep nesting, ValueError at numbers of thousands of digits and at dates that no
calendar has, accept NaN, Infinity and 1e999, and keep the last of two equal keys without a word.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from atrous.errors import AtrousError

#: More values than any text of ours has once its YAML aliases are written out.
MOST_VALUES = 10**6


def read_json(path: Path, *, finite: bool = True) -> Any:
    """What a JSON file holds.

    Args:
        path: the file, in UTF-8.
        finite: whether NaN and infinite numbers are refused.

    Raises:
        AtrousError: missing, unreadable, or no JSON.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AtrousError(f"{path} cannot be read: {error.strerror or error}.") from error
    return parse_json(content, str(path), finite=finite)


def parse_json(text: str | bytes | bytearray, name: str, *, finite: bool = True) -> Any:
    """What a JSON text holds.

    Args:
        text: of any length.
        name: of what it was read from, with which the message begins.
        finite: whether NaN and infinite numbers are refused.

    Raises:
        AtrousError: no JSON, nested too deeply, a key twice in one object, or a number that is too long or not finite.
    """
    numbers: dict[str, Any] = {"parse_constant": _refuse, "parse_float": _finite} if finite else {}
    try:
        return json.loads(text, object_pairs_hook=_object, **numbers)
    except RecursionError as error:
        raise AtrousError(f"{name} is no JSON that is read: it is nested too deeply.") from error
    except (ValueError, OverflowError) as error:  # of json, unicode and integers of too many digits
        raise AtrousError(f"{name} is no JSON that is read: {error}.") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"{key[:100]!r} stands twice in one object")
            seen.add(key)
    return made


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:40]} is too large")
    return value


def parse_yaml(text: str, name: str) -> Any:
    """What a YAML text holds, of plain values alone.

    Args:
        text: one document.
        name: of what it was read from, with which the message begins.

    Raises:
        AtrousError: no YAML, nested too deeply or in itself, a key twice in one mapping, values that are not finite or
            that no calendar has, or aliases that stand for more than a million values.
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
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:  # of dates, numbers, and keys of lists
        raise AtrousError(f"{name} cannot be read as YAML: {error}") from error


def _constructed(loader: Any, node: Any) -> Any:
    import yaml

    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, RecursionError):
        raise
    except Exception as error:  # PyYAML indexes and looks up what a tag such as !!int, !!bool or !!timestamp stands at
        raise ValueError("a value is not what its tag says") from error


def _check_nodes(node: Any, sizes: dict[int, int | None]) -> int:
    """How many values a node stands for, with aliases written out.

    Args:
        node: of YAML's tree.
        sizes: of the nodes seen before; None of those that this one lies in.
    """
    import yaml

    if isinstance(node, yaml.ScalarNode):
        if node.tag.endswith(":float") and re.fullmatch(r"[-+]?\.(inf|nan)", node.value, re.IGNORECASE):
            raise ValueError(f"{node.value} is no finite number ({node.start_mark})")
        return 1
    if id(node) in sizes:
        size = sizes[id(node)]
        if size is None:
            raise ValueError(f"a value holds itself ({node.start_mark})")
        return size
    sizes[id(node)] = None
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise ValueError(f"{key.value[:100]!r} stands twice in one mapping ({key.start_mark})")
                seen.add((key.tag, key.value))
        parts = [part for pair in node.value for part in pair]
    else:
        parts = node.value
    size = 1
    for part in parts:
        size += _check_nodes(part, sizes)
        if size > MOST_VALUES:
            raise ValueError("its aliases stand for more than a million values")
    sizes[id(node)] = size
    return size
