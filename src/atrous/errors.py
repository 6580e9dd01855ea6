"""The one error a user is meant to read, and the nearest match to a misspelt name."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

#: Characters of a value that a message shows.
SHOWN = 80
#: Bits of a whole number whose digits a message shows.
MOST_BITS = 1000


class AtrousError(ValueError):
    """A mistake in what was given: the message says what was given, what is allowed and what to do.

    The command line prints the message without a traceback and exits with `exit_code`.
    """

    exit_code = 2


class WrongArguments(AtrousError, TypeError):
    """A call with an argument that the function does not have, or without one that it needs."""


class OutOfMemory(AtrousError, MemoryError):
    """What was asked for takes more memory than there is."""


class SomeInputsFailed(AtrousError):
    """Some inputs could not be used, and were named; the others are done."""

    exit_code = 1


def unknown_name(kind: str, given: Any, allowed: Iterable[str]) -> AtrousError:
    """An error for an unknown name that offers the nearest match and lists what is allowed.

    Args:
        kind: what the name names, in words ("backbone", "layout").
        given: the name as the user wrote it; anything else is shown.
        allowed: every name that would have been accepted; of more than 20 the nearest are listed.

    Returns:
        The error, to be raised by the caller.
    """
    given = named(given)
    names = sorted(allowed)
    near = _near(given, names)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    listed = ", ".join(names) if len(names) <= 20 else ", ".join([*(near or names[:8]), f"… ({len(names)} in all)"])
    return AtrousError(f"unknown {kind} '{given}'.{hint} Allowed: {listed}.")


def no_encoding(error: UnicodeError) -> AtrousError:
    """An error for a name or text that an encoding does not have, with what to do.

    Args:
        error: as Python, or a library that takes paths as text only, raised it.
    """
    if isinstance(error, UnicodeEncodeError):
        if any("\ud800" <= letter <= "\udfff" for letter in error.object):
            return AtrousError(f"{error.object[:SHOWN]!a} is a name that is no text, which this needs: rename it.")
        return AtrousError(
            f"{error.object[:SHOWN]!a} has letters that {error.encoding}, the encoding of this process, does not have: "
            "set PYTHONUTF8=1 in the environment before Python starts, or rename it."
        )
    return AtrousError(f"a text cannot be read: {error}.")


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that is most like a given one, or None where none is like it.

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
    """A name as it sounds: "mobilenet_v2" is near "mobilenetv2_100", "deeplabv3+" is "deeplabv3plus"."""
    return "".join(letter for letter in str(name).lower().replace("+", "plus") if letter.isalnum())


def named(name: Any) -> str:
    """A name in a message: the beginning of a text as it is, of anything else what `shown` says.

    Args:
        name: anything that was given where a name is wanted, such as a key of a dict.
    """
    return str(name)[:SHOWN] if isinstance(name, str) else shown(name)


def shown(value: Any) -> str:
    """A value in a message: its type, and as much of it as fits into a line.

    Args:
        value: anything, even with a `repr`, a length or a `shape` that fails.
    """
    try:
        return _described(value)
    except Exception:  # of the value's own methods
        return kind_of(value)


def kind_of(value: Any) -> str:
    """The name of a value's type, whatever is wrong with the value.

    Args:
        value: anything.
    """
    try:
        return str(type(value).__name__)
    except Exception:  # of the type's own type
        return "an object"


def _described(value: Any) -> str:
    kind = type(value).__name__
    if value is None or isinstance(value, bool):
        return str(value)
    if type(value) is int and value.bit_length() > MOST_BITS:  # Python writes no more than 4300 digits
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
    """A number with its noun: "1 picture", "2 pictures", "1,000 classes".

    Args:
        count: ≥ 0.
        noun: in the singular.
        plural: where it is not the noun with s, or es after s, sh, ch and x.
    """
    if count != 1:
        noun = plural or noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")
    return f"{count:,} {noun}"


def missing_extra(package: str, extra: str) -> AtrousError:
    """An error for an optional package that is not installed, with the command that installs it."""
    return AtrousError(
        f"this needs the package '{package}', which is not installed. Install it with: pip install 'atrous[{extra}]'"
    )
