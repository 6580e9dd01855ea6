"""The error that ends training if a loss or gradient is NaN or infinite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atrous.errors import AtrousError


class Diverged(AtrousError):
    """Error for a loss or gradient that is not finite; the weights are unchanged, and the last checkpoint is valid.

    Args:
        what: "loss" or "gradient".
        value: value of the loss or of the gradient's norm: NaN or infinite.
        epoch: number of the epoch, from 1.
        step: number of optimiser steps before the error, ≥ 0.
        names: for a loss, the names of the pictures in its batch; for a gradient, the names of the pictures in all
            batches of its step.
        advice: sentence at the end of the message that tells the user what to do.
    """

    def __init__(self, what: str, value: float, *, epoch: int, step: int, names: Sequence[str], advice: str) -> None:
        super().__init__(
            f"the {what} became {value} at epoch {epoch}, step {step}, on the batch {', '.join(names)}. {advice}"
        )
        self.what, self.value, self.epoch, self.step = what, value, epoch, step
        self.names, self.advice = tuple(names), advice

    def __reduce__(self) -> Any:  # pickling, to send the error to other processes
        return _diverged, (self.what, self.value, self.epoch, self.step, self.names, self.advice)


def _diverged(what: str, value: float, epoch: int, step: int, names: Sequence[str], advice: str) -> Diverged:
    return Diverged(what, value, epoch=epoch, step=step, names=names, advice=advice)
