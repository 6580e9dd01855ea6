"""Trains the recipe and the best trial of a study again with fresh seeds, because the best of many scores is biased."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from rich.markup import escape

from atrous.console import console
from atrous.errors import AtrousError
from atrous.tuning.study import Study, alone, lock_folder
from atrous.tuning.trial_run import train_or_resume

#: Seconds between two looks at the runs of other processes.
WAIT = 1.0


@dataclass(frozen=True)
class FreshRun:
    """A training run of a trial's recipe with another seed.

    Args:
        trial: number of the trial.
        seed: the seed.
    """

    trial: int
    seed: int

    @property
    def key(self) -> str:
        """The name of its score in the study's record, and of its folder."""
        return f"trial_{self.trial:04d}_seed_{self.seed}"


@dataclass(frozen=True)
class FreshScores:
    """Scores of one recipe with fresh seeds.

    Args:
        trial: number of the trial with the recipe.
        scores: best mean IoU of each run on the validation split, 0–1, by seed.
    """

    trial: int
    scores: dict[int, float]

    @property
    def mean(self) -> float:
        """The mean of the scores."""
        return fmean(self.scores.values())


def fresh_runs(study: Study, seeds: int) -> list[FreshRun]:
    """Returns the runs that confirm a study: trial 0, which is the recipe itself, and the best trial.

    Args:
        study: the study.
        seeds: number of seeds for each, ≥ 1; they follow the recipe's seed.
    """
    best = study.best()
    trials = [] if best is None else sorted({0, best.number})
    first = study.space.recipe.seed + 1
    return [FreshRun(trial, (first + index) % 2**32) for index in range(seeds) for trial in trials]


def confirm(study: Study, runs: list[FreshRun], say: Callable[[FreshRun, int], None]) -> None:
    """Trains each run that has no score yet; several processes share the runs, and stopped runs are continued.

    Args:
        study: the study.
        runs: the runs.
        say: called before each training with the run and the number of runs without a score.

    A run that fails has no score; its reason is printed.

    Raises:
        Interrupted: a signal stopped the run after its state was saved.
    """
    while waiting := [run for run in runs if run.key not in study.recorded()]:
        with _claimed(study, waiting) as run:
            if run is None:
                time.sleep(WAIT)
                continue
            say(run, len(waiting))
            values = study.values(study.trials()[run.trial])
            recipe = replace(study.space.recipe_with(values), seed=run.seed)
            try:
                score = train_or_resume(recipe, folder_of(study, run)).score
            except AtrousError as error:
                console.print(f"the run {run.key} failed: {escape(str(error))}")
                score = None
            study.record(run.key, score)


def folder_of(study: Study, run: FreshRun) -> Path:
    """Returns the folder of a run with a fresh seed."""
    return study.out / "confirm" / run.key


def fresh_scores(study: Study) -> list[FreshScores]:
    """Returns the scores with fresh seeds of trial 0 and of the best trial, as far as there are any."""
    best, record = study.best(), study.recorded()
    found = []
    for trial in [] if best is None else sorted({0, best.number}):
        prefix = FreshRun(trial, 0).key.removesuffix("0")
        scores = {int(key.removeprefix(prefix)): score for key, score in record.items() if key.startswith(prefix)}
        scores = {seed: scores[seed] for seed in sorted(scores) if scores[seed] is not None}
        if scores:
            found.append(FreshScores(trial, scores))
    return found


@contextmanager
def _claimed(study: Study, runs: list[FreshRun]) -> Iterator[FreshRun | None]:
    """Locks and yields the first run without a score on which no process works; None if there is none."""
    with ExitStack() as stack:
        with alone(study.out):
            found = next((run for run in runs if _lock(study, run, stack)), None)
        yield found


def _lock(study: Study, run: FreshRun, stack: ExitStack) -> bool:
    """Locks the folder of a run until a stack ends; False if the run has a score, or another process works on it."""
    with ExitStack() as lock:
        if not lock_folder(folder_of(study, run), lock) or run.key in study.recorded():
            return False
        stack.push(lock.pop_all())
    return True
