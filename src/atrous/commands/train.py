"""`atrous train`: from a recipe to the best weights on validation, in an explicit loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from rich.markup import escape
from torch import nn

import atrous
from atrous import model_file
from atrous.commands.doctor import examine_with_progress
from atrous.commands.evaluate import Measurement, evaluate, measure
from atrous.console import console, progress_bar
from atrous.create import create_for
from atrous.data.dataset import Dataset, Item, open_dataset
from atrous.data.statistics import class_pixels
from atrous.device import keep_freed_memory, pick_device, pick_precision, precision_name
from atrous.errors import AtrousError
from atrous.inference.segmenter import Segmenter
from atrous.learning.average import WeightAverage
from atrous.learning.checkpoint import load_checkpoint, save_checkpoint
from atrous.learning.interrupt import Interrupted, stop_on_signal
from atrous.learning.loader import AugmentedSamples, Batch, EpochOrder, make_loader
from atrous.learning.metrics import number
from atrous.learning.optim import optimizer_for, poly, set_learning_rate
from atrous.learning.recipe import Recipe, write_recipe
from atrous.learning.run_log import RunLog
from atrous.learning.step import TrainingStep
from atrous.learning.total_loss import loss_for
from atrous.learning.transfer import network_of
from atrous.models import SegmentationModel
from atrous.run_folder import new_run

#: Optimiser steps between two lines of metrics.jsonl.
LOG_EVERY = 10
#: Validation pictures shown in TensorBoard.
SHOWN = 3


@dataclass
class Progress:
    """Where a run is; everything else follows from the recipe and the weights."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_miou: float = -1.0
    stale: int = 0
    seconds: float = 0.0


def train(recipe: Recipe, *, out: Path | None = None, resume: Path | None = None, init: Path | None = None) -> Path:
    """Train a segmenter from a folder of pictures and masks.

    Args:
        recipe: what to train, on what and how; every field can be given on the command line.
        out: the run's folder; by default runs/ and the recipe's name, numbered where that exists.
        resume: folder of a run to go on with.
        init: model file to start from, with its network; classes of the same name keep their weights.

    Returns:
        The run's folder, with best.safetensors, metrics.jsonl, evaluation.json and report.html.

    Raises:
        AtrousError: unusable data (every problem named), an impossible recipe, or a loss that is not finite.
    """
    if init is not None:
        recipe = replace(recipe, model=replace(recipe.model, init=str(Path(init).resolve())))
    if recipe.model.init is not None and resume is None:
        given = model_file.read_info(recipe.model.init)
        recipe = replace(recipe, model=network_of(given, recipe.model))
        console.print(
            f"starting from {escape(str(recipe.model.init))}, with its network: {recipe.model.architecture} over "
            f"{recipe.model.backbone} at output stride {recipe.model.output_stride}"
        )
    dataset, pixels = _open_data(recipe)
    torch.manual_seed(recipe.seed)
    device = pick_device(recipe.train.device)
    precision = pick_precision(recipe.train.precision, device)
    model = create_for(recipe, dataset, fresh=resume is None)
    average = WeightAverage(model, recipe.train.ema) if recipe.train.ema else None
    progress = Progress()
    if recipe.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    model.to(device)
    crf = None
    if recipe.crf.trainable:
        from atrous.learning.crf_layer import CrfLayer  # with a compiler, which no other training needs

        crf = CrfLayer(recipe.crf, model.info).to(device)
    optimizer = optimizer_for(recipe, model, crf)
    if resume is not None:
        saved = load_checkpoint(_checkpoint(resume), model=model, average=average, optimizer=optimizer, crf=crf)
        progress = Progress(**saved)
    step = TrainingStep(model, loss_for(recipe.loss, pixels), precision, recipe.loss.auxiliary, crf).to(device)
    run = resume or new_run(out, recipe.name)
    trainer = _Trainer(recipe, run, dataset, step, optimizer, average, progress)
    write_recipe(recipe, run / "config.yaml")
    trainer.save()  # so that there is something to resume from the first moment on
    _say_start(run, recipe, dataset, step, device)
    trainer.run_all()
    return _finish(recipe, run, dataset)


