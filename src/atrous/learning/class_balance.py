"""Finds the pictures that contain each class, for epochs whose pictures are drawn by class (data.balance)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atrous.console import progress_bar
from atrous.data.dataset import Dataset, Item


def pictures_of_classes(dataset: Dataset, items: Sequence[Item]) -> list[np.ndarray]:
    """Reads all masks and returns, for each class, the indices of the items that contain it.

    Args:
        dataset: dataset that reads the masks.
        items: items with masks.

    Returns:
        K arrays of indices into `items`; an array is empty if no item contains the class.
    """
    found: list[list[int]] = [[] for _ in range(len(dataset.classes))]
    with progress_bar() as progress:
        task = progress.add_task("finding the classes of pictures", total=len(items), note="")
        for index, item in enumerate(items):
            if item.mask is not None:
                for one in np.flatnonzero(
                    np.bincount(dataset.read_label(item.mask, item.image).ravel(), minlength=256)
                ):
                    if one < len(found):
                        found[one].append(index)
            progress.update(task, advance=1)
    return [np.array(indices, np.int64) for indices in found]
