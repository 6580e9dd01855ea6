"""Opens the data set of a recipe and checks that it can be used for training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from atrous.console import console, print_notes
from atrous.data.dataset import Dataset, Item
from atrous.data.doctor.channels import OF_COLORS, SAY_COLORS
from atrous.data.doctor.readiness import few_pictures, obstacles
from atrous.data.file_of_picture import file_of_picture
from atrous.data.open_dataset import open_dataset
from atrous.data.raster_items import small_windows
from atrous.data.splits.split_names import canonical_split
from atrous.data.statistics import class_pixels
from atrous.data.transforms import color_channels
from atrous.data.volume_items import spacing_of_volumes
from atrous.errors import AtrousError
from atrous.input_spec import Spacing, spacing_in_words
from atrous.learning.checkpoint import saved_info
from atrous.learning.class_balance import pictures_of_classes
from atrous.learning.data_loader import AugmentedSamples
from atrous.learning.dataset_check import examine_with_progress, show_finding
from atrous.learning.distributed import ProcessGroup
from atrous.learning.epoch_sampler import EpochOrder
from atrous.learning.recipe import Recipe
from atrous.learning.recipe_sections import Data
from atrous.models import SegmentationModel
from atrous.option_fields import in_words

_NO_DATA = "no data given: set data.root in the recipe, or --data.root FOLDER."


def open_training_data(
    recipe: Recipe, processes: ProcessGroup, resume: Path | None = None
) -> tuple[Dataset, Sequence[int], dict[str, Any]]:
    """Opens a recipe's data set; if data.check is true, examines every file first.

    Args:
        recipe: recipe with the data section.
        processes: processes that train together; process 0 examines the files.
        resume: folder of the run to resume, whose volumes keep their target spacing; None for a new run.

    Returns:
        The data set, the number of training pixels of each class, and the diagnosis as JSON ({} without data.check).

    Raises:
        AtrousError: data.root is empty; the data cannot be used for training, and the message lists all reasons; or
            data.spacing differs from that of the run to resume.
    """
    data, in_channels = recipe.data, recipe.model.in_channels
    if not data.root:
        raise AtrousError(_NO_DATA)
    if resume is not None:
        data = replace(data, spacing=_spacing_of_run(data, resume))
    counted: Mapping[str, Sequence[int]] = {}
    doctor: dict[str, Any] = {}
    if data.check:
        counted, doctor = processes.on_rank_zero(lambda: examined(recipe))
    if data.spacing is not None:
        counted = {}  # the examination counts the voxels of the stored masks, and training uses the resampled ones
    dataset = _opened(data)
    print_notes(dataset.notes)
    pictures = {name: len(items) for name, items in dataset.splits.items()}
    _check_fitness(data, obstacles(pictures, dataset.classes, {}, data.train, data.val, dataset.nouns))
    usual = {split: split if split in pictures else canonical_split(split) for split in (data.train, data.val)}
    taken = dataset.taking(in_channels, data.pages)
    counted = {**{name: class_pixels(taken, name) for name in usual.values() if name not in counted}, **counted}
    _check_fitness(data, obstacles(pictures, dataset.classes, counted, data.train, data.val, dataset.nouns))
    files = {name: _count_of_files(items) for name, items in dataset.splits.items()}
    # if data.check is true, the examination has already printed these warnings
    for _, sentence in () if data.check else few_pictures(files, data.val, dataset.nouns):
        console.print(f"[yellow]warning[/]: {escape(sentence)}")
    return dataset, counted[usual[data.train]], doctor


def _count_of_files(items: Sequence[Item]) -> int:
    """Returns the number of pictures or volumes; windows of scenes count as pictures, as in the examination."""
    return len({item.image if item.region is not None else file_of_picture(item.image) for item in items})


def _opened(data: Data) -> Dataset:
    """Opens the data set; the target spacing `median` is measured on the volumes as they are stored."""

    def with_spacing(spacing: Spacing | None) -> Dataset:
        return open_dataset(
            data.root,
            data.layout,
            groups=data.groups,
            inputs=data.inputs,
            planes=data.planes,
            slices=data.slices,
            spacing=spacing,
            window=data.window,
        )

    if data.spacing is None:
        return with_spacing(None)
    spacing = data.spacing
    if isinstance(spacing, str):
        spacing = spacing_of_volumes(with_spacing(None).split(data.train))
        console.print(f"volumes are resampled to voxels of {spacing_in_words(spacing)}")
    return with_spacing(spacing)


def _spacing_of_run(data: Data, run: Path) -> Spacing | None:
    """Returns the target spacing of a run to resume; `median` is not measured again, because data may have changed.

    Raises:
        AtrousError: the recipe has another target spacing, or the run has no checkpoint.
    """
    spacing = saved_info(run).preprocessing.image.spacing
    measured = data.spacing == "median" and spacing is not None
    if not measured and data.spacing != spacing:
        given, trained = (
            one if isinstance(one, str) else "none" if one is None else spacing_in_words(one)
            for one in (data.spacing, spacing)
        )
        raise AtrousError(
            f"data.spacing is {given}, but the run {run} was trained with {trained}, and a resumed run keeps its "
            f"spacing. Leave out --data.spacing, or start a new run with --init {run / 'best.safetensors'}."
        )
    if measured and spacing is not None:
        console.print(f"volumes are resampled to voxels of {spacing_in_words(spacing)}, as at the start of the run")
    return spacing


def training_samples(recipe: Recipe, dataset: Dataset, model: SegmentationModel) -> AugmentedSamples:
    """Returns the training samples of a recipe, with the inputs of its model."""
    preprocessing = model.info.preprocessing
    colors = color_channels(preprocessing.inputs)
    if not colors and (unused := [name for name in OF_COLORS if getattr(recipe.augment, name)]):
        console.print(
            f"[yellow]warning[/]: no channel of these pictures is a colour, so {in_words(tuple(unused), 'and')} of "
            f"augment {'has' if len(unused) == 1 else 'have'} no effect. {SAY_COLORS}"
        )
    sentence = small_windows(dataset.split(recipe.data.train), recipe.augment.crop, recipe.augment.scale[0])
    if sentence is not None:
        console.print(f"[yellow]warning[/]: {escape(sentence)}")
    return AugmentedSamples(
        dataset.taking_inputs(preprocessing.inputs),
        dataset.split(recipe.data.train),
        recipe.augment,
        channels=preprocessing.channels,
        seed=recipe.seed,
        fill=preprocessing.mean,
        colors=colors,
    )


def epoch_order(recipe: Recipe, samples: AugmentedSamples, processes: ProcessGroup) -> EpochOrder:
    """Returns the order of a recipe's training samples; for class-balanced epochs, reads all masks first.

    Args:
        recipe: recipe of the training run.
        samples: training samples of the recipe.
        processes: processes that train together; process 0 reads the masks.
    """
    classes, balance = [], recipe.data.balance
    if balance:
        classes = processes.on_rank_zero(lambda: pictures_of_classes(samples.dataset, samples.items))
    size, batch = len(samples), recipe.train.batch_size
    return EpochOrder(size, batch, recipe.seed, processes.rank, processes.world, balance=balance, classes=classes)


def _check_fitness(data: Data, found: Iterable[tuple[str, str]]) -> None:
    """Raises an error with all reasons why the data cannot be used for training, if there are any."""
    if reasons := [sentence for _, sentence in found]:
        raise AtrousError(f"{data.root}: {' '.join(reasons)}")


def examined(recipe: Recipe) -> tuple[Mapping[str, Sequence[int]], dict[str, Any]]:
    """Examines the data of a recipe and prints warnings.

    Args:
        recipe: recipe with the data section.

    Returns:
        The number of pixels of each class, by split, and the diagnosis as JSON.

    Raises:
        AtrousError: data.root is empty, or the data have errors; the message lists all errors.
    """
    data = recipe.data
    if not data.root:
        raise AtrousError(_NO_DATA)
    diagnosis = examine_with_progress(
        Path(data.root),
        data.layout,
        train=data.train,
        val=data.val,
        pages=data.pages,
        in_channels=recipe.model.in_channels,
        inputs=data.inputs,
        groups=data.groups,
        planes=data.planes,
        slices=data.slices,
        window=data.window,
    )
    diagnosis.raise_for_errors()
    for finding in diagnosis.warnings:
        show_finding(finding, "[yellow]warning[/]")
    return diagnosis.pixels, diagnosis.as_json()
