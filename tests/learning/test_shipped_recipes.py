"""Recipes that ship are found by name from any folder; a file of that name wins."""

from pathlib import Path

import pytest

from atrous.errors import AtrousError
from atrous.learning.recipe import read_recipe
from atrous.learning.shipped_recipes import RECIPES, RecipeWarning, find_recipe, shipped_recipes


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_those_that_ship_are_the_files_of_the_package_each_with_a_sentence():
    assert shipped_recipes().keys() == {path.stem for path in RECIPES.glob("*.yaml")} >= {"quickstart", "camvid"}
    assert all(sentence.endswith(".") and len(sentence) > 40 for sentence in shipped_recipes().values())


@pytest.mark.parametrize("name", shipped_recipes())
def test_each_reads_and_has_the_name_of_its_file(name):
    assert read_recipe(name).name == name
    assert read_recipe(f"{name}.yaml") == read_recipe(Path(name)) == read_recipe(name)
    assert f"atrous train {name} " in find_recipe(name).read_text(encoding="utf-8")


@pytest.mark.parametrize("file", ["quickstart", "quickstart.yaml", "quickstart.yml"])
def test_a_file_of_that_name_wins(file):
    Path(file).write_text("name: mine", encoding="utf-8")
    assert read_recipe("quickstart").name == "mine"
    assert read_recipe("camvid").name == "camvid"


def test_the_file_without_ending_wins_over_the_one_with_it():
    Path("quickstart").write_text("name: bare", encoding="utf-8")
    Path("quickstart.yaml").write_text("name: ending", encoding="utf-8")
    assert read_recipe("quickstart").name == "bare"
    assert read_recipe("quickstart.yaml").name == "ending"
    assert read_recipe("./quickstart").name == "bare"


def test_a_folder_of_that_name_is_no_recipe():
    Path("quickstart").mkdir()
    assert read_recipe("quickstart").name == "quickstart"
    assert find_recipe("quickstart").parent == RECIPES


def test_a_path_is_never_one_that_ships(tmp_path):
    for path in ("sub/quickstart", tmp_path / "quickstart", "../quickstart.yaml"):
        with pytest.raises(AtrousError, match=r"no recipe at .*Did you mean 'quickstart'\?"):
            read_recipe(path)


def test_an_ending_may_be_left_out_of_a_path():
    Path("sub").mkdir()
    Path("sub/mine.yml").write_text("name: sub", encoding="utf-8")
    assert read_recipe("sub/mine").name == "sub"


@pytest.mark.parametrize(
    ("given", "near"), [("quikstart", "quickstart"), ("Quickstart.yaml", "quickstart"), ("camvidquick", "camvid_quick")]
)
def test_an_unknown_name_gives_the_nearest_and_the_list(given, near):
    with pytest.raises(AtrousError) as caught:
        read_recipe(given)
    assert f"no recipe at {given}. Did you mean '{near}'?" in str(caught.value)
    assert str(caught.value).endswith(
        "camvid, camvid_family, camvid_fast, camvid_quick, hippocampus, quickstart, water."
    )


def test_recipes_beside_it_are_near_too():
    Path("streets.yaml").write_text("", encoding="utf-8")
    with pytest.raises(AtrousError, match=r"Did you mean 'streets\.yaml'\?"):
        read_recipe("steets.yaml")


def test_a_runs_folder_is_answered_with_its_recipe():
    Path("runs").mkdir()
    Path("runs/config.yaml").write_text("", encoding="utf-8")
    with pytest.raises(AtrousError, match=r"it is a folder\. The run's recipe is runs/config\.yaml"):
        read_recipe("runs")


@pytest.mark.parametrize("given", ["", ".", "..", "/", "a\0b", "x" * 5000, "*", "[", "\udcff"])
def test_words_that_name_no_file_are_refused(given):
    with pytest.raises(AtrousError):
        read_recipe(given)


def test_a_file_that_wins_over_a_recipe_that_ships_is_said(recwarn):
    Path("quickstart.yaml").write_text("train: {epochs: 3}", encoding="utf-8")
    with pytest.warns(
        RecipeWarning, match="the file quickstart.yaml of this folder is used instead of the shipped recipe quickstart"
    ):
        find_recipe("quickstart")
    Path("mine.yaml").write_text("train: {epochs: 3}", encoding="utf-8")
    recwarn.clear()
    find_recipe("mine")
    find_recipe(Path.cwd() / "quickstart.yaml")
    assert not recwarn
