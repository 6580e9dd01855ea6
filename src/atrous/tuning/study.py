"""A study: the trials of a search in a database of Optuna, which several processes may share.

The folder of a trial has a lock. The process that works on the trial holds the lock, and the system releases it if the
process dies. So a trial that is not finished, and whose lock is free, was stopped; the next process continues it.
"""

from __future__ import annotations

import json
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from atrous.console import console
from atrous.errors import AtrousError, missing_extra, shown
from atrous.file_lock import lock_file
from atrous.json_yaml import read_json
from atrous.learning.recipe import Recipe, recipe_record
from atrous.overwrite_checks import save_json
from atrous.paths import is_url, shown_place
from atrous.tuning.search_space import Choices, SearchSpace, differences, value_in_words

#: File in the folder of a study that names the study.
STUDY_FILE = "study.json"
#: Key of the study's own record in the database.
KEY = "atrous"
#: Fields of a recipe that may change from call to call, because the trials do not depend on them.
FREE = ("name", "watch", "data.workers", "data.check", "train.device")
#: Seconds between two attempts to get the study's lock, and until a message says that the process waits.
POLL, TELL_AFTER = 0.1, 3.0
#: Number of attempts to draw values that no trial has.
ATTEMPTS = 50
#: Number of finished trials before the first is pruned, as Optuna's MedianPruner.
BEFORE_PRUNING = 5

Pruning = Literal["median", "none"]


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
            if one.state.name == "RUNNING" and lock_folder(self.folder(one.number), stack):
                return self._trial(one, continued=True)
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
        """Returns values that no trial has; None if there seem to be no others.

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
        return None

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


def open_study(space: SearchSpace, out: Path, storage: str | None = None, pruning: Pruning = "median") -> Study:
    """Opens the study of a folder, or creates it with the recipe's own values as its first trial.

    Args:
        space: the search space with the recipe; both must be those of an existing study.
        out: folder of the study, created if missing.
        storage: URL of a database for SQLAlchemy, such as sqlite:///runs/tune.db; None for study.db in the folder.
        pruning: how trials are stopped early; median stops a trial whose best score so far is below the median of the
            other trials at the same epoch.

    Raises:
        AtrousError: the extra tune is not installed, the database cannot be opened, the folder or the database belongs
            to another study, or the recipe or the space differs from that of the study; the message lists the
            differences.
    """
    try:
        import optuna
    except ImportError as error:
        raise missing_extra("optuna", "tune") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = f"sqlite:///{out / 'study.db'}" if storage is None else storage
    if not is_url(url):
        raise AtrousError(f"storage must be the URL of a database, such as sqlite:///runs/tune.db, got {shown(url)}.")
    warmup = max(1, space.recipe.train.epochs // 4)
    pruner: Any = optuna.pruners.NopPruner()
    if pruning == "median":
        pruner = optuna.pruners.MedianPruner(BEFORE_PRUNING, warmup)
    out.mkdir(parents=True, exist_ok=True)
    with alone(out):
        opened = _storage(url)
        name, own = _name_of(out)
        names = optuna.study.get_all_study_names(opened)
        found = optuna.load_study(study_name=name, storage=opened, pruner=pruner) if name in names else None
        recorded = {} if found is None else found.user_attrs.get(KEY, {})
        _check_owner(out, shown_place(url), name, own, found, recorded)
        if found is None:
            found = optuna.create_study(study_name=name, storage=opened, pruner=pruner, direction="maximize")
        if not recorded:
            found.enqueue_trial(space.stored(space.own_values()), skip_if_exists=True)
            recorded = {"id": uuid.uuid4().hex, "out": str(out.resolve()), **_compared(space)}
            found.set_user_attr(KEY, recorded)
        _check_same(name, recorded, _compared(space))
        if own is None:
            save_json({"study": name, "id": recorded["id"], "storage": shown_place(url)}, out / STUDY_FILE)
    return Study(found, space, out, shown_place(url))


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


def _storage(url: str) -> Any:
    """Opens a database."""
    import optuna
    from sqlalchemy.engine import make_url

    sqlite = url.startswith("sqlite")
    try:
        if sqlite and (database := make_url(url).database):
            Path(database).parent.mkdir(parents=True, exist_ok=True)
        # processes that write at the same time wait for each other
        return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}} if sqlite else None)
    except Exception as error:  # of SQLAlchemy, of the driver, or of the file system
        words = shown_place(str(error).partition("\n")[0])
        raise AtrousError(
            f"the storage {shown_place(url)} cannot be opened: {words} Give the URL of a database, such as "
            "sqlite:///runs/tune.db."
        ) from error


def _name_of(out: Path) -> tuple[str, dict[str, Any] | None]:
    """Returns the name of a folder's study, and the content of its study.json, None without this file."""
    path = out / STUDY_FILE
    if not path.is_file():
        return out.resolve().name, None
    try:
        own = read_json(path)
        return str(own["study"]), {"id": str(own["id"]), "storage": str(own["storage"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AtrousError(f"{path} is damaged ({error!r}): remove the folder, or give another --out.") from error


def _check_owner(
    out: Path, storage: str, name: str, own: dict[str, Any] | None, found: Any, recorded: Mapping[str, Any]
) -> None:
    """Checks that the folder and the study in the database belong together."""
    if own is not None and own["id"] != recorded.get("id"):
        raise AtrousError(
            f"{out} contains the trials of a study in another storage, {own['storage']}: give this storage with "
            "--storage, or another folder with --out."
        )
    if own is None and recorded and recorded["out"] != str(out.resolve()):
        raise AtrousError(
            f"the storage {storage} already has a study '{name}', whose trials are in {recorded['out']}: continue it "
            "with this folder as --out, or give --out a folder of another name."
        )
    if found is not None and not recorded and any(one.state.name != "WAITING" for one in found.trials):
        raise AtrousError(
            f"the storage {storage} has a study '{name}' of another program: give --out a folder of another name."
        )


def _compared(space: SearchSpace) -> dict[str, Any]:
    """Returns the values that must not change during a study, as JSON stores them."""
    record = recipe_record(space.recipe)
    for name in FREE:
        part, _, last = name.rpartition(".")
        del (record[part] if part else record)[last]
    if record["data"]["root"] and not is_url(record["data"]["root"]):
        record["data"]["root"] = str(Path(record["data"]["root"]).resolve())
    return json.loads(json.dumps({"recipe": record, "space": space.record()}))


def _check_same(name: str, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Checks that the recipe and the space are those of the study."""
    lines = []
    for part, words in (("recipe", ""), ("space", "search space, ")):
        for field_name, before, given in differences(recorded[part], now[part]):
            lines.append(f"{words}{field_name}: {_or_nothing(before)} in the study, {_or_nothing(given)} now")
    if lines:
        more = f"; and {len(lines) - 6} more" if len(lines) > 6 else ""
        raise AtrousError(
            f"the study '{name}' was begun with another recipe or search space. {'; '.join(lines[:6])}{more}. Give the "
            "same values to continue it, or another --out for a new study."
        )


def _or_nothing(value: Any) -> str:
    return "nothing" if value is None else value_in_words(value)
