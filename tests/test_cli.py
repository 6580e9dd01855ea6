"""The command line as a process: exit codes, what goes where, and what a misspelt word gets for an answer."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import atrous
from atrous.cli import main
from atrous.command_discovery import verbs
from atrous.learning.recipe import Recipe, read_recipe


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "atrous", *words], capture_output=True, text=True)


def test_help_names_every_verb_with_a_sentence():
    done = run("--help")
    assert done.returncode == 0
    assert not done.stderr
    assert {"train", "evaluate", "predict", "doctor", "report"} <= verbs().keys()
    for verb, sentence in verbs().items():
        assert sentence
        assert f"  {verb:<10} {sentence}\n" in done.stdout


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"], ["help"]])
def test_no_words_are_a_question(words, capsys):
    assert main(words) == 0
    assert "usage: atrous VERB" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"atrous {atrous.__version__}\n"


@pytest.mark.parametrize(
    "words", [["predict", "--help"], ["predict", "-h"], ["help", "predict"], ["predict", "m", "-h"]]
)
def test_a_verb_is_explained_without_running(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    assert "usage: atrous predict" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        "quickstart --overwrite --train.epochs 3 --out r",
        "--train.epochs 3 --out r quickstart --overwrite",
        "--train.epochs=3 --overwrite quickstart --out=r",
        "--config quickstart --train.epochs 3 --overwrite --out r",
        "--out r --overwrite --config=quickstart --train.epochs 3",
    ],
)
def test_a_recipe_may_stand_anywhere(words, monkeypatch):
    given = {}

    def train(recipe: Recipe, *, out: Path | None = None, overwrite: bool = False) -> None:
        given.update(recipe=recipe, out=out, overwrite=overwrite)

    monkeypatch.setattr(importlib.import_module("atrous.commands.train"), "train", train)
    assert main(["train", *words.split()]) == 0
    assert given == {
        "recipe": read_recipe("quickstart", {"train.epochs": 3}), "out": Path("r"), "overwrite": True
    }  # fmt: skip


@pytest.mark.parametrize("crop", ["48,64", "[48,64]", "[48, 64]", "(48,64)"])
def test_values_of_a_recipe_stand_between_commas_with_or_without_brackets(crop, monkeypatch):
    given = []

    def train(recipe: Recipe) -> None:
        given.append(recipe)

    monkeypatch.setattr(importlib.import_module("atrous.commands.train"), "train", train)
    frozen = ["--train.frozen", "backbone.net.conv1, 'head'"]
    assert main(["train", "--augment.crop", crop, "--augment.first_crop=null", *frozen]) == 0
    assert given[0].augment.crop == (48, 64)
    assert given[0].augment.first_crop is None
    assert given[0].train.frozen == ("backbone.net.conv1", "head")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("none", ["none"]),
        ("null", ["null"]),
        ("true,1,1e3,~", ["true", "1", "1e3", "~"]),
        ("(other)", ["(other)"]),
        ("road,", ["road"]),
        ("road, traffic light", ["road", "traffic light"]),
        ("[road,none]", ["road", "none"]),
        ('["a, b", "c"]', ["a, b", "c"]),
        ("'a, b',c", ["a, b", "c"]),
        ("it's,d'or", ["it's", "d'or"]),
        ('3" pipe,x', ['3" pipe', "x"]),
        ("straße,車", ["straße", "車"]),
        ("a: b,{c},- d", ["a: b", "{c}", "- d"]),
        ("", []),
    ],
)
@pytest.mark.parametrize("joined", [True, False])
def test_names_of_classes_are_texts_whatever_they_are(given, names, joined, monkeypatch):
    got = []

    def explain(model: Path, paths: list[Path], *, classes: list[str] | None = None) -> None:
        got.append(classes)

    monkeypatch.setattr(importlib.import_module("atrous.commands.explain"), "explain", explain)
    flag = [f"--classes={given}"] if joined else ["--classes", given]
    assert main(["explain", "m", "x.png", *flag]) == 0
    assert got == [names]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown verb 'trian'. Did you mean 'train'?"),
        (["Predict"], "Did you mean 'predict'?"),
        (["frobnicate"], "unknown verb 'frobnicate'."),
        (["--trian"], "unknown verb '--trian'"),
        (["train", "--optim.learningrate", "3"], "unknown flag '--optim.learningrate'."),
        (["train", "--train.epoch=3"], "unknown flag '--train.epoch'. Did you mean '--train.epochs'?"),
        (["train"], "no data given"),
        (["train", "recipe.yaml", "--resume", "run"], "continues with that run's own recipe: leave recipe.yaml out"),
        (["train", "--resume=/absent"], "no run to resume at /absent"),
        (["predict"], "required: model, paths"),
        (["evaluate", "model", "data", "--splot", "val"], "--splot"),
        (["evaluate", "/absent", "/absent"], "no model file at /absent"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words(words, message, capsys):
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.err.startswith("atrous: ")
    assert message in said.err
    assert not said.out


@pytest.mark.slow
def test_a_mistake_is_a_sentence_and_exit_code_2():
    done = run("evaluate", "/absent/model.safetensors", "/absent")
    assert done.returncode == 2
    assert done.stderr == "atrous: no model file at /absent/model.safetensors.\n"
    assert not done.stdout


@pytest.mark.parametrize("words", [["--scales", "0.5,1,1.5"], ["--scales=0.5,1,1.5"], ["--scales", "[0.5, 1, 1.5]"]])
def test_several_numbers_stand_between_commas(words, monkeypatch):
    given = {}

    def predict(model: Path, paths: list[Path], *, scales: list[float] | None = None, flip: bool = False) -> None:
        given.update(model=model, paths=paths, scales=scales, flip=flip)

    module = importlib.import_module("atrous.commands.predict")
    monkeypatch.setattr(module, "predict", predict)
    assert main(["predict", "m", "a.png", "b.png", *words, "--flip"]) == 0
    assert given == {
        "model": Path("m"), "paths": [Path("a.png"), Path("b.png")], "scales": [0.5, 1.0, 1.5], "flip": True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "predict m a.png --scales 0.5,big",
            "--scales must be numbers separated by commas, such as 0.5,2, got [0.5, 'big'].",
        ),
        ("predict m a.png --tile big", "--tile must be a whole number, got big."),
        ("predict m a.png --flip=5", "--flip takes no value, got 5."),
        ("doctor d --pages all", "--pages must be one of first, channels, got all."),
        ("completion fish", "shell must be one of bash, zsh, tcsh, got fish."),
        (
            "train quickstart --augment.crop 160",
            "--augment.crop must be two whole numbers separated by commas, such as 320,320, got [160].",
        ),
        (
            "train quickstart --augment.crop 1,2,3",
            "--augment.crop must be two whole numbers separated by commas, such as 320,320, got [1, 2, 3].",
        ),
        ("train quickstart --optim.name foo", "--optim.name must be one of sgd, adam, adamw, got foo."),
        ("train quickstart --train.epochs many", "--train.epochs must be a whole number, got many."),
        ("train quickstart --train.epochs", "--train.epochs needs a value: a whole number, such as --train.epochs 60."),
        ("area a.safetensors b.tif --json", "--json needs a value: a file, such as --json area.json."),
        ("train quickstart --data.check maybe", "--data.check must be true or false, got maybe."),
        ("train quickstart --model.in_channels x", "--model.in_channels must be a whole number, got x."),
        (
            "train quickstart --model.arguments 3",
            '--model.arguments must be names and values, such as {"output_stride": 8}, got 3.',
        ),
        (
            "train quickstart --schedule.steps a",
            "--schedule.steps must be numbers separated by commas, such as 0.5,2, got a.",
        ),
        (
            "train quickstart --data.spacing 1,1",
            "--data.spacing must be three numbers separated by commas, such as 1,1,2.5, or median, got [1, 1].",
        ),
        ("train quickstart other.yaml", "unrecognized arguments: other.yaml"),
    ],
)
def test_a_value_of_the_wrong_type_is_one_sentence(words, message, capsys):
    assert main(words.split()) == 2
    verb = words.split()[0]
    assert capsys.readouterr().err == f"atrous: {message} (`atrous {verb} --help` lists all options)\n"
