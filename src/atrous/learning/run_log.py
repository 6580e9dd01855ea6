"""Logs a training run to metrics.jsonl, TensorBoard, Weights & Biases and the console."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.markup import escape

from atrous.atomic_write import write_text
from atrous.console import console
from atrous.errors import AtrousError, missing_extra
from atrous.json_yaml import parse_json
from atrous.learning.recipe import Recipe


class Board(Protocol):
    """A viewer that displays numbers and pictures of a run."""

    def numbers(self, values: dict[str, float], step: int) -> None:
        """Logs named numbers of a step."""
        ...

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Logs an H×W×3 uint8 picture of a step."""
        ...

    def close(self) -> None:
        """Writes all pending data and closes."""
        ...


class TensorBoard:
    """TensorBoard events of a run in a folder; later events than `step`, from an interrupted run, are hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder, purge_step=step + 1)  # hides events from that step on

    def numbers(self, values: dict[str, float], step: int) -> None:
        """Logs named numbers of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Logs an H×W×3 uint8 picture of a step."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Writes all pending data and closes."""
        self._writer.close()


class WeightsAndBiases:
    """A run at Weights & Biases; a resumed run continues under the same id.

    Args:
        folder: folder of the run. The run has the folder's name at Weights & Biases; the folder stores the run's id
            and unsent data.
        recipe: recipe that is logged as the configuration.

    Raises:
        AtrousError: wandb is not installed or cannot be used, for example without a login or a network.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing_extra("wandb", "wandb") from error
        id_file = folder / "wandb-id"
        try:
            self._run = wandb.init(
                project=recipe.watch.project,
                name=folder.name,
                dir=folder,
                config=asdict(recipe),
                id=id_file.read_text(encoding="utf-8").strip() if id_file.is_file() else None,
                resume="allow",
            )
        except Exception as error:  # wandb's errors have no common base class
            raise AtrousError(
                f"Weights & Biases cannot be used: {error}. Log in with `wandb login`, set WANDB_MODE=offline to send "
                "later, or set watch.wandb to false."
            ) from error
        write_text(id_file, self._run.id + "\n")
        # A resumed run may repeat steps, but wandb's own step counter never goes back.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._picture = wandb.Image

    def numbers(self, values: dict[str, float], step: int) -> None:
        """Logs named numbers of a step."""
        self._run.log({**values, "step": step})

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Logs an H×W×3 uint8 picture of a step."""
        self._run.log({name: self._picture(image), "step": step})

    def close(self) -> None:
        """Writes all pending data and closes."""
        self._run.finish()


class RunLog:
    """Writes a run's numbers and pictures.

    Args:
        folder: folder of the run; existing logs in it are continued.
        step: number of optimiser steps so far. Later entries of an interrupted run are removed from metrics.jsonl and
            hidden in TensorBoard.
        recipe: recipe whose `watch` section selects the boards.
        silent: True to write nothing, for all processes except the first.
    """

    def __init__(self, folder: Path, step: int, recipe: Recipe, *, silent: bool = False) -> None:
        self._file, self._boards, self._validated = None, list[Board](), set[int]()
        if silent:
            return
        path = folder / "metrics.jsonl"
        lines = _truncated(path, step)
        self._validated = {line["step"] for line in lines if line["kind"] == "val"}
        if recipe.watch.tensorboard:
            self._boards.append(TensorBoard(folder / "tensorboard", step))
        if recipe.watch.wandb:
            self._boards.append(WeightsAndBiases(folder, recipe))
        self._file = path.open("a", buffering=1, encoding="utf-8")

    def train(self, *, step: int, epoch: int, **values: float) -> None:
        """Records the numbers of one training step."""
        self._write({"kind": "train", "step": step, "epoch": epoch, **values})
        self._show({f"train/{name}": value for name, value in values.items()}, step)

    def validation(self, *, step: int, epoch: int, per_class: dict[str, float | None], **values: Any) -> None:
        """Records the scores of a validation, unless scores of the same step are already recorded.

        If a run is killed between a validation and the next checkpoint, the resumed run repeats the validation of this
        step.
        """
        if step in self._validated:
            return
        self._write({"kind": "val", "step": step, "epoch": epoch, **values, "per_class": per_class})
        self._show({f"val/{name}": value for name, value in values.items() if value is not None}, step)
        self._show({f"val_iou/{name}": value for name, value in per_class.items() if value is not None}, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Records an H×W×3 uint8 picture; bytes in its name that are not valid text become escape sequences."""
        name = name.encode("utf-8", errors="backslashreplace").decode()
        for board in self._boards:
            board.picture(name, image, step)

    def say(self, sentence: str) -> None:
        """Prints a sentence above the progress bar."""
        console.print(escape(sentence))

    def close(self) -> None:
        """Closes the file and all boards."""
        if self._file is not None:
            self._file.close()
        for board in self._boards:
            board.close()

    def _write(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")

    def _show(self, values: dict[str, float], step: int) -> None:
        for board in self._boards:
            board.numbers(values, step)


def _truncated(path: Path, step: int) -> list[dict[str, Any]]:
    """Removes the lines after a step from a run's metrics.jsonl, and returns the records that remain."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [record for line in lines if (record := _parse(line)) and record["step"] <= step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return kept


def _parse(line: str) -> dict[str, Any] | None:
    """Parses a line of metrics.jsonl; None for an incomplete line of a killed process."""
    try:
        record = parse_json(line, "metrics.jsonl", finite=False)
        return record if {"kind", "step"} <= record.keys() else None
    except (ValueError, AttributeError):
        return None
