"""Arguments of public functions: given in Python, they become what the function's signature says, or are refused."""

from __future__ import annotations

import functools
import inspect
import numbers
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from atrous.errors import SHOWN, AtrousError, shown

Given = ParamSpec("Given")
Result = TypeVar("Result")

#: What may be given for each type of a signature, in words.
WORDS = {
    "str": "text",
    "Path": "a path (str or Path)",
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "None": "None",
    "Mapping": "a mapping",
    "dict": "a dict",
}


class _Refused(Exception):
    """A value is not of a type."""


def checked(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Gives a public function arguments of the types in its signature, and turns errors of files into an AtrousError.

    Texts become paths where the signature says Path, one path a list where it says list[Path], NumPy's numbers
    Python's. Types that are no plain ones, such as modules and arrays, are the function's own to check.

    Args:
        function: with annotations; of a method the first argument is passed on.
    """
    call: Any = function
    signature, title = inspect.signature(function), function.__qualname__.removesuffix(".__init__")
    kinds = {name: found for name, one in signature.parameters.items() if (found := _kinds_of(one.annotation))}

    @functools.wraps(function)
    def with_checks(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        bound: Any = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name in kinds and signature.parameters[name].kind is not inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = _of_kinds(value, kinds[name], f"{title}: {name}")
        try:
            return call(*bound.args, **bound.kwargs)
        except BrokenPipeError:  # nobody reads what is printed
            raise
        except OSError as error:
            raise AtrousError(str(error)) from error

    return with_checks


def _kinds_of(annotation: Any) -> tuple[str, ...]:
    """The alternatives of an annotation; none where one of them is no plain type."""
    parts, depth, start, text = [], 0, 0, str(annotation)
    for place, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and not depth:
            parts.append(text[start:place].strip())
            start = place + 1
    parts.append(text[start:].strip())
    if "Path" in parts and "str" in parts:  # a path as text
        parts.remove("str")
    return tuple(parts) if all(_is_plain(part) for part in parts) else ()


def _is_plain(kind: str) -> bool:
    outer, bracket, inner = kind.partition("[")
    if bracket and outer in ("list", "Sequence"):
        return inner.removesuffix("]") in WORDS
    return outer in WORDS and (not bracket or outer in ("dict", "Mapping"))


def _of_kinds(value: Any, kinds: tuple[str, ...], name: str) -> Any:
    """The value as one of the kinds.

    Raises:
        AtrousError: it is none of them.
    """
    for kind in kinds:
        try:
            return _of_kind(value, kind, name)
        except _Refused:
            continue
    words = [f"a list, each {WORDS[kind.partition('[')[2][:-1]]}" if _several(kind) else WORDS[kind.partition("[")[0]]
             for kind in kinds]  # fmt: skip
    raise AtrousError(f"{name} must be {' or '.join(words)}, got {shown(value)}.")


def _several(kind: str) -> bool:
    return kind.startswith(("list[", "Sequence["))


def _of_kind(value: Any, kind: str, name: str) -> Any:
    if _several(kind):
        return _list_of(value, kind.partition("[")[2].removesuffix("]"), name)
    outer = kind.partition("[")[0]
    if outer == "None" and value is None:
        return None
    if outer == "Path" and isinstance(value, str | os.PathLike):
        return _path(value, name)
    if outer == "bool" and (isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")):  # NumPy's
        return bool(value)
    if outer == "str" and isinstance(value, str):
        return value
    if outer in ("dict", "Mapping") and isinstance(value, Mapping):
        return value
    if outer in ("int", "float") and not isinstance(value, bool):
        if isinstance(value, numbers.Integral):
            return int(value)
        if outer == "int" and isinstance(value, float) and value.is_integer():
            return int(value)
        if outer == "float" and isinstance(value, numbers.Real):
            if value != value:
                raise AtrousError(f"{name} must be a number, got NaN.")
            return float(value)
    raise _Refused


def _list_of(value: Any, kind: str, name: str) -> list[Any]:
    if isinstance(value, str | os.PathLike):
        if kind not in ("Path", "str"):
            raise _Refused
        return [_of_kind(value, kind, name)]
    if len(getattr(value, "shape", (0,))) != 1 or not isinstance(value, Iterable) or isinstance(value, Mapping | bytes):
        raise _Refused
    try:
        items = list(value)
    except Exception:  # an array or tensor of no dimension
        raise _Refused from None
    return [_of_kinds(item.item() if getattr(item, "shape", None) == () else item, (kind,), name) for item in items]


def _path(value: str | os.PathLike[Any], name: str) -> Path:
    text = os.fspath(value)
    if not isinstance(text, str):
        raise _Refused
    if not text:
        raise AtrousError(f"{name} is empty; the current folder is '.'.")
    if "\0" in text:
        raise AtrousError(f"{name} holds a zero character, which no path has: {text[:SHOWN]!r}.")
    return Path(text)
