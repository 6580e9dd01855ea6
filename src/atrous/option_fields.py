"""Fields of settings: help, range and unit stand beside each field; checks, help texts and schemas are made of them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from atrous.checked_arguments import checked
from atrous.errors import AtrousError, shown, unknown_name

Kind = TypeVar("Kind")
Value = TypeVar("Value")
Given = ParamSpec("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class About:
    """What a field means and which values it takes.

    Args:
        help: what it is, a sentence without its range and its choices.
        ge: least value allowed; of a tuple, of each of its numbers, as are the following.
        gt: value that it must be above.
        le: largest value allowed.
        lt: value that it must be below.
        unit: unit of the range, in the plural, such as pixels.
        choices: all values allowed; any when empty.
        length: how many values a tuple has; any number for None.
    """

    help: str
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    unit: str = ""
    choices: tuple[Any, ...] = ()
    length: int | None = None

    @property
    def range(self) -> str:
        """The range with its unit, in words: "≥ 1", "0–180 degrees"; "" where every number is allowed."""
        if self.ge is not None and self.le is not None:
            words = f"{self.ge}–{self.le}"
        else:
            bounds = (("≥", self.ge), (">", self.gt), ("≤", self.le), ("<", self.lt))
            words = " and ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)
        return f"{words} {self.unit}".rstrip() if words else ""

    @property
    def allowed(self) -> str:
        """The numbers allowed, for a message: "1 or more", "0 to 180 degrees"; "a finite number" where all are."""
        if self.ge is not None and self.le is not None:
            words = f"{self.ge} to {self.le}"
        else:
            bounds = (("{} or more", self.ge), ("above {}", self.gt), ("at most {}", self.le), ("below {}", self.lt))
            words = " and ".join(text.format(bound) for text, bound in bounds if bound is not None)
        return f"{words} {self.unit}".rstrip() if words else "a finite number"

    @property
    def sentence(self) -> str:
        """The help with its choices and its range, which stand before its first semicolon or its second sentence."""
        head = self._head
        missing = self.choices if any(str(choice) not in self.help for choice in self.choices) else ()
        listed = f": {in_words(missing)}" if missing else ""
        return head + listed + (f", {self.range}" if self.range else "") + self.help[len(head) :]

    def check(self, name: str, value: Any) -> None:
        """Refuses a value that is not allowed.

        Args:
            name: of the field, for the message.
            value: of the field's type, or None.

        Raises:
            AtrousError: too few or too many values, a number outside the range, or none of the choices.
        """
        several = isinstance(value, tuple)
        values = [one for one in (value if several else (value,)) if one is not None]
        numbers = [one for one in values if isinstance(one, int | float)]
        if several and self.length not in (None, len(value)):
            raise AtrousError(f"{name} must be {self._several()}, got {_listed(value)}.")
        if not all(map(self._is_inside, numbers)):
            raise AtrousError(
                f"{name} must be {self._several()}, got {_listed(value)}."
                if several
                else f"{name} must be {self.allowed}, got {_as_given(value)}."
            )
        for one in values:
            if self.choices and one not in self.choices:
                if not isinstance(one, str):
                    raise AtrousError(f"{name} must be {in_words(self.choices)}, got {shown(one)}.")
                raise unknown_name(name, one, map(str, self.choices))

    def _several(self) -> str:
        """What a tuple must hold, in words."""
        count = f": {self.length} numbers" if self.length else ""
        return f"{self._head}{count}, each {self.allowed}"

    @property
    def _head(self) -> str:
        """The help before its first semicolon or its second sentence."""
        ends = [place for end in (";", ". ") if (place := self.help.find(end)) >= 0]
        return self.help[: min(ends, default=len(self.help))]

    def _is_inside(self, number: float) -> bool:
        return (
            abs(number) <= sys.float_info.max
            and (self.ge is None or number >= self.ge)
            and (self.gt is None or number > self.gt)
            and (self.le is None or number <= self.le)
            and (self.lt is None or number < self.lt)
        )


def setting(default: Value, help: str, **allowed: Any) -> Value:
    """A field of a dataclass, with what `About` keeps of it.

    Args:
        default: its value where none is given; not one that can be changed, for which there is `described`.
        help: what it is; see `About`.
        allowed: the range, unit or choices; see `About`.

    Returns:
        For `dataclasses` a field; for type checkers its default.
    """
    return dataclasses.field(default=default, metadata=described(help, **allowed))


def described(help: str, **allowed: Any) -> dict[str, Any]:
    """The metadata of a field that `dataclasses.field` makes; see `setting`."""
    return {"about": About(help, **allowed)}


def settings(section: str) -> Callable[[type[Kind]], type[Kind]]:
    """A dataclass whose constructor checks types and ranges, and whose docstring lists its fields; changed in place.

    Args:
        section: name of the section that it is, with which messages name its fields; "" for the whole.
    """

    def with_checks(kind: type[Kind]) -> type[Kind]:
        known, build, prefix = fields_of(kind), kind.__init__, f"{section}." if section else ""

        @functools.wraps(build)
        def with_ranges(self: Any, *values: Any, **named: Any) -> None:
            for name, value in {**dict(zip(known, values, strict=False)), **named}.items():
                known[name].check(prefix + name, value)
            build(self, *values, **named)

        kind.__init__ = checked(with_ranges, prefix=prefix)
        kind.__doc__ = _with_arguments(kind.__doc__, known)
        return kind

    return with_checks


def taking(kind: type, *names: str) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """Fields of a dataclass of settings are arguments of a function too, which gets those that are given as `**`.

    Its signature and its docstring name them with the types, the defaults and the sentences of the fields, so `help`
    and the command line have them. An argument of its own, or of a decorator below, wins over a field of the same name.
    Ranges are checked where the dataclass is made.

    Args:
        kind: a dataclass of fields made by `setting`.
        names: the fields to take; all that have a default where none is named.
    """
    items = {item.name: item for item in dataclasses.fields(kind)}
    chosen = names or [name for name, item in items.items() if item.default is not dataclasses.MISSING]
    hints, known = typing.get_type_hints(kind), fields_of(kind)

    def with_fields(function: Callable[Given, Result]) -> Callable[Given, Result]:
        call: Any = function
        signature = inspect.signature(function)
        parameters = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        own = {one.name for one in parameters}
        new = [name for name in chosen if name not in own]
        parameters += [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=items[name].default, annotation=items[name].type
            )
            for name in new
        ]
        call.__signature__ = signature.replace(parameters=parameters)
        call.__annotations__ = {**call.__annotations__, **{name: hints[name] for name in new}}
        taken = {name: known[name] for name in new}
        call.__doc__ = _with_arguments(call.__doc__, taken)
        call.taken = {**taken_by(function), **taken}
        return function

    return with_fields


def taken_by(function: Callable[..., Any]) -> dict[str, About]:
    """What each argument is that a function takes of dataclasses by `taking`, by its name."""
    return getattr(function, "taken", {})


def given_to(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a function's `**` arguments that are fields of a dataclass; see `taking`.

    Args:
        kind: the dataclass.
        options: what the function was given.
    """
    return {item.name: options[item.name] for item in dataclasses.fields(kind) if item.name in options}


