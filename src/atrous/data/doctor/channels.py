"""Checks of the channels of a dataset's pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from atrous.data.channel_count import channels_of, counts_of_channels
from atrous.data.dataset import Dataset
from atrous.data.doctor.judge import Finding, shown
from atrous.data.doctor.scan import Pair
from atrous.data.doctor.taken_channels import TakenChannels
from atrous.data.pixels import PictureKind
from atrous.data.splits.split_names import canonical_split
from atrous.errors import AtrousError
from atrous.input_spec import usual_colors
from atrous.option_fields import in_words

#: Fields of a recipe's ``augment`` that change only colour channels. If no channel is a colour, they have no effect.
OF_COLORS = ("brightness", "contrast", "blur")
#: Advice on how to declare colour channels.
SAY_COLORS = "If some channels are colours, give their number as `colors` in the dataset's inputs.yaml."


def find_channels_without_a_way(
    dataset: Dataset, by_split: Mapping[str, list[Pair]], train: str, val: str, in_channels: int | None
) -> Iterator[Finding]:
    """Yields an error if the bands of the pictures cannot be converted to the channels that a model takes.

    Args:
        dataset: the dataset.
        by_split: the pairs of each split.
        train: the split to learn from.
        val: the split to choose the best weights on.
        in_channels: number of channels that the model takes; None for the number of channels of the training pictures.
    """
    training, measured = (
        [
            (pair.picture.kind, str(pair.item.image))
            for pair in by_split.get(name, by_split.get(canonical_split(name), []))
            if pair.picture
        ]
        for name in (train, val)
    )
    try:
        if training:
            channels_of(training, measured, in_channels)
    except AtrousError as error:
        yield Finding("channels_without_a_way", _sentence(dataset, str(error)))


def find_contradicting_names(dataset: Dataset, taken: TakenChannels) -> Iterator[Finding]:
    """Yields an error if the names of bands in two files contradict each other.

    Args:
        dataset: the dataset.
        taken: the channels that a model would take.
    """
    if taken.contradiction:
        yield Finding("contradicting_names_of_bands", _sentence(dataset, taken.contradiction))


def _sentence(dataset: Dataset, message: str) -> str:
    """Returns a message of an error as a sentence, with paths in the folder of the dataset."""
    sentence = message.replace(f"{dataset.root}{os.sep}", "")
    return sentence[0].upper() + sentence[1:]


def find_mixed_channels(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    """Yields a finding if the pictures differ in their number of channels.

    Args:
        dataset: the dataset.
        pairs: its items, each once.
    """
    first = {pair.picture.channels: pair for pair in reversed(pairs) if pair.picture}
    if len(first) > 1:
        kinds = counts_of_channels(pair.picture.channels for pair in pairs if pair.picture)
        yield Finding(
            "mixed_channels",
            f"The pictures differ in their channels: {kinds}. Each picture is converted to the channels of the model.",
            len(first),
            tuple(f"{channels}: {shown(dataset, first[channels].item.image)}" for channels in sorted(first)),
        )


def note_without_colors(dataset: Dataset, kinds: Mapping[Path, PictureKind], channels: int | None) -> Iterator[str]:
    """Yields a sentence if no channel of the pictures is a colour, because then some augmentation has no effect.

    Args:
        dataset: the dataset.
        kinds: the kind of each picture.
        channels: number of channels that the model takes; None if training cannot start.
    """
    kind = next(iter(kinds.values()), None)
    if kind is None or channels is None or dataset.inputs[0].planes:  # on volumes, see `color_channels`
        return
    chosen = dataset.inputs[0].bands or dataset.inputs[0].wavelengths
    usual = usual_colors(len(chosen) or channels, kind.dtype)
    color_counts = [one.colors for one in dataset.inputs]
    if not any([usual if color_counts[0] is None else color_counts[0], *color_counts[1:]]):
        yield (
            f"No channel of these {dataset.nouns[0]}s is a colour, so {in_words(OF_COLORS, 'and')} of a recipe's "
            f"augment would have no effect. {SAY_COLORS}"
        )
