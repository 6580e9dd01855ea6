"""A study: the trials of a search in a database of Optuna, which several processes may share.

The folder of a trial has a lock. The process that works on the trial holds the lock, and the system releases it if the
process dies. So a trial that is not finished, and whose lock is free, was stopped; the next process continues it.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from atrous.console import console
from atrous.file_lock import lock_file
from atrous.learning.recipe import Recipe
from atrous.tuning.search_space import Choices, SearchSpace

#: Seconds between two attempts to get the study's lock, and until a message says that the process waits.
POLL, TELL_AFTER = 0.1, 3.0
#: Number of attempts to draw values that no trial has.
ATTEMPTS = 50


@dataclass
class Trial:
    """A trial on which this process works.

    Args:
        number: number of the trial, ≥ 0.
        folder: folder of its run.
        values: values of the searched fields, as plain numbers, texts and lists.
        recipe: recipe of the run.
        continued: whether another process worked on it before.
        handle: Optuna's object.
        reported: epochs whose scores are recorded.
        seconds: time that earlier processes spent on it.
    """

    number: int
    folder: Path
    values: Mapping[str, Any]
    recipe: Recipe
    continued: bool
    handle: Any
    reported: set[int] = field(default_factory=set)
    seconds: float = 0.0

    def report(self, epoch: int, score: float) -> None:
        """Records the mean IoU (0–1) after an epoch, unless one is recorded; NaN is not recorded."""
        if epoch not in self.reported and score == score:
            self.reported.add(epoch)
            self.handle.report(score, epoch)

    def should_stop(self) -> bool:
        """Returns whether the trial is worse than the median of the other trials at its last epoch."""
        return self.handle.should_prune()


@dataclass(frozen=True)
class Study:
    """The trials of a search.

    Args:
        optuna: Optuna's study.
        space: the search space with the recipe.
        out: folder of the study; trial 3 is the run OUT/trial_0003.
        storage: the database, as shown in messages.
    """

    optuna: Any
    space: SearchSpace
    out: Path
    storage: str

    def trials(self) -> list[Any]:
        """Returns Optuna's records of all trials that were begun, in the order of their numbers."""
        return [one for one in self.optuna.get_trials(deepcopy=False) if one.state.name != "WAITING"]

    def folder(self, number: int) -> Path:
        """Returns the folder of a trial's run."""
        return self.out / f"trial_{number:04d}"

    def values(self, trial: Any) -> dict[str, Any]:
        """Returns the values of a trial by field, in the order of the space."""
        return self.space.restored({name: trial.params[name] for name in self.space.axes if name in trial.params})

    def best(self) -> Any:
        """Returns Optuna's record of the completed trial with the best score, the first of equal ones; or None."""
        done = [one for one in self.trials() if one.state.name == "COMPLETE"]
        return max(done, key=lambda one: one.value, default=None)

    @contextmanager
    def claimed(self, most: int) -> Iterator[Trial | None]:
        """Gives a trial to this process: one that another process left unfinished, or a new one.

        Args:
            most: number of trials of the study; no new trial is begun beyond it.

        Yields:
            The trial, whose lock is held during the context; None if there is nothing left to do for this process.
        """
        with ExitStack() as stack:
            with alone(self.out):
                trial = self._unfinished(stack) or self._new(stack, most)
            yield trial

    def record(self, key: str, value: Any) -> None:
        """Stores a plain value with the study."""
        self.optuna.set_user_attr(key, value)

    def recorded(self) -> dict[str, Any]:
        """Returns the values stored by `record`."""
        return dict(self.optuna.user_attrs)

    def finish(self, trial: Trial, state: Literal["complete", "pruned", "failed"], **told: Any) -> None:
        """Records how a trial ended.

        Args:
            trial: the trial.
            state: the end.
            told: "score" of a complete trial, mean IoU (0–1); "reason" of a failed one, as a sentence.
        """
        from optuna.trial import TrialState

        if "reason" in told:
            trial.handle.set_user_attr("reason", told["reason"])
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        self.optuna.tell(trial.number, told.get("score"), states[state])

    def spent(self, trial: Trial, seconds: float) -> None:
        """Records the time that all processes have spent on a trial, in seconds."""
        trial.handle.set_user_attr("seconds", round(trial.seconds + seconds, 1))

    def _unfinished(self, stack: ExitStack) -> Trial | None:
        """Locks and returns the first unfinished trial on which no process works."""
        for one in self.trials():
            if one.state.name != "RUNNING":
                continue
            with ExitStack() as lock:
                if lock_folder(self.folder(one.number), lock):
                    now = self.optuna.get_trials(deepcopy=False)[one.number]
                    if now.state.name == "RUNNING":  # a process that finished it since has released the lock
                        stack.push(lock.pop_all())
                        return self._trial(now, continued=True)
        return None

    def _new(self, stack: ExitStack, most: int) -> Trial | None:
        """Begins, locks and returns a new trial; None if there are enough trials, or no further values."""
        if len(self.trials()) >= most:
            return None
        axes = distributions(self.space)
        if not self.optuna.get_trials(deepcopy=False, states=_states("WAITING")):
            values = self._new_values(axes)
            if values is None:
                return None
            self.optuna.enqueue_trial(values)
        number = self.optuna.ask(axes).number
        lock_folder(self.folder(number), stack)
        return self._trial(self.optuna.get_trials(deepcopy=False)[number], continued=False)

    def _new_values(self, axes: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns values that no trial has; None if there are no others.

        The values are drawn in a copy of the study. They depend only on the recipe's seed and on the earlier trials.
        """
        import optuna

        before = self.trials()
        known = [one.params for one in before]
        for attempt in range(ATTEMPTS):
            seed = (self.space.recipe.seed * 1_000_003 + len(before) * ATTEMPTS + attempt) % 2**32
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # multivariate sampling is marked as experimental
                sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
            copy = optuna.create_study(direction="maximize", sampler=sampler)
            copy.add_trials(before)
            values = copy.ask(dict(axes)).params
            if values not in known:
                return values
        untried = [one for one in self.space.combinations() or [] if one not in known]
        return random.Random(len(before)).choice(untried) if untried else None

    def _trial(self, frozen: Any, *, continued: bool) -> Trial:
        import optuna

        values = self.values(frozen)
        return Trial(
            frozen.number,
            self.folder(frozen.number),
            values,
            self.space.recipe_with(values),
            continued,
            optuna.trial.Trial(self.optuna, frozen._trial_id),
            set(frozen.intermediate_values),
            float(frozen.user_attrs.get("seconds", 0.0)),
        )


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Waits until no other process changes the study of this folder, and keeps others out during the context."""
    started, told = time.monotonic(), False
    while True:
        with lock_file(out / "study.lock") as locked:
            if locked:
                yield
                return
        if not told and time.monotonic() - started > TELL_AFTER:
            console.print("waiting for another process of this study, which examines the data or begins a trial")
            told = True
        time.sleep(POLL)


def lock_folder(folder: Path, stack: ExitStack) -> bool:
    """Locks the folder of a run until a stack ends; returns False if another process holds the lock.

    Args:
        folder: the folder, created if missing.
        stack: the stack, which is not changed if the result is False.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as lock:
        if lock.enter_context(lock_file(folder / "lock")):
            stack.push(lock.pop_all())
            return True
    return False


def once(study: Study, key: str, work: Callable[[], None]) -> None:
    """Does work once per study; other processes wait until it is done.

    Args:
        study: the study.
        key: name of the work in the study's record.
        work: function that does the work; if it raises an error, the work counts as not done.
    """
    with alone(study.out):
        if not study.recorded().get(key):
            work()
            study.record(key, True)


def distributions(space: SearchSpace) -> dict[str, Any]:
    """Returns Optuna's distribution of each field of a space."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for name, axis in space.axes.items():
        if isinstance(axis, Choices):
            found[name] = CategoricalDistribution([space.stored({name: value})[name] for value in axis.values])
        elif axis.whole:
            found[name] = IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
        else:
            found[name] = FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)
    return found


def _states(*names: str) -> tuple[Any, ...]:
    from optuna.trial import TrialState

    return tuple(TrialState[name] for name in names)
