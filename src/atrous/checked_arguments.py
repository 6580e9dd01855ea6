"""Arguments of public functions: given in Python, they become what the function's signature says, or are refused."""

from __future__ import annotations

import ast
import errno
import functools
import inspect
import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from atrous.errors import SHOWN, AtrousError, OutOfMemory, WrongArguments, kind_of, nearest, no_encoding, shown
from atrous.memory_errors import is_out_of_memory
from atrous.paths import path_of, place_of

Given = ParamSpec("Given")
Result = TypeVar("Result")
Kind = TypeVar("Kind")

#: What may be given for each type of a signature, in words.
WORDS = {
    "str": "text",
    "Place": "a path or a URL (str or Path)",
    "Path": "a path (str or Path)",
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "None": "None",
    "Mapping": "a mapping",
    "dict": "a dict",
}
#: Types of several values of one kind, from which a list or a tuple is made.
SEVERAL = ("list", "Sequence", "tuple")
#: The smallest and the largest whole number that is taken, those of 64 bits.
SMALLEST_INT, LARGEST_INT = -(2**63), 2**63 - 1
#: How deep lists and dicts that are given may be nested.
DEEPEST = 30


class _Refused(Exception):
    """A value is not of a type."""


def attribute_of(value: Any, name: str) -> Any:
    """An attribute of whatever was given; None where it has none, or where its own code fails.

    Args:
        value: anything.
        name: of the attribute.
    """
    try:
        return getattr(value, name, None)
    except Exception:  # of a property, say
        return None


