"""`atrous train`: train a model by a recipe, and keep the best weights.

Examples:
    atrous train quickstart --data.root data/
    atrous train mine.yaml --data.root data/ --train.epochs 60 --out runs/mine
    atrous train --resume runs/mine
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.markup import escape

import atrous
from atrous import model_file
from atrous.arguments import checked
from atrous.charts import confusion_picture
from atrous.commands._measurement import measure
from atrous.commands.doctor import examine_with_progress, show_finding
from atrous.commands.evaluate import evaluate
from atrous.console import console
from atrous.create import create_for
from atrous.data.dataset import Dataset, Item, open_dataset
from atrous.data.readiness import few_pictures_note, obstacles
from atrous.data.split_names import canonical_split
from atrous.data.statistics import class_pixels
from atrous.device import pick_device, pick_precision, precision_name
from atrous.errors import AtrousError, counted, shown
from atrous.inference.segmenter import Segmenter
from atrous.inference.value_range import PictureWarning
from atrous.learning.average import WeightAverage
from atrous.learning.checkpoint import load_checkpoint
from atrous.learning.freezing import freeze
from atrous.learning.loader import AugmentedSamples
from atrous.learning.metrics import ConfusionMatrix, number
from atrous.learning.optim import optimizer_for
from atrous.learning.processes import Processes, the_processes, together
from atrous.learning.recipe import Data, Recipe, write_recipe
from atrous.learning.recompute import recompute_blocks
from atrous.learning.run_log import RunLog
from atrous.learning.step import TrainingStep
from atrous.learning.total_loss import loss_for
from atrous.learning.trainer import Progress, Trainer, checkpoint_of
from atrous.learning.transfer import network_of
from atrous.logger import suppressed
from atrous.models import SegmentationModel
from atrous.outputs import save_json
from atrous.run_folder import check_new_run, check_resumed_run, held, new_run, remove_unfinished_files

#: Validation pictures shown in TensorBoard.
SHOWN = 3


@together()
@checked
def train(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    init: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Train a segmenter from a folder of pictures and masks.

    Args:
        recipe: what to train, on what and how; every field can be given on the command line.
        out: the run's folder; by default runs/ and the recipe's name, numbered where that exists.
        resume: folder of a run to go on with.
        init: model file to start from, with its network; classes of the same name keep their weights.
        overwrite: replace files that have the names of a run's, too, in a folder without a run; inputs are never
            replaced.

    Returns:
        The run's folder, with best.safetensors, metrics.jsonl, evaluation.json and report.html.

    Raises:
        AtrousError: unusable data (every problem named), an impossible recipe, a loss that is not finite, or a folder
            in which the run would replace files.
    """
    if not isinstance(recipe, Recipe):
        raise AtrousError(
            f"recipe must be a Recipe, got {shown(recipe)}: atrous.learning.recipe.read_recipe(path) reads one from a "
            "file, to_recipe(record) from a dict."
        )
    if resume is not None and (out is not None or init is not None):
        given = "out" if out is not None else "init"
        raise AtrousError(f"--resume goes on in its own folder with its own weights: leave out --{given}.")
    started_from = ("the model to start from", init or recipe.model.init)
    if resume is None:
        check_new_run(out, [started_from, ("the data set", recipe.data.root or None)], overwrite=overwrite)
    else:
        check_resumed_run(resume, overwrite=overwrite)
    processes = the_processes()
    recipe = _starting_from(recipe, init, resume)
    dataset, pixels, doctor = _open_data(recipe, processes)
    torch.manual_seed(recipe.seed)
    device = pick_device(recipe.train.device)
    model = create_for(recipe, dataset, fresh=resume is None)
    if resume is None and model.align_corners:  # which `create_for` may have chosen, and a resumed run must be told
        arguments = {**recipe.model.arguments, "align_corners": model.align_corners}
        recipe = replace(recipe, model=replace(recipe.model, arguments=arguments))
    if recipe.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    model.to(device)
    average = WeightAverage(model, recipe.train.ema) if recipe.train.ema else None
    processes.share_norms(model)
    learning = freeze(model, recipe.train.learn, recipe.train.frozen)
    crf = None
    if recipe.crf.trainable:
        from atrous.learning.crf_layer import CrfLayer  # with a compiler, which no other training needs

        crf = CrfLayer(recipe.crf, model.info).to(device)
    if recipe.train.recompute:
        recompute_blocks(model)
    optimizer = optimizer_for(recipe, model, crf)
    torch.manual_seed(recipe.seed + processes.rank)  # from here on each process drops other values
    progress = Progress()
    if resume is not None:
        state = {"model": model, "average": average, "optimizer": optimizer, "crf": crf}
        progress = Progress(**load_checkpoint(checkpoint_of(resume), **state, rank=processes.rank))
    precision = pick_precision(recipe.train.precision, device)
    step = TrainingStep(model, loss_for(recipe.loss, pixels), precision, recipe.loss.auxiliary, crf).to(device)
    run = resume or processes.by_first(lambda: new_run(out, recipe.name))
    trainer = Trainer(
        recipe,
        run,
        _samples(recipe, dataset, model),
        step,
        optimizer,
        average=average,
        progress=progress,
        processes=processes,
        validate=_Validate(recipe, run, dataset, step, processes),
    )
    with ExitStack() as stack:
        processes.by_first(lambda: stack.enter_context(held(run)))
        if processes.first:
            remove_unfinished_files(run)
        trainer.save()  # first of all, with the recipe: from then on there is something to resume
        if processes.first:
            write_recipe(recipe, run / "config.yaml")
            if doctor:
                save_json(doctor, run / "doctor.json")
        _say_start(run, recipe, dataset, step, learning)
        if resume is not None and (longer := trainer.what_ended_it()):
            option, value = longer
            console.print(
                f"{escape(str(run))} was finished: {counted(progress.epoch, 'epoch')}, "
                f"{counted(progress.step, 'step')}. To train longer, for example: "
                f"atrous train --resume {escape(shlex.quote(str(run)))} --train.{option} {value:g}",
                soft_wrap=True,
            )
        trainer.run_all()
        _finish(recipe, run, dataset, processes)
    return run


