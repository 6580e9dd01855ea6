"""The training loop: batches to steps, steps to epochs, checkpoints in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn, Protocol

import torch
from torch import nn

from atrous.console import console, progress_bar
from atrous.device import keep_freed_memory
from atrous.errors import AtrousError, counted, shown
from atrous.learning.batch import Batch
from atrous.learning.checkpoint import check_names, checkpoint_of, random_state, save_checkpoint
from atrous.learning.checkpoint_parts import Stateful
from atrous.learning.distributed import ProcessGroup
from atrous.learning.divergence import Diverged
from atrous.learning.freezing import keep_frozen_statistics
from atrous.learning.lr_schedule import learning_rate_factor, learning_rates, set_learning_rate
from atrous.learning.recipe import Recipe, recipe_text
from atrous.learning.run_log import RunLog
from atrous.learning.stop_signals import Interrupted, stop_on_signal
from atrous.learning.training_step import TrainingStep
from atrous.models import SegmentationModel

#: Optimiser steps between two lines of metrics.jsonl.
LOG_EVERY = 10
#: Seconds between two checkpoints within an epoch: what a kill can cost.
SAVE_EVERY = 300

#: Validations count for train.patience after so many times the 1 / (1 − ema) steps that an average of weights spans.
AVERAGES_BEFORE_PATIENCE = 2

#: Why a training ended: a field of the recipe's `train`, what `observe` said, or the epochs that a call was to run.
Ended = Literal["epochs", "patience", "minutes", "observe", "epochs_now"]


@dataclass
class Progress:
    """Where a run is; everything else follows from the recipe and the weights.

    Args:
        epoch: epochs done.
        pictures: pictures done of the present epoch, by all processes, whatever the size of the batches.
        step: optimiser steps done.
        best_miou: of all validations, −1 before the first.
        stale: validations since the best one, of those that count for train.patience.
        seconds: of training alone.
    """

    epoch: int = 0
    pictures: int = 0
    step: int = 0
    best_miou: float = -1.0
    stale: int = 0
    seconds: float = 0.0

    @property
    def epochs_begun(self) -> int:
        """Epochs of which at least one batch is done."""
        return self.epoch + (self.pictures > 0)


class Batches(Protocol):
    """The training pictures of a process, batch by batch, in an order that depends on the epoch alone."""

    def counts(self, first: int = 0) -> Sequence[int]:
        """How many pictures each batch of an epoch has, of all processes, from one of the epoch's pictures on."""
        ...

    def epoch(self, epoch: int, first: int = 0) -> Iterable[Batch]:
        """Those batches, of each the part of this process."""
        ...


class Validate(Protocol):
    """Measures a model in training, and keeps it if it is the best."""

    def __call__(self, judged: SegmentationModel, progress: Progress, log: RunLog) -> float:
        """Returns the mean IoU; `progress.best_miou` is that of the best before."""
        ...


#: Told of every validation: a copy of the progress, and the mean IoU; True stops the training, None and False do not.
Observe = Callable[[Progress, float], bool | None]