class _Trainer:
    """The loop: its state is `progress`, the weights, the optimiser and torch's random state, all checkpointed."""

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        dataset: Dataset,
        step: TrainingStep,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
        progress: Progress,
    ) -> None:
        self.recipe, self.run, self.dataset, self.step = recipe, run, dataset, step
        self.optimizer, self.average, self.progress = optimizer, average, progress
        self.model: SegmentationModel = step.model
        self.device = next(self.model.parameters()).device
        preprocessing = self.model.info.preprocessing
        samples = AugmentedSamples(
            dataset,
            dataset.split(recipe.data.train),
            recipe.augment,
            channels=len(preprocessing.mean),
            seed=recipe.seed,
            fill=preprocessing.mean,
        )
        self.order = EpochOrder(len(samples), recipe.train.batch_size, recipe.seed)
        self.loader = make_loader(samples, self.order, recipe.data.workers, pin_memory=self.device.type == "cuda")
        self.steps_per_epoch = -(-len(self.order) // recipe.optim.accumulate)
        self.total = recipe.train.epochs * self.steps_per_epoch
        self.val_items: tuple[Item, ...] = dataset.split(recipe.data.val)
        self._settled = False

    def run_all(self) -> None:
        """All epochs from where `progress` stands; saves and raises `Interrupted` on a signal."""
        log = RunLog(self.run, self.progress.step)
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
                    self._stop_if(stopped)
                if self.progress.best_miou < 0:  # stopped after its time was up, before it was measured
                    self._validate(log)
                    self.save()
        finally:
            log.close()

    def _run_epoch(self, log: RunLog, stopped: Callable[[], bool], show: Callable[[str], None]) -> None:
        """The rest of an epoch, or as much as there is time for."""
        self.model.train()
        self.order.start(self.progress.epoch, self.progress.batch)
        started, before, pictures, losses = time.perf_counter(), self.progress.seconds, 0, []
        names: list[str] = []
        for batch in self.loader:
            self._set_learning_rate()
            losses.append(self._backward(batch))
            pictures += len(batch.names)
            names += batch.names
            self.progress.batch += 1
            self.progress.seconds = before + time.perf_counter() - started
            if self.progress.batch % self.recipe.optim.accumulate and self.progress.batch < len(self.order):
                continue
            norm = self._update(names)
            names = []
            rate, loss = pictures / (self.progress.seconds - before), sum(losses) / len(losses)
            show(f"epoch {self.progress.epoch + 1}  loss {loss:.3f}  {rate:.1f} images/s")
            if self.progress.step % LOG_EVERY == 0 or self.progress.step == self.total:
                log.train(
                    step=self.progress.step,
                    epoch=self.progress.epoch + 1,
                    loss=loss,
                    lr=self.optimizer.param_groups[-1]["lr"],
                    images_per_second=rate,
                    grad_norm=norm,
                )
                started, before, pictures, losses = time.perf_counter(), self.progress.seconds, 0, []
            self._stop_if(stopped)
            if self._time_is_up():
                return

    def _set_learning_rate(self) -> None:
        schedule = self.recipe.schedule
        factor = poly(
            self.progress.step,
            self.total,
            power=schedule.power,
            warmup=int(schedule.warmup * self.total),
            floor=schedule.floor,
        )
        set_learning_rate(self.optimizer, factor)

    def _backward(self, batch: Batch) -> float:
        images = batch.images.to(self.device, non_blocking=True)
        if self.recipe.train.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        loss = self.step(images, batch.labels.to(self.device, non_blocking=True))
        value = loss.item()
        if not math.isfinite(value):
            self._stop_on_nonfinite("loss", value, batch.names)
        # The last group of an epoch may hold fewer batches than the others.
        accumulate = self.recipe.optim.accumulate
        first_of_group = self.progress.batch - self.progress.batch % accumulate
        (loss / min(accumulate, len(self.order) - first_of_group)).backward()
        return value

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
        segmenter = Segmenter(
            judged, engine="torch", device=self.device, precision=precision_name(self.step.precision), crf=self._crf()
        )
        measured = measure(segmenter, self.dataset, self.val_items)
        scores = measured.confusion.summary()
        per_class = {name: number(iou) for name, iou in zip(judged.info.classes, measured.confusion.iou, strict=True)}
        log.validation(
            step=self.progress.step,
            epoch=self._epochs_begun(),
            seconds=self.progress.seconds,
            per_class=per_class,
            **scores,
        )
        for item in self.val_items[:SHOWN]:
            overlay = segmenter(item.image).overlay()
            log.picture(f"val/{item.name}", np.asarray(overlay), self.progress.step)
        self._keep_best(judged, measured, log)

    def _keep_best(self, judged: SegmentationModel, measured: Measurement, log: RunLog) -> None:
        miou = measured.confusion.miou
        better = miou > self.progress.best_miou
        minutes = self.progress.seconds / 60
        log.say(
            f"epoch {self._epochs_begun()}/{self.recipe.train.epochs}: val mIoU {miou:.4f}"
            f"{' (best)' if better else ''}, {minutes:.1f} min of training"
        )
        self.progress.stale = 0 if better else self.progress.stale + 1
        if better:
            self.progress.best_miou = miou
            info = replace(
                judged.info,
                scores={self.recipe.data.val: measured.confusion.summary()},
                crf=self._crf() or judged.info.crf,
                provenance=self._provenance(),
            )
            judged.info, before = info, judged.info
            model_file.save(judged, self.run / "best.safetensors")
            judged.info = before

    def _crf(self) -> dict[str, Any] | None:
        """The CRF's settings as they are used after training, where one is trained."""
        return self.step.crf.learned() if self.step.crf is not None else None

    def _provenance(self) -> dict[str, Any]:
        return {
            "made_by": f"atrous {atrous.__version__}, torch {torch.__version__}",
            "made_on": time.strftime("%Y-%m-%d"),
            "recipe": self.recipe.name,
            "data": Path(self.recipe.data.root).name,
            "epoch": self._epochs_begun(),
            "training_minutes": round(self.progress.seconds / 60, 1),
        }

    def _epochs_begun(self) -> int:
        return self.progress.epoch + (self.progress.batch > 0)

    def _is_done(self) -> bool:
        patience = self.recipe.train.patience
        if patience and self.progress.stale >= patience:
            console.print(f"stopping early: no better mIoU in {patience} validations.")
            return True
        return self._is_last()

    def _is_last(self) -> bool:
        return self.progress.epoch >= self.recipe.train.epochs or self._time_is_up()

    def _time_is_up(self) -> bool:
        minutes = self.recipe.train.minutes
        return bool(minutes) and self.progress.seconds >= 60 * minutes

    def _stop_if(self, stopped: Callable[[], bool]) -> None:
        if stopped():
            self.save()
            raise Interrupted(f"The run is saved; go on with: atrous train --resume {self.run}")

    def save(self) -> None:
        """Writes everything that is needed to go on."""
        save_checkpoint(
            _checkpoint(self.run),
            model=self.model,
            average=self.average,
            optimizer=self.optimizer,
            progress=vars(self.progress),
            crf=self.step.crf,
        )


def _checkpoint(run: Path) -> Path:
    return run / "checkpoints" / "last.safetensors"


def _open_data(recipe: Recipe) -> tuple[Dataset, Sequence[int]]:
    """The dataset, examined first unless the recipe says otherwise, and the training pixels of each class."""
    data = recipe.data
    if not data.root:
        raise AtrousError("no data given: set data.root in the recipe, or --data.root FOLDER.")
    counted: Mapping[str, Sequence[int]] = {}
    if data.check:
        diagnosis = examine_with_progress(Path(data.root), data.layout)
        diagnosis.raise_for_errors()
        counted = diagnosis.pixels
    dataset = open_dataset(data.root, data.layout)
    for note in dataset.notes:
        console.print(escape(note))
    for split in (data.train, data.val):
        if not dataset.split(split):
            raise AtrousError(f"the split '{split}' of {data.root} has no pictures.")
        if split not in counted:
            counted = {**counted, split: class_pixels(dataset, split)}
        if not sum(counted[split]):
            raise AtrousError(f"the split '{split}' of {data.root} has no labelled pixel: nothing to learn or measure.")
    return dataset, counted[data.train]


def _say_start(run: Path, recipe: Recipe, dataset: Dataset, step: TrainingStep, device: torch.device) -> None:
    parameters = sum(parameter.numel() for parameter in step.model.parameters())
    train_count, val_count = len(dataset.split(recipe.data.train)), len(dataset.split(recipe.data.val))
    console.print(
        f"{recipe.model.architecture} over {recipe.model.backbone}, {parameters / 1e6:.2f} M parameters, "
        f"{len(dataset.classes)} classes; {train_count} pictures to learn from, {val_count} to choose on; "
        f"{device} {precision_name(step.precision)}, {torch.get_num_threads()} threads"
    )
    console.print(f"run: {escape(str(run))}   watch: tensorboard --logdir {escape(str(run))}")


def _finish(recipe: Recipe, run: Path, dataset: Dataset) -> Path:
    """Measures the best weights in full precision and writes the report."""
    from atrous.commands.report import report

    evaluate(
        run / "best.safetensors",
        dataset.root,
        split=recipe.data.val,
        layout=dataset.layout,
        json=run / "evaluation.json",
        crf="model" if recipe.crf.trainable else None,
        device=recipe.train.device,
    )
    page = report(run)
    console.print(f"report: {escape(str(page))}")
    return run
