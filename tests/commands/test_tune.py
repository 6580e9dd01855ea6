"""`atrous tune` on real data: its trials, their continuation, and what it writes."""

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from atrous.cli import main
from atrous.commands.tune import tune
from atrous.errors import AtrousError
from atrous.learning.fit import fit
from atrous.learning.recipe import read_recipe, write_recipe

pytest.importorskip("optuna", reason="the extra tune is not installed")

SPACE = {
    "optim.lr": {"low": 1e-4, "high": 0.1, "log": True},
    "augment.crop": {"choices": [[40, 48], [32, 40]]},
    "schedule.name": {"choices": ["poly", "cosine"]},
}


def space_file(folder: Path, space=SPACE) -> Path:
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    return folder / "space.yaml"


def validations(run: Path) -> list[dict]:
    """What a run measured, without times."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{**one, "seconds": 0} for one in records if one["kind"] == "val"]


@pytest.fixture(scope="module")
def searched(tiny, tmp_path_factory) -> tuple[Path, dict, dict]:
    """A study of three trials in its folder, its results, and the content of its JSON file."""
    place = tmp_path_factory.mktemp("search")
    recipe = tiny(data__check=True, watch={"tensorboard": False})
    found = tune(recipe, search=space_file(place), out=place / "tune", trials=3, json=place / "tune.json")
    return place / "tune", found, json.loads((place / "tune.json").read_text())


def test_every_trial_is_a_run_and_the_first_is_that_of_the_recipe(searched, tiny):
    out, found, written = searched
    assert [one["state"] for one in found["trials"]] == ["complete"] * 3
    assert found["trials"][0]["values"] == {"optim.lr": 0.01, "augment.crop": [40, 48], "schedule.name": "poly"}
    for number, one in enumerate(found["trials"]):
        run = out / f"trial_{number:04d}"
        assert one["run"] == str(run) and one["number"] == number
        assert max(line["miou"] for line in validations(run)) == one["miou"] == one["curve"][-1][1]
        config = read_recipe(run / "config.yaml")
        assert config.optim.lr == one["values"]["optim.lr"]
        assert list(config.augment.crop or ()) == one["values"]["augment.crop"]
        assert config.data.check is False  # the data were examined once, for all
        assert (run / "best.safetensors").is_file() and not (run / "doctor.json").exists()
    assert json.loads((out / "doctor.json").read_text())["written_by"] == "atrous"
    assert {key: value for key, value in written.items() if key != "written_by"} == found
    assert found["best"]["miou"] == max(one["miou"] for one in found["trials"])


def test_the_best_recipe_trains(searched, tmp_path):
    out, found, _ = searched
    best = read_recipe(out / "best.yaml")
    assert (best.optim.lr, best.schedule.name) == tuple(
        found["best"]["values"][key] for key in ("optim.lr", "schedule.name")
    )
    assert best.data.check is True
    run = fit(read_recipe(out / "best.yaml", {"data.check": False}), tmp_path / "run").run
    assert validations(run) == validations(Path(found["best"]["run"]))


def test_the_page_shows_all_trials_without_a_script(searched):
    out, found, _ = searched
    page = (out / "tune.html").read_text(encoding="utf-8")
    assert re.findall(r'data-trial="(\d+)"', page) != []
    assert {int(number) for number in re.findall(r'data-trial="(\d+)"', page)} == {0, 1, 2}
    assert page.count('<circle class="dot"') == 3
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    said = unescape(page)
    for one in found["trials"]:
        assert f"trial {one['number']}, complete: {100 * one['miou']:.1f} %" in said
    assert all(name in page for name in SPACE)
    assert "--confirm 3" in page


def test_the_same_command_continues_the_study(searched, tiny, tmp_path, capsys):
    out, found, _ = searched
    recipe, space = tiny(data__check=True, watch={"tensorboard": False}), out.parent / "space.yaml"
    before = (out / "trial_0002" / "metrics.jsonl").read_text()
    again = tune(recipe, search=space, out=out, trials=2)
    assert again == found and (out / "trial_0002" / "metrics.jsonl").read_text() == before
    said = capsys.readouterr().out
    assert "3 trials: 3 complete" in said and "examin" not in said
    assert tune(recipe, search=space, out=out, trials=9, minutes=1e-9) == found  # no time for a new one
    with pytest.raises(AtrousError, match=r"optim\.lr: 0\.01 in the study, 0\.02 now"):
        tune(tiny(data__check=True, optim__lr=0.02), search=space, out=out)


@pytest.mark.slow
def test_fresh_seeds_measure_the_recipe_and_the_best(tiny, tmp_path, capsys):
    recipe = tiny(watch={"tensorboard": False}, schedule={"warmup": 0.0}, train__epochs=2)
    space = space_file(tmp_path, {"optim.lr": {"choices": [0.01, 1e-9]}})
    found = tune(tiny(optim__lr=1e-9, watch={"tensorboard": False}), search=space, out=tmp_path / "tune", confirm=2)
    assert [one["state"] for one in found["trials"]] == ["complete"] * 2
    by_trial = {one["trial"]: one for one in found["confirmed"]}
    assert by_trial.keys() == {0, found["best"]["number"]}
    for trial, one in by_trial.items():
        assert [score["seed"] for score in one["scores"]] == [1, 2]
        scores = [score["miou"] for score in one["scores"]]
        assert (one["low"], one["high"], one["mean"]) == (min(scores), max(scores), sum(scores) / 2)
        for score in one["scores"]:
            run = tmp_path / "tune" / "confirm" / f"trial_{trial:04d}_seed_{score['seed']}"
            assert read_recipe(run / "config.yaml").seed == score["seed"]
            assert max(line["miou"] for line in validations(run)) == score["miou"]
    said = capsys.readouterr().out
    assert "the recipe with 2 fresh seeds: mean" in said and "all combinations of the search space are tried" in said
    assert "With fresh seeds" in (tmp_path / "tune" / "tune.html").read_text()
    assert recipe.seed == 0


def test_a_trial_that_diverges_is_failed_and_the_study_goes_on(tiny, tmp_path, capsys):
    optim = {"name": "sgd", "clip": 0.0, "lr": 0.01}
    recipe = tiny(optim=optim, schedule={"warmup": 0.0}, train__batch_size=2, watch={"tensorboard": False})
    space = space_file(tmp_path, {"optim.lr": {"choices": [0.01, 1e30]}})
    found = tune(recipe, search=space, out=tmp_path / "tune")
    assert [one["state"] for one in found["trials"]] == ["complete", "failed"]
    failed = found["trials"][1]
    assert re.fullmatch(r"the (loss|gradient) became (nan|inf) in epoch 1", failed["reason"])
    assert failed["miou"] is None and found["best"]["number"] == 0
    page, said = (tmp_path / "tune" / "tune.html").read_text(), capsys.readouterr().out
    assert failed["reason"] in page and f"trial 1: failed: {failed['reason']}" in said


@pytest.mark.slow
def test_a_search_in_which_every_trial_fails_stops_with_the_reason(tiny, tmp_path):
    crops = [[20, 20 + index] for index in range(8)]  # too small for batch norm on one picture
    recipe = tiny(augment__crop=crops[0], train__batch_size=1, watch={"tensorboard": False})
    with pytest.raises(AtrousError, match=r"the last 5 trials failed, the last one because .*one picture"):
        tune(recipe, search=space_file(tmp_path, {"augment.crop": {"choices": crops}}), out=tmp_path / "tune")
    assert "one picture" in (tmp_path / "tune" / "tune.html").read_text()
    assert not (tmp_path / "tune" / "best.yaml").exists()


def test_a_trial_that_the_time_stopped_is_continued_to_the_bit(tiny, tmp_path, capsys):
    arguments = {"aspp_channels": 16, "low_channels": 8, "dropout": 0.5}
    recipe = tiny(train__epochs=2, model__arguments=arguments, watch={"tensorboard": False})
    space, out = space_file(tmp_path), tmp_path / "tune"
    found = tune(recipe, search=space, out=out, trials=1, minutes=1e-4)
    assert (found["trials"][0]["state"], found["trials"][0]["epochs"]) == ("unfinished", 1)
    assert "the next call continues it" in capsys.readouterr().out
    found = tune(recipe, search=space, out=out, trials=1)
    assert (found["trials"][0]["state"], found["trials"][0]["epochs"]) == ("complete", 2)
    assert "trial 0 (1 of 1) goes on" in capsys.readouterr().out
    whole = fit(recipe, tmp_path / "whole").run
    assert validations(whole) == validations(out / "trial_0000")
    one, other = (load_file(run / "checkpoints" / "last.safetensors") for run in (whole, out / "trial_0000"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["tune", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_wrong_usage(tiny, tmp_path, capsys, monkeypatch):
    write_recipe(tiny(), tmp_path / "recipe.yaml")
    recipe, space, out = tmp_path / "recipe.yaml", space_file(tmp_path), tmp_path / "tune"
    assert "no search space given" in refused(capsys, recipe)
    words = [recipe, "--search", space, "--out", out]
    assert "trials must be 0 or more" in refused(capsys, *words, "--trials", "-1")
    assert "pruning must be one of median, none" in refused(capsys, *words, "--pruning", "mean")
    assert "named like a file" in refused(capsys, recipe, "--search", space, "--out", tmp_path / "tune.html")
    assert "unknown flag '--optim.lrr'" in refused(capsys, *words, "--optim.lrr", "1")
    assert "own value of optim.lr, 0.5, is not in the search space" in refused(capsys, *words, "--optim.lr", "0.5")
    assert "no data given" in refused(capsys, *words, "--data.root", "", "--data.check", "true")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start the same command several times" in refused(capsys, *words)
    monkeypatch.delenv("WORLD_SIZE")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "best.yaml").write_text("name: precious")
    assert "did not write" in refused(capsys, recipe, "--search", space, "--out", tmp_path / "mine")


#: Runs the search in forked processes: one is interrupted, one is killed, two then work at the same time.
DRIVER = """
import json, os, signal, sys, time
from pathlib import Path
import atrous.commands.tune, atrous.learning.recipe, optuna, sqlalchemy.dialects.sqlite
from atrous.cli import main

