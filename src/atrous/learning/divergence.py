"""What a training raises whose loss or gradient is no number any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atrous.errors import AtrousError


class Diverged(AtrousError):
    """A loss or gradient that is not finite; the weights are untouched, and the last checkpoint is good.

    Args:
        what: "loss" or "gradient".
        value: what it became: NaN or infinite.
        epoch: from 1.
        step: optimiser steps made before, ≥ 0.
        names: of the pictures of the batches since the last step.
        advice: what to do, a sentence.
    """

    def __init__(self, what: str, value: float, *, epoch: int, step: int, names: Sequence[str], advice: str) -> None:
        super().__init__(
            f"the {what} became {value} at epoch {epoch}, step {step}, on the batch {', '.join(names)}. {advice}"
        )
        self.what, self.value, self.epoch, self.step = what, value, epoch, step
        self.names, self.advice = tuple(names), advice

    def __reduce__(self) -> Any:  # which travels between processes
        return _diverged, (self.what, self.value, self.epoch, self.step, self.names, self.advice)


def _diverged(what: str, value: float, epoch: int, step: int, names: Sequence[str], advice: str) -> Diverged:
    return Diverged(what, value, epoch=epoch, step=step, names=names, advice=advice)
