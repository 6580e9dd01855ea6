"""The JSON Schema of a recipe, with which editors complete and check recipe files."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any

from atrous.checked_arguments import LARGEST_INT, SMALLEST_INT
from atrous.learning.recipe import Recipe
from atrous.option_fields import About, fields_of, literals, section_of

#: Python types → names in JSON Schema.
NAMES = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object", type(None): "null"}


def recipe_json_schema() -> dict[str, Any]:
    """Returns the schema of a recipe (JSON Schema, draft 2020-12): each field's meaning, type, range and default.

    It contains the checks of single fields that `to_recipe` makes. Only `to_recipe` checks rules between fields, such
    as that a loss has at least one term.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of atrous",
        **_object(Recipe),
    }


def schema_text() -> str:
    """Returns the text that `atrous train --print-schema` prints, in ASCII, which every terminal can display."""
    return json.dumps(recipe_json_schema(), indent=1)


def _object(kind: type) -> dict[str, Any]:
    """Returns the schema of a recipe or of one of its sections."""
    known, hints = fields_of(kind), typing.get_type_hints(kind)
    properties = {}
    for item in dataclasses.fields(kind):
        section = section_of(item)
        properties[item.name] = _object(section) if section else _value(hints[item.name], known[item.name], item)
    summary = (kind.__doc__ or "").splitlines()[0]
    return {"description": summary, "type": "object", "properties": properties, "additionalProperties": False}


def _value(hint: Any, about: About, item: dataclasses.Field) -> dict[str, Any]:
    """Returns the schema of a plain field."""
    default = item.default_factory() if item.default is dataclasses.MISSING else item.default  # pyright: ignore
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = [kind for kind in (typing.get_args(hint) if union else (hint,)) if kind is not type(None)]
    schema = {"description": about.sentence + ".", **_kind(kinds[0], about)}
    if words := [word for kind in kinds[1:] for word in literals(kind)]:
        choices = [{**_kind(kinds[0], about)}, {"enum": [*words, None]}]
        schema = {"description": about.sentence + ".", "anyOf": choices}
    elif union and "enum" in schema:
        schema["enum"].append(None)
    elif union:
        schema["type"] = [schema["type"], "null"]
    return {**schema, "default": list(default) if isinstance(default, tuple) else default}


def _kind(kind: Any, about: About) -> dict[str, Any]:
    """Returns the schema of a value that is not null: its type with its range and length, or its choices."""
    if about.choices:
        return {"enum": list(about.choices)}
    limits = {"minimum": about.ge, "exclusiveMinimum": about.gt, "maximum": about.le, "exclusiveMaximum": about.lt}
    limits = {name: limit for name, limit in limits.items() if limit is not None}
    item = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
    if item is int:
        limits = {"minimum": SMALLEST_INT, "maximum": LARGEST_INT, **limits}
    if typing.get_origin(kind) is not tuple:
        return {"type": NAMES[typing.get_origin(kind) or kind], **limits}
    length = {} if about.length is None else {"minItems": about.length, "maxItems": about.length}
    type_ = ["array", "string"] if item is str else "array"  # a single name needs no brackets
    return {"type": type_, "items": {"type": NAMES[item], **limits}, **length}
