"""Reads every volume and mask of a dataset once, and returns only the facts that the checks need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from atrous.data.dataset import Item
from atrous.data.doctor.scan import MaskFacts, Pair, PictureFacts, describe_mask, file_error, read_all
from atrous.data.doctor.volume_facts import VolumeFacts, fingerprint, intensities, mask_fits
from atrous.data.mask_value_map import IGNORE_INDEX, UNKNOWN, ClassTable
from atrous.data.pictures import StoredMask, whole_numbers
from atrous.data.volumes.contrast_files import exists
from atrous.data.volumes.dicom_labels import described_labels, label_file, read_mask_volume
from atrous.data.volumes.read_volume import read_volume
from atrous.data.volumes.slice_pixels import mask_values
from atrous.data.volumes.slices import is_dicom_label, pictures_of
from atrous.data.volumes.volume import Volume

_READERS = 4  # largest number of threads, because each holds a volume and a mask of up to some hundred MB


def survey_volumes(
    items: list[Item], classes: ClassTable | None, progress: Callable[[int, int], None] | None = None
) -> list[Pair]:
    """Reads all volumes and their masks, with several threads.

    Args:
        items: the volumes to read.
        classes: the table that maps values to labels, or None.
        progress: as in `survey`.

    Returns:
        One pair per volume, in their order. Damaged files raise no error, but become `Pair.problems`. The numbers of
        pixels are numbers of voxels.
    """
    return read_all(items, partial(_read_pair, classes=classes), progress, _READERS)


def _read_pair(item: Item, classes: ClassTable | None) -> Pair:
    problems: list[str] = []
    scan = _read(item.image, problems, read_volume) if exists(item.image) else None
    stored = None
    if item.mask is not None and (scan is not None or not is_dicom_label(item.mask)):
        stored = _read(item.mask, problems, partial(read_mask_volume, scan=item.image, classes=classes))
    valid = None if scan is None else scan.valid()
    mask, labelled = None, None
    if item.mask is not None and stored is not None:
        try:
            labelled = _mask_values(stored, item.mask)
            void = valid is not None and valid.shape == labelled.values.shape and not valid.all()
            mask = _describe_mask(labelled, classes, valid if void else None)
        except (
            Exception
        ) as error:  # too little memory, or a mask of fractions: one such file must not end the examination
            problems.append(file_error(item.mask, error))
    if scan is None or valid is None:
        return Pair(item, None, mask, tuple(problems))
    facts = VolumeFacts(scan.grid, None if stored is None else stored.grid, scan.notes, intensities(scan.values))
    if item.mask is not None and is_dicom_label(item.mask):
        notes = () if stored is None else stored.notes
        facts = replace(facts, mask_notes=notes, segments=_segment_names(item.mask))
    if mask is not None and labelled is not None and labelled.values.shape == valid.shape:
        fits = mask_fits(scan.values[..., 0], np.isin(labelled.values, _foreground(mask)))
        facts = replace(facts, fits=fits)
    return Pair(item, _describe_scan(scan, valid), mask, tuple(problems), volume=facts)


def _read(path: Path, problems: list[str], reader: Callable[[Path], Volume]) -> Volume | None:
    try:
        return reader(path)
    except Exception as error:  # an error of a decoder, or no memory: one file must not end the examination
        problems.append(file_error(path, error))
        return None


def _segment_names(mask: Path) -> tuple[str, ...]:
    """Returns the names of a mask's segments, even if its voxels cannot be read, for example if segments overlap."""
    try:
        return tuple(one.name for one in described_labels(label_file(mask)).segments.values())
    except Exception:  # already reported when the mask was read
        return ()


def _mask_values(stored: Volume, path: Path) -> StoredMask:
    """Returns the values of a mask, X×Y×Z; raises AtrousError if they are not one exact whole number per voxel."""
    values, nodata = mask_values(stored.values, path), None
    if values.dtype.kind == "f":
        values, nodata = whole_numbers(values, None, path)
    if values.min() >= 0 and values.max() <= np.iinfo(np.uint8).max:
        values = values.astype(np.uint8)  # values of this type can be counted without sorting them
    return StoredMask(values, None, None if nodata is None else int(nodata), 1, False, None)


def _describe_mask(stored: StoredMask, classes: ClassTable | None, valid: np.ndarray | None) -> MaskFacts:
    """Returns the facts about a mask of X×Y×Z voxels, from one picture in which all axial slices are stacked."""

    def stacked(voxels: np.ndarray) -> np.ndarray:
        slices = pictures_of(voxels, "axial")
        return np.ascontiguousarray(slices).reshape(-1, slices.shape[2])

    facts = describe_mask(
        stored._replace(values=stacked(stored.values)), False, classes, None if valid is None else stacked(valid)
    )
    height = stored.values.shape[1]

    def in_slices(place: tuple[int, ...]) -> tuple[int, ...]:
        return place[0], place[1] % height, place[1] // height

    return replace(
        facts,
        size=stored.values.shape,
        places={value: in_slices(place) for value, place in facts.places.items()},
        between_places={value: in_slices(place) for value, place in facts.between_places.items()},
    )


def _foreground(mask: MaskFacts) -> list[int]:
    """Returns the values of a mask that mean a class other than the first class; without a class table, all but 0."""
    values = [value for value in mask.values if isinstance(value, int)]
    if mask.labels is None:
        return [value for value in values if value != 0]
    labels = dict(zip(mask.values, mask.labels.tolist(), strict=True))
    return [value for value in values if labels[value] not in (0, IGNORE_INDEX, UNKNOWN)]


def _describe_scan(scan: Volume, valid: np.ndarray) -> PictureFacts:
    values = scan.values
    digest = hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=16)
    digest.update(repr(values.shape).encode())
    thumbnail, contrast = fingerprint(values[..., 0])
    contrasts = values.shape[3]
    return PictureFacts(
        size=values.shape[:3],
        channels=contrasts,
        bands=contrasts,
        dtype="float32",  # the type in which every slice is read
        void=1 - float(valid.mean()),
        doubtful_alpha=False,
        digest=digest.digest(),
        thumbnail=thumbnail,
        contrast=contrast,
    )