def _starting_from(recipe: Recipe, init: Path | None, resume: Path | None) -> Recipe:
    """The recipe with the network of the model that it starts from, where it does."""
    if init is not None:
        recipe = replace(recipe, model=replace(recipe.model, init=str(Path(init).resolve())))
    if recipe.model.init is None or resume is not None:
        return recipe
    recipe = replace(recipe, model=network_of(model_file.read_info(recipe.model.init), recipe.model))
    console.print(
        f"starting from {escape(str(recipe.model.init))}, with its network: {recipe.model.architecture} over "
        f"{recipe.model.backbone} at output stride {recipe.model.output_stride}"
    )
    return recipe


def _samples(recipe: Recipe, dataset: Dataset, model: SegmentationModel) -> AugmentedSamples:
    mean, pages = model.info.preprocessing.mean, model.info.preprocessing.pages
    items = dataset.split(recipe.data.train)
    taken = dataset.taking(len(mean), pages)
    return AugmentedSamples(taken, items, recipe.augment, channels=len(mean), seed=recipe.seed, fill=mean)


class _Validate:
    """Measures the model on the validation split, shows what it sees, and keeps the best."""

    def __init__(self, recipe: Recipe, run: Path, dataset: Dataset, step: TrainingStep, processes: Processes) -> None:
        self.recipe, self.run, self.dataset, self.step, self.processes = recipe, run, dataset, step, processes
        self.items: tuple[Item, ...] = dataset.split(recipe.data.val)

    def __call__(self, judged: SegmentationModel, progress: Progress, log: RunLog) -> float:
        """Returns the mean IoU, the same in every process."""
        device, precision = next(judged.parameters()).device, precision_name(self.step.precision)
        segmenter = Segmenter(judged, engine="torch", device=device, precision=precision, crf=self._crf())
        confusion = measure(segmenter, self.dataset, self.items).confusion
        if self.processes.first:
            self._log(segmenter, confusion, progress, log)
            if confusion.miou > progress.best_miou:
                self._keep(judged, confusion, progress)
        return confusion.miou

    def _log(self, segmenter: Segmenter, confusion: ConfusionMatrix, progress: Progress, log: RunLog) -> None:
        names, epoch = segmenter.info.classes, progress.epochs_begun
        log.validation(
            step=progress.step,
            epoch=epoch,
            seconds=progress.seconds,
            per_class={name: number(iou) for name, iou in zip(names, confusion.iou, strict=True)},
            **confusion.summary(),
        )
        log.picture("val/confusion", confusion_picture(confusion.counts, names), progress.step)
        for item in self.items[:SHOWN]:
            with suppressed(PictureWarning):  # the doctor has told it
                shown = segmenter(item.image).overlay()
            log.picture(f"val/{item.name}", np.asarray(shown), progress.step)
        best = " (best)" if confusion.miou > progress.best_miou else ""
        weights = " of the averaged weights" if self.recipe.train.ema else ""
        log.say(
            f"epoch {epoch}/{self.recipe.train.epochs}: val mIoU {confusion.miou:.4f}{best}{weights}, computed in "
            f"{segmenter.engine.precision}, {progress.seconds / 60:.1f} min of training"
        )

    def _keep(self, judged: SegmentationModel, confusion: ConfusionMatrix, progress: Progress) -> None:
        before = judged.info
        provenance = {
            "made_by": f"atrous {atrous.__version__}, torch {torch.__version__}",
            "made_on": time.strftime("%Y-%m-%d"),
            "recipe": self.recipe.name,
            "data": Path(self.recipe.data.root).name,
            **({"groups": self.recipe.data.groups} if self.recipe.data.groups else {}),
            "epoch": progress.epochs_begun,
            "training_minutes": round(progress.seconds / 60, 1),
        }
        scores = {self.recipe.data.val: confusion.summary()}
        judged.info = replace(before, scores=scores, crf=self._crf() or before.crf, provenance=provenance)
        model_file.save(judged, self.run / "best.safetensors", overwrite=True)  # was asked for before the work
        judged.info = before

    def _crf(self) -> dict[str, Any] | None:
        """The CRF's settings as they are used after training, where one is trained."""
        return self.step.crf.learned() if self.step.crf is not None else None


