"""The training loop: optimiser steps, epochs, validations and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn, Protocol

import torch
from torch import Tensor, nn

from atrous.console import console, progress_bar
from atrous.device import keep_freed_memory
from atrous.errors import AtrousError, counted, shown
from atrous.json_yaml import parse_yaml
from atrous.learning.batch import Batch
from atrous.learning.checkpoint import Checkpoint, check_names, checkpoint_of, random_state, save_checkpoint
from atrous.learning.checkpoint_parts import Stateful
from atrous.learning.distributed import ProcessGroup
from atrous.learning.divergence import Diverged
from atrous.learning.epoch_sampler import EpochOrder
from atrous.learning.freezing import keep_frozen_statistics
from atrous.learning.lr_schedule import learning_rate_factor, learning_rates, set_learning_rate
from atrous.learning.recipe import Recipe, recipe_text
from atrous.learning.run_log import RunLog
from atrous.learning.stop_signals import Interrupted, stop_on_signal
from atrous.learning.training_step import TrainingStep
from atrous.models import SegmentationModel

#: Optimiser steps between two lines of metrics.jsonl.
LOG_EVERY = 10
#: Seconds between two checkpoints within an epoch; a killed run loses at most the work of this time.
SAVE_EVERY = 300
#: Terms of the loss that every run has; runs that have no others log only their sum.
SUPERVISION = ("supervised", "auxiliary")

#: A span of the moving average is 1 / (1 − ema) steps. After this number of spans, validations count for
#: train.patience.
AVERAGES_BEFORE_PATIENCE = 2

#: Reason for the end of training: a limit in the recipe's `train`, a True from `observe`, or `epochs_now` epochs done.
Ended = Literal["epochs", "patience", "minutes", "observe", "epochs_now"]


@dataclass
class Progress:
    """The progress of a run.

    Args:
        epoch: number of finished epochs.
        pictures: number of pictures done in the current epoch, by all processes together.
        step: number of optimiser steps done.
        best_miou: best mean IoU of all validations, 0–1; −1 before the first validation.
        stale: number of validations since the best validation; a validation that does not count for train.patience sets
            it to 0.
        seconds: time of the training steps, without validations, in seconds.
    """

    epoch: int = 0
    pictures: int = 0
    step: int = 0
    best_miou: float = -1.0
    stale: int = 0
    seconds: float = 0.0

    @property
    def epochs_begun(self) -> int:
        """Number of epochs of which at least one batch is done."""
        return self.epoch + (self.pictures > 0)


def progress_of(saved: Checkpoint, size: int, recipe: Recipe) -> Progress:
    """Returns the progress of a run from its checkpoint.

    Checkpoints of earlier versions count the batches of the current epoch instead of its pictures. The size of these
    batches is in the checkpoint's recipe.

    Args:
        saved: checkpoint of the run.
        size: number of pictures in an epoch.
        recipe: current recipe; its batch size is used if the checkpoint has no recipe.
    """
    record = dict(saved.progress)
    batches = record.pop("batch", 0)
    if batches:
        recorded = parse_yaml(saved.recipe, "the recipe in the checkpoint") if saved.recipe else {}
        batch_size = recorded.get("train", {}).get("batch_size", recipe.train.batch_size)
        order = EpochOrder(size, batch_size, recipe.seed, world=saved.processes)
        record["pictures"] = sum(order.counts()[:batches])
    return Progress(**record)


class Batches(Protocol):
    """Batches of training pictures for one process, in an order that depends only on the epoch."""

    def counts(self, first: int = 0) -> Sequence[int]:
        """Returns the number of pictures, over all processes, in each remaining batch after `first` pictures."""
        ...

    def epoch(self, epoch: int, first: int = 0) -> Iterable[Batch]:
        """Yields this process's part of each remaining batch of the epoch after `first` pictures."""
        ...


class Validate(Protocol):
    """Measures a model during training, and saves it if it is the best so far."""

    def __call__(self, judged: SegmentationModel, progress: Progress, log: RunLog) -> float:
        """Returns the mean IoU, 0–1; `progress.best_miou` is the best mean IoU of earlier validations."""
        ...


#: Function called after every validation with a copy of the progress and the mean IoU; True stops the run.
Observe = Callable[[Progress, float], bool | None]


