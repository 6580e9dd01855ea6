"""The doctor's exit code 0 means that a training starts, and only then."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.cli import main
from atrous.commands.doctor import doctor
from atrous.data.class_colors import default_colors
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError
from atrous.learning.distributed import current_group
from atrous.learning.recipe import to_recipe
from atrous.learning.training_data import open_training_data


def dataset(root: Path, *, pictures: int, classes: int, lists: dict[str, int] | None, labelled: bool) -> Path:
    """Pictures, and lists that deal them out in order; with ``labelled`` False val is all ignored."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(pictures):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(root / f"images/{index}.png")
        mask = rng.integers(0, classes, (32, 32)).astype(np.uint8)
        Image.fromarray(mask if labelled or index == 0 else np.full_like(mask, 255)).save(root / f"masks/{index}.png")
    first = 0
    for name, count in (lists or {}).items():
        (root / "splits").mkdir(exist_ok=True)
        names = "\n".join(str(index) for index in range(first, first + count))
        (root / f"splits/{name}.txt").write_text(names, encoding="utf-8")
        first += count
    names = tuple(f"c{index}" for index in range(classes))
    ClassTable(names, default_colors(classes), tuple((i,) for i in range(classes)), (255,)).to_yaml(
        root / "classes.yaml"
    )
    return root


LISTS = {
    "none": None,
    "train and val": {"train": 2, "val": 1},
    "train and valid": {"train": 2, "valid": 1},
    "no val": {"train": 2, "test": 1},
    "test only": {"test": 3},
    "no train": {"val": 2},
    "empty": {"train": 3, "val": 0},
}


@pytest.mark.parametrize(
    ("pictures", "classes", "lists", "labelled"),
    [case for case in product((1, 3), (1, 2), LISTS, (True, False)) if case[0] == 3 or case[2] == "none"],
)
@pytest.mark.parametrize("check", [True, False])
def test_the_doctor_is_content_where_training_finds_its_data_fit(tmp_path, pictures, classes, lists, labelled, check):
    root = dataset(tmp_path, pictures=pictures, classes=classes, lists=LISTS[lists], labelled=labelled)
    recipe = to_recipe({"name": "x", "data": {"root": str(root), "check": check}})
    try:
        content = doctor(root) == 0
    except AtrousError:
        content = False
    try:
        open_training_data(recipe, current_group())
        fit = True
    except AtrousError:
        fit = False
    fitting = pictures == 3 and classes == 2 and labelled and lists in ("none", "train and val", "train and valid")
    assert content == fit == fitting


@pytest.mark.slow
def test_what_fits_trains(tmp_path):
    root = dataset(tmp_path / "data", pictures=3, classes=2, lists={"train": 2, "valid": 1}, labelled=True)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\nmodel: {backbone: mobilenetv2_050, pretrained: false}\n", encoding="utf-8")
    words = ["--data.root", str(root), "--out", str(tmp_path / "run"), "--train.epochs", "1", "--train.batch_size", "2"]
    assert doctor(root) == 0
    assert main(["train", str(recipe), *words, "--augment.crop", "[32,32]", "--data.workers", "0"]) == 0


def test_a_split_named_in_the_recipe(tmp_path):
    root = dataset(tmp_path, pictures=3, classes=2, lists={"train": 2, "test": 1}, labelled=True)
    recipe = to_recipe({"name": "x", "data": {"root": str(root), "val": "test"}})
    assert doctor(root) == 2
    open_training_data(recipe, current_group())
