"""What a run says while it runs: metrics.jsonl, TensorBoard, a live line for the person watching."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from torch.utils.tensorboard import SummaryWriter

from atrous.console import console


class RunLog:
    """Writes a run's numbers and pictures.

    Args:
        folder: the run's; metrics.jsonl and tensorboard/ are continued where they exist.
        step: optimiser steps made so far; what an interrupted run wrote beyond is dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "metrics.jsonl"
        self._drop_after(step)
        self._file = self.path.open("a", buffering=1)
        self._board = SummaryWriter(folder / "tensorboard", purge_step=step)

    def _drop_after(self, step: int) -> None:
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
            temporary = self.path.with_suffix(".part")
            temporary.write_text("".join(line + "\n" for line in kept))
            temporary.replace(self.path)

    def train(self, *, step: int, epoch: int, **values: float) -> None:
        """Records one training step's numbers."""
        self._write({"kind": "train", "step": step, "epoch": epoch, **values})
        for name, value in values.items():
            self._board.add_scalar(f"train/{name}", value, step)

    def validation(self, *, step: int, epoch: int, per_class: dict[str, float | None], **values: Any) -> None:
        """Records a validation's scores."""
        self._write({"kind": "val", "step": step, "epoch": epoch, **values, "per_class": per_class})
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(f"val/{name}", value, step)
        for name, value in per_class.items():
            if value is not None:
                self._board.add_scalar(f"val_iou/{name}", value, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Records an H×W×3 uint8 picture."""
        self._board.add_image(name, image, step, dataformats="HWC")

    def say(self, sentence: str) -> None:
        """Prints a sentence above the progress bar."""
        console.print(escape(sentence))

    def close(self) -> None:
        """Flushes everything."""
        self._file.close()
        self._board.close()

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # the half line of a killed process
        return float("inf")
