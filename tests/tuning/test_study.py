"""The trials of a study, without training."""

import os
from pathlib import Path

import pytest

from atrous.errors import AtrousError
from atrous.learning.recipe import to_recipe
from atrous.tuning.open_study import open_study
from atrous.tuning.results import importance, results
from atrous.tuning.search_space import to_search_space

pytest.importorskip("optuna", reason="the extra tune is not installed")

RECIPE = {"name": "mine", "data": {"root": "data"}, "optim": {"lr": 1e-3}, "train": {"epochs": 8}}
SPACE = {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "loss.dice": {"choices": [0, 0.5, 1]}}


def space_of(recipe=RECIPE, space=SPACE):
    return to_search_space(space, to_recipe(recipe))


def finish(study, scores):
    """Tells a score for each of the next trials, and returns their values."""
    found = []
    for score in scores:
        with study.claimed(99) as trial:
            study.finish(trial, "complete", score=score)
            found.append(trial.values)
    return found


def test_the_first_trial_has_the_values_of_the_recipe_and_no_trial_those_of_another(tmp_path):
    study = open_study(space_of(), tmp_path / "tune")
    values = finish(study, [0.1] * 4)
    assert values[0] == {"optim.lr": 1e-3, "loss.dice": 0.0}
    assert all(1e-4 <= one["optim.lr"] <= 1e-2 and one["loss.dice"] in (0, 0.5, 1) for one in values)
    assert len({str(one) for one in values}) == 4
    assert (tmp_path / "tune" / "study.db").is_file()
    again = open_study(space_of(), tmp_path / "other")
    assert finish(again, [0.1] * 4) == values  # the same study draws the same values
    seeded = open_study(space_of({**RECIPE, "seed": 1}), tmp_path / "seeded")
    assert finish(seeded, [0.1] * 2)[1] != values[1]


def test_a_small_space_ends_when_all_combinations_are_tried(tmp_path):
    space = {"loss.dice": {"choices": [0, 1]}, "train.batch_size": {"low": 2, "high": 8, "step": 3}}
    study = open_study(space_of(space=space), tmp_path / "tune")
    values = finish(study, [0.1] * 6)
    assert len({str(one) for one in values}) == 6
    with study.claimed(99) as trial:
        assert trial is None


def test_a_trial_of_a_process_that_died_is_claimed_and_one_of_a_living_process_is_not(tmp_path):
    out = tmp_path / "tune"
    study = open_study(space_of(), out)
    with study.claimed(2) as trial:  # this process stops without telling an end
        first = trial
        trial.report(1, 0.25)
    assert [one.state.name for one in study.trials()] == ["RUNNING"]
    with open_study(space_of(), out).claimed(2) as trial:
        assert (trial.number, trial.values, trial.continued) == (0, first.values, True)
        assert trial.reported == {1}
        trial.report(1, 0.75)  # a score that is recorded stays
        assert study.trials()[0].intermediate_values == {1: 0.25}


