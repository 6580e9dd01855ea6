"""The training loop: batches to steps, steps to epochs, checkpoints in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import torch
from torch import nn

from atrous.console import console, progress_bar
from atrous.device import keep_freed_memory
from atrous.errors import AtrousError, counted
from atrous.learning.average import WeightAverage
from atrous.learning.checkpoint import random_state, save_checkpoint
from atrous.learning.freezing import keep_frozen_statistics
from atrous.learning.interrupt import Interrupted, stop_on_signal
from atrous.learning.loader import AugmentedSamples, Batch, EpochOrder, Loader
from atrous.learning.optim import learning_rate_factor, learning_rates, set_learning_rate
from atrous.learning.processes import Processes
from atrous.learning.recipe import Recipe, recipe_text
from atrous.learning.run_log import RunLog
from atrous.learning.step import TrainingStep
from atrous.models import SegmentationModel

#: Optimiser steps between two lines of metrics.jsonl.
LOG_EVERY = 10
#: Seconds between two checkpoints within an epoch: what a kill can cost.
SAVE_EVERY = 300

#: Validations count for train.patience after so many times the 1 / (1 − ema) steps that an average of weights spans.
AVERAGES_BEFORE_PATIENCE = 2


@dataclass
class Progress:
    """Where a run is; everything else follows from the recipe and the weights."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_miou: float = -1.0
    stale: int = 0
    seconds: float = 0.0

    @property
    def epochs_begun(self) -> int:
        """Epochs of which at least one batch is done."""
        return self.epoch + (self.batch > 0)


class Validation(Protocol):
    """Measures a model in training, and keeps it if it is the best."""

    def __call__(self, judged: SegmentationModel, progress: Progress, log: RunLog) -> float:
        """Returns the mean IoU; `progress.best_miou` is that of the best before."""
        ...


