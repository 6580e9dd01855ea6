"""A training driven from Python, without the command line."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.commands.conftest import SPLITS, make_shapes

import atrous
from atrous import AtrousError, fit, model_file, read_recipe
from atrous.learning.checkpoint import Checkpoint, checkpoint_of, last_weights
from atrous.learning.divergence import Diverged
from atrous.learning.fit import Extension
from atrous.learning.recipe import to_recipe, write_recipe
from atrous.learning.trainer import progress_of

PICTURES = {f"train_{index}" for index in range(SPLITS["train"])}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes")


def recipe_for(shapes, **train):
    """A training of a second; two batches an epoch, dropout, a running average."""
    arguments = {"aspp_channels": 8, "low_channels": 8, "dropout": 0.5}
    return to_recipe(
        {
            "data": {"root": str(shapes), "workers": 0, "check": False},
            "model": {"backbone": "mobilenetv2_035", "pretrained": False, "arguments": arguments},
            "augment": {"crop": [40, 48]},
            "train": {
                **{"epochs": 2, "batch_size": 4, "ema": 0.9, "device": "cpu", "precision": "float32"},
                **train,
            },
            "watch": {"tensorboard": False},
        }
    )


def assert_same(one: Path, other: Path) -> None:
    first, second = (load_file(checkpoint_of(run)) for run in (one, other))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def validations(run: Path) -> list[int]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["epoch"] for record in records if record["kind"] == "val"]


class Seen:
    """An extension that notes the pictures of every step, and fails before the checkpoint of one."""

    def __init__(self, fails_at=None):
        self.steps, self.fails_at = [], fails_at

    def __call__(self, model):
        self.model = model
        return Extension({"seen": self._note}, after_step=[self._fail])

    def _note(self, outputs, batch):
        self.steps.append(batch.names)
        return outputs["main"].new_zeros(())

    def _fail(self, progress):
        if progress.step == self.fails_at:
            raise InterruptedError


def stopped_in_an_epoch(recipe, out, monkeypatch, step):
    """A run with a checkpoint after so many steps; returns the pictures of these steps."""
    seen = Seen(fails_at=step + 1)
    monkeypatch.setattr("atrous.learning.trainer.SAVE_EVERY", -1)
    with pytest.raises(AtrousError):
        fit(recipe, out, extend=seen)
    return [name for names in seen.steps[:step] for name in names]


@pytest.fixture(scope="module")
def whole(shapes, tmp_path_factory) -> Path:
    """A training of two epochs that nothing stopped; not to be changed."""
    return fit(recipe_for(shapes), tmp_path_factory.mktemp("runs") / "whole").run


def test_a_result_says_what_came_of_the_training(shapes, tmp_path):
    told = []
    result = atrous.fit(recipe_for(shapes), str(tmp_path / "run"), observe=lambda *what: told.append(what))  # type: ignore[arg-type]
    assert (result.run, result.ended) == (tmp_path / "run", "epochs")
    assert [(progress.epoch, progress.step) for progress, _ in told] == [(1, 2), (2, 4)]
    assert result.score == max(score for _, score in told)
    assert result.model is not None and model_file.read_info(result.model).scores["val"]["miou"] == result.score
    assert result.progress == told[-1][0] and result.progress.pictures == 0


@pytest.mark.slow
def test_an_observer_stops_after_the_second_validation_and_the_run_goes_on_later(shapes, tmp_path):
    recipe, uninterrupted = recipe_for(shapes, epochs=3), tmp_path / "whole"
    result = fit(recipe, tmp_path / "run", observe=lambda progress, score: progress.epoch == 2)
    assert (result.ended, result.progress.epoch, validations(result.run)) == ("observe", 2, [1, 2])
    assert fit(recipe, resume=result.run).ended == "epochs"
    assert validations(result.run) == [1, 2, 3]
    assert_same(fit(recipe, uninterrupted).run, result.run)


@pytest.mark.slow
def test_a_bounded_number_of_epochs_and_the_rest_are_the_whole(shapes, whole, tmp_path):
    first = fit(recipe_for(shapes), tmp_path / "run", epochs_now=1)
    assert (first.ended, first.progress.epoch) == ("epochs_now", 1)
    second = fit(recipe_for(shapes), resume=first.run, epochs_now=9)
    assert (second.ended, second.progress.epoch) == ("epochs", 2)
    assert_same(whole, second.run)


def test_a_run_that_was_not_validated_has_no_score(shapes, tmp_path):
    result = fit(recipe_for(shapes, validate_every=2), tmp_path / "run", epochs_now=1)
    assert (result.score, result.model, validations(result.run)) == (None, None, [])


@pytest.mark.slow
def test_two_trainings_whose_weights_are_averaged_between_epochs(shapes, tmp_path):
    """Federated averaging in miniature: each goes on from the mean, with its own optimiser."""
    recipes = [replace(recipe_for(shapes, epochs=3), seed=seed) for seed in (1, 2)]
    runs = [fit(recipe, tmp_path / f"{recipe.seed}", epochs_now=1).run for recipe in recipes]
    for _ in range(2):
        each = [last_weights(run) for run in runs]
        mean = {
            name: torch.stack([one[name] for one in each]).float().mean(0).to(value.dtype)
            for name, value in each[0].items()
        }
        assert not torch.equal(each[0]["classifier.weight"], each[1]["classifier.weight"])
        for recipe, run in zip(recipes, runs, strict=True):
            started_with = []

            def extend(model, started_with=started_with):
                def note(outputs, batch):
                    started_with.append({name: value.detach().clone() for name, value in model.named_parameters()})
                    return outputs["main"].new_zeros(())

                return Extension({"note": note})

            fit(recipe, resume=run, epochs_now=1, weights=mean, extend=extend)
            assert all(torch.equal(value, mean[name]) for name, value in started_with[0].items())
            assert not torch.equal(last_weights(run)["classifier.weight"], mean["classifier.weight"])
    assert [fit(recipe, resume=run).progress.epoch for recipe, run in zip(recipes, runs, strict=True)] == [3, 3]


#: A term with a parameter and a buffer, and a state with values of all kinds; killed at once after a step.
PROGRAM = """
import os, random, signal, sys
import torch
from atrous import fit, read_recipe
from atrous.learning.fit import Extension
from atrous.learning import trainer

