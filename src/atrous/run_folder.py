"""A run's folder: its creation, its checks, and the reading of its settings, logs and metrics."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from atrous.atomic_write import remove_unfinished, write_text
from atrous.errors import AtrousError
from atrous.file_lock import lock_file
from atrous.json_yaml import parse_json, parse_yaml, read_json
from atrous.overwrite_checks import (
    ADAPTER_MARK,
    Output,
    check_is_folder,
    check_outputs,
    is_our_json,
    is_our_metrics,
    is_our_model,
    is_our_page,
    safetensors_metadata,
)

Record = dict[str, Any]

#: Path of a run's training checkpoint in its folder.
CHECKPOINT = Path("checkpoints") / "last.safetensors"
#: The files that training writes into its folder, besides TensorBoard's files and the lock.
RUN_FILES = (
    "config.yaml",
    "metrics.jsonl",
    "best.safetensors",
    "adapter.safetensors",
    "doctor.json",
    "evaluation.json",
    "report.html",
    "wandb-id",
    str(CHECKPOINT),
)

# The required fields of each class in evaluation.json.
_CLASS_FIELDS = {"name", "color", "iou", "dice", "accuracy", "pixels_true"}


@dataclass(frozen=True)
class Run:
    """The content of a run's folder.

    Args:
        folder: the run's folder.
        config: the text of config.yaml; "" if the file is missing.
        train: the training lines of metrics.jsonl, ascending in step.
        val: the validation lines of metrics.jsonl, ascending in step.
        evaluation: content of evaluation.json; {} if it is missing or damaged.
        damaged: reason why an existing evaluation.json cannot be used; "" if there is no such problem.
        doctor: content of doctor.json, the findings on the dataset before training; {} if it is missing.
    """

    folder: Path
    config: str
    train: list[Record]
    val: list[Record]
    evaluation: Record
    damaged: str = ""
    doctor: Record = field(default_factory=dict)

    @property
    def model_file(self) -> Path:
        """The path of the run's best model, which may not exist."""
        return self.folder / "best.safetensors"

    @property
    def best_val(self) -> Record | None:
        """The validation with the highest mean IoU; the first one if several are equal."""
        return max((v for v in self.val if is_finite(v.get("miou"))), key=lambda v: v["miou"], default=None)

    @property
    def data(self) -> str:
        """The dataset's folder from the evaluation, or else from the recipe; "" if neither names it."""
        return str(self.evaluation.get("data") or self.settings("data").get("root") or "")

    @property
    def written(self) -> datetime:
        """The time of the evaluation; without an evaluation, the time of the last log entry."""
        name = "evaluation.json" if self.evaluation else "metrics.jsonl"
        return datetime.fromtimestamp((self.folder / name).stat().st_mtime).astimezone()

    @property
    def seconds(self) -> float:
        """The training time in seconds from metrics.jsonl; 0 if it is not logged."""
        return max((seconds for _, seconds in points(self.val + self.train, "seconds")), default=0.0)

    def settings(self, part: str) -> Record:
        """Returns one section of the recipe, such as "data"; {} if it is missing or config.yaml is not valid YAML."""
        try:
            recipe = parse_yaml(self.config, "config.yaml")
        except AtrousError:
            return {}
        found = recipe.get(part) if isinstance(recipe, dict) else None
        return found if isinstance(found, dict) else {}

    @cached_property
    def model_info(self) -> Record:
        """The record of the run's model file; {} if there is no readable model file."""
        from atrous.model_file import read_info

        try:
            return read_info(self.model_file).to_dict()
        except AtrousError:
            return {}


def new_run(out: Path | None, name: str) -> Path:
    """Creates the folder of a new run; a folder that contains another run is refused.

    Args:
        out: the folder; None for runs/NAME, with a number appended if it exists.
        name: name of the recipe.

    Raises:
        AtrousError: the folder contains a run already, or cannot be created.
    """
    # checked again, because another process may have written files since the first check
    check_new_run(out, [], overwrite=True)
    run, number = out or Path("runs") / name, 2
    try:
        run.parent.mkdir(parents=True, exist_ok=True)
        while out is None:
            try:
                run.mkdir()  # atomic: only one of two simultaneous processes gets the name
                break
            except FileExistsError:
                run, number = Path("runs") / f"{name}-{number}", number + 1
        (run / CHECKPOINT.parent).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AtrousError(f"cannot make the run's folder {run}: {error.strerror}.") from error
    return run