class Trainer:
    """The loop: its state is `progress`, the weights, the optimiser and torch's random state, all checkpointed.

    Args:
        recipe: how long and how.
        run: the run's folder.
        samples: what it learns from.
        step: the model with its loss.
        optimizer: over the step's parameters.
        average: of the model's weights, which is then what is validated; or None.
        progress: where to go on.
        processes: that train together.
        validate: called after every so many epochs.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        samples: AugmentedSamples,
        step: TrainingStep,
        optimizer: torch.optim.Optimizer,
        *,
        average: WeightAverage | None,
        progress: Progress,
        processes: Processes,
        validate: Validation,
    ) -> None:
        self.recipe, self.run, self.step, self.optimizer = recipe, run, step, optimizer
        self.average, self.progress, self.processes, self.validate = average, progress, processes, validate
        self.model: SegmentationModel = step.model
        self.device = next(self.model.parameters()).device
        self.parallel = processes.wrap(step)
        size, together = recipe.train.batch_size, (processes.rank, processes.world)
        self.order = EpochOrder(len(samples), size, recipe.seed, *together)
        self.loader = Loader(samples, self.order, recipe.data.workers, pin_memory=self.device.type == "cuda")
        self.steps_per_epoch = -(-len(self.order) // recipe.optim.accumulate)
        self.total = recipe.train.epochs * self.steps_per_epoch
        self._late = self._minutes_are_up()
        self._saved = time.monotonic()
        self._settled = False

    def run_all(self) -> None:
        """All epochs from where `progress` stands; saves and raises `Interrupted` on a signal."""
        log = RunLog(self.run, self.progress.step, self.recipe, silent=not self.processes.first)
        try:
            with stop_on_signal() as stopped, progress_bar() as bar:
                task = bar.add_task("training", total=self.total, completed=self.progress.step, note="")
                while not self._is_done():
                    self._run_epoch(
                        log, stopped, lambda note: bar.update(task, completed=self.progress.step, note=note)
                    )
                    self.save()  # before the validation, which may fail or be stopped
                    if self.progress.batch >= len(self.order):
                        self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
                    if self.progress.epoch % self.recipe.train.validate_every == 0 or self._is_last():
                        self._validate(log)
                    self.save()
                    self._stop_or_go_on(stopped)
                if self.progress.best_miou < 0:  # stopped after its time was up, before it was measured
                    self._validate(log)
                    self.save()
        finally:
            log.close()

    def _run_epoch(self, log: RunLog, stopped: Callable[[], bool], show: Callable[[str], None]) -> None:
        """The rest of an epoch, or as much as there is time for."""
        self.model.train()
        keep_frozen_statistics(self.model)
        self.order.start(self.progress.epoch, self.progress.batch)
        started, before, pictures, losses = time.perf_counter(), self.progress.seconds, 0, []
        names: list[str] = []
        for batch in self.loader:
            self._set_learning_rate()
            losses.append(self._backward(batch))
            pictures += self.order.pictures(self.progress.batch)
            names += batch.names
            self.progress.batch += 1
            self.progress.seconds = before + time.perf_counter() - started
            if not self._group_is_whole():
                continue
            norm = self._update(names)
            names = []
            rate, loss = pictures / (self.progress.seconds - before), sum(losses) / len(losses)
            show(f"epoch {self.progress.epoch + 1}  loss {loss:.3f}  {rate:.1f} images/s")
            if self.progress.step % LOG_EVERY == 0 or self.progress.step == self.total:
                log.train(
                    step=self.progress.step,
                    epoch=self.progress.epoch + 1,
                    loss=self.processes.mean(loss),
                    **learning_rates(self.optimizer),
                    images_per_second=rate,
                    grad_norm=norm,
                )
                started, before, pictures, losses = time.perf_counter(), self.progress.seconds, 0, []
            self._stop_or_go_on(stopped)
            if self._late:
                return

    def _set_learning_rate(self) -> None:
        factor = learning_rate_factor(self.progress.step, self.total, self.recipe.schedule)
        set_learning_rate(self.optimizer, factor)

    def _backward(self, batch: Batch) -> float:
        images = batch.images.to(self.device, non_blocking=True)
        if self.recipe.train.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        # The gradients of a group are summed here and exchanged once.
        alone = self.processes.world > 1 and not self._group_is_whole(ahead=1)
        with self.parallel.no_sync() if alone else nullcontext():  # pyright: ignore[reportCallIssue]
            loss = self.parallel(images, batch.labels.to(self.device, non_blocking=True))
            value = loss.item()
            if not math.isfinite(value):
                self._stop_on_nonfinite("loss", value, batch.names)
            # The last group of an epoch may hold fewer batches than the others.
            accumulate = self.recipe.optim.accumulate
            first_of_group = self.progress.batch - self.progress.batch % accumulate
            group = min(accumulate, len(self.order) - first_of_group)
            (loss / group).backward()
        return value

    def _group_is_whole(self, ahead: int = 0) -> bool:
        """Whether the batches done, and so many more, end a group that makes one step."""
        done = self.progress.batch + ahead
        return done % self.recipe.optim.accumulate == 0 or done >= len(self.order)

    def _stop_on_nonfinite(self, what: str, value: float, names: Sequence[str]) -> NoReturn:
        """Before the weights are touched, so that the last checkpoint and the best model stay good."""
        raise AtrousError(
            f"the {what} became {value} at epoch {self.progress.epoch + 1}, step {self.progress.step}, on the batch "
            f"{', '.join(names)}. Look at these files, lower optim.lr, or set train.precision to float32; "
            f"go on from the last checkpoint with: atrous train --resume {self.run}"
        )

    def _update(self, names: Sequence[str]) -> float:
        """One optimiser step; returns the gradient's norm before clipping."""
        clip = self.recipe.optim.clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.step.parameters(), clip)
        if not torch.isfinite(norm):
            self._stop_on_nonfinite("gradient", norm.item(), names)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.step.crf is not None:
            self.step.crf.keep_in_range()
        if self.average:
            self.average.update(self.model, self.progress.step)
        self.progress.step += 1
        if not self._settled:  # once all that lasts has its place in memory, which makes for a smaller peak
            keep_freed_memory()
            self._settled = True
        return norm.item()

    def _validate(self, log: RunLog) -> None:
        judged = self.average.module if self.average else self.model
        self.processes.share_statistics(judged)
        miou = self.validate(judged, self.progress, log)
        better = miou > self.progress.best_miou
        counts = self.progress.step >= self._steps_before_patience()
        self.progress.stale = self.progress.stale + 1 if counts and not better else 0
        self.progress.best_miou = max(miou, self.progress.best_miou)

    def _steps_before_patience(self) -> float:
        """Steps until the average of the weights follows them: its scores are low and flat at first."""
        return AVERAGES_BEFORE_PATIENCE / (1 - self.recipe.train.ema) if self.recipe.train.ema else 0

    def what_ended_it(self) -> tuple[str, float] | None:
        """The field of the recipe's ``train`` by which no epoch is left, and a larger value; None where one is left."""
        train, progress = self.recipe.train, self.progress
        if progress.epoch >= train.epochs:
            return "epochs", 2 * train.epochs
        if train.patience and progress.stale >= train.patience:
            return "patience", 2 * train.patience
        if self._minutes_are_up():
            return "minutes", 2 * train.minutes
        return None

    def _is_done(self) -> bool:
        patience = self.recipe.train.patience
        if patience and self.progress.stale >= patience:
            console.print(f"stopping early: no better mIoU in {counted(patience, 'validation')}.")
            return True
        return self._is_last()

    def _is_last(self) -> bool:
        return self.progress.epoch >= self.recipe.train.epochs or self._late

    def _minutes_are_up(self) -> bool:
        minutes = self.recipe.train.minutes
        return bool(minutes) and self.progress.seconds >= 60 * minutes

    def _stop_or_go_on(self, stopped: Callable[[], bool]) -> None:
        """What all processes do after a step: stop, if one was told to; save, if it is time to."""
        due = time.monotonic() - self._saved > SAVE_EVERY
        stop, due, self._late = self.processes.agree(stopped(), due, self._minutes_are_up())
        if stop or due:
            self.save()
        if stop:
            raise Interrupted(f"The run is saved; go on with: atrous train --resume {self.run}")

    def save(self) -> None:
        """Writes everything that is needed to go on; every process calls it, the first writes."""
        random = self.processes.gather(random_state())
        if self.processes.first:
            save_checkpoint(
                checkpoint_of(self.run),
                model=self.model,
                average=self.average,
                optimizer=self.optimizer,
                progress=vars(self.progress),
                crf=self.step.crf,
                random=random,
                recipe=recipe_text(self.recipe),
            )
        self._saved = time.monotonic()


def checkpoint_of(run: Path) -> Path:
    """Where a run's folder keeps its checkpoint."""
    return run / "checkpoints" / "last.safetensors"
