"""What a search space may hold, checked before anything runs."""

import re

import pytest

from atrous.errors import AtrousError
from atrous.learning.recipe import to_recipe
from atrous.tuning.search_space import Choices, Range, differences, read_search_space, recipe_with, to_search_space

RECIPE = to_recipe(
    {
        "optim": {"lr": 1e-3},
        "augment": {"crop": [320, 320]},
        "train": {"ema": 0.9, "batch_size": 4},
        "model": {"arguments": {"aspp_channels": 64}},
    }
)


def test_ranges_and_choices_are_read(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(
        "optim.lr: {low: 1e-4, high: 1e-2, log: true}\n"  # text, as YAML 1.1 reads it
        "augment.crop: {choices: [[320, 320], [400, 400], null]}\n"
        "train.ema: {low: 0.0, high: 0.95, step: 0.3}\n"
        "train.batch_size: {low: 2, high: 9, step: 2}\n"
        "model.arguments.aspp_channels: {low: 32, high: 128}\n"
    )
    axes = read_search_space(path, RECIPE).axes
    assert axes == {
        "optim.lr": Range(1e-4, 1e-2, log=True),
        "augment.crop": Choices(([320, 320], [400, 400], None)),
        "train.ema": Range(0.0, 0.9, step=0.3),  # the last multiple below high
        "train.batch_size": Range(2, 8, step=2, whole=True),
        "model.arguments.aspp_channels": Range(32, 128, step=1, whole=True),
    }


def test_values_come_back_as_they_were():
    given = {"augment.crop": {"choices": [[320, 320], None]}, "loss.dice": {"choices": [0, 0.5, 1]}}
    space = to_search_space(given, RECIPE)
    assert space.own_values() == {"augment.crop": [320, 320], "loss.dice": 0.0}
    for values in ({"augment.crop": None, "loss.dice": 0.5}, space.own_values()):
        stored = space.stored(values)
        assert all(value is None or isinstance(value, str | float) for value in stored.values())
        assert space.restored(stored) == values
    assert space.recipe_with({"augment.crop": None}).augment.crop is None
    assert space.recipe_with({}) == RECIPE
    assert space.combinations() == [
        {"augment.crop": crop, "loss.dice": dice} for crop in ("[320, 320]", None) for dice in (0, 0.5, 1)
    ]
    assert to_search_space({"optim.lr": {"low": 1e-4, "high": 1}}, RECIPE).combinations() is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "must be a mapping"),
        ({"optim.lrr": {"low": 0, "high": 1}}, r"unknown recipe field 'optim.lrr'. Did you mean 'optim.lr'\?"),
        ({"optim": {"lr": {"low": 0, "high": 1}}}, "'optim' is a section .* such as optim.name"),
        ({3: {"low": 0, "high": 1}}, "name of a field must be text, got 3"),
        ({"optim.lr": [0.1, 0.2]}, r"write optim.lr: \{choices: \[...\]\}"),
        ({"optim.lr": 0.1}, r"must be \{low: …, high: …\} or \{choices: \[…\]\}"),
        ({"optim.lr": {"lowest": 0, "high": 1}}, "unknown key 'lowest'. Did you mean 'low'"),
        ({"optim.lr": {"low": 0}}, "optim.lr has no high"),
        ({"optim.lr": {"choices": [1, 2], "log": True}}, "has choices and log: give one of both"),
        ({"optim.lr": {"low": 1, "high": 0.1}}, "low of optim.lr must be below high, got 1 and 0.1"),
        ({"optim.lr": {"low": "x", "high": 1}}, "low of optim.lr must be a number, got 'x'"),
        ({"optim.lr": {"low": float("nan"), "high": 1}}, "low of optim.lr must be a number"),
        ({"optim.lr": {"low": 0, "high": 1, "log": True}}, "a low above 0 and no step"),
        ({"optim.lr": {"low": 0, "high": 1, "log": 3}}, "log of optim.lr must be true or false"),
        ({"optim.lr": {"low": 0, "high": 1, "step": 2}}, "step of optim.lr must be above 0 and at most"),
        ({"optim.lr": {"low": -1, "high": 1}}, "optim.lr must be .*, got -1"),
        ({"train.ema": {"low": 0, "high": 1}}, "train.ema must be .*, got 1"),
        ({"optim.lr": {"low": 0.01, "high": 1}}, "own value of optim.lr, 0.001, is not in the .* --optim.lr"),
        (
            {"train.ema": {"low": 0, "high": 0.99, "step": 0.33}},
            "own value of train.ema, 0.9, is not low plus a multiple",
        ),
        ({"train.batch_size": {"low": 1, "high": 4.5}}, "train.batch_size is a whole number"),
        ({"optim.name": {"low": 1, "high": 2}}, "optim.name is not a number: give choices"),
        ({"augment.crop": {"low": 1, "high": 2}}, "augment.crop is not a number: give choices"),
        ({"optim.name": {"choices": ["adamw", "adamm"]}}, "must be .*adamw', got 'adamm'"),
        ({"optim.lr": {"choices": [0.001]}}, "two or more different values, got 1 value: 0.001"),
        ({"optim.lr": {"choices": [0.001, 1e-3]}}, "two or more different values, got 2 values"),
        ({"optim.lr": {"choices": 3}}, "choices of optim.lr must be a list"),
        ({"optim.lr": {"choices": [0.1, 0.2]}}, "own value of optim.lr, 0.001, is not in the search space"),
        ({"seed": {"low": 0, "high": 9}}, "seed cannot be searched: a seed that is lucky"),
        ({"train.epochs": {"low": 1, "high": 9}}, "train.epochs cannot be searched: every trial gets the same number"),
        ({"data.val": {"choices": ["val", "test"]}}, "data.val cannot be searched: all trials need the same data"),
        ({"watch.wandb": {"choices": [True, False]}}, "watch.wandb cannot be searched"),
        ({"model.arguments": {"choices": [{}, {}]}}, "give the full name of one entry"),
        ({"model.arguments.low": {"choices": [1, 2]}}, "the recipe does not set 'model.arguments.low'"),
    ],
    ids=str,
)
def test_what_cannot_be_searched_is_refused(given, message):
    with pytest.raises(AtrousError, match=message):
        to_search_space(given, RECIPE)


