"""The options for opening a dataset, which all commands that read a dataset share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from atrous.data.dataset import Dataset
from atrous.data.input_files import input_folders
from atrous.data.layouts.known_layouts import LAYOUTS
from atrous.data.open_dataset import open_dataset
from atrous.input_spec import Input
from atrous.option_fields import described, setting, settings


@settings("")
@dataclass(frozen=True)
class DatasetSpec:
    """A dataset's folder and the options for reading it; the constructor checks the values.

    Raises:
        AtrousError: there is no such layout, or an input is not of the form NAME=FOLDER.
    """

    root: Path = field(metadata=described("the dataset's folder"))
    layout: str | None = setting(None, "layout of the dataset; guessed when not given", choices=tuple(LAYOUTS))
    input: tuple[str, ...] | None = setting(
        None,
        "folders of further model inputs, as NAME=FOLDER,… such as depth=depth/; each file has the name of its "
        "picture without suffix, alone or followed by _NAME. The inputs in the dataset's inputs.yaml are used, too; if "
        "an input is also given here, the folder given here is used",
    )
    groups: str | None = setting(
        None,
        "pattern: a regular expression with one pair of brackets, searched in the file names of the pictures; the text "
        "in the brackets is the group of the picture, such as a patient or a recording. Random splits, "
        "confidence intervals and paired tests keep each group together. A groups.csv in the dataset takes precedence",
    )

    def __post_init__(self) -> None:
        input_folders(self.input or ())

    @property
    def inputs(self) -> Mapping[str, str]:
        """The folders of further inputs, by name of the input."""
        return input_folders(self.input or ())

    def open(self, image: Input | None = None, *, resampled: bool = False) -> Dataset:
        """Finds the pictures, masks, splits, groups and classes; see `open_dataset`.

        Args:
            image: first input of a model, which sets the planes and the number of slices of volumes; None to use the
                planes and the number of slices of the dataset.
            resampled: whether volumes are resampled to the model's target spacing before they are cut into slices; if
                False, the slices are those of the stored volumes.

        Raises:
            AtrousError: for the same reasons as in `open_dataset`.
        """
        planes, slices = ((), None) if image is None or not image.planes else (image.planes, image.slices)
        spacing = image.spacing if image is not None and resampled else None
        return open_dataset(
            self.root,
            self.layout,
            groups=self.groups,
            inputs=self.inputs,
            planes=planes,
            slices=slices,
            spacing=spacing,
        )
