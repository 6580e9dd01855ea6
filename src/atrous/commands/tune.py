"""`atrous tune`: search for better values of a recipe's fields.

Examples:
    atrous tune quickstart --data.root data/ --search space.yaml --minutes 50
    atrous tune mine.yaml --search space.yaml --trials 30 --out runs/tune
    atrous tune mine.yaml --search space.yaml --out runs/tune --confirm 3
"""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape

from atrous.atomic_write import write_text
from atrous.checked_arguments import checked
from atrous.commands._html_page import duration, percent
from atrous.commands._tune_page import render_study
from atrous.console import console, notes_once, told_if_interrupted, write_json
from atrous.errors import AtrousError, counted
from atrous.learning.recipe import Recipe, write_recipe
from atrous.learning.training_data import examined
from atrous.overwrite_checks import (
    Output,
    check_is_folder,
    check_outputs,
    is_our_json,
    is_our_recipe,
    json_output,
    page_output,
    save_json,
)
from atrous.tuning.confirmation import FreshRun, confirm, fresh_runs
from atrous.tuning.open_study import STUDY_FILE, Pruning, open_study
from atrous.tuning.results import best_recipe, results
from atrous.tuning.search_space import SearchSpace, in_words, read_search_space
from atrous.tuning.study import Study, Trial, once
from atrous.tuning.trial_run import Ending, run_trial

#: Number of failed trials in succession after which a search stops, because something else is wrong.
MOST_FAILURES = 5


