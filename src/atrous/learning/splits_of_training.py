"""Keeps the random splits of a model's training if a dataset is opened with other groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from atrous.data.dataset import Dataset, Item
from atrous.data.dataset_spec import DatasetSpec
from atrous.data.file_of_picture import file_of_picture
from atrous.errors import AtrousError


def with_splits_of_training(dataset: Dataset, trained: DatasetSpec, open_trained: Callable[[], Dataset]) -> Dataset:
    """Returns a dataset with the random splits of the training, and with its own groups.

    A random split depends on the groups. With other groups than in training, the validation split would contain
    pictures, or ground of scenes, that the model was trained on.

    Args:
        dataset: dataset with random splits, drawn with the groups that the user gives.
        trained: spec of the same data with the groups of the training.
        open_trained: function that opens the dataset of this spec.

    Returns:
        The dataset; with a note if its splits differ from those of the training.
    """
    drawn = "without groups" if trained.groups is None else f"with the groups '{trained.groups}'"
    try:
        before = open_trained()
    except AtrousError as error:
        note = (
            f"The random split of the training was drawn {drawn}, and cannot be drawn again: {error} With other "
            "groups, the split may contain pictures that the model was trained on."
        )
        return replace(dataset, notes=(*dataset.notes, note))
    if _paths(before) == _paths(dataset):
        return dataset
    own_items = [item for items in (*dataset.splits.values(), dataset.unlisted) for item in items]
    group_of = {file_of_picture(item.image): item.group for item in own_items}

    def grouped(items: Iterable[Item]) -> tuple[Item, ...]:
        own = ((item, group_of.get(file_of_picture(item.image), item.group)) for item in items)
        return tuple(replace(item, group=group) for item, group in own)

    note = (
        f"The split is that of the training, which was drawn {drawn}. The groups that are given now are used for "
        "intervals and tests only, because with them, the split would contain pictures that the model was trained on."
    )
    splits = {name: grouped(items) for name, items in before.splits.items()}
    unlisted, notes = grouped(before.unlisted), (*before.notes, note)
    return replace(before, splits=splits, unlisted=unlisted, notes=notes, groups_from=dataset.groups_from)


def _paths(dataset: Dataset) -> dict[str, set[Path]]:
    return {name: {item.image for item in items} for name, items in dataset.splits.items()}
