"""How a dataset is opened: what every verb that reads one is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from atrous.data.dataset import Dataset
from atrous.data.input_files import input_folders
from atrous.data.layouts.known_layouts import LAYOUTS
from atrous.data.open_dataset import open_dataset
from atrous.option_fields import described, setting, settings


@settings("")
@dataclass(frozen=True)
class DatasetSpec:
    """A dataset's folder and how to read it; the values are checked when it is made.

    Raises:
        AtrousError: no such layout, or inputs that are not NAME=FOLDER.
    """

    root: Path = field(metadata=described("the dataset's folder"))
    layout: str | None = setting(None, "layout of the dataset; guessed when not given", choices=tuple(LAYOUTS))
    input: tuple[str, ...] | None = setting(
        None,
        "folders of further inputs, NAME=FOLDER,… such as depth=depth/, whose files have the stems of the pictures; of "
        "a dataset, beside those of its inputs.yaml",
    )
    groups: str | None = setting(
        None,
        "regular expression with one pair of brackets, searched in the names of pictures; what the brackets find, such "
        "as a patient or a recording, stays together in splits, intervals and tests. A groups.csv in the dataset comes "
        "first",
    )

    def __post_init__(self) -> None:
        input_folders(self.input or ())

    @property
    def inputs(self) -> Mapping[str, str]:
        """The folders of further inputs by name."""
        return input_folders(self.input or ())

    def open(self) -> Dataset:
        """Finds the pictures, masks, splits, groups and classes; see `open_dataset`.

        Raises:
            AtrousError: as `open_dataset`.
        """
        return open_dataset(self.root, self.layout, groups=self.groups, inputs=self.inputs)
