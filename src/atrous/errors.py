"""The exceptions whose messages are for the user, and functions that write values and names into messages."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

#: Largest number of characters of a value in a message.
SHOWN = 80
#: Largest whole number whose digits a message shows, in bits.
MOST_BITS = 1000


class AtrousError(ValueError):
    """Wrong input or usage; the message names the given value, the allowed values and the solution.

    The command line prints the message without a traceback and exits with `exit_code`.
    """

    exit_code = 2


class WrongArguments(AtrousError, TypeError):
    """A call with an unknown argument, or without a required argument."""


class OutOfMemory(AtrousError, MemoryError):
    """A request that needs more memory than is available."""


class SomeInputsFailed(AtrousError):
    """Raised after all other inputs are processed, if some inputs failed; earlier messages name these inputs."""

    exit_code = 1


def unknown_name(kind: str, given: Any, allowed: Iterable[str]) -> AtrousError:
    """Returns an error for an unknown name, with the nearest match and the allowed names.

    Args:
        kind: kind of the name, such as "backbone" or "layout".
        given: the name as the user wrote it; an object of another type is described.
        allowed: all accepted names. If there are more than 20, the message lists only the nearest names, or the first
            eight if no name is near.

    Returns:
        The error; the caller raises it.
    """
    given = named(given)
    names = sorted(allowed)
    near = _near(given, names)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    listed = ", ".join(names) if len(names) <= 20 else ", ".join([*(near or names[:8]), f"… ({len(names)} in all)"])
    return AtrousError(f"unknown {kind} '{given}'.{hint} Allowed: {listed}.")


def no_encoding(error: UnicodeError) -> AtrousError:
    """Returns an error for a name or text that cannot be encoded or decoded, with a solution.

    Args:
        error: the error raised by Python, or by a library that takes paths as text only.
    """
    if isinstance(error, UnicodeEncodeError):
        if any("\ud800" <= letter <= "\udfff" for letter in error.object):
            return AtrousError(f"{error.object[:SHOWN]!a} is a name that is not valid text: rename the file.")
        return AtrousError(
            f"{error.object[:SHOWN]!a} has letters that are not in {error.encoding}, the encoding of this process: "
            "set PYTHONUTF8=1 in the environment before Python starts, or rename the file."
        )
    return AtrousError(f"a text cannot be read: {error}.")


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """Returns the allowed name that is most similar to the given name; None if no name is similar.

    Args:
        given: the name as the user wrote it.
        allowed: the names to compare it with.
    """
    near = _near(given, sorted(allowed))
    return near[0] if near else None


def _near(given: str, names: list[str]) -> list[str]:
    given = given[:SHOWN]
    bare = {_bare(name): name for name in reversed(names)}
    return [bare[name] for name in difflib.get_close_matches(_bare(given), bare, n=8, cutoff=0.5)]


def _bare(name: str) -> str:
    """Normalises a name for the comparison, such as "mobilenet_v2" to "mobilenetv2", "v3+" to "v3plus"."""
    return "".join(letter for letter in str(name).lower().replace("+", "plus") if letter.isalnum())


def named(name: Any) -> str:
    """Returns a name for a message: the beginning of a text, or the result of `shown` for any other object.

    Args:
        name: any object given as a name, such as a key of a dict.
    """
    return str(name)[:SHOWN] if isinstance(name, str) else shown(name)


def shown(value: Any) -> str:
    """Returns a value for a message: its type, and the beginning of its text.

    Args:
        value: any object, even an object whose `repr`, length or `shape` raises an error.
    """
    try:
        return _described(value)
    except Exception:  # raised by the value's own methods
        return kind_of(value)


def kind_of(value: Any) -> str:
    """Returns the name of a value's type, also for broken objects.

    Args:
        value: any object.
    """
    try:
        return str(type(value).__name__)
    except Exception:  # raised by a metaclass
        return "an object"


def _described(value: Any) -> str:
    kind = type(value).__name__
    if value is None or isinstance(value, bool):
        return str(value)
    if type(value) is int and value.bit_length() > MOST_BITS:  # Python converts at most 4300 digits to text
        return f"{kind} of {value.bit_length():,} bits"
    if (shape := getattr(value, "shape", None)) is not None:
        return _cut(f"{kind} of shape {tuple(shape)} and {getattr(value, 'dtype', 'unknown type')}")
    if isinstance(value, Mapping):
        return f"{kind} of {counted(len(value), 'entry', 'entries')}"
    text = _cut(reprlib.repr(value))
    return text if isinstance(value, str | int | float) else f"{kind} {text}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + " …"


def counted(count: int, noun: str, plural: str = "") -> str:
    """Returns a number with its noun, such as "1 picture", "2 pictures" or "1,000 classes".

    Args:
        count: the number, ≥ 0.
        noun: the noun in the singular.
        plural: the plural; by default the noun with s, or with es after s, sh, ch and x.
    """
    if count != 1:
        noun = plural or noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")
    return f"{count:,} {noun}"


def missing_extra(package: str, extra: str) -> AtrousError:
    """Returns an error for an optional package that is not installed, with the command that installs it."""
    return AtrousError(
        f"this needs the package '{package}', which is not installed. Install it with: pip install 'atrous[{extra}]'"
    )