def test_the_message_names_the_file(tmp_path):
    (tmp_path / "space.yaml").write_text("optim.lrr: {low: 1, high: 2}")
    with pytest.raises(AtrousError, match=re.escape(f"{tmp_path / 'space.yaml'}: unknown recipe field")):
        read_search_space(tmp_path / "space.yaml", RECIPE)
    for text in ("a: [", "\x00"):
        (tmp_path / "space.yaml").write_text(text)
        with pytest.raises(AtrousError, match=r"space\.yaml"):
            read_search_space(tmp_path / "space.yaml", RECIPE)
    with pytest.raises(AtrousError, match="cannot be read as YAML"):
        read_search_space(tmp_path / "absent.yaml", RECIPE)


def test_differences_are_named_by_their_full_names():
    one = {"optim": {"lr": 1, "name": "sgd"}, "seed": 0}
    assert list(differences(one, {"optim": {"lr": 2, "name": "sgd"}, "seed": 0})) == [("optim.lr", 1, 2)]
    assert list(differences({"a": 1}, {"b": 2})) == [("a", 1, None), ("b", None, 2)]


def test_a_recipe_with_other_values_is_another_recipe():
    other = recipe_with(RECIPE, {"optim.lr": 0.5, "model.arguments.aspp_channels": 8})
    assert (other.optim.lr, other.model.arguments) == (0.5, {"aspp_channels": 8})
    assert RECIPE.optim.lr == 1e-3 and RECIPE.model.arguments == {"aspp_channels": 64}
