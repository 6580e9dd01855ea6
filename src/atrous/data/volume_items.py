"""Turns each volume of a dataset into one item per slice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from atrous.data.dataset import Dataset, Item
from atrous.data.input_files import InputFiles
from atrous.data.volumes.contrast_files import exists, stored_files
from atrous.data.volumes.dicom_labels import described_labels, label_file
from atrous.data.volumes.grid import check_same_grid
from atrous.data.volumes.read_volume import volume_shape
from atrous.data.volumes.resampled_masks import mask_labels
from atrous.data.volumes.resampling import median_spacing, target_grid
from atrous.data.volumes.slices import (
    AXES,
    SlicePlace,
    is_dicom_label,
    is_volume,
    is_volume_place,
    slice_place,
)
from atrous.data.volumes.volume_files import file_notes
from atrous.errors import AtrousError, counted
from atrous.input_spec import Spacing

#: Largest number of notes of one kind that are listed.
MOST_NOTES = 5


def with_slices(
    dataset: Dataset, planes: tuple[str, ...], slices: int | None, spacing: Spacing | None = None
) -> Dataset:
    """Returns a dataset whose items are the slices of its volumes; a dataset of pictures is returned unchanged.

    Slices of one volume belong to one group, so that no split divides a volume.

    Args:
        dataset: dataset whose items are whole volumes or pictures.
        planes: planes of the slices; () for the planes in the dataset's inputs.yaml, or axial if inputs.yaml has none.
        slices: number of neighbouring slices that are channels; None for the number in the inputs.yaml.
        spacing: voxel sides in millimetres to which volumes are resampled; the items are slices of the resampled
            volumes. None for no resampling.

    Raises:
        AtrousError: a volume is damaged, has further inputs, or its mask has another grid or several values per voxel.
    """
    if not holds_volumes(dataset):
        if spacing is not None:
            raise AtrousError(
                f"{dataset.root}: a target spacing is for volumes, and the dataset has pictures: leave it out."
            )
        return dataset
    image = replace(input_of_slices(dataset, planes, slices), spacing=spacing)
    found: dict[Item, tuple[Item, ...]] = {}
    of_masks: list[str] = []

    def sliced(part: Iterable[Item]) -> tuple[Item, ...]:
        for item in part:
            if item not in found:
                found[item] = _slices_of(item, image.planes, spacing)
                of_masks.extend(_check_mask(item))
        return tuple(one for item in part for one in found[item])

    splits = {name: sliced(part) for name, part in dataset.splits.items()}
    unlisted = sliced(dataset.unlisted)
    volumes = [item.image for item in found if is_volume(item.image) and exists(item.image)]
    files = dict.fromkeys(file for volume in volumes for file in stored_files(volume))
    of_scans = [note for file in files for note in file_notes(file)]
    return replace(
        dataset,
        notes=(*dataset.notes, *first_notes(of_scans), *first_notes(of_masks)),
        splits=splits,
        unlisted=unlisted,
        inputs=(image,),
    )


def without_unfit_volumes(dataset: Dataset) -> Dataset:
    """Returns a dataset without the volumes that `with_slices` refuses: damaged headers, or a mask on another grid.

    Args:
        dataset: dataset of whole volumes or pictures; pictures are returned unchanged.

    Raises:
        AtrousError: as for `holds_volumes`.
    """
    if not holds_volumes(dataset):
        return dataset

    def fit(items: Iterable[Item]) -> tuple[Item, ...]:
        return tuple(item for item in items if _is_fit(item))

    splits = {name: fit(items) for name, items in dataset.splits.items()}
    return replace(dataset, splits=splits, unlisted=fit(dataset.unlisted))


def _is_fit(item: Item) -> bool:
    try:
        _slices_of(item, ("axial",))
        _check_mask(item)
    except AtrousError:
        return False
    return True


def holds_volumes(dataset: Dataset) -> bool:
    """Returns whether the items of a dataset are whole volumes.

    Args:
        dataset: dataset, as `open_whole` returns it.

    Raises:
        AtrousError: it mixes volumes and pictures, or its volumes have further inputs.
    """
    items = [item for part in (*dataset.splits.values(), dataset.unlisted) for item in part]
    items = [item for item in items if not (item.listed and not item.image.exists())]  # reading them names the list
    if not any(is_volume_place(item.image) for item in items):
        return False
    if pictures := [item.image for item in items if not is_volume_place(item.image)]:
        raise AtrousError(
            f"{dataset.root}: the dataset mixes volumes and pictures, such as {pictures[0]}: separate them."
        )
    if len(dataset.inputs) > 1:
        raise AtrousError(
            f"{dataset.root}: volumes cannot have further inputs. Store contrasts in one 4-D file, or "
            "number their files as in nnU-Net: imagesTr/case_0000.nii.gz, imagesTr/case_0001.nii.gz."
        )
    return True


def input_of_slices(dataset: Dataset, planes: tuple[str, ...] = (), slices: int | None = None) -> InputFiles:
    """Returns the input of a dataset of volumes, with its planes, its number of slices and its normalisation.

    Args:
        dataset: dataset of volumes.
        planes: as for `with_slices`.
        slices: as for `with_slices`.
    """
    image = dataset.inputs[0]
    return replace(
        image,
        planes=planes or image.planes or ("axial",),
        slices=image.slices if slices is None else slices,
        normalize="per_image" if image.normalize is None else image.normalize,
    )


def labelled_volumes(items: Iterable[Item]) -> dict[Path, tuple[Item, Path]]:
    """Returns the volumes to which slices belong: for the place of each volume, its first slice and its mask.

    Args:
        items: slices of labelled volumes.

    Raises:
        AtrousError: an item is not a slice of a volume that has a mask.
    """
    found: dict[Path, tuple[Item, Path]] = {}
    for item in items:
        place, mask = slice_place(item.image), None if item.mask is None else slice_place(item.mask)
        if place is None or mask is None:
            raise AtrousError(f"{item.image} is not a slice of a volume that has a mask.")
        found.setdefault(place.file, (item, mask.file))
    return found


def volume_labels(dataset: Dataset, mask: Path, scan: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Returns the X×Y×Z class indices of a mask, read slice by slice as training does.

    Args:
        dataset: the dataset of the mask.
        mask: file of the mask.
        scan: file of the volume, whose grid a mask in DICOM has.
        shape: number of voxels of the volume along right, anterior and superior. If the dataset has a spacing, this is
            the shape of the resampled volume.
    """
    return mask_labels(mask, scan, shape, dataset.read_label)


