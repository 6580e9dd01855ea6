"""A recipe: all settings of a training run, as frozen dataclasses, read from YAML and the command line."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from atrous.atomic_write import write_text
from atrous.checked_arguments import checked
from atrous.data.transforms import Augment
from atrous.errors import AtrousError, named, shown
from atrous.json_yaml import parse_yaml
from atrous.learning.recipe_sections import Crf, Data, Distill, Loss, Model, Optim, Schedule, Train, Watch
from atrous.learning.shipped_recipes import find_recipe
from atrous.option_fields import section_of, setting, settings
from atrous.overwrite_checks import MARK, RECIPE_MARK

#: Numbers such as 1e-3, which YAML 1.2 and JSON read as numbers, but the YAML 1.1 parser used here reads as strings.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", re.ASCII)


@settings("")
@dataclass(frozen=True)
class Recipe:
    """Recipe of a training run."""

    name: str = setting("run", "name of the run's folder, when no other folder is given")
    seed: int = setting(0, "random seed of initial weights, picture order and augmentation", ge=0, le=2**32 - 1)
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    loss: Loss = field(default_factory=Loss)
    distill: Distill = field(default_factory=Distill)
    crf: Crf = field(default_factory=Crf)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    train: Train = field(default_factory=Train)
    watch: Watch = field(default_factory=Watch)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            kind, part = section_of(item), getattr(self, item.name)
            if kind is not None and not isinstance(part, kind):
                raise AtrousError(
                    f"{item.name} of a recipe must be a {kind.__name__}, got {shown(part)}; to_recipe converts dicts."
                )


@checked
def read_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Reads a recipe's YAML file.

    Args:
        path: path of the file, or name of a shipped recipe, such as quickstart; a file of that name takes precedence.
        overrides: values by dotted name that replace the values of the file, such as {"optim.lr": 0.007}.

    Raises:
        AtrousError: the file is missing or is not YAML, a field is unknown (the message names the nearest field), or a
            value has the wrong type.
    """
    try:
        record = parse_yaml(find_recipe(path).read_text(encoding="utf-8-sig"), str(path)) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise AtrousError(f"{path} cannot be read as YAML: {error}") from error
    for name, value in (overrides or {}).items():
        if not isinstance(name, str) or not isinstance(record, dict):
            raise AtrousError(
                f"overrides must be a dict of values by dotted names, and the recipe a mapping; got {shown(name)}."
            )
        put_field(record, name.split("."), value)
    return to_recipe(record)


@checked
def to_recipe(record: Any) -> Recipe:
    """Makes a recipe from nested dicts and checks every field.

    Args:
        record: values by field name, with a dict for each section; missing fields get their defaults.

    Raises:
        AtrousError: a field is unknown (the message names the nearest field), or a value has the wrong type.
    """
    return _section(record, Recipe, "")


def _section(record: Any, kind: type, prefix: str) -> Any:
    """Makes a recipe or one of its sections from a dict; messages put `prefix` before field names."""
    if not isinstance(record, dict):
        part = prefix.rstrip(".") or "a recipe"
        raise AtrousError(f"{part} must be a mapping of fields to values, got {shown(record)}.")
    known, hints = {item.name: item for item in dataclasses.fields(kind)}, typing.get_type_hints(kind)
    values = {}
    for name, value in record.items():
        if name not in known:
            field_name = f"{prefix}{named(name)}"
            raise AtrousError(f"unknown recipe field '{field_name}'.{nearest_field(field_name)}")
        if (nested := section_of(known[name])) is not None:
            value = _section(value, nested, f"{prefix}{name}.")
        elif value is None and known[name].default is not None:
            raise AtrousError(f"{prefix}{name} has no value: give one, or leave the line out for the default.")
        elif hints[name] is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
            value = float(value)
        values[name] = value
    return kind(**values)


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Writes the resolved recipe, every field with its value, atomically: a killed process leaves no partial file."""
    write_text(path, recipe_text(recipe))


def recipe_text(recipe: Recipe) -> str:
    """Returns the resolved recipe as YAML, every field with its value."""
    text = yaml.safe_dump(recipe_record(recipe), sort_keys=False, allow_unicode=True)
    return f"{RECIPE_MARK}, with every field; `{MARK} train` takes this file.\n{text}"


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """Returns a recipe as nested dicts of plain numbers, texts and lists, which `to_recipe` takes."""
    return _plain(asdict(recipe))


def field_names(kind: type = Recipe, prefix: str = "") -> list[str]:
    """Returns the dotted names of all fields of a recipe."""
    names = []
    for item in dataclasses.fields(kind):
        if (nested := section_of(item)) is not None:
            names += field_names(nested, f"{prefix}{item.name}.")
        else:
            names.append(prefix + item.name)
    return names


def nearest_field(name: str) -> str:
    """Returns a hint with the field nearest to a misspelt name; "" if no field is similar."""
    near = difflib.get_close_matches(name, field_names(), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def put_field(record: dict[str, Any], path: list[str], value: Any) -> None:
    """Sets a field in nested dicts; adds sections that are missing.

    Args:
        record: values by field name, with a dict for each section; changed in place.
        path: name of each section, and of the field.
        value: new value of the field.

    Raises:
        AtrousError: a name of the path is that of a value, not of a section.
    """
    for name in path[:-1]:
        part = record.setdefault(name, {})
        if not isinstance(part, dict):
            raise AtrousError(f"'{'.'.join(path)}' is not a field: '{name}' is {shown(part)} and has no fields.")
        record = part
    record[path[-1]] = value


def _plain(value: Any) -> Any:
    """Converts tuples to lists, because YAML writes tuples with tags."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
