"""Assembles a training run from a recipe and starts it; the loop is in `trainer.py`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.markup import escape
from torch import Tensor, nn

from atrous import model_file
from atrous.checked_arguments import checked
from atrous.console import console
from atrous.data.dataset import Dataset
from atrous.data.file_of_picture import word_of_picture
from atrous.data.rasters.scene_windows import close_scenes
from atrous.device import pick_device, pick_precision, precision_name
from atrous.errors import AtrousError, counted, shown
from atrous.inference.segment_volume import check_crf
from atrous.learning.activation_checkpointing import recompute_blocks
from atrous.learning.checkpoint import checkpoint_of, load_checkpoint
from atrous.learning.checkpoint_parts import Stateful
from atrous.learning.data_loader import Loader
from atrous.learning.distributed import ProcessGroup, current_group, process_group
from atrous.learning.ema import WeightAverage
from atrous.learning.extension import Extension
from atrous.learning.freezing import freeze
from atrous.learning.losses.combined import loss_for
from atrous.learning.losses.terms import supervised_terms
from atrous.learning.low_rank import LowRank
from atrous.learning.model_for_data import create_for
from atrous.learning.optimizer import optimizer_for
from atrous.learning.recipe import Recipe, write_recipe
from atrous.learning.teacher import Teacher, distillation_terms, with_checksum
from atrous.learning.trainer import Ended, Observe, Progress, Trainer, progress_of
from atrous.learning.training_data import epoch_order, open_training_data, training_samples
from atrous.learning.training_step import TrainingStep
from atrous.learning.transfer_weights import with_network_of
from atrous.learning.validation import BEST, Validation
from atrous.models import SegmentationModel
from atrous.overwrite_checks import save_json
from atrous.run_folder import check_new_run, check_resumed_run, locked, new_run, remove_unfinished_files

if TYPE_CHECKING:
    from atrous.learning.crf_layer import CrfLayer


@dataclass(frozen=True)
class Result:
    """The result of a training run.

    Args:
        run: folder of the run.
        score: best mean IoU on the validation split, 0–1; None if there was no validation.
        progress: numbers of epochs, pictures and steps done, and the best score.
        model: file of the best model; None if there was no validation.
        ended: reason for the end: epochs, patience or minutes (fields of the recipe's `train`); observe, if this
            function returned True; or epochs_now, the argument of `fit`.
    """

    run: Path
    score: float | None
    progress: Progress
    model: Path | None
    ended: Ended


@process_group()
@checked
def fit(
    recipe: Recipe,
    out: Path | None = None,
    *,
    resume: Path | None = None,
    init: Path | None = None,
    observe: Observe | None = None,
    extend: Callable[[SegmentationModel], Extension] | None = None,
    epochs_now: int | None = None,
    weights: Mapping[str, Tensor] | None = None,
    overwrite: bool = False,
) -> Result:
    """Trains a segmenter by a recipe, as `atrous train` does, but without the final evaluation and report.

    Args:
        recipe: recipe of the model, the data and the training.
        out: folder of the run; None for runs/ and the recipe's name, with a number if that folder exists.
        resume: folder of a run to resume.
        init: model file to start from; the run takes over its network and all weights that fit. Weights with one row
            per class are matched by class name.
        observe: function called after each validation, in every process, with a copy of the `Progress` and the mean
            IoU. If it returns True, the run stops and can be resumed; after None and False, the run continues. An
            exception in this function also ends the run, after its state was saved. If the process is killed during the
            call, a resumed run does not repeat the call.
        extend: function called once with the model, before the weights of `resume` are loaded; it returns an
            `Extension`. An extended run must be resumed with the same names of terms and states.
        epochs_now: number of epochs after which to stop, ≥ 1; the run can be resumed later. If `resume` continues
            within an epoch, the rest of that epoch counts as the first epoch. The learning rate still follows the
            recipe's train.epochs.
        weights: state dict with all weights of the model, for example the mean of the weights of several runs, read by
            `atrous.learning.checkpoint.last_weights`. It replaces the weights with which the run would start or resume,
            but not the moving average (train.ema).
        overwrite: True to allow the run to replace existing files that have the same names as its own files, such as
            report.html. A folder that already contains a run is refused, and inputs are never replaced.

    Returns:
        The folder of the run, the best score and the reason for the end.

    Raises:
        AtrousError: the data are unusable (the message names every problem), the recipe or an argument is invalid, or
            the run would replace files of the folder.
        Diverged: a loss or gradient is not finite; this AtrousError names the epoch, the step and the pictures.
        Interrupted: a signal stopped the run after its state was saved; this error is a KeyboardInterrupt.

    Examples:
        >>> from atrous import fit, read_recipe
        >>> recipe = read_recipe("quickstart", {"data.root": "data"})
        >>> fit(recipe, "runs/mine", observe=lambda progress, score: score > 0.8)  # doctest: +SKIP
        Result(run=PosixPath('runs/mine'), score=0.81, ...)
    """
    _check(recipe, observe, extend, epochs_now, weights)
    if resume is not None and (out is not None or init is not None):
        given = "out" if out is not None else "init"
        raise AtrousError(f"a resumed run keeps its own folder and weights: leave out --{given}.")
    if resume is None:
        inputs = [("the model to start from", init or recipe.model.init), ("the teacher", recipe.distill.teacher)]
        check_new_run(out, [*inputs, ("the data set", recipe.data.root or None)], overwrite=overwrite)
    else:
        check_resumed_run(resume, overwrite=overwrite)
    processes = current_group()
    recipe = replace(_starting_from(recipe, init, resume), distill=with_checksum(recipe.distill))
    dataset, pixels, doctor = open_training_data(recipe, processes, resume)
    parts = _assembled(recipe, dataset, pixels, processes, extend, resume, weights)
    run = resume or processes.on_rank_zero(lambda: new_run(out, recipe.name))
    trainer = Trainer(
        parts.recipe,
        run,
        parts.batches,
        parts.step,
        parts.optimizer,
        state=parts.state,
        after_step=parts.after_step,
        judged=parts.judged,
        progress=parts.progress,
        processes=processes,
        validate=Validation(parts.recipe, run, dataset, parts.step, processes, parts.factors),
        observe=observe,
    )
    with ExitStack() as stack:
        processes.on_rank_zero(lambda: stack.enter_context(locked(run)))
        if processes.first:
            remove_unfinished_files(run)
        trainer.save()  # this checkpoint is written before anything else, so that the run can be resumed from now on
        if processes.first:
            write_recipe(parts.recipe, run / "config.yaml")
            if doctor:
                save_json(doctor, run / "doctor.json")
        _say_start(run, parts, dataset)
        if resume is not None:
            _say_finished(run, trainer)
        close_scenes()  # the processes of the data loader open the scenes again
        ended = trainer.train(epochs_now)
    progress = trainer.progress
    measured = progress.best_miou >= 0
    score, model = (progress.best_miou, run / BEST) if measured else (None, None)
    return Result(run, score, replace(progress), model, ended)


@dataclass(frozen=True)
class _Parts:
    """The parts of a trainer, and the recipe with the arguments of the created model."""

    recipe: Recipe
    batches: Loader
    step: TrainingStep
    optimizer: torch.optim.Optimizer
    state: dict[str, Stateful]
    after_step: tuple[Callable[[Progress], object], ...]
    judged: SegmentationModel
    progress: Progress
    learning: str
    teacher: Teacher | None
    factors: nn.ModuleList | None


def _assembled(
    recipe: Recipe,
    dataset: Dataset,
    pixels: Sequence[int],
    processes: ProcessGroup,
    extend: Callable[[SegmentationModel], Extension] | None,
    resume: Path | None,
    weights: Mapping[str, Tensor] | None,
) -> _Parts:
    """Creates the parts of a trainer; with `resume`, restores their states from the run's checkpoint."""
    torch.manual_seed(recipe.seed)
    device = pick_device(recipe.train.device)
    model = create_for(recipe, dataset, fresh=resume is None)
    if resume is None and model.align_corners:  # `create_for` may have chosen it, and a resumed run needs it
        arguments = {**recipe.model.arguments, "align_corners": model.align_corners}
        recipe = replace(recipe, model=replace(recipe.model, arguments=arguments))
    if recipe.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    model.to(device)
    low_rank = _low_rank(recipe, model, fresh=resume is None)
    if low_rank is not None and weights is not None:
        raise AtrousError("weights cannot be given with train.learn lora, whose adapter changes the model of --init.")
    average = WeightAverage(model, recipe.train.ema, low_rank) if recipe.train.ema else None
    processes.share_norms(model)
    learning = freeze(model, recipe.train.learn, recipe.train.frozen, low_rank)
    crf = _crf_layer(recipe, model)
    if recipe.train.recompute:
        recompute_blocks(model, () if low_rank is None else low_rank.names)
    added = Extension() if extend is None else extend(model)
    if not isinstance(added, Extension):
        raise AtrousError(f"extend must return an Extension, got {shown(added)}.")
    precision = pick_precision(recipe.train.precision, device)
    distill = recipe.distill
    teacher = Teacher(distill, model.info, device, precision) if distill.teacher else None
    # the low-rank changes come first: their error says what differs, and the average would fail by its shapes
    own = {"low_rank": low_rank, "average": average, "crf": crf, "teacher": teacher}
    state: dict[str, Stateful] = {**{name: part for name, part in own.items() if part is not None}, **added.parts()}
    modules = [term for term in added.terms.values() if isinstance(term, nn.Module)]
    optimizer = optimizer_for(recipe, model, crf, modules, low_rank)
    torch.manual_seed(recipe.seed + processes.rank)  # different random numbers in each process, so that dropout differs
    progress = Progress()
    if resume is not None:
        path = checkpoint_of(resume)
        saved = load_checkpoint(path, model=model, optimizer=optimizer, state=state, rank=processes.rank)
        progress = progress_of(saved, len(dataset.split(recipe.data.train)), recipe)
        if average is not None:
            average.module.info = model.info
    if weights is not None:
        _put_weights(model, weights)
    if low_rank is not None:
        low_rank.leave_out_trained(model)  # weights that were trained before a resumption may be frozen now
    samples = training_samples(recipe, dataset, model)
    order = epoch_order(recipe, samples, processes)
    terms = supervised_terms(loss_for(recipe.loss, pixels, processes.mean_of), model, recipe.loss.auxiliary)
    terms |= distillation_terms(distill, model, teacher, processes.mean_of)
    terms |= added.terms
    step = TrainingStep(model, terms, precision, crf=crf, disturb=added.disturb, teacher=teacher, low_rank=low_rank).to(
        device
    )
    return _Parts(
        recipe,
        Loader(samples, order, recipe.data.workers, pin_memory=device.type == "cuda"),
        step,
        optimizer,
        state,
        (*_after_step(model, average, crf, low_rank), *added.after_step),
        model if average is None else average.module,
        progress,
        learning,
        teacher,
        None if average is None else average.factors,
    )


def _check(recipe: Any, observe: Any, extend: Any, epochs_now: int | None, weights: Any) -> None:
    """Checks the arguments whose types `checked` does not cover or does not describe well."""
    if not isinstance(recipe, Recipe):
        raise AtrousError(
            f"recipe must be a Recipe, got {shown(recipe)}: use atrous.read_recipe(path) for a file, or "
            "atrous.learning.recipe.to_recipe(record) for a dict."
        )
    for name, given, words in (("observe", observe, "(progress, score)"), ("extend", extend, "the model")):
        if given is not None and not callable(given):
            raise AtrousError(f"{name} must be a function of {words} or None, got {shown(given)}.")
    if epochs_now is not None and epochs_now < 1:
        raise AtrousError(f"epochs_now must be 1 or more, got {epochs_now}.")
    if weights is not None and not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise AtrousError(f"weights must be a dict of tensors by their names in the model, got {shown(weights)}.")


def _starting_from(recipe: Recipe, init: Path | None, resume: Path | None) -> Recipe:
    """Returns the recipe with the network of the model file that the run starts from, if there is one."""
    start = init or recipe.model.init
    if start is None or resume is not None:
        return recipe
    recipe = with_network_of(start, recipe)
    console.print(
        f"starting from {escape(str(recipe.model.init))} with its network: {recipe.model.architecture} over "
        f"{recipe.model.backbone} at output stride {recipe.model.output_stride}"
    )
    return recipe


def _crf_layer(recipe: Recipe, model: SegmentationModel) -> CrfLayer | None:
    if not recipe.crf.trainable:
        return None
    check_crf(model.info.preprocessing.image)
    # this import loads a compiler, which training without a CRF does not need
    from atrous.learning.crf_layer import CrfLayer

    return CrfLayer(recipe.crf, model.info).to(next(model.parameters()).device)


def _low_rank(recipe: Recipe, model: SegmentationModel, *, fresh: bool) -> LowRank | None:
    """Returns the low-rank changes that the recipe trains; None if it trains the weights themselves.

    Args:
        recipe: the recipe.
        model: the model, with the weights from which the training starts.
        fresh: False for a run whose weights are restored later.

    Raises:
        AtrousError: the run does not start from a trained model with the same network.
    """
    if recipe.train.learn != "lora":
        return None
    init = recipe.model.init
    if not fresh:
        return LowRank(model, recipe.train.rank, recipe.train.frozen)
    if init is None:
        raise AtrousError(
            "train.learn lora trains changes of a trained model: give its file with --init, or choose another "
            "train.learn."
        )
    low_rank = LowRank(model, recipe.train.rank, recipe.train.frozen, model_file.digest_of_file(init))
    given, own = model_file.load(init).state_dict(), model.state_dict()
    for name in low_rank.names:
        if name not in given or not torch.equal(given[name], own[name].cpu()):
            before = tuple(given[name].shape) if name in given else "no"
            raise AtrousError(
                f"train.learn lora needs the network and the channels of {init}: the weight {name} has the shape "
                f"{tuple(own[name].shape)}, and {before} shape in that file. Choose another train.learn."
            )
    low_rank.unchanged = {name for name in given if name in own and torch.equal(given[name], own[name].cpu())}
    low_rank.unchanged -= set(low_rank.names)
    return low_rank


def _after_step(
    model: SegmentationModel, average: WeightAverage | None, crf: CrfLayer | None, low_rank: LowRank | None
) -> list[Callable[[Progress], object]]:
    """Returns the functions that the recipe requires after each optimiser step."""
    calls: list[Callable[[Progress], object]] = []
    if low_rank is not None:
        calls.append(lambda progress: low_rank.merge_into(model))
    if crf is not None:
        calls.append(lambda progress: crf.keep_in_range())
    if average is not None:
        calls.append(lambda progress: average.update(model, progress.step - 1))
    return calls


def _put_weights(model: SegmentationModel, weights: Mapping[str, Tensor]) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise AtrousError(
            f"weights do not fit the model: {error}. Give a state dict with all weights of the model, such as the "
            "run's last_weights."
        ) from error


def _say_start(run: Path, parts: _Parts, dataset: Dataset) -> None:
    recipe, step = parts.recipe, parts.step
    device = next(step.model.parameters()).device
    parameters = sum(parameter.numel() for parameter in step.model.parameters())
    training, val_count = dataset.split(recipe.data.train), len(dataset.split(recipe.data.val))
    console.print(
        f"{recipe.model.architecture} over {recipe.model.backbone}, {parameters / 1e6:.2f} M parameters, "
        f"{counted(len(dataset.classes), 'class')}; {counted(len(training), word_of_picture(training[0].image))} "
        f"for training, {val_count} for validation; "
        f"{device} {precision_name(step.precision)}, {counted(torch.get_num_threads(), 'thread')}"
    )
    console.print(parts.learning)
    if parts.teacher is not None:
        console.print(escape(parts.teacher.sentence))
    watch = f"   watch: tensorboard --logdir {escape(str(run))}" if recipe.watch.tensorboard else ""
    console.print(f"run: {escape(str(run))}{watch}")


def _say_finished(run: Path, trainer: Trainer) -> None:
    """Prints how to train longer, if a resumed run was already finished."""
    option, progress, train = trainer.what_ended_it(), trainer.progress, trainer.recipe.train
    if option is None:
        return
    value = 2 * {"epochs": train.epochs, "patience": train.patience, "minutes": train.minutes}[option]
    console.print(
        f"{escape(str(run))} was finished: {counted(progress.epoch, 'epoch')}, {counted(progress.step, 'step')}. "
        f"To train longer, for example: atrous train --resume {escape(shlex.quote(str(run)))} "
        f"--train.{option} {value:g}",
        soft_wrap=True,
    )
