"""Checks the grids of volumes and their masks, and the numbers of contrasts of volumes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from atrous.data.dataset import Dataset
from atrous.data.doctor.judge import SHOWN, Finding, shown
from atrous.data.doctor.scan import Pair
from atrous.data.volume_items import first_notes
from atrous.data.volumes.grid import check_same_grid
from atrous.errors import AtrousError, counted


def find_other_grids(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    """Yields an error if masks are not on the grids of their volumes.

    Args:
        dataset: the dataset.
        pairs: its volumes, each once.
    """
    examples = []
    for pair in pairs:
        if pair.volume is not None and pair.volume.mask_grid is not None:
            names = shown(dataset, pair.item.image), shown(dataset, pair.item.mask)
            try:
                check_same_grid(pair.volume.grid, pair.volume.mask_grid, *names)
            except AtrousError as error:
                examples.append(str(error))
    if examples:
        yield Finding(
            "grid_mismatch",
            "Masks are not on the grids of their volumes, so their voxels are at other positions in the patient. "
            "Resample each mask to the grid of its volume.",
            len(examples),
            tuple(examples[:SHOWN]),
        )


def find_wrong_contrasts(
    dataset: Dataset, pairs: list[Pair], slices: int, in_channels: int | None
) -> Iterator[Finding]:
    """Yields an error if volumes differ in their number of contrasts, or if this number does not fit the model.

    Args:
        dataset: the dataset.
        pairs: its volumes, each once.
        slices: number of neighbouring slices that are channels, ≥ 1.
        in_channels: number of channels that the model takes, ≥ 1; None for the number of channels of the volumes'
            slices.
    """
    counts = Counter(pair.picture.channels for pair in pairs if pair.picture)
    first = {pair.picture.channels: pair for pair in reversed(pairs) if pair.picture}
    if len(counts) > 1:
        listed = ", ".join(f"{counted(count, 'volume')} with {number}" for number, count in sorted(counts.items()))
        rare = min(counts, key=lambda number: (counts[number], number))
        yield Finding(
            "mixed_contrasts",
            f"The volumes differ in their number of contrasts (their fourth dimension): {listed}. A model takes the "
            "same number from each volume, so write all volumes with the same contrasts.",
            counts[rare],
            tuple(f"{number}: {shown(dataset, first[number].item.image)}" for number in sorted(first)),
        )
    elif counts and in_channels is not None and in_channels != (given := next(iter(counts)) * slices):
        contrasts = counted(next(iter(counts)), "contrast")
        yield Finding(
            "channels_without_a_way",
            f"The model takes {in_channels} channels, but a slice gives {given}: {contrasts} × {slices} neighbouring "
            f"{'slice' if slices == 1 else 'slices'}. Leave model.in_channels out, or change data.slices.",
        )


def volume_notes(pairs: list[Pair]) -> tuple[str, ...]:
    """Returns the first notes on volumes and masks, such as a missing orientation, and the number of further notes.

    Args:
        pairs: the volumes of a dataset, each once.
    """
    volumes = [pair.volume for pair in pairs if pair.volume]
    of_scans = [note for one in volumes for note in one.notes]
    return *first_notes(of_scans), *first_notes([note for one in volumes for note in one.mask_notes])
