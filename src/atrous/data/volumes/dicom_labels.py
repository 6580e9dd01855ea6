"""DICOM-SEG and RT-STRUCT files as the masks of a dataset: their segments become the raw values of classes.

Such a mask has no values of classes, and often no grid. It is read on the grid of its scan. A mask is a ``.dcm`` file,
or a folder with one file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path

from atrous.data.mask_value_map import BACKGROUND_NAMES, ClassTable
from atrous.data.raw_values import numbers_of
from atrous.data.volumes.dicom_files import one_file, read_dataset
from atrous.data.volumes.dicom_seg_read import DESCRIBING, SEGMENTATIONS, described_seg, read_dicom_seg
from atrous.data.volumes.read_volume import Key, Stamp, kept, read_volume, stamp, volume_shape
from atrous.data.volumes.rt_struct import STRUCTURES, described_rt, read_rt_struct
from atrous.data.volumes.segments import Description, Segment, SegmentValues
from atrous.data.volumes.slices import is_dicom_label
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError

#: Largest number of segments that a message names.
_SHOWN = 8


def read_mask_volume(mask: Path, scan: Path, classes: ClassTable | None) -> Volume:
    """Reads the mask of a volume: a NIfTI, NRRD or MetaImage file, or a DICOM-SEG or RT-STRUCT on the scan's grid.

    Args:
        mask: the mask's file, or a folder with one DICOM file.
        scan: the scan of the mask, as for `read_volume`.
        classes: class table of the dataset; None to return the numbers of segments.

    Returns:
        X×Y×Z×1 raw values of classes.

    Raises:
        AtrousError: a file is missing or damaged; segments overlap or are not on the grid of the scan; or a segment
            belongs to no class.
    """
    if not is_dicom_label(mask):
        return read_volume(mask)
    try:
        key = label_key(mask, scan, classes)
    except OSError as error:
        raise AtrousError(f"{error.filename}: no such file; the mask {mask} needs it.") from error
    return kept(key, lambda: _read_labels(label_file(mask), scan, classes))


def label_key(mask: Path, scan: Path, classes: ClassTable | None) -> Key:
    """Returns a key for `kept`; other versions of the mask or its scan, and other class tables, have other keys.

    Args:
        mask: as for `read_mask_volume`.
        scan: as for `read_mask_volume`.
        classes: as for `read_mask_volume`.

    Raises:
        OSError: a file is missing.
    """
    return (str(mask), *stamp(mask), str(scan), *stamp(scan), _text_of(classes))


@lru_cache(maxsize=8)
def _text_of(classes: ClassTable | None) -> str:
    """Returns a text that differs for different class tables; it is computed once, because each slice needs it."""
    return repr(classes)


def label_file(path: Path) -> Path:
    """Returns the DICOM file of a mask.

    Args:
        path: the file itself, or a folder with one file.

    Raises:
        AtrousError: the folder has no file, or several.
    """
    return _file_in(path, stamp(path)) if path.is_dir() else path


@lru_cache(maxsize=4096)
def _file_in(folder: Path, stamp: Stamp) -> Path:
    """Returns the only file of a folder; an unchanged folder is searched once."""
    files = [one for one in folder.rglob("*") if one.is_file() and not one.name.startswith(".")]
    if len(files) != 1:
        raise AtrousError(
            f"{folder}: a folder in the place of a mask must have one DICOM-SEG or RT-STRUCT file, and it has "
            f"{len(files)} files. Keep the one to learn from."
        )
    return files[0]


def described_labels(path: Path) -> Description:
    """Returns the segments of a DICOM-SEG or RT-STRUCT file, and notes for the user, from its header.

    Args:
        path: the file.

    Raises:
        AtrousError: the file is missing, damaged, or neither a DICOM-SEG nor an RT-STRUCT.
    """
    version = _version(path)
    return _described_seg(path, version) or _described_rt(path, version)


def _version(path: Path) -> Stamp:
    try:
        return stamp(path)
    except OSError as error:
        raise AtrousError(f"{path}: no such file.") from error


@lru_cache(maxsize=4096)
def _described_seg(path: Path, stamp: Stamp) -> Description | None:
    """Returns the description of a DICOM-SEG file, None for an RT-STRUCT; each version of a file is read once."""
    dataset = read_dataset(path, one_file(path), 0, DESCRIBING)
    kind = "" if dataset is None else str(dataset.get("SOPClassUID"))
    if kind != STRUCTURES and kind not in SEGMENTATIONS:
        raise AtrousError(
            f"{path}: a mask must be a NIfTI, NRRD or MetaImage file, or a DICOM file of a segmentation or RT-STRUCT."
        )
    return None if kind == STRUCTURES else described_seg(path, dataset)


@lru_cache(maxsize=4096)
def _described_rt(path: Path, stamp: Stamp) -> Description:
    """Returns the description of an RT-STRUCT file; each version of a file is read once."""
    return described_rt(path)


def _read_labels(file: Path, scan: Path, classes: ClassTable | None) -> Volume:
    choose = None if classes is None else partial(class_values, file, classes=classes)
    read = read_rt_struct if _described_seg(file, _version(file)) is None else read_dicom_seg
    return read(file, volume_shape(scan)[0], choose=choose).volume


def class_values(path: Path, segments: Mapping[int, Segment], classes: ClassTable) -> SegmentValues:
    """Returns the raw value of each segment.

    A segment belongs to the class that lists the segment's name under ``segments``, or to the class with the segment's
    name or code. A file with a segment of no class is refused, because the number of a segment has no meaning in other
    files.

    Args:
        path: file of the segments, for messages.
        segments: the segments by number.
        classes: class table of the dataset.

    Returns:
        The raw values by number of the segment. With ``overlap: last``, all segments may overlap, and segments of later
        classes are more important.

    Raises:
        AtrousError: a segment belongs to no class; the class table lists colours; or a class other than the background
            has the value 0, which is the value of voxels of no segment.
    """
    if classes.color_coded:
        raise AtrousError(f"{path}: segments have no colours: list numbers, or no raw values, in classes.yaml.")
    indices, lost = {}, []
    for number, one in segments.items():
        index = _class_of(one, classes)
        if index is None:
            lost.append(one.name or f"number {number} without a name")
        else:
            indices[number] = index
    if lost:
        unnamed = (
            "" if all(one.name for one in segments.values()) else " Name the others in the program that drew them."
        )
        raise AtrousError(
            f"{path}: these segments belong to no class: {_listed(lost)}. List each name under segments: of its class "
            f"in classes.yaml; those that are not needed under the class background.{unnamed}"
        )
    values = {number: numbers_of(classes.raw[index])[0] for number, index in indices.items()}
    for number, index in indices.items():
        name = classes.names[index]
        if values[number] == 0 and name.strip().lower() not in BACKGROUND_NAMES:
            raise AtrousError(
                f"{path}: the class '{name}' has the value 0, which is that of voxels of no segment: add a class "
                "background to classes.yaml, as the first one."
            )
    order = sorted(indices, key=lambda number: -indices[number]) if classes.overlap == "last" else []
    return SegmentValues(values, order)


def _class_of(segment: Segment, classes: ClassTable) -> int | None:
    """Returns the index of a segment's class; None if no class fits, or if several classes have the segment's code."""
    name = segment.name.strip()
    for index, labels in enumerate(classes.segments):
        if name in [one.strip() for one in labels]:
            return index
    for same in (str.strip, lambda one: one.strip().casefold()):
        found = [index for index, own in enumerate(classes.names) if name and same(own) == same(name)]
        if len(found) == 1:
            return found[0]
    codes = [index for index, own in enumerate(classes.codes) if own and own[0][:2] == segment.code]
    return codes[0] if len(codes) == 1 else None


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
