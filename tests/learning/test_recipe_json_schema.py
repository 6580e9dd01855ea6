"""The schema of recipes takes what `to_recipe` takes, field by field, and refuses what it refuses."""

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.cli import main
from atrous.errors import AtrousError
from atrous.json_yaml import parse_yaml
from atrous.learning.recipe import Recipe, field_names, recipe_text, to_recipe
from atrous.learning.recipe_json_schema import recipe_json_schema, schema_text
from atrous.learning.shipped_recipes import RECIPES, shipped_recipes

jsonschema_rs = pytest.importorskip("jsonschema_rs")

SCHEMA = recipe_json_schema()
FIELDS = field_names()
#: What makes the rules between fields hold, whatever one field is.
BESIDE = {
    "crf": {"trainable": True},
    "distill": {"teacher": "teacher.safetensors"},
    "loss": {"dice": 1.0},
    "augment": {"crop": [1000, 1000]},
}
#: Fields whose rules involve other fields, or the order of their own values.
ORDERED = {"augment.scale", "augment.blur_sigma", "schedule.steps"}
TOGETHER = {"augment.crop", "augment.first_crop", "crf.trainable", "distill.teacher"}

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-3, 200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        [0.0, 1.0, 0.5, 180.0, 180.5, 1 - 1e-12, 5e-324, 16, 16.0, "", "no", "auto", "sgd", "voc", "poly"]
    )
)
VALUES = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(st.sampled_from(["a", "crop"]), PLAIN, max_size=2)


def schema_of(name: str) -> dict:
    found = SCHEMA
    for part in name.split("."):
        found = found["properties"][part]
    return found


def record_of(name: str, value: object) -> dict:
    section, _, field = name.rpartition(".")
    if not section:
        return {name: value}
    return {section: {**BESIDE.get(section, {}), field: value}}


def taken(record: object) -> bool:
    try:
        to_recipe(record)
    except AtrousError:
        return False
    return True


VALIDATOR = jsonschema_rs.Draft202012Validator(SCHEMA)


def test_it_is_a_schema_of_its_draft():
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert jsonschema_rs.meta.is_valid(SCHEMA)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_says_what_it_is_and_its_default_is_allowed(name):
    schema = schema_of(name)
    assert len(schema["description"].split()) >= 3
    assert jsonschema_rs.Draft202012Validator(schema).is_valid(schema["default"])
    assert to_recipe(record_of(name, schema["default"]) if name not in TOGETHER else {})


def test_there_are_no_fields_but_those_of_the_recipe():
    names = [
        f"{section}.{field}" if "properties" in schema else section
        for section, schema in SCHEMA["properties"].items()
        for field in schema.get("properties", [""])
    ]
    assert sorted(names) == sorted(FIELDS)
    assert not VALIDATOR.is_valid({"optim": {"rl": 1}}) and not VALIDATOR.is_valid({"sede": 1})


@pytest.mark.parametrize("name", shipped_recipes())
def test_recipes_that_ship_are_valid_and_name_the_schema(name):
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    assert VALIDATOR.is_valid(parse_yaml(text, name))
    assert "\n# yaml-language-server: $schema=recipe.schema.json\n" in text


def test_the_resolved_recipe_of_a_run_is_valid():
    assert VALIDATOR.is_valid(parse_yaml(recipe_text(Recipe()), "config.yaml"))


@pytest.mark.parametrize("name", FIELDS)
@given(value=VALUES)
def test_schema_and_check_agree_on_every_field(name, value):
    valid = VALIDATOR.is_valid(record_of(name, value))
    if name in ORDERED and isinstance(value, list) and valid:
        value = sorted(value)
    if name in TOGETHER and valid:
        return
    assert taken(record_of(name, value)) == valid, (name, value)


@pytest.mark.parametrize("name", FIELDS)
def test_schema_and_check_agree_at_the_ends_of_every_range(name):
    schema = schema_of(name)
    limits = schema["items"] if schema.get("type") == "array" else schema
    for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        if key not in limits:
            continue
        whole = limits["type"] in ("integer", ["integer", "null"])
        end = limits[key]
        for value in (end - 1, end, end + 1) if whole else (math.nextafter(end, -9), end, math.nextafter(end, 999)):
            given = [value] * schema.get("minItems", 1) if limits is not schema else value
            valid = VALIDATOR.is_valid(record_of(name, given))
            assert taken(record_of(name, given)) == valid, (name, value)


def test_the_file_that_ships_is_what_is_printed(capsys):
    assert main(["train", "--print-schema"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == SCHEMA
    assert printed == (RECIPES / "recipe.schema.json").read_text(encoding="utf-8"), (
        "write it again: atrous train --print-schema > src/atrous/recipes/recipe.schema.json"
    )
    assert printed == schema_text() + "\n"


@pytest.mark.parametrize("verb", ["predict", "doctor"])
def test_only_verbs_with_a_recipe_print_it(verb, capsys):
    assert main([verb, "x", "--print-schema"]) == 2
    assert "unknown flag '--print-schema'" in capsys.readouterr().err


@pytest.mark.slow
def test_nothing_is_printed_but_the_schema():
    done = subprocess.run([sys.executable, "-m", "atrous", "train", "--print-schema"], capture_output=True, check=True)
    assert json.loads(done.stdout.decode()) == SCHEMA
    assert not done.stderr