recipe, space, place = sys.argv[1:4]

def begin(out, trials=4):
    child = os.fork()
    if not child:
        words = ["tune", recipe, "--search", space, "--out", f"{place}/{out}", "--trials", str(trials)]
        os._exit(main([*words, "--storage", f"sqlite:///{place}/{out}.db"]))
    return child

def wait_for_epoch(number, epoch):
    path = Path(place, "tune", f"trial_{number:04d}", "metrics.jsonl")
    while not path.is_file() or path.read_text().count('"kind": "val"') < epoch:
        time.sleep(0.002)

def status(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

child = begin("tune")
wait_for_epoch(0, 2)
os.kill(child, signal.SIGINT)
print("STATUS", status(child), flush=True)
child = begin("tune")
wait_for_epoch(1, 1)
os.kill(child, signal.SIGKILL)
print("STATUS", status(child), flush=True)
for child in [begin("tune"), begin("tune")]:
    print("STATUS", status(child), flush=True)
print("STATUS", status(begin("whole")), flush=True)
"""


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.needs("fork")
def test_killed_and_shared_by_two_processes_it_is_the_uninterrupted_search(tiny, tmp_path):
    arguments = {"aspp_channels": 16, "low_channels": 8, "dropout": 0.5}
    recipe = tiny(train__epochs=4, train__batch_size=2, model__arguments=arguments, watch={"tensorboard": False})
    write_recipe(recipe, tmp_path / "recipe.yaml")
    words = [sys.executable, "-c", DRIVER, tmp_path / "recipe.yaml", space_file(tmp_path), tmp_path]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, timeout=1200)
    assert re.findall(r"STATUS (-?\d+)", done.stdout) == ["130", "-9", "0", "0", "0"], done.stdout + done.stderr
    assert "To continue the study, give the same command" in done.stderr

    for number in range(4):
        one, other = (tmp_path / name / f"trial_{number:04d}" for name in ("tune", "whole"))
        assert validations(one) == validations(other)
        assert [line["epoch"] for line in validations(one)] == [1, 2, 3, 4]
        for file in ("checkpoints/last.safetensors", "best.safetensors"):
            mine, theirs = load_file(one / file), load_file(other / file)
            assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
        begun = re.findall(rf"trial {number} \(\d of 4\) begins", done.stdout)
        assert len(begun) == 2  # once in each of the two studies
    assert not (tmp_path / "tune" / "trial_0004").exists()
