"""What a run says while it runs: metrics.jsonl, TensorBoard, Weights & Biases, a line for the person watching."""

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
    """Where numbers and pictures of a run are looked at."""

    def numbers(self, values: dict[str, float], step: int) -> None:
        """Shows some numbers of a step."""
        ...

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Shows an H×W×3 uint8 picture of a step."""
        ...

    def close(self) -> None:
        """Writes what is left."""
        ...


class TensorBoard:
    """Events in a folder; what an interrupted run wrote beyond `step` is hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder, purge_step=step + 1)  # which hides that step, too

    def numbers(self, values: dict[str, float], step: int) -> None:
        """Shows some numbers of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Shows an H×W×3 uint8 picture of a step."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; a resumed one goes on under the same address.

    Args:
        folder: the run's; its name is the run's name, and it keeps the address and what is not yet sent.
        recipe: whose fields are the run's configuration.

    Raises:
        AtrousError: not installed, or it cannot be reached: nobody is logged in, or there is no network.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing_extra("wandb", "wandb") from error
        address = folder / "wandb-id"
        try:
            self._run = wandb.init(
                project=recipe.watch.project,
                name=folder.name,
                dir=folder,
                config=asdict(recipe),
                id=address.read_text(encoding="utf-8").strip() if address.is_file() else None,
                resume="allow",
            )
        except Exception as error:  # its errors have no common type
            raise AtrousError(
                f"Weights & Biases cannot be used: {error}. Log in with `wandb login`, set WANDB_MODE=offline to send "
                "later, or set watch.wandb to false."
            ) from error
        write_text(address, self._run.id + "\n")
        # A resumed run may go back a little, which their own counter of steps does not.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._picture = wandb.Image

    def numbers(self, values: dict[str, float], step: int) -> None:
        """Shows some numbers of a step."""
        self._run.log({**values, "step": step})

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Shows an H×W×3 uint8 picture of a step."""
        self._run.log({name: self._picture(image), "step": step})

    def close(self) -> None:
        """Writes what is left."""
        self._run.finish()


class RunLog:
    """Writes a run's numbers and pictures.

    Args:
        folder: the run's; metrics.jsonl and the boards are continued where they exist.
        step: optimiser steps made so far; what an interrupted run wrote beyond is dropped.
        recipe: says which boards.
        silent: writes nothing, for all processes but the first.
    """

    def __init__(self, folder: Path, step: int, recipe: Recipe, *, silent: bool = False) -> None:
        self._file, self._boards, self._validated = None, list[Board](), set[int]()
        if silent:
            return
        path = folder / "metrics.jsonl"
        lines = _up_to(path, step)
        self._validated = {line["step"] for line in lines if line["kind"] == "val"}
        if recipe.watch.tensorboard:
            self._boards.append(TensorBoard(folder / "tensorboard", step))
        if recipe.watch.wandb:
            self._boards.append(WeightsAndBiases(folder, recipe))
        self._file = path.open("a", buffering=1, encoding="utf-8")

    def train(self, *, step: int, epoch: int, **values: float) -> None:
        """Records one training step's numbers."""
        self._write({"kind": "train", "step": step, "epoch": epoch, **values})
        self._show({f"train/{name}": value for name, value in values.items()}, step)

    def validation(self, *, step: int, epoch: int, per_class: dict[str, float | None], **values: Any) -> None:
        """Records a validation's scores, once: a run killed between validating and saving validates again."""
        if step in self._validated:
            return
        self._write({"kind": "val", "step": step, "epoch": epoch, **values, "per_class": per_class})
        self._show({f"val/{name}": value for name, value in values.items() if value is not None}, step)
        self._show({f"val_iou/{name}": value for name, value in per_class.items() if value is not None}, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Records an H×W×3 uint8 picture, its name's bytes that are no text as escapes."""
        name = name.encode("utf-8", errors="backslashreplace").decode()
        for board in self._boards:
            board.picture(name, image, step)

    def say(self, sentence: str) -> None:
        """Prints a sentence above the progress bar."""
        console.print(escape(sentence))

    def close(self) -> None:
        """Flushes everything."""
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


def _up_to(path: Path, step: int) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl up to a step, which are all that stays in it."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [record for line in lines if (record := _parse(line)) and record["step"] <= step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return kept


def _parse(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None for the half line of a killed process."""
    try:
        record = parse_json(line, "metrics.jsonl", finite=False)
        return record if {"kind", "step"} <= record.keys() else None
    except (ValueError, AttributeError):
        return None
