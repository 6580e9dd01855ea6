"""Matches the classes of a dataset to the classes of a model by their names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atrous.data.mask_value_map import IGNORE_INDEX, ClassTable
from atrous.errors import AtrousError


def matching_classes(table: ClassTable, names: Sequence[str]) -> np.ndarray:
    """Returns a look-up table from the class indices of the data to those of the model, matched by class name.

    Args:
        table: class table of the dataset.
        names: names of the model's classes.

    Returns:
        256 uint8 entries; indices without a class, such as 255, map to 255 (ignore).

    Raises:
        AtrousError: the data has classes that the model does not have.
    """
    unknown = [name for name in table.names if name not in names]
    if unknown:
        raise AtrousError(
            f"the data has classes that this model does not have: {', '.join(unknown)}. The classes of the model are: "
            f"{', '.join(names)}. Give the classes of the data these names, in its classes.yaml."
        )
    remap = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    remap[: len(table.names)] = [list(names).index(name) for name in table.names]
    return remap