@checked
def tune(
    recipe: Recipe,
    *,
    search: Path | None = None,
    out: Path | None = None,
    trials: int = 30,
    minutes: float = 0.0,
    storage: str | None = None,
    pruning: Literal["median", "none"] = "median",
    confirm: int = 0,
    on: str | None = None,
    processes: int = 1,
    json: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Search for values of a recipe's fields with a higher mean IoU on the validation split.

    Each trial is a training run of the recipe with other values, in the folder trial_0000, trial_0001 … of the study.
    Trial 0 has the recipe's own values. The same command continues a study that was stopped: unfinished trials go on
    from their checkpoints. Several processes may run the same command at the same time, and share the trials.

    After each trial, the search writes best.yaml (the best recipe, which train takes) and tune.html, a page with all
    trials. The score of the best trial is too high, because it is the best of many; --confirm measures it without this
    bias.

    Args:
        recipe: recipe with the data, the model and all settings; every field can also be given on the command line.
        search: YAML file with the fields to search, each with a range or with choices, such as optim.lr: {low:
            0.0001, high: 0.01, log: true}.
        out: folder of the study; by default runs/NAME-tune with the name of the recipe.
        trials: number of trials of the study, counting those of earlier calls and other processes, ≥ 0.
        minutes: longest time of the search in this call, in minutes; 0 is no limit. A trial that is running then is
            stopped at its next validation, and the next call continues it.
        storage: database of the study, a URL such as sqlite:///runs/tune.db; by default the file study.db in the
            study's folder.
        pruning: how trials are stopped early; median stops a trial after a quarter of its epochs if its best score is
            below the median of the other trials at the same epoch.
        confirm: number of fresh seeds with which the recipe and the best trial are trained again after the search; 0
            trains none.
        on: cluster to run on: ray for the Ray cluster of RAY_ADDRESS, or else of this machine. All nodes must reach the
            inputs and outputs under the same paths or URLs.
        processes: number of processes on the cluster of --on, ≥ 1; each uses one GPU, or an equal part of the cores if
            the cluster has no GPUs.
        json: JSON file to write the results to.
        overwrite: in the study's folder, also replace files that atrous did not write.

    Returns:
        The results, as written by --json: "trials", "best", "importance", "confirmed" and the settings of the study.

    Raises:
        AtrousError: the search space or the data are unusable (the message lists every problem), the study was begun
            with another recipe or space, or every trial fails.
    """
    if search is None:
        raise AtrousError("no search space given: give a YAML file with the fields to search as --search FILE.")
    for name, value in (("trials", trials), ("minutes", minutes), ("confirm", confirm)):
        if not 0 <= value < math.inf:
            raise AtrousError(f"{name} must be 0 or more, got {value}.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise AtrousError("tune runs in one process: instead of torchrun, start the same command several times.")
    if processes < 1 or (on is None and processes != 1):
        raise AtrousError(
            f"processes is {processes}: give 1 or more together with --on; on one machine, start the same command "
            "several times."
        )
    space = read_search_space(search, recipe)
    out = out or Path("runs") / f"{recipe.name}-tune"
    check_is_folder("out", out)
    data = Path(recipe.data.root) if recipe.data.root else None
    if data is not None and data.is_dir() and out.is_dir() and out.samefile(data):
        raise AtrousError(f"out is {out}, the folder of the data set: give another --out.")
    inputs = [("the search space", search), ("the model to start from", recipe.model.init), ("the data set", data)]
    check_outputs("tune", [*_outputs(out), json_output("json", json)], inputs, overwrite=overwrite)
    with notes_once():
        study = open_study(space, out, storage, pruning)
        if recipe.data.check:
            once(study, "examined", lambda: save_json(examined(recipe)[1], out / "doctor.json"))
        again = f"atrous tune … --out {shlex.quote(str(out))}"
        with told_if_interrupted(lambda: f"{_write(study)} To continue the study, give the same command: {again}"):
            # a clock time, because processes of a cluster may start later
            until = time.time() + 60 * minutes if minutes else math.inf
            if on is None:
                _work(study, trials, until, confirm)
            else:
                work = partial(_work_in_cluster, space, out, storage, pruning, trials, until, confirm)
                _work_on_cluster(on, work, out, recipe, processes)
    found = results(study)
    _write(study)
    _print(found)
    if json is not None:
        write_json(found, json)
    return found


def _outputs(out: Path) -> list[Output | None]:
    return [
        Output("out", out / "best.yaml", "recipe", is_our_recipe, out),
        Output("out", out / "doctor.json", "JSON file", is_our_json, out),
        Output("out", out / STUDY_FILE, "JSON file", is_our_json, out),
        page_output("out", out / "tune.html"),
    ]


def _work_in_cluster(
    space: SearchSpace, out: Path, storage: str | None, pruning: Pruning, trials: int, until: float, seeds: int
) -> None:
    """Runs trials in a process of a cluster, which opens the study itself; see `_work`."""
    _work(open_study(space, out, storage, pruning), trials, until, seeds, wait=True)


def _work(study: Study, trials: int, until: float, seeds: int, *, wait: bool = False) -> None:
    """Runs trials of a study, and then those with fresh seeds, until none is left for this process.

    Args:
        study: the study.
        trials: number of trials of the study.
        until: clock time, as of `time.time`, at which the search ends.
        seeds: number of fresh seeds.
        wait: whether to wait for the trials of other processes, and to continue those of a process that is lost.
    """
    left = time.monotonic() + until - time.time()
    _search(study, trials, left)
    if wait:
        _finish_others(study, left)
    if seeds:
        _confirm(study, seeds)


def _work_on_cluster(on: str, work: Callable[[], object], out: Path, recipe: Recipe, processes: int) -> None:
    from atrous.cluster.train_on_ray import Processes  # Ray is an extra
    from atrous.cluster.tune_on_ray import tune_on_ray

    tune_on_ray(on, work, out, Processes(processes, processes, recipe.train.device, recipe.data.workers))


def _search(study: Study, most: int, until: float) -> None:
    """Runs trials until there are enough of them, or the time is over."""
    failures = 0
    while time.monotonic() < until:
        with study.claimed(most) as trial:
            if trial is None:
                break
            _say_start(study, trial, most, until)
            ending = run_trial(study, trial, until)
        _say_end(trial, ending)
        _write(study)
        failures = failures + 1 if ending.state == "failed" else 0
        if failures >= MOST_FAILURES:
            raise AtrousError(f"the last {failures} trials failed, the last one because {ending.reason}")
    if len(study.trials()) < most and time.monotonic() < until:
        console.print("all combinations of the search space are tried.")


def _say_start(study: Study, trial: Trial, most: int, until: float) -> None:
    begun = study.trials()
    times = [one.user_attrs.get("seconds", 0.0) for one in begun if one.state.name in ("COMPLETE", "PRUNED")]
    working = max(1, sum(one.state.name == "RUNNING" for one in begun))
    left = max(0, most - len(begun)) / working + 1
    remaining = [sum(times) / len(times) * left] if times else []
    remaining += [until - time.monotonic()] if until < math.inf else []
    eta = f"; about {duration(min(remaining))} left" if remaining else ""
    how = "goes on" if trial.continued else "begins"
    count = f"{trial.number + 1} of {max(most, len(begun))}"
    console.print(f"\ntrial {trial.number} ({count}) {how}: {escape(in_words(trial.values))}{eta}")


def _say_end(trial: Trial, ending: Ending) -> None:
    words = {
        "complete": f"mean IoU {percent(ending.score)} %",
        "pruned": f"stopped early: below the median of the other trials (best mean IoU {percent(ending.score)} %)",
        "failed": f"failed: {ending.reason}",
        "unfinished": "stopped, because the time is over; the next call continues it",
    }
    console.print(f"trial {trial.number}: {escape(words[ending.state])}")


def _finish_others(study: Study, until: float) -> None:
    """Waits for the trials of other processes, and continues those of a process that died or whose time was over."""
    while time.monotonic() < until and any(one.state.name == "RUNNING" for one in study.trials()):
        with study.claimed(0) as trial:
            if trial is None:
                time.sleep(1)
                continue
            run_trial(study, trial, until)


def _confirm(study: Study, seeds: int) -> None:
    """Trains the recipe and the best trial with fresh seeds."""
    _finish_others(study, math.inf)
    times = [one.user_attrs.get("seconds", 0.0) for one in study.trials() if one.state.name == "COMPLETE"]

    def say(run: FreshRun, left: int) -> None:
        name = "the recipe" if run.trial == 0 else f"trial {run.trial}, the best,"
        remaining = duration(left * sum(times) / len(times))
        console.print(f"\n{name} with seed {run.seed}: {counted(left, 'run')} left, about {remaining}")

    confirm(study, fresh_runs(study, seeds), say)


def _write(study: Study) -> str:
    """Writes best.yaml and tune.html, and returns a sentence that names them."""
    recipe, page = best_recipe(study), study.out / "tune.html"
    if recipe is not None:
        write_recipe(recipe, study.out / "best.yaml")
    write_text(page, render_study(results(study)))
    return f"The results so far are in {page}."


def _print(found: dict[str, Any]) -> None:
    """Prints the best trial, and its score with fresh seeds beside that of the recipe."""
    states = [trial["state"] for trial in found["trials"]]
    parts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    console.print(f"\n{counted(len(states), 'trial')}: {', '.join(parts)}")
    best = found["best"]
    if best is None:
        console.print("no trial is complete yet, so there is no best recipe.")
        return
    first = found["trials"][0]
    console.print(
        f"best: trial {best['number']}, mean IoU {percent(best['miou'])} % on {escape(found['split'])}: "
        f"{escape(in_words(best['values']))}"
    )
    console.print(f"its model: {escape(str(Path(best['run']) / 'best.safetensors'))}")
    if first["miou"] is not None and best["number"] != 0:
        console.print(f"the recipe's own values, trial 0: {percent(first['miou'])} %")
    for one in found["confirmed"]:
        name = "the recipe" if one["trial"] == 0 else f"trial {one['trial']}"
        console.print(
            f"{name} with {counted(len(one['scores']), 'fresh seed')}: mean {percent(one['mean'])} %, "
            f"{percent(one['low'])}–{percent(one['high'])} %"
        )
    if not found["confirmed"]:
        console.print(
            f"The score of the best trial is the best of {len(states)}, and therefore too high: --confirm 3 measures "
            "it with fresh seeds."
        )
    for name in ("best.yaml", "tune.html"):
        console.print(f"written: {escape(str(Path(found['out']) / name))}")
