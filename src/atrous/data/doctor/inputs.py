"""Checks of the further inputs of a dataset, such as a depth map for each picture."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from atrous.data.dataset import Dataset
from atrous.data.doctor.judge import SHOWN, Finding, shown
from atrous.data.doctor.scan import Pair
from atrous.data.input_files import InputFiles
from atrous.data.sources.scene_files import read_picture_pixels
from atrous.errors import AtrousError

#: Largest share of a file's pixels without a value for which no warning is given.
MOSTLY_VOID = 0.5


class InputFacts(NamedTuple):
    """The properties of a file of a further input.

    Attributes:
        size: (H, W) in pixels.
        channels: number of channels C.
        dtype: data type of its values.
        void: share of its pixels without a value.
    """

    size: tuple[int, int]
    channels: int
    dtype: str
    void: float


def find_input_problems(dataset: Dataset, pairs: list[Pair]) -> tuple[list[Finding], list[Finding]]:
    """Reads all files of further inputs, and returns the problems in them.

    Args:
        dataset: the dataset.
        pairs: its items, each once, with the facts of their pictures.

    Returns:
        Errors, which would stop training, and warnings.
    """
    errors: list[Finding] = []
    warnings: list[Finding] = []
    for index, files in enumerate(dataset.inputs[1:]):
        paths = [pair.item.more[index] for pair in pairs]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            facts = list(pool.map(partial(_read, files=files), paths))
        found = [(pair, path, fact) for pair, path, fact in zip(pairs, paths, facts, strict=True)]
        errors += _errors(dataset, files.name, found)
        warnings += _mostly_void(dataset, files, [(path, fact) for _, path, fact in found])
    return errors, warnings


def _read(path: Path, files: InputFiles) -> InputFacts | str | None:
    """Returns the properties of a file, or a sentence if it cannot be read, or None if it does not exist."""
    if not path.exists():
        return None
    try:
        values, valid, _ = read_picture_pixels(
            path, None, "first", missing=files.missing_values, bands=files.bands, wavelengths=files.wavelengths
        )
    except AtrousError as error:
        return str(error)
    except (
        Exception
    ) as error:  # an error of a decoder, or too little memory: one such file must not end the examination
        return f"{path}: cannot be read ({type(error).__name__}: {error})"
    void = 0.0 if valid is None else 1 - float(valid.mean())
    height, width, channels = values.shape
    return InputFacts((height, width), channels, values.dtype.name, void)


def _errors(dataset: Dataset, name: str, found: list[tuple[Pair, Path, InputFacts | str | None]]) -> Iterator[Finding]:
    missing = [shown(dataset, pair.item.image) for pair, _, fact in found if fact is None]
    if missing:
        yield Finding(
            "missing_input",
            f"Pictures without a file of {name}. For a picture a.jpg, this file must be named a or a_{name}, "
            "followed by a suffix such as .png.",
            len(missing),
            tuple(missing[:SHOWN]),
        )
    unreadable = [fact for _, _, fact in found if isinstance(fact, str)]
    if unreadable:
        yield Finding(
            "unreadable_input", f"Files of {name} that cannot be read.", len(unreadable), tuple(unreadable[:SHOWN])
        )
    read = [(pair, path, fact) for pair, path, fact in found if isinstance(fact, InputFacts)]
    differing = [
        f"{shown(dataset, path)}: {fact.size[1]}×{fact.size[0]} px, its picture {pair.picture.size[1]}×"
        f"{pair.picture.size[0]}"
        for pair, path, fact in read
        if pair.picture is not None and pair.picture.size != fact.size
    ]
    if differing:
        yield Finding(
            "input_size",
            f"Files of {name} that differ in size from their pictures. Resize them to the size of their pictures.",
            len(differing),
            tuple(differing[:SHOWN]),
        )
    kinds = {(fact.channels, fact.dtype): path for _, path, fact in reversed(read)}
    if len(kinds) > 1:
        yield Finding(
            "input_kinds",
            f"The files of {name} differ in their number of channels or data type. Convert them to one form.",
            len(kinds),
            tuple(
                f"{channels} of {dtype}: {shown(dataset, path)}" for (channels, dtype), path in sorted(kinds.items())
            ),
        )


def _mostly_void(
    dataset: Dataset, files: InputFiles, found: list[tuple[Path, InputFacts | str | None]]
) -> Iterator[Finding]:
    void = [(path, fact.void) for path, fact in found if isinstance(fact, InputFacts) and fact.void > MOSTLY_VOID]
    if void:
        yield Finding(
            "input_void",
            f"Files of {files.name} without a value in more than {MOSTLY_VOID:.0%} of their pixels. The mean of the "
            "training values replaces missing values.",
            len(void),
            tuple(f"{shown(dataset, path)}: {share:.0%}" for path, share in void[:SHOWN]),
        )
