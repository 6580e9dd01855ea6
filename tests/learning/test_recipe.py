import dataclasses
from pathlib import Path

import pytest
import yaml

from atrous.errors import AtrousError
from atrous.learning.recipe import Recipe, field_names, nearest_field, read_recipe, to_recipe, write_recipe

FULL = {
    "name": "größe",
    "seed": 3,
    "data": {"root": "/data", "layout": "voc", "train": "a", "val": "b", "workers": 0, "check": False},
    "model": {"backbone": "resnet18", "pretrained": False, "in_channels": 4, "arguments": {"atrous_rates": [1, 2]}},
    "augment": {"crop": [33, 65], "scale": [1.0, 1.5], "flip": 0.0},
    "loss": {"class_weights": "log", "label_smoothing": 0.1},
    "distill": {"teacher": "teacher.safetensors", "channel": 0, "temperature": 2.0, "sha256": "0a"},
    "crf": {"trainable": True, "bilateral_weight": 5, "compatibility": "potts"},
    "optim": {"name": "sgd", "lr": 0.007, "clip": 0.0, "accumulate": 2},
    "schedule": {"warmup": 0.0},
    "train": {"epochs": 2, "batch_size": 3, "ema": 0.5, "precision": "float32"},
}


def written(folder: Path, record) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(record if isinstance(record, str) else yaml.safe_dump(record, allow_unicode=True))
    return path


@pytest.mark.parametrize("record", [{}, FULL, {"seed": 1}], ids=["empty", "full", "one"])
def test_what_is_written_reads_the_same(tmp_path, record):
    recipe = read_recipe(written(tmp_path, record))
    write_recipe(recipe, tmp_path / "config.yaml")
    assert read_recipe(tmp_path / "config.yaml") == recipe
    assert "!!python" not in (tmp_path / "config.yaml").read_text(encoding="utf-8")


def test_fields_are_what_was_given_and_the_rest_is_default():
    recipe = to_recipe(FULL)
    assert recipe.name == "größe"
    assert recipe.augment.crop == (33, 65)
    assert recipe.model.arguments == {"atrous_rates": [1, 2]}
    assert recipe.optim.name == "sgd"
    assert recipe.optim.momentum == Recipe().optim.momentum
    assert recipe.schedule.warmup == 0
    assert to_recipe({}) == Recipe()


def test_an_empty_file_is_the_default(tmp_path):
    assert read_recipe(written(tmp_path, "# nothing yet\n")) == Recipe()


def test_overrides_win_over_the_file(tmp_path):
    overrides = {"optim.lr": 0.5, "augment.crop": [40, 50], "model.in_channels": 1, "seed": 9, "train.patience": 4}
    recipe = read_recipe(written(tmp_path, FULL), overrides)
    assert (recipe.optim.lr, recipe.augment.crop, recipe.seed, recipe.train.patience) == (0.5, (40, 50), 9, 4)
    assert recipe.model == dataclasses.replace(to_recipe(FULL).model, in_channels=1)
    with pytest.raises(AtrousError, match=r"unknown recipe field 'optim\.rl'"):
        read_recipe(written(tmp_path, FULL), {"optim.rl": 0.5})


@pytest.mark.parametrize(
    ("record", "field", "nearest"),
    [
        ({"optim": {"learning_rate": 1}}, "optim.learning_rate", None),
        ({"optim": {"weight_decai": 1}}, "optim.weight_decai", "optim.weight_decay"),
        ({"train": {"epoch": 1}}, "train.epoch", "train.epochs"),
        ({"augment": {"rotations": 1}}, "augment.rotations", "augment.rotation"),
        ({"sede": 1}, "sede", "seed"),
    ],
)
def test_unknown_fields_give_the_nearest(tmp_path, record, field, nearest):
    with pytest.raises(AtrousError, match=f"unknown recipe field '{field}'") as caught:
        read_recipe(written(tmp_path, record))
    if nearest:
        assert f"Did you mean '{nearest}'?" in str(caught.value)


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({"optim": {"lr": "fast"}}, "lr"),
        ({"train": {"epochs": 1.5}}, "epochs"),
        ({"train": {"epochs": None}}, "epochs"),
        ({"data": {"check": "maybe"}}, "check"),
        ({"augment": {"crop": [1, 2, 3]}}, "crop"),
        ({"augment": {"crop": 5}}, "crop"),
        ({"optim": {"name": "lion"}}, "name"),
        ({"loss": {"class_weights": "sqrt"}}, "class_weights"),
        ({"crf": {"trainable": True, "compatibility": "pots"}}, "compatibility"),
        ({"crf": {"trainable": 5}}, "trainable"),
        ({"train": {"precision": "float16"}}, "precision"),
        ({"model": {"arguments": 3}}, "arguments"),
    ],
)
def test_values_of_a_wrong_kind_are_named(tmp_path, record, named):
    with pytest.raises(AtrousError, match=named):
        read_recipe(written(tmp_path, record))


