"""Finds the verbs of the command line and their options in the files and functions of a package of commands.

A file `predict.py` of the package is the verb `atrous predict`. A file `federate/serve.py` is the verb `serve` of the
group `federate`, called by `atrous federate serve`. The names of these verbs are "predict" and "federate serve".
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atrous.errors import unknown_name
from atrous.option_fields import fields_of, literals, taken_by

#: The default package, whose files are the verbs.
COMMANDS = "atrous.commands"


@dataclass(frozen=True)
class Option:
    """One word or flag of a verb.

    Args:
        name: name of the function's argument, or dotted name of a recipe's field.
        hint: type of the value, as annotated.
        default: default of the value; also None if there is no default.
        sentence: description of the option, from the docstring.
        positional: whether the option is a word without a flag.
        of_recipe: whether the option is a field of the verb's recipe.
        allowed: all allowed values of an option field; empty if any value is allowed.
    """

    name: str
    hint: Any
    default: Any
    sentence: str
    positional: bool = False
    of_recipe: bool = False
    allowed: tuple[Any, ...] = ()

    @property
    def kind(self) -> Any:
        """The option's type without None; if there are several types, the first, such as Path in `Path | dict`."""
        return _alternatives(self.hint)[0]

    @property
    def flag(self) -> str:
        """The option as it is written on the command line."""
        if self.positional:
            return self.name
        return "--" + (self.name if self.of_recipe else self.name.replace("_", "-"))

    @property
    def is_switch(self) -> bool:
        """Whether the option takes no value on the command line."""
        return self.kind is bool and not self.of_recipe

    @property
    def is_path(self) -> bool:
        """Whether the value is a file or folder; in a recipe, a path has the type str, because a recipe is YAML."""
        return self.item is Path or self.is_place or self.name in ("data.root", "model.init")

    @property
    def is_place(self) -> bool:
        """Whether the value is one or several paths or URLs. The parser gets them as text: a Path would damage URLs."""
        inside = typing.get_args(self.kind)[0] if self.takes_several else self.hint
        return {Path, str} <= set(_alternatives(inside))

    @property
    def takes_several(self) -> bool:
        """Whether the option takes several values: words if it is positional, else comma-separated values."""
        return typing.get_origin(self.kind) in (list, tuple, Sequence)

    @property
    def item(self) -> Any:
        """The type of one value; str for a path or a URL."""
        if self.is_place:
            return str
        return typing.get_args(self.kind)[0] if self.takes_several else self.kind

    @property
    def count(self) -> int | None:
        """The fixed number of values; None for one value or any number."""
        kinds = typing.get_args(self.kind) if typing.get_origin(self.kind) is tuple else ()
        return None if not kinds or ... in kinds else len(kinds)

    @property
    def words(self) -> tuple[str, ...]:
        """The words that are allowed in place of the values of an option that takes several values, such as median."""
        return tuple(str(word) for kind in _alternatives(self.hint)[1:] for word in literals(kind))

    @property
    def choices(self) -> tuple[str, ...]:
        """All allowed values; empty if any value is allowed."""
        return tuple(map(str, self.allowed or literals(self.item)))


#: The additional option of every verb that takes a recipe.
PRINT_SCHEMA = Option(
    "print_schema",
    bool,
    False,
    "only print the JSON Schema of recipes, with which editors complete and check recipes",
)


def verbs(package: str = COMMANDS) -> dict[str, str]:
    """Returns the description of each verb by its name. Descriptions are read from the files; no verb is imported.

    Args:
        package: name of the package whose files are the verbs, here and in all other functions.
    """
    files = sorted(path for path in _folder(package).rglob("*.py") if path.name != "__init__.py")
    return {name: _sentence_of(path) for path in files if (name := _name_of(path, package))}


def groups(package: str = COMMANDS) -> dict[str, str]:
    """Returns the description of each group of verbs by its name, from the docstring of the group's `__init__.py`."""
    files = sorted(_folder(package).rglob("__init__.py"))
    return {name: _sentence_of(path) for path in files if (name := _name_of(path.parent, package))}


def inside(group: str, package: str = COMMANDS) -> dict[str, str]:
    """Returns the descriptions of the verbs and groups directly in a group ("" for the top level), by last word."""
    found = {**verbs(package), **groups(package)}
    return {name.rpartition(" ")[2]: found[name] for name in sorted(found) if name.rpartition(" ")[0] == group}


