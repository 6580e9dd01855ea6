"""Turns each volume of a dataset into one item per slice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from atrous.data.dataset import Dataset, Item
from atrous.data.volumes.grid import check_same_grid
from atrous.data.volumes.nifti import nifti_notes
from atrous.data.volumes.read_volume import volume_shape
from atrous.data.volumes.slices import AXES, SlicePlace, holds_volume, is_volume
from atrous.errors import AtrousError

#: Largest number of volumes whose notes are listed.
MOST_NOTES = 5


def with_slices(dataset: Dataset, planes: tuple[str, ...], slices: int | None) -> Dataset:
    """Returns a dataset whose items are the slices of its volumes; a dataset of pictures is returned unchanged.

    Slices of one volume belong to one group, so that no split divides a volume.

    Args:
        dataset: dataset whose items are whole volumes or pictures.
        planes: planes of the slices; () for those of the dataset's inputs.yaml, else axial.
        slices: number of neighbouring slices that are channels; None for that of the inputs.yaml.

    Raises:
        AtrousError: a volume is damaged, has further inputs, or its mask has another grid.
    """
    items = [item for part in dataset.splits.values() for item in part]
    if not any(holds_volume(item.image) for item in items):
        return dataset
    if pictures := [item.image for item in items if not holds_volume(item.image)]:
        raise AtrousError(
            f"{dataset.root}: the dataset mixes volumes and pictures, such as {pictures[0]}: separate them."
        )
    image = dataset.inputs[0]
    if len(dataset.inputs) > 1:
        raise AtrousError(f"{dataset.root}: volumes cannot have further inputs: store contrasts in one 4-D file.")
    planes = planes or image.planes or ("axial",)
    image = replace(
        image,
        planes=planes,
        slices=image.slices if slices is None else slices,
        normalize="per_image" if image.normalize == "fixed" else image.normalize,
    )
    found: dict[Path, tuple[Item, ...]] = {}

    def sliced(part: Iterable[Item]) -> tuple[Item, ...]:
        for item in part:
            if item.image not in found:
                found[item.image] = _slices_of(item, planes)
        return tuple(one for item in part for one in found[item.image])

    splits = {name: sliced(part) for name, part in dataset.splits.items()}
    notes = [note for file in found if is_volume(file) and file.exists() for note in nifti_notes(file)]
    if len(notes) > MOST_NOTES:
        notes = [*notes[:MOST_NOTES], f"{len(notes) - MOST_NOTES} more volumes have such positions."]
    return replace(
        dataset, notes=(*dataset.notes, *notes), splits=splits, unlisted=sliced(dataset.unlisted), inputs=(image,)
    )


def _slices_of(item: Item, planes: tuple[str, ...]) -> tuple[Item, ...]:
    """Returns the items of a volume's slices; a volume that a list names and that is missing stays one item."""
    if item.listed and not item.image.exists():
        return (item,)
    grid, _ = volume_shape(item.image)
    if item.mask is not None:
        check_same_grid(grid, volume_shape(item.mask)[0], str(item.image), str(item.mask))
    places = [(plane, index) for plane in planes for index in range(grid.shape[AXES[plane]])]
    return tuple(
        replace(
            item,
            name=f"{item.name}_{plane}_{index:04d}",
            image=SlicePlace(item.image, plane, index).path,
            mask=None if item.mask is None else SlicePlace(item.mask, plane, index).path,
            group=item.name if item.group is None else item.group,
        )
        for plane, index in places
    )
