"""Runs one trial of a study: a training run that reports its scores, and may be stopped early or continued later."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from atrous.errors import AtrousError
from atrous.learning.checkpoint import checkpoint_of
from atrous.learning.divergence import Diverged
from atrous.learning.fit import Result, fit
from atrous.learning.recipe import Recipe
from atrous.learning.trainer import Observe, Progress
from atrous.run_folder import is_finite, read_metrics
from atrous.tuning.study import Study, Trial

#: How a trial ended; "unfinished" is continued by a later call.
End = Literal["complete", "pruned", "failed", "unfinished"]


@dataclass(frozen=True)
class Ending:
    """The end of a trial.

    Args:
        state: how it ended.
        score: best mean IoU on the validation split, 0–1; None without a score.
        reason: why it failed; "" if it did not.
    """

    state: End
    score: float | None = None
    reason: str = ""


def run_trial(study: Study, trial: Trial, until: float) -> Ending:
    """Trains a trial from its start or from its checkpoint, and records its end.

    A run that fails is recorded as failed, with the reason; it raises no error.

    Args:
        study: the study.
        trial: the trial, which this process has claimed.
        until: time of `time.monotonic` after which the run is stopped at its next validation, to be continued later.

    Raises:
        Interrupted: a signal stopped the run after its state was saved; the trial stays unfinished.
    """
    started, told = time.monotonic(), list[End]()
    _report_earlier(trial)

    def observe(progress: Progress, score: float) -> bool:
        trial.report(progress.epochs_begun, score)
        if progress.epoch >= trial.recipe.train.epochs:
            return False
        if trial.should_stop():
            told.append("pruned")
        elif time.monotonic() > until:
            told.append("unfinished")
        return bool(told)

    try:
        result = train_or_resume(trial.recipe, trial.folder, observe)
    except Diverged as error:
        ending = Ending("failed", reason=f"the {error.what} became {error.value} in epoch {error.epoch}")
    except Exception as error:  # whatever the values do to the training, the other trials go on
        ending = Ending("failed", reason=str(error) if isinstance(error, AtrousError) else repr(error))
    else:
        ending = _ending(result, told)
    finally:
        study.spent(trial, time.monotonic() - started)
    if ending.state == "complete":
        study.finish(trial, "complete", score=ending.score)
    elif ending.state == "failed":
        study.finish(trial, "failed", reason=ending.reason)
    elif ending.state == "pruned":
        study.finish(trial, "pruned")
    return ending


def train_or_resume(recipe: Recipe, folder: Path, observe: Observe | None = None) -> Result:
    """Trains in a folder; a run that was stopped there is continued to the bit.

    The data are not examined, because this is done once for all trials.

    Args:
        recipe: recipe of the run.
        folder: folder of the run.
        observe: see `fit`.
    """
    recipe = replace(recipe, data=replace(recipe.data, check=False))
    if checkpoint_of(folder).is_file():
        return fit(recipe, resume=folder, observe=observe)
    return fit(recipe, folder, observe=observe)


def _ending(result: Result, told: list[End]) -> Ending:
    if result.ended == "observe":
        return Ending(told[-1], result.score)
    if not is_finite(result.score):
        return Ending("failed", reason=f"the mean IoU on the validation split is {result.score}")
    return Ending("complete", result.score)


def _report_earlier(trial: Trial) -> None:
    """Reports the scores of an earlier process that was killed before it reported them."""
    metrics = trial.folder / "metrics.jsonl"
    for line in read_metrics(metrics) if metrics.is_file() else []:
        if line["kind"] == "val" and is_finite(line.get("miou")) and isinstance(line.get("epoch"), int):
            trial.report(line["epoch"], line["miou"])