def as_float(value: Any, name: str) -> float | None:
    """A real number of any type, such as an int, a Fraction or one of NumPy's, as a float; None for what is none.

    Args:
        value: anything.
        name: of the argument, for the message.

    Raises:
        AtrousError: a number beyond the range of floats.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        raise AtrousError(f"{name} must be a number within ±1.8e308, got {shown(value)}.") from None
    except Exception:  # of its own code
        return None


def as_dict(value: Any, name: str) -> dict[Any, Any] | None:
    """A mapping of any type as a dict; None for what is no mapping.

    Args:
        value: anything.
        name: of the argument, for the message.

    Raises:
        AtrousError: a mapping whose own code fails.
    """
    if isinstance(value, dict):
        return value
    if not isinstance(value, Mapping):
        return None
    try:
        return dict(value)
    except Exception as error:  # of its own code
        raise AtrousError(f"{name} cannot be read: {kind_of(value)}, whose own code fails.") from error


def check_usable(value: Any, name: str, above: tuple[int, ...] = ()) -> None:
    """Refuses what no check can look at: numbers beyond the range of floats, and objects that do not tell their class.

    Args:
        value: anything; lists, tuples, sets and dicts are looked through.
        name: of the argument, for the message.
        above: the identities of the lists and dicts that hold it.

    Raises:
        AtrousError: it is one of these, holds one, holds itself or is nested more than `DEEPEST` deep.
    """
    try:
        as_float(value, name)
    except AtrousError:
        raise
    except Exception as error:  # of the value's own code
        raise AtrousError(f"{name} cannot be read: {kind_of(value)}, whose own code fails.") from error
    if type(value) in (list, tuple, set, frozenset, dict):
        if id(value) in above or len(above) >= DEEPEST:
            raise AtrousError(f"{name} is a {type(value).__name__} that holds itself, or is nested too deep.")
        for item in [*value, *(value.values() if isinstance(value, dict) else ())]:
            check_usable(item, name, (*above, id(value)))


def checked(function: Callable[Given, Result], *, prefix: str | None = None) -> Callable[Given, Result]:
    """Gives a public function arguments of the types in its signature, and turns errors of files into an AtrousError.

    Texts become paths where the signature says Path, one path a list where it says list[Path], NumPy's numbers
    Python's. Types that are no plain ones, such as modules and arrays, are the function's own to check. Unknown and
    missing arguments are a `WrongArguments`, too little memory is an `OutOfMemory`, and names that an encoding does not
    have are an AtrousError.

    Args:
        function: with annotations; of a method the first argument is passed on.
        prefix: what messages put before the name of an argument; by default the function's name.
    """
    call: Any = function
    signature, title = inspect.signature(function), _title(function)
    before = f"{title}: " if prefix is None else prefix
    kinds = {name: found for name, one in signature.parameters.items() if (found := _kinds_of(one.annotation))}

    @functools.wraps(function)
    def with_checks(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        bound = _bound(signature, title, args, kwargs, before)
        for name, value in bound.arguments.items():
            if name in kinds and signature.parameters[name].kind is not inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = _of_kinds(value, kinds[name], before + name)
        try:
            return call(*bound.args, **bound.kwargs)
        except BrokenPipeError:  # the reader of standard output has gone
            raise
        except AtrousError:
            raise
        except OSError as error:
            raise (OutOfMemory if error.errno == errno.ENOMEM else AtrousError)(str(error)) from error
        except UnicodeError as error:
            raise no_encoding(error) from error
        except MemoryError as error:
            raise OutOfMemory(f"this takes more memory than there is. {error}".rstrip()) from error
        except RuntimeError as error:  # which is what torch's allocators raise
            if not is_out_of_memory(error):
                raise
            first = str(error).partition("\n")[0]
            raise OutOfMemory(f"this takes more memory than there is ({first[:200]}).") from error

    return with_checks


def checked_names(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Unknown and missing arguments of a public function are a `WrongArguments`; it checks their values itself.

    Args:
        function: of a method the first argument is passed on.
    """
    call: Any = function
    signature, title = inspect.signature(function), _title(function)

    @functools.wraps(function)
    def with_names(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        bound = _bound(signature, title, args, kwargs, f"{title}: ")
        return call(*bound.args, **bound.kwargs)

    return with_names


def checked_fields(kind: type[Kind]) -> type[Kind]:
    """As `checked`, for the constructor of a dataclass.

    Args:
        kind: the dataclass; changed in place.
    """
    kind.__init__ = checked(kind.__init__)
    return kind


def checked_field_names(kind: type[Kind]) -> type[Kind]:
    """As `checked_names`, for the constructor of a dataclass.

    Args:
        kind: the dataclass; changed in place.
    """
    kind.__init__ = checked_names(kind.__init__)
    return kind


def _title(function: Callable[..., Any]) -> str:
    return function.__qualname__.removesuffix(".__init__")


def _bound(signature: inspect.Signature, title: str, args: Any, kwargs: Any, before: str) -> Any:
    """The arguments by the names of the signature.

    Raises:
        WrongArguments: they do not fit it.
        AtrousError: `check_usable` refuses one.
    """
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise _wrong_arguments(signature, title, kwargs, error) from None
    for name, value in bound.arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            for key, one in value.items():
                check_usable(one, before + key)
        else:
            check_usable(value, before + name)
    return bound


def _wrong_arguments(signature: Any, title: str, named: Mapping[str, Any], error: TypeError) -> WrongArguments:
    """What to say where the arguments do not fit the signature."""
    variable = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    names = [name for name, one in signature.parameters.items() if one.kind not in variable]
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    unknown = next((name for name in named if name not in names), None)
    if unknown is None:
        return WrongArguments(f"{title}: {error}.")
    near = nearest(unknown, names)
    there = f"; did you mean {near}?" if near else f". There are: {', '.join(names) or 'none'}."
    return WrongArguments(f"{title}: no argument '{unknown[:SHOWN]}'{there}")


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
    outer, bracket, _ = kind.partition("[")
    if bracket and outer in SEVERAL:
        return _each(kind) in WORDS
    return kind.startswith("Literal['") or (outer in WORDS and (not bracket or outer in ("dict", "Mapping")))


def _each(kind: str) -> str:
    """The one type in a kind of several, or of a tuple of equal types; else the text in the brackets."""
    inside = kind.partition("[")[2].removesuffix("]")
    each = {part.strip() for part in inside.split(",")} - {"..."} if kind.startswith("tuple[") else {inside}
    return each.pop() if len(each) == 1 else inside


@functools.cache
def _literals(kind: str) -> tuple[str, ...]:
    return ast.literal_eval(f"({kind.removeprefix('Literal[').removesuffix(']')},)")


def _of_kinds(value: Any, kinds: tuple[str, ...], name: str) -> Any:
    """The value as one of the kinds.

    Raises:
        AtrousError: it is none of them.
    """
    for kind in kinds:
        try:
            return _of_kind(value, kind, name)
        except AtrousError:
            raise
        except Exception:  # not of this kind; also whatever the value's own code raises
            continue
    raise AtrousError(f"{name} must be {' or '.join(map(_in_words, kinds))}, got {shown(value)}.")


def _in_words(kind: str) -> str:
    outer = kind.partition("[")[0]
    if outer == "Literal":
        return " or ".join(map(repr, _literals(kind)))
    return f"a list, each {WORDS[_each(kind)]}" if outer in SEVERAL else WORDS[outer]


def _of_kind(value: Any, kind: str, name: str) -> Any:
    outer = kind.partition("[")[0]
    if outer in SEVERAL:
        items = _list_of(value, _each(kind), name)
        return tuple(items) if outer == "tuple" else items
    if outer == "Literal" and isinstance(value, str) and value in _literals(kind):
        return value
    if outer == "None" and value is None:
        return None
    if outer == "Path" and isinstance(value, str | os.PathLike):
        return path_of(value, name)
    if outer == "Place" and isinstance(value, str | os.PathLike):
        return place_of(value, name)
    if outer == "bool" and (isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")):  # NumPy's
        return bool(value)
    if outer == "str" and isinstance(value, str):
        return value
    if outer in ("dict", "Mapping") and isinstance(value, Mapping):
        return value if isinstance(value, dict) else dict(value)
    if outer == "int" and (number := _as_int(value)) is not None:
        if not SMALLEST_INT <= number <= LARGEST_INT:
            raise AtrousError(f"{name} must be a whole number of at most 64 bits, got {shown(value)}.")
        return number
    if outer == "float" and (number := as_float(value, name)) is not None:
        if math.isnan(number):
            raise AtrousError(f"{name} must be a number, got NaN.")
        return number
    raise _Refused


def _as_int(value: Any) -> int | None:
    """A whole number of any type, also one that is written as a float; None for what is none."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else None


def _scalar(item: Any) -> Any:
    """Python's number for NumPy's and torch's of no dimension; whatever else as it is."""
    shape = attribute_of(item, "shape")
    try:
        return item.item() if isinstance(shape, tuple) and not shape else item
    except Exception:  # a tensor without data
        return item


def _list_of(value: Any, kind: str, name: str) -> list[Any]:
    if isinstance(value, str | os.PathLike):
        if kind not in ("Path", "str", "Place"):
            raise _Refused
        return [_of_kind(value, kind, name)]
    if not isinstance(value, Iterable) or isinstance(value, Mapping | bytes) or len(getattr(value, "shape", (0,))) != 1:
        raise _Refused
    return [_of_kinds(_scalar(item), (kind,), name) for item in value]
