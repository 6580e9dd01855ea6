"""A search space: the fields of a recipe that a search varies, each with its range or its choices, read from YAML."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atrous.checked_arguments import checked
from atrous.errors import AtrousError, counted, named, nearest, shown
from atrous.json_yaml import parse_yaml
from atrous.learning.recipe import Recipe, field_names, nearest_field, put_field, recipe_record, to_recipe
from atrous.option_fields import section_of

#: Keys of a range and of choices.
OF_RANGE, OF_CHOICES = ("low", "high", "log", "step"), ("choices",)
#: Fields of the section data that a search may vary; the others change the data, which are examined only once.
OF_DATA = ("data.balance", "data.statistics", "data.spacing")
#: Fields and sections that a search may not vary → the reason, as the end of a sentence.
FIXED = {
    "name": "it does not change the model",
    "seed": "a seed that is lucky on the validation split is no better on other pictures",
    "watch": "it does not change the model",
    "data": f"all trials need the same data; of the section data, only {', '.join(OF_DATA)} can be searched",
    "train.epochs": "every trial gets the same number of epochs",
    "train.minutes": "every trial gets the same time",
    "train.validate_every": "trials are compared epoch by epoch",
    "train.device": "it does not change the model",
}

#: Largest number of combinations of a space that are listed.
MOST_COMBINATIONS = 10_000

#: A value as it is stored in a study: a number, a text, True, False or None. Lists are stored as JSON text.
Stored = float | int | str | bool | None


@dataclass(frozen=True)
class Range:
    """Numbers between two ends.

    Args:
        low: smallest value.
        high: largest value, > low.
        log: whether values are drawn uniformly in the logarithm; then low > 0.
        step: distance between neighbouring values, > 0; None for all numbers of a range of floats. Whole numbers always
            have a step, by default 1.
        whole: whether the values are whole numbers.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def contains(self, value: Any) -> bool:
        """Returns whether a value is in the range and, if there is a step, equals `low` plus a multiple of the step."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-8

    def listed(self) -> tuple[Any, ...] | None:
        """Returns all values; None for a range without a step."""
        if self.step is None:
            return None
        count = round((self.high - self.low) / self.step) + 1
        return tuple(_multiple(self.low, self.step, index) for index in range(count))

    def record(self) -> dict[str, Any]:
        """Returns the range as it is written in YAML."""
        step = {} if self.step is None or (self.whole and self.step == 1) else {"step": self.step}
        return {"low": self.low, "high": self.high, **({"log": True} if self.log else {}), **step}


@dataclass(frozen=True)
class Choices:
    """A list of values.

    Args:
        values: the values as plain numbers, texts and lists, at least two different ones.
    """

    values: tuple[Any, ...]

    def contains(self, value: Any) -> bool:
        """Returns whether a value is one of the choices."""
        return _key(value) in map(_key, self.values)

    def listed(self) -> tuple[Any, ...]:
        """Returns all values."""
        return self.values

    def record(self) -> dict[str, Any]:
        """Returns the choices as they are written in YAML."""
        return {"choices": list(self.values)}


Axis = Range | Choices


@dataclass(frozen=True)
class SearchSpace:
    """The fields of a recipe that a search varies.

    Args:
        recipe: the recipe, whose own values are in the space.
        axes: range or choices of each field, by dotted name.
    """

    recipe: Recipe
    axes: Mapping[str, Axis]

    def own_values(self) -> dict[str, Any]:
        """Returns the recipe's own value of each field."""
        return {name: _value_of(self.recipe, name) for name in self.axes}

    def recipe_with(self, values: Mapping[str, Any]) -> Recipe:
        """Returns the recipe with other values.

        Args:
            values: new values by dotted name, as plain numbers, texts and lists.

        Raises:
            AtrousError: the values do not fit together.
        """
        return recipe_with(self.recipe, values)

    def stored(self, values: Mapping[str, Any]) -> dict[str, Stored]:
        """Returns values in the form in which a study stores them."""
        return {name: store(value) for name, value in values.items()}

    def restored(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Returns values in the form of a recipe, from the form in which a study stores them."""
        found = {}
        for name, value in stored.items():
            axis = self.axes[name]
            by_text = {store(one): one for one in axis.values} if isinstance(axis, Choices) else {}
            found[name] = by_text.get(value, value)
        return found

    def combinations(self) -> list[dict[str, Stored]] | None:
        """Returns all combinations of values, as a study stores them; None if there are too many to list."""
        lists = [axis.listed() for axis in self.axes.values()]
        if any(one is None for one in lists) or math.prod(len(one or ()) for one in lists) > MOST_COMBINATIONS:
            return None
        return [self.stored(dict(zip(self.axes, one, strict=True))) for one in itertools.product(*filter(None, lists))]

    def record(self) -> dict[str, Any]:
        """Returns the space as it is written in YAML."""
        return {name: axis.record() for name, axis in self.axes.items()}


def store(value: Any) -> Stored:
    """Returns a value in the form in which a study stores it: lists and dicts become JSON text."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def recipe_with(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Returns a recipe with other values of some fields.

    Args:
        recipe: the recipe; it is not changed.
        values: new values by dotted name.

    Raises:
        AtrousError: a field is unknown, or a value is not allowed.
    """
    record = recipe_record(recipe)
    for name, value in values.items():
        put_field(record, name.split("."), value)
    return to_recipe(record)


@checked
def read_search_space(path: Path, recipe: Recipe) -> SearchSpace:
    """Reads the YAML file of a search space, and checks each value against the recipe's fields.

    Args:
        path: path of the file. It maps the dotted name of each field to a range or to choices. A range has `low` and
            `high`, and optionally `log: true` or `step`; choices have `choices`.
        recipe: the recipe that is searched around; its own values must be in the space, because they are trial 0.

    Raises:
        AtrousError: the file is missing or is not YAML; a field or a key is unknown (the message names the nearest); a
            value is not allowed; or the recipe's own value is outside of the space.
    """
    try:
        record = parse_yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise AtrousError(f"{path} cannot be read as YAML: {error}") from error
    try:
        return to_search_space(record, recipe)
    except AtrousError as error:
        raise AtrousError(f"{path}: {error}") from error


@checked
def to_search_space(record: Any, recipe: Recipe) -> SearchSpace:
    """Makes a search space from a dict, and checks it against the recipe's fields.

    Args:
        record: range or choices of each field by its dotted name, each as a dict.
        recipe: the recipe that is searched around.

    Raises:
        AtrousError: see `read_search_space`.
    """
    if not isinstance(record, Mapping) or not record:
        raise AtrousError(
            "a search space must be a mapping of recipe fields to ranges and choices, such as "
            f"'optim.lr: {{low: 1e-4, high: 1e-2, log: true}}', got {shown(record)}."
        )
    for name in record:
        _check_name(name, recipe)
    return SearchSpace(recipe, {name: _axis(name, given, recipe) for name, given in record.items()})


def _check_name(name: Any, recipe: Recipe) -> None:
    """Checks that a name is that of a field that can be searched."""
    if not isinstance(name, str):
        raise AtrousError(f"the name of a field must be text, got {shown(name)}.")
    known = field_names()
    if name not in known and any(field.startswith(f"{name}.") for field in known):
        inside = [field for field in known if field.startswith(f"{name}.")]
        raise AtrousError(f"'{name}' is a section of the recipe: give the full names of fields, such as {inside[0]}.")
    argument = name.removeprefix("model.arguments.")
    if name not in known and argument != name:
        if argument not in recipe.model.arguments:
            raise AtrousError(
                f"the recipe does not set '{named(name)}': write the value of the first trial into the recipe, or give "
                f"it as --{named(name)} VALUE."
            )
    elif name not in known:
        raise AtrousError(f"unknown recipe field '{named(name)}'.{nearest_field(name)}")
    elif name in ("model.arguments", "data.inputs"):
        raise AtrousError(
            f"{name} is a mapping: give the full name of one entry, such as model.arguments.aspp_channels."
        )
    reason = FIXED.get(name) or FIXED.get(name.partition(".")[0])
    if reason is not None and name not in OF_DATA:
        raise AtrousError(f"{name} cannot be searched: {reason}.")


def _axis(name: str, given: Any, recipe: Recipe) -> Axis:
    """Returns the range or the choices of a field."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        raise AtrousError(f"{name} must be a range or choices; for these values, write {name}: {{choices: [...]}}.")
    if not isinstance(given, Mapping):
        raise AtrousError(f"{name} must be {{low: …, high: …}} or {{choices: […]}}, got {shown(given)}.")
    _check_keys(name, given)
    axis = _choices(name, given["choices"], recipe) if "choices" in given else _range(name, given, recipe)
    own = _value_of(recipe, name)
    if not axis.contains(own):
        off = isinstance(axis, Range) and isinstance(own, int | float) and axis.low <= own <= axis.high
        where = (
            f"not low plus a multiple of the step {axis.step:g}"
            if off and isinstance(axis, Range)
            else "not in the search space"
        )
        raise AtrousError(
            f"the recipe's own value of {name}, {_said(own)}, is {where}. Trial 0 takes this value: add it to the "
            f"space, or change it with --{name} VALUE."
        )
    return axis


def _check_keys(name: str, given: Mapping[Any, Any]) -> None:
    known = (*OF_RANGE, *OF_CHOICES)
    for key in given:
        if key not in known:
            near = nearest(str(key), known)
            hint = f" Did you mean '{near}'?" if near else ""
            raise AtrousError(f"{name} has an unknown key '{named(key)}'.{hint} Allowed: {', '.join(known)}.")
    if "choices" in given and len(given) > 1:
        raise AtrousError(f"{name} has choices and {', '.join(k for k in given if k != 'choices')}: give one of both.")
    if "choices" not in given and (lacking := [key for key in ("low", "high") if key not in given]):
        raise AtrousError(f"{name} has no {' and no '.join(lacking)}: a range needs low and high.")


def _choices(name: str, given: Any, recipe: Recipe) -> Choices:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise AtrousError(f"choices of {name} must be a list, got {shown(given)}.")
    values = tuple(_value_of(recipe_with(recipe, {name: value}), name) for value in given)
    if len({_key(value) for value in values}) != len(values) or len(values) < 2:
        raise AtrousError(
            f"choices of {name} must be two or more different values, got {counted(len(values), 'value')}: "
            f"{', '.join(map(_said, values))}."
        )
    return Choices(values)


def _range(name: str, given: Mapping[str, Any], recipe: Recipe) -> Range:
    kinds = _kinds_of(name, recipe)
    if not kinds & {int, float}:
        raise AtrousError(f"{name} is not a number: give choices instead of low and high.")
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise AtrousError(f"log of {name} must be true or false, got {shown(log)}.")
    low, high = (_number(f"{key} of {name}", given[key]) for key in ("low", "high"))
    step = None if given.get("step") is None else _number(f"step of {name}", given["step"])
    if not low < high:
        raise AtrousError(f"low of {name} must be below high, got {low:g} and {high:g}.")
    if log and (low <= 0 or step is not None):
        raise AtrousError(f"{name} has log: true, which needs a low above 0 and no step.")
    if step is not None and not 0 < step <= high - low:
        raise AtrousError(f"step of {name} must be above 0 and at most high − low, got {step:g}.")
    whole = float not in kinds
    if whole:
        if not all(float(number).is_integer() for number in (low, high, step or 1)):
            raise AtrousError(f"{name} is a whole number, so low, high and step must be whole numbers, too.")
        low, high, step = int(low), int(high), int(step or 1)
    for number in (low, high):
        recipe_with(recipe, {name: number})  # raises the error of the field, which names its own range
    if step is not None:
        high = _multiple(low, step, math.floor((high - low) / step + 1e-8))
    return Range(low, high, log, step, whole)


def _multiple(low: float, step: float, count: int) -> float:
    """Returns low + count · step without the rounding errors of floats, such as 0.9 instead of 0.8999999999999999."""
    value = low + count * step
    return value if isinstance(value, int) else float(f"{value:.12g}")


def _number(name: str, value: Any) -> float:
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AtrousError(f"{name} must be a number, got {shown(value)}.")
    return value


def _kinds_of(name: str, recipe: Recipe) -> set[Any]:
    """Returns the types that a field may have; for an argument of the model, the type of its value in the recipe."""
    if name.startswith("model.arguments."):
        return {type(_value_of(recipe, name))}
    kind: Any = Recipe
    *sections, last = name.split(".")
    for part in sections:
        kind = section_of({item.name: item for item in dataclasses.fields(kind)}[part])
    hint = typing.get_type_hints(kind)[last]
    return {hint, *typing.get_args(hint)} if not _is_tuple(hint) else {tuple}


def _is_tuple(hint: Any) -> bool:
    return any(typing.get_origin(kind) is tuple for kind in (hint, *typing.get_args(hint)))


def _value_of(recipe: Recipe, name: str) -> Any:
    """Returns the value of a field as plain numbers, texts and lists."""
    value: Any = recipe_record(recipe)
    for part in name.split("."):
        value = value[part]
    return value


def _key(value: Any) -> str:
    """Returns a text that is equal for equal values; 1 and 1.0 are equal, True and 1 are not."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return json.dumps(float(value) if number else value, sort_keys=True)


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def in_words(values: Mapping[str, Any]) -> str:
    """Returns values of fields as text, such as "optim.lr 0.0021, augment.crop [320, 320]"."""
    return ", ".join(f"{name} {value_in_words(value)}" for name, value in values.items())


def value_in_words(value: Any) -> str:
    """Returns a value as short text; floats get four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else _said(value)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any, Any]]:
    """Yields (dotted name, value before, value now) of each entry in which two nested dicts differ.

    Args:
        before: the first dict.
        now: the second dict.
        prefix: text before the names.
    """
    for name in dict.fromkeys([*before, *now]):
        one, other = before.get(name), now.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differences(one, other, f"{prefix}{name}.")
        elif one != other:
            yield f"{prefix}{name}", one, other