@pytest.mark.parametrize(
    "record",
    [
        {"train": {"epochs": 0}},
        {"train": {"batch_size": 0}},
        {"train": {"validate_every": 0}},
        {"train": {"ema": 1.0}},
        {"train": {"ema": -0.1}},
        {"train": {"enlarge": 0}},
        {"optim": {"lr": 0}},
        {"optim": {"lr": -1e-3}},
        {"optim": {"lr": float("nan")}},
        {"optim": {"accumulate": 0}},
        {"data": {"workers": -1}},
        {"seed": -1},
        {"schedule": {"warmup": 1.0}},
        {"loss": {"label_smoothing": 1.0}},
        {"crf": {"bilateral_xy": 0, "trainable": True}},
        {"crf": {"gaussian_weight": -1, "trainable": True}},
        {"crf": {"bilateral_rgb": float("inf"), "trainable": True}},
        {"crf": {"iterations": 0, "trainable": True}},
        {"augment": {"flip": 1.5}},
        {"augment": {"scale": [2.0, 1.0]}},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(record):
    field = next(iter(record.values()))
    name = next(iter(field)) if isinstance(field, dict) else next(iter(record))
    with pytest.raises(AtrousError, match=name):
        to_recipe(record)


def test_settings_of_a_crf_that_is_not_trained_are_no_secret():
    with pytest.raises(AtrousError, match=r"set crf\.trainable to true, or leave crf out and refine after"):
        to_recipe({"crf": {"bilateral_weight": 5}})


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "3", "optim: 3", "optim: [1]"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(AtrousError, match="must be a mapping"):
        read_recipe(written(tmp_path, text))


@pytest.mark.parametrize(
    "data", [b"a: [1", b"\xff\xfe\x00bad", b"a: !!python/object/apply:os.system ['true']", b"\x00"]
)
def test_what_is_no_yaml_is_refused(tmp_path, data):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(data)
    with pytest.raises(AtrousError, match="cannot be read as YAML"):
        read_recipe(path)


def test_yaml_runs_nothing(tmp_path):
    mark = tmp_path / "ran"
    for text in (
        f"!!python/object/apply:os.mkdir ['{mark}']",
        f"name: !!python/object/apply:os.mkdir ['{mark}']",
    ):
        with pytest.raises(AtrousError):
            read_recipe(written(tmp_path, text))
    assert not mark.exists()


def test_no_file_or_a_folder(tmp_path):
    with pytest.raises(AtrousError, match="no recipe at"):
        read_recipe(tmp_path / "absent.yaml")
    with pytest.raises(AtrousError, match="cannot be read as a recipe: it is a folder"):
        read_recipe(tmp_path)


def test_field_names_are_dotted_and_complete():
    names = field_names()
    assert {"name", "seed", "data.root", "augment.crop", "train.channels_last"} <= set(names)
    assert not {"data", "optim"} & set(names)
    assert nearest_field("optim.learningrate").startswith(" Did you mean 'optim.") or not nearest_field("optim.x")
    assert nearest_field("qqqqqqqq") == ""


@pytest.mark.parametrize("steps", [[60, 85], [0.8, 0.5], [0.0, 0.5], [1.0]])
def test_steps_of_the_schedule_are_rising_shares(steps):
    with pytest.raises(AtrousError, match=r"schedule\.steps must be shares"):
        to_recipe({"schedule": {"name": "step", "steps": steps}})
