"""The verbs of the command line and their options, as the files and functions of a package of commands tell them.

A file `predict.py` of the package is the verb `atrous predict`; a file `federate/serve.py` is the verb `serve` of the
group `federate`, called `atrous federate serve`. The name of a verb is its words: "predict", "federate serve".
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

#: The package whose files are the verbs, where no other is given.
COMMANDS = "atrous.commands"


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
        allowed: all values that a field of settings may have; any when empty.
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
        """Its type without None; of a path or a state dict the command line takes the path."""
        return _alternatives(self.hint)[0]

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
        return self.item is Path or self.is_place or self.name in ("data.root", "model.init")

    @property
    def is_place(self) -> bool:
        """Whether it is a path or a URL, or several; the command line takes the text, because a path is no URL."""
        inside = typing.get_args(self.kind)[0] if self.takes_several else self.hint
        return {Path, str} <= set(_alternatives(inside))

    @property
    def takes_several(self) -> bool:
        """Whether its value is several: words where it is positional, else values between commas."""
        return typing.get_origin(self.kind) in (list, tuple, Sequence)

    @property
    def item(self) -> Any:
        """The type of one of its values; of a path or a URL text."""
        if self.is_place:
            return str
        return typing.get_args(self.kind)[0] if self.takes_several else self.kind

    @property
    def count(self) -> int | None:
        """How many values it takes, where that is fixed; None for one value or any number."""
        kinds = typing.get_args(self.kind) if typing.get_origin(self.kind) is tuple else ()
        return None if not kinds or ... in kinds else len(kinds)

    @property
    def choices(self) -> tuple[str, ...]:
        """All values that it may have, where they are named."""
        return tuple(map(str, self.allowed or literals(self.item)))


#: What every verb that takes a recipe can do besides.
PRINT_SCHEMA = Option(
    "print_schema",
    bool,
    False,
    "print the JSON Schema of recipes, by which editors complete and check them, and do nothing else",
)


def verbs(package: str = COMMANDS) -> dict[str, str]:
    """Each verb and its one sentence, read from the files so that listing them imports no verb.

    Args:
        package: name of the package whose files are the verbs, here and in all other functions.
    """
    files = sorted(path for path in _folder(package).rglob("*.py") if path.name != "__init__.py")
    return {name: _sentence_of(path) for path in files if (name := _name_of(path, package))}


def groups(package: str = COMMANDS) -> dict[str, str]:
    """Each group of verbs and its one sentence, which begins the docstring of its folder's `__init__.py`."""
    files = sorted(_folder(package).rglob("__init__.py"))
    return {name: _sentence_of(path) for path in files if (name := _name_of(path.parent, package))}


def inside(group: str, package: str = COMMANDS) -> dict[str, str]:
    """The verbs and groups right inside a group, or at the top for "", each with its sentence; by their last words."""
    found = {**verbs(package), **groups(package)}
    return {name.rpartition(" ")[2]: found[name] for name in sorted(found) if name.rpartition(" ")[0] == group}


def called(words: Sequence[str], package: str = COMMANDS) -> tuple[str, list[str]]:
    """The verb that words call, or the group where no verb of it follows, and the words after it.

    Args:
        words: what follows `atrous`, at least one.
        package: as of `verbs`.

    Raises:
        AtrousError: there is no such verb; the nearest is named.
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
    """Commands that show what a verb is used for, from the docstring of its file."""
    path = _folder(package).joinpath(*verb.split())
    lines = _docstring(path.with_suffix(".py")).splitlines()[1:]
    return [line.strip() for line in lines if line.startswith("    atrous ")]


def function_of(verb: str, package: str = COMMANDS) -> Callable[..., Any]:
    """The function that a verb runs, of the name of its file.

    Raises:
        AtrousError: there is no such verb; the nearest is named.
    """
    if verb not in (known := verbs(package)):
        raise unknown_name("verb", verb, known)
    words = verb.split()
    return getattr(importlib.import_module(".".join([package, *words])), words[-1])


def description(verb: str, package: str = COMMANDS) -> str:
    """What a verb does: the paragraphs of its function's docstring before the arguments."""
    documented = inspect.getdoc(function_of(verb, package)) or ""
    return documented.partition("\nArgs:")[0].strip()


def options(verb: str, package: str = COMMANDS) -> list[Option]:
    """The options of a verb in the order of its function's arguments; the fields of a recipe come last."""
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
    """The sections of the verb's recipe, each with its sentence; none where it takes no recipe."""
    for hint in typing.get_type_hints(function_of(verb, package)).values():
        if dataclasses.is_dataclass(hint):
            parts = {field.name: field.default_factory for field in dataclasses.fields(hint)}
            return {name: _first_sentence(part) for name, part in parts.items() if dataclasses.is_dataclass(part)}
    return {}


def _fields(kind: Any, prefix: str) -> list[Option]:
    """The fields of a dataclass and of those inside it, which come after its own."""
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
    """The types of which a value may be one, without None."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return (hint,)
    return tuple(kind for kind in typing.get_args(hint) if kind is not type(None))


@functools.cache
def _sentences(documented: Any) -> dict[str, str]:
    """What the docstring says of each argument, in one line each."""
    import docstring_parser

    parsed = docstring_parser.parse(inspect.getdoc(documented) or "")
    return {one.arg_name: " ".join((one.description or "").split()) for one in parsed.params}


def _first_sentence(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").splitlines()[0]


def _folder(package: str) -> Path:
    """Where the files of a package are; importing it imports none of them."""
    return Path(next(iter(importlib.import_module(package).__path__)))


def _name_of(path: Path, package: str) -> str:
    """The words that call a file or folder; "" of the package itself and of what is private or in no package."""
    if not (path.parent / "__init__.py").exists():
        return ""
    words = [word.removesuffix(".py") for word in path.relative_to(_folder(package)).parts]
    return "" if any(word.startswith(("_", ".")) for word in words) else " ".join(words)


def _sentence_of(path: Path) -> str:
    """The sentence after the name in the first line of a file's docstring."""
    return _docstring(path).partition("\n")[0].partition(": ")[2]


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
