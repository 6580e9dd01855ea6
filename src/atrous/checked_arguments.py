"""Checks the arguments of public functions, and converts them to the types in the function's signature."""

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

#: Name of each annotated type in messages.
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
#: Collection types of a signature; their arguments become a list or a tuple.
SEVERAL = ("list", "Sequence", "tuple")
#: The smallest and the largest accepted whole number: the limits of 64 bits.
SMALLEST_INT, LARGEST_INT = -(2**63), 2**63 - 1
#: Largest nesting depth of given lists and dicts.
DEEPEST = 30


class _Refused(Exception):
    """Raised if a value does not have the annotated type that is being tried."""


def attribute_of(value: Any, name: str) -> Any:
    """Returns an attribute of any object; None if there is no such attribute, or if reading it raises an error.

    Args:
        value: any object.
        name: name of the attribute.
    """
    try:
        return getattr(value, name, None)
    except Exception:  # for example, raised by a property
        return None


def as_float(value: Any, name: str) -> float | None:
    """Converts a real number of any type, such as int, Fraction or a NumPy number, to a float; None for other objects.

    Args:
        value: any object.
        name: name of the argument in the message.

    Raises:
        AtrousError: the number is beyond the range of floats.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        raise AtrousError(f"{name} must be a number within ±1.8e308, got {shown(value)}.") from None
    except Exception:  # raised by the object's own code
        return None


def as_dict(value: Any, name: str) -> dict[Any, Any] | None:
    """Converts a mapping of any type to a dict; None for other objects.

    Args:
        value: any object.
        name: name of the argument in the message.

    Raises:
        AtrousError: the mapping's own code raises an error.
    """
    if isinstance(value, dict):
        return value
    if not isinstance(value, Mapping):
        return None
    try:
        return dict(value)
    except Exception as error:  # raised by the mapping's own code
        raise AtrousError(f"{name} cannot be read: its type {kind_of(value)} raises an error.") from error


def check_usable(value: Any, name: str, above: tuple[int, ...] = ()) -> None:
    """Refuses numbers beyond the range of floats, and broken objects, which are objects whose own code raises errors.

    Args:
        value: any object; the items of lists, tuples, sets and dicts are checked, too.
        name: name of the argument in the message.
        above: the `id` of each collection that contains the value.

    Raises:
        AtrousError: the value or one of its items is a number beyond the range of floats or a broken object; or the
            value contains itself or is nested more than `DEEPEST` levels deep.
    """
    try:
        as_float(value, name)
    except AtrousError:
        raise
    except Exception as error:  # raised by the value's own code
        raise AtrousError(f"{name} cannot be read: its type {kind_of(value)} raises an error.") from error
    if type(value) in (list, tuple, set, frozenset, dict):
        if id(value) in above or len(above) >= DEEPEST:
            raise AtrousError(f"{name} is a {type(value).__name__} that contains itself, or is nested too deep.")
        for item in [*value, *(value.values() if isinstance(value, dict) else ())]:
            check_usable(item, name, (*above, id(value)))


def checked(function: Callable[Given, Result], *, prefix: str | None = None) -> Callable[Given, Result]:
    """Decorates a public function: converts arguments to its annotated types, and file errors to AtrousError.

    A text becomes a path for the type Path, one path becomes a list for list[Path], and NumPy numbers become Python
    numbers. The function itself checks arguments of other types, such as modules and arrays. Unknown and missing
    arguments raise `WrongArguments`, lack of memory raises `OutOfMemory`, and names that cannot be encoded raise
    AtrousError.

    Args:
        function: a function with annotations; the first argument of a method is passed on unchanged.
        prefix: text before the name of an argument in messages; the function's name by default.
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
        except BrokenPipeError:  # the program that reads standard output has ended
            raise
        except AtrousError:
            raise
        except OSError as error:
            raise (OutOfMemory if error.errno == errno.ENOMEM else AtrousError)(str(error)) from error
        except UnicodeError as error:
            raise no_encoding(error) from error
        except MemoryError as error:
            raise OutOfMemory(f"this takes more memory than there is. {error}".rstrip()) from error
        except RuntimeError as error:  # torch's allocators raise RuntimeError
            if not is_out_of_memory(error):
                raise
            first = str(error).partition("\n")[0]
            raise OutOfMemory(f"this takes more memory than there is ({first[:200]}).") from error

    return with_checks


