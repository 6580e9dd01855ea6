"""Reads the names of channels in nnU-Net's dataset.json, and derives the normalisation from them.

Source: github.com/MIC-DKFZ/nnUNet, ``documentation/dataset_format.md`` and ``map_channel_name_to_normalization.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atrous.data.input_files import FOREGROUND, INPUTS_FILE, PICTURES_ALONE, InputFiles
from atrous.errors import AtrousError, shown
from atrous.input_spec import IMAGE
from atrous.json_yaml import read_json

DATASET_FILE = "dataset.json"
#: Name of a channel of Hounsfield units, in lower case.
_CT = "ct"
#: Names, in lower case, for which nnU-Net uses a normalisation that atrous does not support.
_OTHERS = ("nonorm", "rescale_to_0_1", "rescale_0_1", "rgb_to_0_1")


def channel_names(root: Path) -> tuple[str, ...]:
    """Returns the names of the channels in dataset.json, in their order; () if the file or the names are missing.

    Args:
        root: the dataset's folder.

    Raises:
        AtrousError: the file is damaged, or its names are not numbered 0, 1, 2 …
    """
    path = root / DATASET_FILE
    if not path.exists():
        return ()
    record: Any = read_json(path)
    named = record.get("channel_names", record.get("modality")) if isinstance(record, Mapping) else None
    if not named:
        return ()
    numbers = [str(number) for number in range(len(named))]
    if (
        not isinstance(named, Mapping)
        or set(named) != set(numbers)
        or not all(isinstance(n, str) for n in named.values())
    ):
        raise AtrousError(
            f'{path}: channel_names (or modality) must be names by number, such as {{"0": "CT"}}, got {shown(named)}.'
        )
    return tuple(named[number] for number in numbers)


def volumes_with_channels(names: tuple[str, ...]) -> tuple[InputFiles, tuple[str, ...]]:
    """Returns the input of volumes with named channels, and notes for the user.

    CT is clipped to percentiles of the labelled voxels, and normalised by the mean and standard deviation of these
    voxels. Other channels are normalised by their own mean and standard deviation in each volume.

    Args:
        names: names of the channels; () if they are unknown.
    """
    ct = [name.casefold() == _CT for name in names]
    notes = [
        f"{DATASET_FILE} gives channel {index} the normalisation {name}, which is not supported. The channel is "
        "normalised by its own mean and standard deviation in each volume."
        for index, name in enumerate(names)
        if name.casefold() in _OTHERS
    ]
    if not any(ct):
        return PICTURES_ALONE[0], tuple(notes)
    numbers = ", ".join(str(index) for index, one in enumerate(ct) if one)
    notes.append(
        f"{DATASET_FILE} names CT (channel {numbers}), so its values are clipped to percentiles 0.5 and 99.5 of the "
        f"labelled voxels. Training measures these percentiles. To change the clipping, write an {INPUTS_FILE}."
    )
    window: Any = FOREGROUND if all(ct) else tuple(FOREGROUND if one else None for one in ct)
    return InputFiles(IMAGE, normalize="window", window=window), tuple(notes)