def called(words: Sequence[str], package: str = COMMANDS) -> tuple[str, list[str]]:
    """Returns the verb that the words call, or a group if no verb follows it, and the remaining words.

    Args:
        words: the words after `atrous`, at least one.
        package: as in `verbs`.

    Raises:
        AtrousError: there is no such verb; the message names the nearest verb.
    """
    known, name = groups(package), ""
    for place, word in enumerate(words):
        here = inside(name, package)
        if name and word.startswith("-"):
            return name, list(words[place:])
        if word not in here:
            raise unknown_name(f"verb of {name}" if name else "verb", word, here)
        name = f"{name} {word}".lstrip()
        if name not in known:
            return name, list(words[place + 1 :])
    return name, []


def examples(verb: str, package: str = COMMANDS) -> list[str]:
    """Returns example commands of a verb, from the docstring of its file."""
    path = _folder(package).joinpath(*verb.split())
    lines = _docstring(path.with_suffix(".py")).splitlines()[1:]
    return [line.strip() for line in lines if line.startswith("    atrous ")]


def function_of(verb: str, package: str = COMMANDS) -> Callable[..., Any]:
    """Returns the function that a verb runs; it has the name of the verb's file.

    Raises:
        AtrousError: there is no such verb; the message names the nearest verb.
    """
    if verb not in (known := verbs(package)):
        raise unknown_name("verb", verb, known)
    words = verb.split()
    return getattr(importlib.import_module(".".join([package, *words])), words[-1])


def description(verb: str, package: str = COMMANDS) -> str:
    """Returns the description of a verb: the paragraphs of its function's docstring before the arguments."""
    documented = inspect.getdoc(function_of(verb, package)) or ""
    return documented.partition("\nArgs:")[0].strip()


def options(verb: str, package: str = COMMANDS) -> list[Option]:
    """Returns the options of a verb, in the order of its function's arguments, followed by the fields of a recipe."""
    function = function_of(verb, package)
    hints, sentences = typing.get_type_hints(function), _sentences(function)
    found, fields, taken = [], [], taken_by(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        if dataclasses.is_dataclass(hints[name]):
            fields = _fields(hints[name], "")
            continue
        positional = parameter.kind is not parameter.KEYWORD_ONLY
        default = None if parameter.default is parameter.empty else parameter.default
        allowed = taken[name].choices if name in taken else ()
        found.append(Option(name, hints[name], default, sentences.get(name, ""), positional, allowed=allowed))
    return [*found, PRINT_SCHEMA, *fields] if fields else found


def sections(verb: str, package: str = COMMANDS) -> dict[str, str]:
    """Returns the description of each section of the verb's recipe by its name; {} if the verb takes no recipe."""
    for hint in typing.get_type_hints(function_of(verb, package)).values():
        if dataclasses.is_dataclass(hint):
            parts = {field.name: field.default_factory for field in dataclasses.fields(hint)}
            return {name: _first_sentence(part) for name, part in parts.items() if dataclasses.is_dataclass(part)}
    return {}


def _fields(kind: Any, prefix: str) -> list[Option]:
    """Returns the fields of a dataclass as options, followed by the fields of nested dataclasses."""
    hints, known = typing.get_type_hints(kind), fields_of(kind)
    own, inside = [], []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            inside += _fields(hint, f"{prefix}{field.name}.")
            continue
        about, default = known[field.name], field.default if field.default is not dataclasses.MISSING else None
        own.append(Option(prefix + field.name, hint, default, about.sentence, of_recipe=True, allowed=about.choices))
    return own + inside


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """Returns the alternative types of a value, without None."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return (hint,)
    return tuple(kind for kind in typing.get_args(hint) if kind is not type(None))


@functools.cache
def _sentences(documented: Any) -> dict[str, str]:
    """Returns the description of each argument from the docstring, in one line each."""
    import docstring_parser

    parsed = docstring_parser.parse(inspect.getdoc(documented) or "")
    return {one.arg_name: " ".join((one.description or "").split()) for one in parsed.params}


def _first_sentence(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").splitlines()[0]


def _folder(package: str) -> Path:
    """Returns the folder of a package; only its `__init__.py` is imported."""
    return Path(next(iter(importlib.import_module(package).__path__)))


def _name_of(path: Path, package: str) -> str:
    """Returns the words that call a file or folder; "" for the package itself, and for private or unpackaged files."""
    if not (path.parent / "__init__.py").exists():
        return ""
    words = [word.removesuffix(".py") for word in path.relative_to(_folder(package)).parts]
    return "" if any(word.startswith(("_", ".")) for word in words) else " ".join(words)


def _sentence_of(path: Path) -> str:
    """Returns the description of a verb or group: the text after the colon in the first line of the docstring."""
    return _docstring(path).partition("\n")[0].partition(": ")[2]


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