def checked_names(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Decorates a public function: unknown and missing arguments raise `WrongArguments`; values are not checked.

    Args:
        function: the function; the first argument of a method is passed on unchanged.
    """
    call: Any = function
    signature, title = inspect.signature(function), _title(function)

    @functools.wraps(function)
    def with_names(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        bound = _bound(signature, title, args, kwargs, f"{title}: ")
        return call(*bound.args, **bound.kwargs)

    return with_names


def checked_fields(kind: type[Kind]) -> type[Kind]:
    """Decorates a dataclass: applies `checked` to its constructor.

    Args:
        kind: the dataclass; changed in place.
    """
    kind.__init__ = checked(kind.__init__)
    return kind


def checked_field_names(kind: type[Kind]) -> type[Kind]:
    """Decorates a dataclass: applies `checked_names` to its constructor.

    Args:
        kind: the dataclass; changed in place.
    """
    kind.__init__ = checked_names(kind.__init__)
    return kind


def _title(function: Callable[..., Any]) -> str:
    return function.__qualname__.removesuffix(".__init__")


def _bound(signature: inspect.Signature, title: str, args: Any, kwargs: Any, before: str) -> Any:
    """Returns the arguments by the names of the signature.

    Raises:
        WrongArguments: the arguments do not fit the signature.
        AtrousError: `check_usable` refuses an argument.
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
    """Returns the error for arguments that do not fit the signature."""
    variable = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    names = [name for name, one in signature.parameters.items() if one.kind not in variable]
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    unknown = next((name for name in named if name not in names), None)
    if unknown is None:
        return WrongArguments(f"{title}: {error}.")
    near = nearest(unknown, names)
    there = f"; did you mean {near}?" if near else f". Allowed: {', '.join(names) or 'none'}."
    return WrongArguments(f"{title}: no argument '{unknown[:SHOWN]}'{there}")


def _kinds_of(annotation: Any) -> tuple[str, ...]:
    """Returns the alternative types of an annotation; () if one of them is not a plain type."""
    parts, depth, start, text = [], 0, 0, str(annotation)
    for place, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and not depth:
            parts.append(text[start:place].strip())
            start = place + 1
    parts.append(text[start:].strip())
    if "Path" in parts and "str" in parts:  # the type Path accepts a text, too
        parts.remove("str")
    return tuple(parts) if all(_is_plain(part) for part in parts) else ()


def _is_plain(kind: str) -> bool:
    """Returns whether `checked` converts arguments to this type: one in `WORDS`, a list of such types, or a Literal."""
    outer, bracket, _ = kind.partition("[")
    if bracket and outer in SEVERAL:
        return _each(kind) in WORDS
    return kind.startswith("Literal['") or (outer in WORDS and (not bracket or outer in ("dict", "Mapping")))


def _each(kind: str) -> str:
    """Returns the item type of a collection type; for a tuple of different types, the text in the brackets."""
    inside = kind.partition("[")[2].removesuffix("]")
    each = {part.strip() for part in inside.split(",")} - {"..."} if kind.startswith("tuple[") else {inside}
    return each.pop() if len(each) == 1 else inside


@functools.cache
def _literals(kind: str) -> tuple[str, ...]:
    return ast.literal_eval(f"({kind.removeprefix('Literal[').removesuffix(']')},)")


def _of_kinds(value: Any, kinds: tuple[str, ...], name: str) -> Any:
    """Converts the value to the first kind that fits.

    Raises:
        AtrousError: no kind fits.
    """
    for kind in kinds:
        try:
            return _of_kind(value, kind, name)
        except AtrousError:
            raise
        except Exception:  # the value is not of this kind, or its own code raises an error
            continue
    raise AtrousError(f"{name} must be {' or '.join(map(_in_words, kinds))}, got {shown(value)}.")


def _in_words(kind: str) -> str:
    outer = kind.partition("[")[0]
    if outer == "Literal":
        return " or ".join(map(repr, _literals(kind)))
    return f"a list, each {WORDS[_each(kind)]}" if outer in SEVERAL else WORDS[outer]


def _of_kind(value: Any, kind: str, name: str) -> Any:
    """Converts the value to one kind.

    Raises:
        _Refused: the value is not of this kind.
        AtrousError: the value is of this kind, but not allowed, such as NaN.
    """
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
    """Converts a whole number of any type to an int, also a float such as 3.0; None for other objects."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else None


def _scalar(item: Any) -> Any:
    """Converts a NumPy or torch number without dimensions to a Python number; returns other objects unchanged."""
    shape = attribute_of(item, "shape")
    try:
        return item.item() if isinstance(shape, tuple) and not shape else item
    except Exception:  # a tensor without data
        return item


def _list_of(value: Any, kind: str, name: str) -> list[Any]:
    """Converts a collection to a list whose items are of one kind; a single text or path becomes a list of one item."""
    if isinstance(value, str | os.PathLike):
        if kind not in ("Path", "str", "Place"):
            raise _Refused
        return [_of_kind(value, kind, name)]
    if not isinstance(value, Iterable) or isinstance(value, Mapping | bytes) or len(getattr(value, "shape", (0,))) != 1:
        raise _Refused
    return [_of_kinds(_scalar(item), (kind,), name) for item in value]