trainer.SAVE_EVERY = -1
recipe, run, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3])

class Pull(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([0.5, -0.25]))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, outputs, batch):
        self.calls += 1
        return (self.scale[0] * outputs["main"].float().mean() + self.scale[1]) ** 2

class Dice:
    def __init__(self):
        self.random, self.rolled, self.last = random.Random(7), [], {}

    def roll(self, progress):
        self.rolled.append(self.random.random())
        self.last = {progress.step: torch.tensor(self.rolled[-2:])}

    def state_dict(self):
        return {"random": self.random.getstate(), "rolled": self.rolled, "last": self.last, "none": None}

    def load_state_dict(self, state):
        self.random.setstate(state["random"])
        self.rolled, self.last = state["rolled"], state["last"]

def kill(progress):
    if progress.step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

def extend(model):
    dice = Dice()
    return Extension({"pull": Pull()}, {"dice": dice}, [dice.roll, kill])

started = os.path.exists(os.path.join(run, "checkpoints", "last.safetensors"))
fit(read_recipe(recipe), None if started else run, resume=run if started else None, extend=extend)
"""


def run_program(tmp_path, run, kill_at) -> int:
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "recipe.yaml"), str(tmp_path / run), str(kill_at)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode in (0, -9), done.stderr
    return done.returncode


@pytest.mark.slow
@pytest.mark.needs("kill")
def test_an_extra_term_and_an_extra_state_survive_a_kill(shapes, tmp_path):
    write_recipe(recipe_for(shapes, batch_size=2), tmp_path / "recipe.yaml")
    assert run_program(tmp_path, "whole", -1) == 0
    assert [run_program(tmp_path, "killed", step) for step in (2, 3, 6)] == [-9, -9, -9]
    assert run_program(tmp_path, "killed", -1) == 0
    assert_same(tmp_path / "whole", tmp_path / "killed")
    kept = [state_of(tmp_path / run) for run in ("whole", "killed")]
    assert kept[0] == kept[1]
    assert len(kept[0]["dice"][1]) == 4 and kept[0]["pull"] is None
    tensors = load_file(checkpoint_of(tmp_path / "killed"))
    assert tensors["pull.calls"] == 8 and not torch.equal(tensors["pull.scale"], torch.tensor([0.5, -0.25]))
    with pytest.raises(AtrousError, match="trained with the state or term 'dice': resume it with"):
        fit(read_recipe(tmp_path / "killed" / "config.yaml"), resume=tmp_path / "killed")


def record_of(run: Path) -> dict:
    with safe_open(checkpoint_of(run), framework="pt") as file:
        return json.loads(file.metadata()["atrous-checkpoint"])


def state_of(run: Path) -> dict:
    return record_of(run)["state"]


# Progress counts pictures


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(3, 2), (2, 3), (1, 8), (4, 1)])
def test_with_another_batch_size_every_picture_of_the_epoch_is_seen_once(shapes, tmp_path, monkeypatch, before, after):
    recipe = recipe_for(shapes, batch_size=before, epochs=1)
    names = stopped_in_an_epoch(recipe, tmp_path / "run", monkeypatch, step=1)
    assert len(names) == before == record_of(tmp_path / "run")["progress"]["pictures"]
    seen = Seen()
    result = fit(replace(recipe, train=replace(recipe.train, batch_size=after)), resume=tmp_path / "run", extend=seen)
    names += [name for step in seen.steps for name in step]
    assert len(names) == len(PICTURES) and set(names) == PICTURES
    assert (result.progress.epoch, result.progress.pictures) == (1, 0)


@pytest.mark.slow
def test_a_checkpoint_that_counts_batches_goes_on_to_the_same_weights(shapes, tmp_path, monkeypatch):
    """As versions before this one wrote it: the batches of the epoch, of the size in the recipe beside them."""
    recipe, run = recipe_for(shapes, batch_size=3), tmp_path / "run"
    stopped_in_an_epoch(recipe, run, monkeypatch, step=2)
    record = record_of(run)
    assert record["progress"].pop("pictures") == 6
    record["progress"]["batch"] = 2
    record.pop("state")
    save_file(load_file(checkpoint_of(run)), checkpoint_of(run), {"atrous-checkpoint": json.dumps(record)})
    fit(recipe, resume=run)
    assert_same(fit(recipe, tmp_path / "whole").run, run)


def test_batches_of_before_are_counted_in_pictures_as_they_were_dealt_out(shapes):
    recipe, text = recipe_for(shapes, batch_size=2), "train: {batch_size: 4}"

    def pictures(size, batches, processes=1, text=text):
        return progress_of(
            Checkpoint({"epoch": 1, "batch": batches, "step": 7}, text, processes), size, recipe
        ).pictures

    assert (pictures(9, 0), pictures(9, 1), pictures(9, 2)) == (0, 4, 9)  # a ninth alone joins the batch before it
    assert (pictures(11, 2), pictures(11, 3), pictures(11, 2, processes=2)) == (8, 11, 11)
    assert pictures(9, 2, text="") == 4


# Refusals


def test_diverging_is_an_exception_that_says_where(shapes, tmp_path):
    def extend(model):
        return Extension({"nan": lambda outputs, batch: outputs["main"].sum() * (nan if calls.pop() else 1)})

    calls, nan = [True, False, False], float("nan")  # from the end: the third batch
    with pytest.raises(Diverged, match=r"the loss became nan at epoch 2, step 2, on the batch train_") as caught:
        fit(recipe_for(shapes), tmp_path / "run", extend=extend)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert isinstance(error, AtrousError)
        assert (error.what, str(error.value), error.epoch, error.step) == ("loss", "nan", 2, 2)
        assert len(error.names) == 4 and set(error.names) <= PICTURES
        assert str(error) == str(caught.value)
    assert record_of(tmp_path / "run")["progress"]["step"] == 2  # and the checkpoint is good


def test_an_observer_that_returns_a_score_is_told_so(shapes, tmp_path):
    with pytest.raises(AtrousError, match=r"observe must return True to stop the training, or None; it returned 0\.\d"):
        fit(recipe_for(shapes), tmp_path / "run", observe=lambda progress, score: score)  # type: ignore[arg-type,return-value]
    assert record_of(tmp_path / "run")["progress"]["best_miou"] >= 0  # which is saved


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"recipe": {"seed": 1}}, r"recipe must be a Recipe, got dict of 1 entry: use atrous\.read_recipe"),
        ({"observe": "often"}, r"observe must be a function of \(progress, score\) or None, got 'often'"),
        ({"extend": Extension()}, "extend must be a function of the model or None"),
        ({"extend": lambda model: None}, "extend must return an Extension, got None"),
        ({"epochs_now": 0}, "epochs_now must be 1 or more, got 0"),
        ({"weights": {"a": 1}}, "weights must be a dict of tensors by their names"),
        ({"weights": {"a": torch.zeros(1)}}, "weights do not fit the model"),
        ({"resume": "x"}, "leave out --out"),
    ],
)
def test_what_cannot_be_is_refused_before_there_is_a_run(shapes, tmp_path, arguments, said):
    with pytest.raises(AtrousError, match=said):
        fit(**{"recipe": recipe_for(shapes), "out": tmp_path / "run", **arguments})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"terms": {"supervised": len}}, "letters, digits and underscores other than supervised, auxil"),
        ({"terms": {"a.b": len}}, "got 'a.b'"),
        ({"terms": {"a": 1}}, "got 'a': 1"),
        ({"terms": [len]}, "terms of an Extension must be"),
        ({"state": {"a": 1}}, r"the state 'a' needs state_dict\(\)"),
        ({"state": {"weights": torch.nn.Identity()}}, "got 'weights'"),
        ({"state": {"crf": torch.nn.Identity()}}, "the name 'crf', which a term or atrous uses"),
        ({"terms": {"a": torch.nn.Identity()}, "state": {"a": torch.nn.Identity()}}, "the name 'a', which a term"),
        ({"after_step": len}, "after_step of an Extension must be a list"),
        ({"disturb": 1}, "disturb of an Extension"),
    ],
)
def test_extensions_that_cannot_be_are_refused(parts, said):
    with pytest.raises(AtrousError, match=said):
        Extension(**parts)


def test_a_score_that_stays_the_same_is_no_better_and_ends_the_training(shapes, tmp_path):
    recipe = recipe_for(shapes, epochs=6, patience=2, ema=0.0)
    arguments = {**recipe.model.arguments, "frozen_norm": True}
    still = replace(recipe, model=replace(recipe.model, arguments=arguments), optim=replace(recipe.optim, lr=1e-30))
    fit(still, tmp_path / "run")
    assert validations(tmp_path / "run") == [1, 2, 3]