def _with_arguments(documented: str | None, known: Mapping[str, About]) -> str:
    """A docstring that lists fields at the end of its arguments, which come before what is returned and raised."""
    text = inspect.cleandoc(documented or "")
    listed = "\n".join(f"    {name}: {about.sentence}" for name, about in known.items())
    if found := re.search(r"(?m)^Args:\n(?: +.*\n?)+", text):
        end = len(text[: found.end()].rstrip())
        return f"{text[:end]}\n{listed}{text[end:]}"
    place = re.search(r"(?m)^(?:Returns|Raises|Examples):$", text)
    before, after = (text[: place.start()], text[place.start() :]) if place else (text, "")
    return f"{before.rstrip()}\n\nArgs:\n{listed}\n\n{after}".rstrip()


@functools.cache
def fields_of(kind: type) -> dict[str, About]:
    """What each field of a dataclass is, by its name; of a section inside it, its first sentence.

    Args:
        kind: a dataclass of fields made by `setting`, and of such dataclasses.
    """
    found = {}
    for item in dataclasses.fields(kind):
        if (section := section_of(item)) is not None:
            found[item.name] = About((section.__doc__ or "").splitlines()[0].rstrip("."))
        else:
            hint = typing.get_type_hints(kind)[item.name]
            about = item.metadata["about"]
            found[item.name] = dataclasses.replace(about, choices=about.choices or literals(hint), length=_length(hint))
    return found


def section_of(item: dataclasses.Field) -> type | None:
    """The dataclass that a field holds; None for a plain value."""
    kind = item.default_factory
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def literals(hint: Any) -> tuple[Any, ...]:
    """The values that a Literal names; none of any other type."""
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def in_words(choices: tuple[Any, ...], last: str = "or") -> str:
    """Choices in a sentence: "sgd, adam or adamw"; before the last of them stands another word where one is given."""
    names = [str(choice) for choice in choices]
    return f" {last} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _listed(values: tuple[Any, ...]) -> str:
    return f"[{', '.join(map(_as_given, values))}]"


def _as_given(value: Any) -> str:
    """A value as people write it: 1 also where it became 1.0."""
    return shown(value).removesuffix(".0")


def _length(hint: Any) -> int | None:
    """How many values a tuple of fixed length has, which may be optional; None of any other type."""
    for kind in (hint, *typing.get_args(hint)):
        if typing.get_origin(kind) is tuple and ... not in typing.get_args(kind):
            return len(typing.get_args(kind))
    return None