class Trainer:
    """The training loop.

    Checkpoints contain everything that the trainer changes: weights, optimiser, `state`, `progress` and random states.

    Args:
        recipe: recipe of the run.
        run: folder of the run; it must exist.
        batches: training pictures.
        step: model with its loss.
        optimizer: optimiser of the step's parameters.
        state: further objects whose state checkpoints contain, by name.
        after_step: functions that are called in order after each optimiser step, with the progress; its `step` includes
            that step.
        judged: model to validate, such as the model with the averaged weights; None for the step's model.
        progress: progress to continue from; None for a new run.
        processes: processes that train together; None for one process.
        validate: function that measures the model; called every train.validate_every epochs and at the end of the run.
        observe: function called after every validation, in every process; the run stops if it returns True.
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
        """Trains from `progress` to the end of the run.

        Args:
            epochs_now: number of epochs after which to return, ≥ 1; the rest of a partly trained epoch counts as the
                first epoch. None for all epochs of the recipe.

        Returns:
            The reason for the end.

        Raises:
            Interrupted: a signal stopped the run, which was saved.
            Diverged: a loss or gradient is not finite.
        """
        last = math.inf if epochs_now is None else self.progress.epoch + epochs_now
        log = RunLog(self.run, self.progress.step, self.recipe, silent=not self.processes.first)
        try:
            with stop_on_signal() as stopped, progress_bar() as bar:
                task = bar.add_task("training", total=self.total, completed=self._steps_done(), note="")
                while not (ended := self.what_ended_it() or ("epochs_now" if self.progress.epoch >= last else None)):
                    self._run_epoch(log, stopped, lambda done, note: bar.update(task, completed=done, note=note))
                    self.save()  # saved before the validation, because the validation may fail or be stopped
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
                # This happens only in a resumed run that stopped after train.minutes and before its first validation.
                if self.progress.best_miou < 0 and ended != "epochs_now":
                    miou = self._validate(log)
                    self.save()
                    # this calls the observer; at the end of the run, its result does not matter
                    self._is_told_to_stop(miou)
                return ended
        finally:
            log.close()

    def _run_epoch(self, log: RunLog, stopped: Callable[[], bool], show: Callable[[int, str], None]) -> None:
        """Trains the rest of an epoch, or until train.minutes are over."""
        self.model.train()
        keep_frozen_statistics(self.model)
        counts, accumulate = self.batches.counts(self.progress.pictures), self.recipe.optim.accumulate
        batches = self.batches.epoch(self.progress.epoch, self.progress.pictures)
        done, names = self._steps_done(), list[str]()
        started, before, pictures, losses = time.perf_counter(), self.progress.seconds, 0, []
        terms: list[Mapping[str, Tensor]] = []
        for number, (count, batch) in enumerate(zip(counts, batches, strict=True)):
            # Each group of batches makes one step; the last group of an epoch may have fewer batches.
            group = min(accumulate, len(counts) - number // accumulate * accumulate)
            whole = number % accumulate == group - 1
            losses.append(self._backward(batch, group, exchange=whole))
            terms.append(self.step.values)
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
                    **self._means_of(terms),
                    **learning_rates(self.optimizer),
                    images_per_second=rate,
                    grad_norm=norm,
                )
                started, before, pictures, losses = time.perf_counter(), self.progress.seconds, 0, []
                terms = []
            self._stop_or_go_on(stopped)
            if self._late:
                return

    def _means_of(self, terms: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """Returns the mean of each term of the loss over some batches; {} if there are only those of supervision."""
        if not self.step.terms.keys() - set(SUPERVISION):
            return {}
        means = {name: torch.stack([values[name] for values in terms]).mean().item() for name in self.step.terms}
        return {f"loss_{name}": self.processes.mean(mean) for name, mean in means.items()}

    def _steps_for(self, counts: Sequence[int]) -> int:
        """Returns the number of optimiser steps for these batches."""
        return -(-len(counts) // self.recipe.optim.accumulate)

    def _steps_done(self) -> int:
        """Returns the number of steps for the pictures that were used so far, with the current batch size.

        The schedule uses it, because a resumed run may have another batch size.
        """
        epoch, left = self.batches.counts(), self.batches.counts(self.progress.pictures)
        return (self.progress.epoch + 1) * self._steps_for(epoch) - self._steps_for(left)

    def _backward(self, batch: Batch, group: int, *, exchange: bool) -> float:
        """Adds the gradients of a batch, and returns its loss; processes exchange gradients only if `exchange`."""
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
        """Raises `Diverged` before the weights change, so that the last checkpoint and the best model stay usable."""
        raise Diverged(
            what,
            value,
            epoch=self.progress.epoch + 1,
            step=self.progress.step,
            names=names,
            advice="Look at these files, lower optim.lr, or set train.precision to float32; "
            f"continue from the last checkpoint with: atrous train --resume {self.run}",
        )

    def _update(self, names: Sequence[str]) -> float:
        """Makes one optimiser step, and returns the gradient's norm before clipping."""
        clip = self.recipe.optim.clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.step.parameters(), clip)
        if not torch.isfinite(norm):
            self._stop_on_nonfinite("gradient", norm.item(), names)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        for call in self.after_step:
            call(self.progress)
        # Only after the first step, which allocates all permanent tensors; an earlier call would raise the peak memory.
        if not self._settled:
            keep_freed_memory()
            self._settled = True
        return norm.item()

    def _validate(self, log: RunLog) -> float:
        """Validates the model, updates the best score and `stale`, and returns the mean IoU."""
        self.processes.share_statistics(self.judged)
        miou = self.validate(self.judged, self.progress, log)
        better = miou > self.progress.best_miou
        counts = self.progress.step >= self._steps_before_patience()
        self.progress.stale = self.progress.stale + 1 if counts and not better else 0
        self.progress.best_miou = max(miou, self.progress.best_miou)
        return miou

    def _is_told_to_stop(self, miou: float) -> bool:
        """Calls the observer, and returns whether the observer of any process returned True."""
        told = None if self.observe is None else self.observe(replace(self.progress), miou)
        if told is not None and not isinstance(told, bool):
            raise AtrousError(f"observe must return True to stop the training, or None; it returned {shown(told)}.")
        return self.processes.agree(bool(told))[0]

    def _steps_before_patience(self) -> float:
        """Returns the number of steps before validations count for train.patience.

        At first the moving average lags far behind the weights, and its scores are low and hardly change.
        """
        return AVERAGES_BEFORE_PATIENCE / (1 - self.recipe.train.ema) if self.recipe.train.ema else 0

    def what_ended_it(self) -> Literal["epochs", "patience", "minutes"] | None:
        """Returns the field of the recipe's `train` by which the run has ended; None if the run has not ended."""
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
        """Stops all processes if one process got a signal; saves if a checkpoint is due. Called after each step."""
        due = time.monotonic() - self._saved > SAVE_EVERY
        stop, due, self._late = self.processes.agree(stopped(), due, self._minutes_are_up())
        if stop or due:
            self.save()
        if stop:
            raise Interrupted(f"The run is saved; continue it with: atrous train --resume {self.run}")

    def save(self) -> None:
        """Writes the checkpoint; every process must call this method, and process 0 writes the file."""
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
