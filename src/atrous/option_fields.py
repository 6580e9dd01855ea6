"""Option fields of dataclasses: each field declares its help, range and unit, for checks, help texts and schemas."""

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
    """Description of a field and its allowed values.

    Args:
        help: description of the field, without its range and its choices.
        ge: smallest allowed value. For a tuple, this and the other bounds apply to each of its numbers.
        gt: lower bound; the value must be larger.
        le: largest allowed value.
        lt: upper bound; the value must be smaller.
        unit: unit of the range, in the plural, such as pixels.
        choices: all allowed values; empty if any value is allowed.
        length: number of values of a tuple; None for any number.
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
        """The range with its unit as text, such as "≥ 1" or "0–180 degrees"; "" if every number is allowed."""
        if self.ge is not None and self.le is not None:
            words = f"{self.ge}–{self.le}"
        else:
            bounds = (("≥", self.ge), (">", self.gt), ("≤", self.le), ("<", self.lt))
            words = " and ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)
        return f"{words} {self.unit}".rstrip() if words else ""

    @property
    def allowed(self) -> str:
        """The allowed numbers for a message, such as "1 or more"; "a finite number" if every number is allowed."""
        if self.ge is not None and self.le is not None:
            words = f"{self.ge} to {self.le}"
        else:
            bounds = (("{} or more", self.ge), ("above {}", self.gt), ("at most {}", self.le), ("below {}", self.lt))
            words = " and ".join(text.format(bound) for text, bound in bounds if bound is not None)
        return f"{words} {self.unit}".rstrip() if words else "a finite number"

    @property
    def sentence(self) -> str:
        """The help with its choices and its range inserted before its first semicolon or its second sentence."""
        head = self._head
        missing = self.choices if any(str(choice) not in self.help for choice in self.choices) else ()
        listed = f": {in_words(missing)}" if missing else ""
        return head + listed + (f", {self.range}" if self.range else "") + self.help[len(head) :]

    def check(self, name: str, value: Any) -> None:
        """Checks that a value is allowed.

        Args:
            name: name of the field in the message.
            value: the value, of the field's type, or None.

        Raises:
            AtrousError: the number of values is wrong, a number is outside the range, or a value is not a choice.
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
        """Returns the required content of a tuple as text."""
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
    """Returns a field of a dataclass with a description of type `About`.

    Args:
        default: default value of the field. For a mutable default, use `described` instead.
        help: description of the field; see `About`.
        allowed: the range, unit or choices; see `About`.

    Returns:
        A field for `dataclasses`. For type checkers, the result has the type of the default.
    """
    return dataclasses.field(default=default, metadata=described(help, **allowed))


def described(help: str, **allowed: Any) -> dict[str, Any]:
    """Returns the metadata argument of `dataclasses.field` for a field with a description; see `setting`."""
    return {"about": About(help, **allowed)}


def settings(section: str) -> Callable[[type[Kind]], type[Kind]]:
    """Decorates a dataclass in place: its constructor checks types and ranges, and its docstring lists the fields.

    Args:
        section: name of the recipe's section, which messages put before the field names; "" for no section.
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
    """Decorates a function: the fields of a dataclass become keyword arguments, which the function receives as `**`.

    The signature and the docstring of the function list the fields with their types, defaults and descriptions, so
    `help` and the command line show them. If the function or a decorator below has an argument of the same name, this
    argument is used instead of the field. The constructor of the dataclass checks the ranges of the values.

    Args:
        kind: a dataclass of fields made by `setting`.
        names: names of the fields; all fields with a default if no name is given.
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
    """Returns the descriptions of the arguments that `taking` added to a function, by name."""
    return getattr(function, "taken", {})


def given_to(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `**` arguments of a function that are fields of a dataclass; see `taking`.

    Args:
        kind: the dataclass.
        options: the `**` arguments of the function.
    """
    return {item.name: options[item.name] for item in dataclasses.fields(kind) if item.name in options}


def _with_arguments(documented: str | None, known: Mapping[str, About]) -> str:
    """Adds fields to the end of the Args section of a docstring; inserts the section if there is none."""
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
    """Returns the description of each field of a dataclass by name; for a nested section, the first docstring line.

    Args:
        kind: a dataclass; each field is made by `setting` or `described`, or is a nested dataclass of this form.
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
    """Returns the dataclass of a field that is a section; None for a field of a plain value."""
    kind = item.default_factory
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def literals(hint: Any) -> tuple[Any, ...]:
    """Returns the values of a Literal; an empty tuple for any other type."""
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def in_words(choices: tuple[Any, ...], last: str = "or") -> str:
    """Returns choices as text, such as "sgd, adam or adamw"; `last` is the word before the last choice."""
    names = [str(choice) for choice in choices]
    return f" {last} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _listed(values: tuple[Any, ...]) -> str:
    return f"[{', '.join(map(_as_given, values))}]"


def _as_given(value: Any) -> str:
    """Returns a value as text; a float that is a whole number is written without decimals."""
    return shown(value).removesuffix(".0")


def _length(hint: Any) -> int | None:
    """Returns the number of values of a tuple type of fixed length, optional or not; None for any other type."""
    for kind in (hint, *typing.get_args(hint)):
        if typing.get_origin(kind) is tuple and ... not in typing.get_args(kind):
            return len(typing.get_args(kind))
    return None