def _open_data(recipe: Recipe, processes: Processes) -> tuple[Dataset, Sequence[int], dict[str, Any]]:
    """The dataset, the training pixels of each class, and what the doctor said, where the recipe wants it asked."""
    data, in_channels = recipe.data, recipe.model.in_channels
    if not data.root:
        raise AtrousError("no data given: set data.root in the recipe, or --data.root FOLDER.")
    counted: Mapping[str, Sequence[int]] = {}
    doctor: dict[str, Any] = {}
    if data.check:
        counted, doctor = processes.by_first(lambda: _examined(data, in_channels))
    dataset = open_dataset(data.root, data.layout, groups=data.groups)
    for note in dataset.notes:
        console.print(escape(note))
    pictures = {name: len(items) for name, items in dataset.splits.items()}
    _check_fitness(data, obstacles(pictures, dataset.classes, {}, data.train, data.val))
    usual = {split: split if split in pictures else canonical_split(split) for split in (data.train, data.val)}
    taken = dataset.taking(in_channels, data.pages)
    counted = {**{name: class_pixels(taken, name) for name in usual.values() if name not in counted}, **counted}
    _check_fitness(data, obstacles(pictures, dataset.classes, counted, data.train, data.val))
    if few := few_pictures_note(pictures[usual[data.val]], data.val):
        console.print(f"[yellow]warning[/]: {escape(few)}")
    return dataset, counted[usual[data.train]], doctor


def _check_fitness(data: Data, found: Iterable[tuple[str, str]]) -> None:
    """Refuses data that a training cannot start on, with all reasons."""
    if reasons := [sentence for _, sentence in found]:
        raise AtrousError(f"{data.root}: {' '.join(reasons)}")


def _examined(data: Data, in_channels: int | None) -> tuple[Mapping[str, Sequence[int]], dict[str, Any]]:
    """The pixels of each class by split, of data without errors, and the whole diagnosis; its warnings are printed."""
    diagnosis = examine_with_progress(
        Path(data.root),
        data.layout,
        train=data.train,
        val=data.val,
        pages=data.pages,
        in_channels=in_channels,
        groups=data.groups,
    )
    diagnosis.raise_for_errors()
    for finding in diagnosis.warnings:
        show_finding(finding, "[yellow]warning[/]")
    return diagnosis.pixels, diagnosis.as_json()


def _say_start(run: Path, recipe: Recipe, dataset: Dataset, step: TrainingStep, learning: str) -> None:
    device = next(step.model.parameters()).device
    parameters = sum(parameter.numel() for parameter in step.model.parameters())
    train_count, val_count = len(dataset.split(recipe.data.train)), len(dataset.split(recipe.data.val))
    console.print(
        f"{recipe.model.architecture} over {recipe.model.backbone}, {parameters / 1e6:.2f} M parameters, "
        f"{counted(len(dataset.classes), 'class')}; {counted(train_count, 'picture')} to learn from, "
        f"{val_count} to choose on; "
        f"{device} {precision_name(step.precision)}, {counted(torch.get_num_threads(), 'thread')}"
    )
    console.print(learning)
    watch = f"   watch: tensorboard --logdir {escape(str(run))}" if recipe.watch.tensorboard else ""
    console.print(f"run: {escape(str(run))}{watch}")


def _finish(recipe: Recipe, run: Path, dataset: Dataset, processes: Processes) -> None:
    """Measures the best weights in full precision and writes the report."""
    from atrous.commands.report import report

    console.print("final scores of best.safetensors, computed in float32:")
    with suppressed(PictureWarning):  # the doctor has told it
        evaluate(
            run / "best.safetensors",
            dataset.root,
            split=recipe.data.val,
            layout=dataset.layout,
            groups=recipe.data.groups,
            json=run / "evaluation.json",
            overwrite=True,  # was asked for before the work
            crf="model" if recipe.crf.trainable else None,
            device=recipe.train.device,
        )
    if processes.first:
        report([run], overwrite=True)
