"""The command line as a process: exit codes, what goes where, and what a misspelt word gets for an answer."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import atrous
from atrous.cli import main, verbs


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "atrous", *words], capture_output=True, text=True)


def test_help_names_every_verb_with_a_sentence():
    done = run("--help")
    assert done.returncode == 0
    assert not done.stderr
    assert {"train", "evaluate", "predict", "doctor", "report"} <= verbs().keys()
    for verb, sentence in verbs().items():
        assert sentence
        assert f"{verb:<10} {sentence}" in done.stdout


@pytest.mark.parametrize("words", [[], ["-h"], ["help"]])
def test_no_words_are_a_question(words, capsys):
    assert main(words) == 0
    assert "usage: atrous VERB" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"atrous {atrous.__version__}\n"


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_each_verb_explains_its_arguments(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert f"atrous {verb}" in said
    assert "--" in said


def test_train_explains_every_field_of_a_recipe(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for flag in ("--data.root", "--optim.lr", "--augment.crop", "--train.epochs", "--resume", "--init", "--out"):
        assert flag in said
    assert "passes over the training pictures" in said


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
        (["train", "recipe.yaml", "--resume", "run"], "goes on with that run's own recipe: leave recipe.yaml out"),
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
        ("predict m a.png --scales 0.5,big", "--scales is list[float], got [0.5, 'big']."),
        ("predict m a.png --tile big", "--tile is int, got big."),
        ("train recipes/quickstart.yaml --augment.crop 160", "--augment.crop is tuple[int, int], got 160."),
        ("train recipes/quickstart.yaml --optim.name foo", "--optim.name is one of ['sgd', 'adam', 'adamw'], got foo."),
        ("train recipes/quickstart.yaml --train.epochs many", "--train.epochs is int, got many."),
    ],
)
def test_a_value_of_the_wrong_type_is_one_sentence(words, message, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    assert main(words.split()) == 2
    verb = words.split()[0]
    assert capsys.readouterr().err == f"atrous: {message} (`atrous {verb} --help` explains)\n"