@pytest.mark.needs("fork")
def test_two_processes_get_different_trials(tmp_path):
    out = tmp_path / "tune"
    study = open_study(space_of(), out)

    def number_of_a_child(most: int) -> str:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            with open_study(space_of(), out).claimed(most) as trial:
                os.write(write, str(trial and trial.number).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        with os.fdopen(read) as answer:
            return answer.read()

    with study.claimed(2) as trial:
        assert trial.number == 0
        assert number_of_a_child(2) == "1"  # and dies without an end
        assert number_of_a_child(2) == "1"
        assert number_of_a_child(1) == "1"  # continued, although no new trial may begin
    with study.claimed(2) as trial:
        assert trial.number == 0
        study.finish(trial, "failed", reason="no luck")
    with study.claimed(2) as trial:
        assert trial.number == 1 and trial.continued
        study.finish(trial, "complete", score=0.5)
    with study.claimed(2) as trial:
        assert trial is None
    assert [(one["state"], one["reason"]) for one in results(study)["trials"]] == [
        ("failed", "no luck"),
        ("complete", ""),
    ]


@pytest.mark.parametrize(("pruning", "stops"), [("median", [False, True, True]), ("none", [False] * 3)])
def test_a_trial_below_the_median_is_stopped_after_a_quarter_of_its_epochs(tmp_path, pruning, stops):
    study = open_study(space_of(), tmp_path / "tune", pruning=pruning)
    for score in (0.2, 0.3, 0.4, 0.5, 0.6):
        with study.claimed(9) as trial:
            for epoch in (1, 2, 3):
                trial.report(epoch, score)
                assert not trial.should_stop()
            study.finish(trial, "complete", score=score)
    with study.claimed(9) as trial:  # the median is 0.4
        told = []
        for epoch, score in ((1, 0.1), (2, 0.39), (3, 0.39)):
            trial.report(epoch, score)
            told.append(trial.should_stop())
        assert told == stops
        study.finish(trial, "pruned")
    with study.claimed(9) as trial:
        trial.report(2, 0.41)
        assert not trial.should_stop()
        study.finish(trial, "complete", score=0.41)
    found = results(study)
    assert found["best"]["number"] == 4
    assert (found["trials"][5]["state"], found["trials"][5]["miou"]) == ("pruned", 0.39)
    assert found["trials"][5]["curve"] == [[1, 0.1], [2, 0.39], [3, 0.39]]


def test_the_important_field_is_the_one_on_which_scores_depend(tmp_path):
    study = open_study(space_of(), tmp_path / "tune")
    finish(study, [0.5])
    assert importance(study) == {}  # too few
    for _ in range(19):
        with study.claimed(99) as trial:
            study.finish(trial, "complete", score=0.5 + 0.1 * trial.values["loss.dice"])
    shares = importance(study)
    assert next(iter(shares)) == "loss.dice" and shares["loss.dice"] > 0.6
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("recipe", "space", "message"),
    [
        ({**RECIPE, "optim": {"lr": 2e-3}}, SPACE, "optim.lr: 0.001 in the study, 0.002 now"),
        ({**RECIPE, "data": {"root": "other"}}, SPACE, "data.root: .*data in the study, .*other now"),
        (RECIPE, {"loss.dice": {"choices": [0, 1]}}, "space, optim.lr.low: .*loss.dice.choices: .*|search space"),
    ],
)
def test_another_recipe_or_space_is_refused_with_the_difference(tmp_path, recipe, space, message):
    begun = open_study(space_of(), tmp_path / "tune")
    finish(open_study(space_of(), tmp_path / "tune"), [0.5])
    assert len(begun.trials()) == 1
    with pytest.raises(AtrousError, match=f"begun with another recipe or search space. .*{message}"):
        open_study(space_of(recipe, space), tmp_path / "tune")


def test_before_the_first_trial_everything_may_change(tmp_path):
    open_study(space_of(), tmp_path / "tune").record("examined", True)
    study = open_study(space_of({**RECIPE, "optim": {"lr": 2e-3}}), tmp_path / "tune")
    assert "examined" not in study.recorded()
    assert [one["optim.lr"] for one in finish(study, [0.5])] == [2e-3]


def test_what_does_not_change_the_trials_may_change(tmp_path):
    finish(open_study(space_of(), tmp_path / "tune"), [0.5])
    data = {"root": str(Path("data").resolve()), "workers": 5, "check": False}
    other = {**RECIPE, "name": "other", "data": data, "watch": {"tensorboard": False}}
    assert (
        open_study(space_of({**other, "train": {"epochs": 8, "device": "cpu"}}), tmp_path / "tune").best().value == 0.5
    )


def test_a_folder_and_a_database_belong_together(tmp_path):
    storage = f"sqlite:///{tmp_path / 'deep' / 'tune.db'}"
    finish(open_study(space_of(), tmp_path / "a" / "tune", storage), [0.5])
    open_study(space_of(), tmp_path / "a" / "second", storage)  # a second study in one database
    with pytest.raises(AtrousError, match=r"already has a study 'tune', whose trials are in .*a/tune: continue it"):
        open_study(space_of(), tmp_path / "b" / "tune", storage)
    with pytest.raises(AtrousError, match=r"trials of a study in another storage, sqlite:///.*deep/tune.db"):
        open_study(space_of(), tmp_path / "a" / "tune")
    (tmp_path / "a" / "tune").rename(tmp_path / "moved")
    assert len(open_study(space_of(), tmp_path / "moved", storage).trials()) == 1
    (tmp_path / "moved" / "study.json").write_text("{")
    with pytest.raises(AtrousError, match=r"study.json is damaged"):
        open_study(space_of(), tmp_path / "moved", storage)


@pytest.mark.parametrize("storage", ["tune.db", "nosuch://server/db", "postgresql://me:secret@127.0.0.1:9/db"])
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(tmp_path, storage):
    with pytest.raises(AtrousError, match=r"sqlite:///runs/tune\.db") as error:
        open_study(space_of(), tmp_path / "tune", storage)
    assert "secret" not in str(error.value)
