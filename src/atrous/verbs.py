"""The verbs of the command line and their options, as the files and functions of `atrous.commands` tell them."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atrous.errors import unknown_name

COMMANDS = Path(__file__).parent / "commands"


@dataclass(frozen=True)
class Option:
    """One word or flag of a verb.

    Args:
        name: the function's argument, or a recipe's field by its dotted name.
        hint: its type.
        default: its value where it is not given; None says nothing.
        sentence: what it is, from the docstring.
        positional: a word without a flag.
        of_recipe: a field of the verb's recipe.
    """

    name: str
    hint: Any
    default: Any
    sentence: str
    positional: bool = False
    of_recipe: bool = False

    @property
    def kind(self) -> Any:
        """Its type without None; of a path or a state dict the command line takes the path."""
        if typing.get_origin(self.hint) not in (typing.Union, types.UnionType):
            return self.hint
        return next(kind for kind in typing.get_args(self.hint) if kind is not type(None))

    @property
    def flag(self) -> str:
        """As it is written on the command line."""
        if self.positional:
            return self.name
        return "--" + (self.name if self.of_recipe else self.name.replace("_", "-"))

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value."""
        return self.kind is bool and not self.of_recipe

    @property
    def is_path(self) -> bool:
        """Whether it names a file or folder; recipes, being YAML, have paths as texts."""
        return self.item is Path or self.name in ("data.root", "model.init")

    @property
    def takes_several(self) -> bool:
        """Whether its value is several: words where it is positional, else values between commas."""
        return typing.get_origin(self.kind) in (list, tuple)

    @property
    def item(self) -> Any:
        """The type of one of its values."""
        return typing.get_args(self.kind)[0] if self.takes_several else self.kind

    @property
    def choices(self) -> tuple[str, ...]:
        """All values that it may have, where the type names them."""
        return typing.get_args(self.item) if typing.get_origin(self.item) is typing.Literal else ()


def verbs() -> dict[str, str]:
    """Each verb and its one sentence, read from the files so that listing them imports nothing."""
    return {
        path.stem: _docstring(path).splitlines()[0].partition(": ")[2] for path in sorted(COMMANDS.glob("[a-z]*.py"))
    }


def examples(verb: str) -> list[str]:
    """Commands that show what a verb is used for, from the docstring of its file."""
    lines = _docstring(COMMANDS / f"{verb}.py").splitlines()[1:]
    return [line.strip() for line in lines if line.startswith("    atrous ")]


def function_of(verb: str) -> Callable[..., Any]:
    """The function that a verb runs.

    Raises:
        AtrousError: there is no such verb; the nearest is named.
    """
    if verb not in verbs():
        raise unknown_name("verb", verb, verbs())
    return getattr(importlib.import_module(f"atrous.commands.{verb}"), verb)


def description(verb: str) -> str:
    """What a verb does: the paragraphs of its function's docstring before the arguments."""
    return inspect.getdoc(function_of(verb)).partition("\nArgs:")[0].strip()  # pyright: ignore[reportOptionalMemberAccess]


def options(verb: str) -> list[Option]:
    """The options of a verb in the order of its function's arguments; the fields of a recipe come last."""
    function = function_of(verb)
    hints, sentences = typing.get_type_hints(function), _sentences(function)
    found, fields = [], []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        if dataclasses.is_dataclass(hints[name]):
            fields = _fields(hints[name], "")
            continue
        positional = parameter.kind is not parameter.KEYWORD_ONLY
        default = None if parameter.default is parameter.empty else parameter.default
        found.append(Option(name, hints[name], default, sentences.get(name, ""), positional))
    return found + fields


def sections(verb: str) -> dict[str, str]:
    """The sections of the verb's recipe, each with its sentence; none where it takes no recipe."""
    for hint in typing.get_type_hints(function_of(verb)).values():
        if dataclasses.is_dataclass(hint):
            parts = {field.name: field.default_factory for field in dataclasses.fields(hint)}
            return {name: _first_sentence(part) for name, part in parts.items() if dataclasses.is_dataclass(part)}
    return {}


def _fields(kind: Any, prefix: str) -> list[Option]:
    """The fields of a dataclass and of those inside it, which come after its own."""
    hints, sentences = typing.get_type_hints(kind), _sentences(kind)
    own, inside = [], []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            inside += _fields(hint, f"{prefix}{field.name}.")
            continue
        default = field.default if field.default is not dataclasses.MISSING else None
        own.append(Option(prefix + field.name, hint, default, sentences.get(field.name, ""), of_recipe=True))
    return own + inside


@functools.cache
def _sentences(documented: Any) -> dict[str, str]:
    """What the docstring says of each argument, in one line each."""
    import docstring_parser

    parsed = docstring_parser.parse(inspect.getdoc(documented) or "")
    return {one.arg_name: " ".join((one.description or "").split()) for one in parsed.params}


def _first_sentence(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").splitlines()[0]


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