def spacing_of_volumes(items: Iterable[Item]) -> Spacing:
    """Returns the target spacing `median` for the volumes of slices, from their headers; see `median_spacing`.

    Args:
        items: slices of volumes, as they are stored.

    Raises:
        AtrousError: an item is not a slice of a volume, a volume that a split list names is missing, or there are no
            items.
    """
    items = tuple(items)
    if missing := next((item for item in items if _is_missing(item)), None):
        raise AtrousError(
            f"{missing.image}: there is no such volume; {missing.listed}, names it. Add the volume, or remove its name "
            "from the list."
        )
    places = [slice_place(item.image) for item in items]
    if not places or None in places:
        raise AtrousError("a target spacing is for volumes, and the training split has none: leave out data.spacing.")
    files = dict.fromkeys(place.file for place in places if place is not None)
    return median_spacing([volume_shape(file)[0] for file in files])


def first_notes(notes: Sequence[str]) -> tuple[str, ...]:
    """Returns the first notes on files, and the number of the notes that are left out.

    Args:
        notes: notes of one kind, such as the notes of `file_notes` on all volumes.
    """
    if len(notes) <= MOST_NOTES:
        return tuple(notes)
    return (*notes[:MOST_NOTES], f"{counted(len(notes) - MOST_NOTES, 'more note')} like these.")


def _is_missing(item: Item) -> bool:
    return bool(item.listed) and not exists(item.image)


def _check_mask(item: Item) -> tuple[str, ...]:
    """Checks the header of a volume's mask, and returns sentences for the user about content that is not read."""
    if item.mask is None or _is_missing(item):
        return ()
    if is_dicom_label(item.mask):  # reading it on the grid of the scan also checks its positions
        return described_labels(label_file(item.mask)).notes
    mask_grid, values = volume_shape(item.mask)
    check_same_grid(volume_shape(item.image)[0], mask_grid, str(item.image), str(item.mask))
    if values != 1:
        raise AtrousError(f"{item.mask}: a mask has one value per voxel, and the file has {values}: store one.")
    return ()


def _slices_of(item: Item, planes: tuple[str, ...], spacing: Spacing | None = None) -> tuple[Item, ...]:
    """Returns the items of a volume's slices; a missing volume that a list names stays one item."""
    if _is_missing(item):
        return (item,)
    grid, _ = volume_shape(item.image)
    shape = grid.shape if spacing is None else target_grid(grid, spacing).shape
    places = [(plane, index) for plane in planes for index in range(shape[AXES[plane]])]
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