class Trainer:
    """The loop; checkpoints hold all that it changes: weights, optimiser, `state`, `progress` and random numbers.

    Args:
        recipe: how long and how.
        run: the run's folder, which exists.
        batches: what it learns from.
        step: the model with its loss.
        optimizer: over the step's parameters.
        state: what else is kept in checkpoints, by name.
        after_step: called in turn after each optimiser step with the progress, whose `step` counts that one too.
        judged: what is validated, such as the model of averaged weights; the step's model where it is None.
        progress: where to go on.
        processes: that train together.
        validate: called after every so many epochs.
        observe: told of every validation, in every process; it may stop the training.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        batches: Batches,
        step: TrainingStep,
        optimizer: torch.optim.Optimizer,
        *,
        validate: Validate,
        state: Mapping[str, Stateful] | None = None,
        after_step: Sequence[Callable[[Progress], object]] = (),
        judged: SegmentationModel | None = None,
        progress: Progress | None = None,
        processes: ProcessGroup | None = None,
        observe: Observe | None = None,
    ) -> None:
        self.recipe, self.run, self.batches, self.step, self.optimizer = recipe, run, batches, step, optimizer
        self.state, self.after_step = dict(state or {}), tuple(after_step)
        check_names(self.state)
        self.model: SegmentationModel = step.model
        self.judged = judged or self.model
        self.progress, self.processes = progress or Progress(), processes or ProcessGroup()
        self.validate, self.observe = validate, observe
        self.device = next(self.model.parameters()).device
        self.parallel = self.processes.wrap(step)
        self.total = recipe.train.epochs * self._steps_for(self.batches.counts())
        self._late = self._minutes_are_up()
        self._saved = time.monotonic()
        self._settled = False

    def train(self, epochs_now: int | None = None) -> Ended:
        """Epochs from where `progress` stands; saves and raises `Interrupted` on a signal.

        Args:
            epochs_now: return after so many, ≥ 1, with what was begun as the first; None for all that the recipe wants.

        Returns:
            Why it ended.
        """
        last = math.inf if epochs_now is None else self.progress.epoch + epochs_now
        log = RunLog(self.run, self.progress.step, self.recipe, silent=not self.processes.first)
        try:
            with stop_on_signal() as stopped, progress_bar() as bar:
                task = bar.add_task("training", total=self.total, completed=self._steps_done(), note="")
                while not (ended := self.what_ended_it() or ("epochs_now" if self.progress.epoch >= last else None)):
                    self._run_epoch(log, stopped, lambda done, note: bar.update(task, completed=done, note=note))
                    self.save()  # before the validation, which may fail or be stopped
                    if not self.batches.counts(self.progress.pictures):
                        self.progress.epoch, self.progress.pictures = self.progress.epoch + 1, 0
                    miou = None
                    if self.progress.epoch % self.recipe.train.validate_every == 0 or self._is_last():
                        miou = self._validate(log)
                    self.save()
                    if miou is not None and self._is_told_to_stop(miou):
                        return "observe"
                    self._stop_or_go_on(stopped)
                if ended == "patience":
                    patience = counted(self.recipe.train.patience, "validation")
                    console.print(f"stopping early: no better mIoU in {patience}.")
                # Stopped after its time was up, before it was measured.
                if self.progress.best_miou < 0 and ended != "epochs_now":
                    miou = self._validate(log)
                    self.save()
                    self._is_told_to_stop(miou)  # it has ended anyway
                return ended
        finally:
            log.close()

    def _run_epoch(self, log: RunLog, stopped: Callable[[], bool], show: Callable[[int, str], None]) -> None:
        """The rest of an epoch, or as much as there is time for."""
        self.model.train()
        keep_frozen_statistics(self.model)
        counts, accumulate = self.batches.counts(self.progress.pictures), self.recipe.optim.accumulate
        batches = self.batches.epoch(self.progress.epoch, self.progress.pictures)
        done, names = self._steps_done(), list[str]()
        started, before, pictures, losses = time.perf_counter(), self.progress.seconds, 0, []
        for number, (count, batch) in enumerate(zip(counts, batches, strict=True)):
            # Each group of batches makes one step; the last one of an epoch may hold fewer than the others.
            group = min(accumulate, len(counts) - number // accumulate * accumulate)
            whole = number % accumulate == group - 1
            losses.append(self._backward(batch, group, exchange=whole))
            names += batch.names
            pictures += count
            self.progress.pictures += count
            self.progress.seconds = before + time.perf_counter() - started
            if not whole:
                continue
            set_learning_rate(self.optimizer, learning_rate_factor(done, self.total, self.recipe.schedule))
            norm = self._update(names)
            done, names = done + 1, []
            rate, loss = pictures / (self.progress.seconds - before), sum(losses) / len(losses)
            show(done, f"epoch {self.progress.epoch + 1}  loss {loss:.3f}  {rate:.1f} images/s")
            if self.progress.step % LOG_EVERY == 0 or done == self.total:
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

    def _steps_for(self, counts: Sequence[int]) -> int:
        """Optimiser steps that so many batches make."""
        return -(-len(counts) // self.recipe.optim.accumulate)

    def _steps_done(self) -> int:
        """Steps that the pictures done would be with batches as they are now: where the schedule stands."""
        epoch, left = self.batches.counts(), self.batches.counts(self.progress.pictures)
        return (self.progress.epoch + 1) * self._steps_for(epoch) - self._steps_for(left)

    def _backward(self, batch: Batch, group: int, *, exchange: bool) -> float:
        """Adds a batch's gradients; those of a group are summed here and exchanged between processes once."""
        batch = batch.to(self.device, channels_last=self.recipe.train.channels_last)
        alone = self.processes.world > 1 and not exchange
        with self.parallel.no_sync() if alone else nullcontext():  # pyright: ignore[reportCallIssue]
            loss = self.parallel(batch)
            value = loss.item()
            if not math.isfinite(value):
                self._stop_on_nonfinite("loss", value, batch.names)
            (loss / group).backward()
        return value

    def _stop_on_nonfinite(self, what: str, value: float, names: Sequence[str]) -> NoReturn:
        """Before the weights are touched, so that the last checkpoint and the best model stay good."""
        raise Diverged(
            what,
            value,
            epoch=self.progress.epoch + 1,
            step=self.progress.step,
            names=names,
            advice="Look at these files, lower optim.lr, or set train.precision to float32; "
            f"go on from the last checkpoint with: atrous train --resume {self.run}",
        )

    def _update(self, names: Sequence[str]) -> float:
        """One optimiser step; returns the gradient's norm before clipping."""
        clip = self.recipe.optim.clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.step.parameters(), clip)
        if not torch.isfinite(norm):
            self._stop_on_nonfinite("gradient", norm.item(), names)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        for call in self.after_step:
            call(self.progress)
        if not self._settled:  # once all that lasts has its place in memory, which makes for a smaller peak
            keep_freed_memory()
            self._settled = True
        return norm.item()

    def _validate(self, log: RunLog) -> float:
        self.processes.share_statistics(self.judged)
        miou = self.validate(self.judged, self.progress, log)
        better = miou > self.progress.best_miou
        counts = self.progress.step >= self._steps_before_patience()
        self.progress.stale = self.progress.stale + 1 if counts and not better else 0
        self.progress.best_miou = max(miou, self.progress.best_miou)
        return miou

    def _is_told_to_stop(self, miou: float) -> bool:
        """Whether the observer of some process says so."""
        told = None if self.observe is None else self.observe(replace(self.progress), miou)
        if told is not None and not isinstance(told, bool):
            raise AtrousError(f"observe returns True to stop the training, or None; it returned {shown(told)}.")
        return self.processes.agree(bool(told))[0]

    def _steps_before_patience(self) -> float:
        """Steps until the average of the weights follows them: its scores are low and flat at first."""
        return AVERAGES_BEFORE_PATIENCE / (1 - self.recipe.train.ema) if self.recipe.train.ema else 0

    def what_ended_it(self) -> Literal["epochs", "patience", "minutes"] | None:
        """The field of the recipe's ``train`` by which no epoch is left; None where one is left."""
        train, progress = self.recipe.train, self.progress
        if progress.epoch >= train.epochs:
            return "epochs"
        if train.patience and progress.stale >= train.patience:
            return "patience"
        return "minutes" if self._late else None

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
                optimizer=self.optimizer,
                state=self.state,
                progress=vars(self.progress),
                random=random,
                recipe=recipe_text(self.recipe),
            )
        self._saved = time.monotonic()
