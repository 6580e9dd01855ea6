"""The data set of a recipe, examined as the recipe wants it and fit for a training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from atrous.console import console
from atrous.data.dataset import Dataset
from atrous.data.doctor.channels import OF_COLORS, SAY_COLORS
from atrous.data.doctor.readiness import few_pictures_note, obstacles
from atrous.data.open_dataset import open_dataset
from atrous.data.splits.split_names import canonical_split
from atrous.data.statistics import class_pixels
from atrous.data.transforms import color_channels
from atrous.errors import AtrousError
from atrous.learning.data_loader import AugmentedSamples
from atrous.learning.dataset_check import examine_with_progress, show_finding
from atrous.learning.distributed import ProcessGroup
from atrous.learning.recipe import Data, Recipe
from atrous.models import SegmentationModel
from atrous.option_fields import in_words


def open_training_data(recipe: Recipe, processes: ProcessGroup) -> tuple[Dataset, Sequence[int], dict[str, Any]]:
    """Opens a recipe's data set; examines every file first where the recipe wants it.

    Args:
        recipe: which data.
        processes: that train together; the first examines.

    Returns:
        The data set, the training pixels of each class, and the diagnosis as JSON, {} without an examination.

    Raises:
        AtrousError: no data given, or data that no training can start on, with all reasons.
    """
    data, in_channels = recipe.data, recipe.model.in_channels
    if not data.root:
        raise AtrousError("no data given: set data.root in the recipe, or --data.root FOLDER.")
    counted: Mapping[str, Sequence[int]] = {}
    doctor: dict[str, Any] = {}
    if data.check:
        counted, doctor = processes.on_rank_zero(lambda: _examined(data, in_channels))
    dataset = open_dataset(data.root, data.layout, groups=data.groups, inputs=data.inputs)
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


def training_samples(recipe: Recipe, dataset: Dataset, model: SegmentationModel) -> AugmentedSamples:
    """The pictures that a recipe learns from, with the inputs that its model takes."""
    preprocessing = model.info.preprocessing
    colors = color_channels(preprocessing.inputs)
    if not colors and (idle := [name for name in OF_COLORS if getattr(recipe.augment, name)]):
        console.print(
            f"[yellow]warning[/]: no channel of these pictures is a colour, so {in_words(tuple(idle), 'and')} of "
            f"augment {'has' if len(idle) == 1 else 'have'} no effect. {SAY_COLORS}"
        )
    return AugmentedSamples(
        dataset.taking_inputs(preprocessing.inputs),
        dataset.split(recipe.data.train),
        recipe.augment,
        channels=preprocessing.channels,
        seed=recipe.seed,
        fill=preprocessing.mean,
        colors=colors,
    )


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
        inputs=data.inputs,
        groups=data.groups,
    )
    diagnosis.raise_for_errors()
    for finding in diagnosis.warnings:
        show_finding(finding, "[yellow]warning[/]")
    return diagnosis.pixels, diagnosis.as_json()