def remove_if_empty(run: Path) -> None:
    """Removes the folder of a run in which nothing was written.

    Args:
        run: the run's folder, which `new_run` has created.
    """
    inside, lock = run / CHECKPOINT.parent, run / CHECKPOINT.parent / "lock"
    if list(run.rglob("*")) in ([inside], [inside, lock]):
        lock.unlink(missing_ok=True)
        inside.rmdir()
        run.rmdir()


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Locks a run's folder for this process during the context, so that no second process overwrites its files.

    Args:
        run: the run's folder.

    Raises:
        AtrousError: another process is training in the folder.
    """
    with lock_file(run / CHECKPOINT.parent / "lock") as locked:
        if not locked:
            raise AtrousError(f"another process is training in {run}: stop it first, or give another --out.")
        yield


def remove_unfinished_files(run: Path) -> None:
    """Removes only the temporary files of a killed training run; no other process may be using the folder."""
    for folder in (run, run / CHECKPOINT.parent):
        remove_unfinished(folder, [Path(name).name for name in RUN_FILES])


def check_new_run(out: Path | None, inputs: Iterable[tuple[str, str | Path | None]], *, overwrite: bool) -> None:
    """Refuses, before the work starts, a folder in which a new run would replace files.

    Args:
        out: the run's folder, which may not exist yet; None for a new folder.
        inputs: the inputs of the training, as for `check_outputs`.
        overwrite: whether files in a folder without a run may be replaced; inputs are never replaced.

    Raises:
        AtrousError: the folder contains a run or a file that the run would replace, or it is the folder of the dataset.
    """
    if out is None:
        return
    check_is_folder("out", out)
    given = list(inputs)
    other = f"give another --out, such as {_free_name(out)}"
    if (out / "config.yaml").exists():
        if not (out / CHECKPOINT).exists():
            raise AtrousError(
                f"{out} contains a config.yaml, but no checkpoint to resume from: remove the config.yaml, or {other}."
            )
        raise AtrousError(f"{out} already contains a run. Resume it with --resume {out}, or {other}.")
    for words, path in given:
        if path is not None and Path(path).is_dir() and out.is_dir() and out.samefile(path):
            raise AtrousError(f"out is {out}, the folder of {words}: {other}.")
    files = [out / name for name in RUN_FILES]
    try:
        outputs = [Output("out", file, "file of this run", _holds_no_training, out) for file in files]
        check_outputs("this run", outputs, given, overwrite=overwrite)
    except AtrousError as error:
        raise AtrousError(f"{error} For the run, {other}.") from error
    for folder in (out / CHECKPOINT.parent, out / "tensorboard"):
        if folder.exists() and not folder.is_dir():
            raise AtrousError(f"{folder} is a file, but the run needs a folder of this name: {other}.")


def restore_config(run: Path) -> None:
    """Writes a missing config.yaml from the recipe in the checkpoint, for a run that was killed at its start.

    Args:
        run: the folder of the run to resume.

    Raises:
        AtrousError: there is neither a config.yaml nor a checkpoint with a recipe.
    """
    config = run / "config.yaml"
    if config.is_file():
        return
    recipe = _checkpoint_record(run / CHECKPOINT).get("recipe")
    if not isinstance(recipe, str) or not recipe:
        raise AtrousError(
            f"no run to resume at {run}: it has no config.yaml, and no checkpoint that contains its recipe. Start a "
            f"new run there with: atrous train RECIPE --out {shlex.quote(str(run))}"
        )
    write_text(config, recipe)


def check_resumed_run(run: Path, *, overwrite: bool) -> None:
    """Refuses to resume a run if it would replace files that atrous did not write.

    Args:
        run: the run's folder.
        overwrite: whether files that atrous did not write may be replaced.

    Raises:
        AtrousError: a file with the name of an output of the run was not written by atrous.
    """
    is_ours = {
        "metrics.jsonl": is_our_metrics,
        "best.safetensors": is_our_model,
        "adapter.safetensors": lambda path: ADAPTER_MARK in safetensors_metadata(path),
        "evaluation.json": is_our_json,
        "doctor.json": is_our_json,
        "report.html": is_our_page,
    }
    outputs = [Output("out", run / name, "file of a run", test, run) for name, test in is_ours.items()]
    check_outputs("this run", outputs, [], overwrite=overwrite)


def _holds_no_training(file: Path) -> bool:
    """Returns whether a file is the checkpoint of a run that was killed before its first step."""
    progress = _checkpoint_record(file).get("progress")
    return isinstance(progress, dict) and progress.get("step") == 0


def _checkpoint_record(file: Path) -> Record:
    """Returns the metadata of a training checkpoint; {} for any other file."""
    try:
        record = parse_json(safetensors_metadata(file)["atrous-checkpoint"], str(file), finite=False)
    except (KeyError, TypeError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _free_name(folder: Path) -> Path:
    number = 2
    while (named := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return named


def read_run(folder: Path) -> Run:
    """Reads the text files of a run.

    Args:
        folder: the run's folder; it must contain metrics.jsonl or evaluation.json.

    Raises:
        AtrousError: there is no such folder, both files are missing, or evaluation.json is damaged and metrics.jsonl
            is missing.
    """
    if not folder.is_dir():
        raise AtrousError(f"there is no run folder '{folder}'. Give the folder that `atrous train` wrote.")
    config, metrics, evaluation = (folder / n for n in ("config.yaml", "metrics.jsonl", "evaluation.json"))
    if not metrics.is_file() and not evaluation.is_file():
        raise AtrousError(
            f"'{folder}' is not a run: it has neither metrics.jsonl (written by `atrous train RECIPE.yaml`) nor "
            f"evaluation.json (written by `atrous evaluate MODEL DATA --json {shlex.quote(str(evaluation))}`)."
        )
    lines = read_metrics(metrics) if metrics.is_file() else []
    measured, damaged = {}, ""
    try:
        measured = read_evaluation(evaluation) if evaluation.is_file() else {}
    except AtrousError as error:
        if not lines:
            raise
        damaged = str(error).partition(" Write it again")[0]
    return Run(
        folder,
        config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        [line for line in lines if line["kind"] == "train"],
        [line for line in lines if line["kind"] == "val"],
        measured,
        damaged,
        _read_doctor(folder / "doctor.json"),
    )


def _read_doctor(path: Path) -> Record:
    """Reads doctor.json; {} if it is missing or cannot be read."""
    try:
        found = read_json(path)
        return {**found, "warnings": [dict(warning) for warning in found["warnings"]]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def read_metrics(path: Path) -> list[Record]:
    """Returns the lines of metrics.jsonl, sorted by kind and step.

    If a resumed run repeats a step, only its later line is returned. A line that is not a JSON object is
    skipped, because a killed process may leave an incomplete last line.
    """
    found: dict[tuple[str, float], Record] = {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = parse_json(text, str(path), finite=False)  # a diverged run has NaN
            found[line["kind"], float(line["step"])] = line
        except (ValueError, KeyError, TypeError):
            continue
    return [found[key] for key in sorted(found)]


def read_evaluation(path: Path) -> Record:
    """Reads evaluation.json, and checks its classes and the size of its confusion matrix.

    Raises:
        AtrousError: the file is not JSON, or not in the form that `atrous evaluate --json` writes.
    """
    cure = f"Write it again: `atrous evaluate MODEL DATA --json {shlex.quote(str(path))} --overwrite`, or remove it."
    try:
        evaluation = read_json(path, finite=False)  # a page shows NaN and infinite scores as "–"
        classes, shape = evaluation["classes"], np.asarray(evaluation["confusion"], np.int64).shape
        lacking = {field for c in classes for field in _CLASS_FIELDS - c.keys()}
        for c in classes if not lacking else ():
            _ = str(c["name"]), [int(part) for part in c["color"]], int(c["pixels_true"])
        for picture in evaluation.get("per_image", []):
            _ = picture["name"], Path(picture["image"]), Path(picture["mask"])
        volumes = evaluation.get("volumes") or {"classes": [], "cases": []}
        for c in volumes["classes"]:
            _ = str(c["name"]), int(c["cases"]), int(c["missed"]), int(c["spurious"]), dict(c["scores"])
        for case in volumes["cases"]:
            _ = Path(case["volume"]), {name: dict(scores) for name, scores in case["classes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AtrousError(f"'{path}' is not a file of `atrous evaluate --json` ({error!r}). {cure}") from error
    if not classes:
        raise AtrousError(f"'{path}' contains no classes. {cure}")
    if lacking:
        raise AtrousError(f"'{path}' has classes without {', '.join(sorted(lacking))}. {cure}")
    if shape != (len(classes), len(classes)):
        raise AtrousError(f"'{path}' has {len(classes)} classes, but a confusion matrix of shape {shape}. {cure}")
    return evaluation


def points(lines: Sequence[Record], key: str) -> list[tuple[float, float]]:
    """Returns (step, value) of the lines whose value is a finite number."""
    return [(float(line["step"]), float(line[key])) for line in lines if is_finite(line.get(key))]


def is_finite(value: object) -> TypeGuard[float]:
    """Returns whether a score is a finite number; absent classes have None, and diverged runs have NaN."""
    return isinstance(value, int | float) and math.isfinite(value)
