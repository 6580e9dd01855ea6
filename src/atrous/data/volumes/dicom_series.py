"""Reads a DICOM series, a folder of slices or a ZIP file of them, as a volume.

The order and distance of slices are computed from ImagePositionPatient and ImageOrientationPatient (PS3.3
C.7.6.2.1.1), not from SliceThickness, SliceLocation or InstanceNumber. A series that is not a regular grid is refused.
A single slice is an exception: its thickness is SpacingBetweenSlices or SliceThickness.

Files may name a patient. So only listed tags are read, except by `series_headers`. Messages contain no file names, and
of the texts in a file only SeriesInstanceUID and Modality.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atrous.data.volumes.dicom_files import (
    MOST_FILES,
    SeriesFile,
    promised_bytes,
    read_dataset,
    reading_tags,
    series_files,
)
from atrous.data.volumes.dicom_grid import slice_order
from atrous.data.volumes.dicom_pixels import decode_slice, high_bit
from atrous.data.volumes.grid import Grid, reorientation
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError

#: Largest number of series in a folder.
_MOST_SERIES = 1000
#: Largest difference of direction cosines between the slices of a series.
_COSINES = 1e-4
#: Prefix of the SOP classes of segmentations. Segmentations have pixels, but are not scans.
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66."
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_TAGS = [
    *("SOPClassUID", "SeriesInstanceUID", "Modality", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation", *_GROUPS),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "SliceThickness"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "LossyImageCompression"),
]
_REFERENCE_TAGS = [*_TAGS, "StudyInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"]
_PIXEL_TAGS = [
    *("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PhotometricInterpretation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
]


class SeveralSeries(AtrousError):
    """Error for a folder or a ZIP file of several series if the user has not chosen one.

    Args:
        message: message that names the arguments for the choice of a series.
        listed: SeriesInstanceUID, size and modality of each series, as text.
    """

    def __init__(self, message: str, listed: str = "") -> None:  # pickle passes only the message
        super().__init__(message)
        self.listed = listed


@dataclass(frozen=True, eq=False)
class _Frame:
    """The header of one slice: its file, its series, its position in the patient (axes LPS) and its scale."""

    file: int
    index: int
    series: str
    modality: str
    size: tuple[int, int]
    place: np.ndarray | None  # 11: position (3), directions of rows (3) and columns (3), PixelSpacing (2)
    slope: float
    intercept: float
    between: float | None
    thickness: float | None
    inverted: bool
    lossy: bool
    gray: bool
    has_table: bool
    pixel_bytes: int  # of all frames of the file

    def is_like(self, other: _Frame) -> bool:
        """Returns whether two slices may belong to one volume."""
        if (self.series, self.size) != (other.series, other.size) or (self.place is None) != (other.place is None):
            return False
        if self.place is None or other.place is None:
            return True
        cosines = np.abs(self.place[3:9] - other.place[3:9]).max()
        return bool(cosines <= _COSINES and np.allclose(self.place[9:], other.place[9:], rtol=1e-4, atol=0))


class _Series(NamedTuple):
    """The slices of one series in the order of the grid, and notes for the user."""

    frames: list[_Frame]
    grid: Grid
    notes: tuple[str, ...]


def read_series(path: Path, series: str | None = None) -> Volume:
    """Reads a DICOM series.

    RescaleSlope and RescaleIntercept are applied to each slice. Voxels with PixelPaddingValue are NaN.

    Args:
        path: a folder, which is read with its subfolders, or a ZIP file, which is not unpacked to disk.
        series: SeriesInstanceUID, or its first characters; needed if there are several series. None if there is only
            one series.

    Returns:
        The volume; its values are float32.

    Raises:
        AtrousError: pydicom is not installed, the ZIP file is damaged or expands too much, there is no series, the
            slices do not form a regular grid, or their pixels cannot be decoded.
        SeveralSeries: there are several series, and ``series`` does not choose one of them.
    """
    with series_files(path) as files:
        frames, stored, notes = _planned(path, files, series)
        try:
            values = np.empty(stored.shape[::-1], np.float32)  # slice by slice
        except MemoryError as error:
            raise AtrousError(f"{path}: the volume of {stored.shape} voxels does not fit into memory.") from error
        slots: dict[int, list[int]] = {}
        for slot, frame in enumerate(frames):
            slots.setdefault(frame.file, []).append(slot)
        padded = False
        for number in sorted(slots):
            dataset = read_dataset(path, files, number, _PIXEL_TAGS, frames[slots[number][0]].pixel_bytes)
            for slot in slots[number]:
                frame = frames[slot]
                values[slot] = decode_slice(path, number, dataset, frame.index, frame.slope, frame.intercept)
                padded |= bool(np.isnan(values[slot]).any())
    if any(frame.inverted for frame in frames):
        notes += (
            f"{path.name} is MONOCHROME1 (large values are dark). Its values are read as they are, without inversion.",
        )
    if any(frame.lossy for frame in frames):
        notes += (f"{path.name} is compressed with loss, so its values and the edges of its padding may be inexact.",)
    if padded:
        notes += (f"{path.name} has voxels without data (PixelPaddingValue), which are read as NaN.",)
    return Volume(reorientation(stored).to_ras(values.T[..., None]), stored, notes)


def series_shape(path: Path, series: str | None = None) -> tuple[Grid, int]:
    """Reads the grid of a DICOM series from its headers.

    Args:
        path: as for `read_series`.
        series: as for `read_series`.

    Returns:
        The grid with RAS axes, as in `Volume.grid`, and the number of contrasts, which is 1.

    Raises:
        AtrousError: as for `read_series`.
    """
    grid = stored_grid(path, series)
    return reorientation(grid).ras_grid(grid), 1


def stored_grid(path: Path, series: str | None = None) -> Grid:
    """Reads the grid of a DICOM series from its headers, with the axes columns, rows and slices, as in `Volume.stored`.

    Args:
        path: as for `read_series`.
        series: as for `read_series`.

    Raises:
        AtrousError: as for `read_series`.
    """
    with series_files(path) as files:
        return _planned(path, files, series).grid


def series_headers(path: Path, series: str | None = None) -> tuple[list[Any], list[tuple[int, int]], Grid]:
    """Reads the headers of a DICOM series that another file of the study needs to reference it.

    These headers contain the name of the patient.

    Args:
        path: as for `read_series`.
        series: as for `read_series`.

    Returns:
        (headers, frames, grid). The headers are the pydicom datasets of the files, without pixels. The first header is
        complete; the other headers have only the attributes of position and reference, because many complete headers
        may fill the memory. The frames are, for each slice in the order of the grid, the index of the slice's header,
        and the index of the slice's frame in the file of this header. The grid is as in `stored_grid`.

    Raises:
        AtrousError: as for `read_series`.
    """
    with series_files(path) as files:
        frames, grid, _ = _planned(path, files, series)
        numbers = list(dict.fromkeys(frame.file for frame in frames))
        headers = [
            read_dataset(path, files, number, _REFERENCE_TAGS if number != numbers[0] else None) for number in numbers
        ]
    return headers, [(numbers.index(frame.file), frame.index) for frame in frames], grid


def _planned(path: Path, files: list[SeriesFile], series: str | None) -> _Series:
    """Reads all headers, chooses the series, and orders the slices of this series."""
    groups: list[list[_Frame]] = []
    skipped = count = 0
    for number in range(len(files)):
        dataset = read_dataset(path, files, number, _TAGS)
        with reading_tags(path, number):
            frames = [] if dataset is None else _frames(number, dataset, files[number].size)
        skipped, count = skipped + (not frames), count + len(frames)
        if count > MOST_FILES:
            raise AtrousError(f"{path}: there are more than {MOST_FILES} slices. Give only one series.")
        for frame in frames:
            group = next((one for one in reversed(groups) if one[0].is_like(frame)), None)
            if group is None and len(groups) == _MOST_SERIES:
                raise AtrousError(f"{path}: there are more than {_MOST_SERIES} series. Give only one series.")
            if group is None:
                groups.append([frame])
            else:
                group.append(frame)
    if not groups:
        raise AtrousError(
            f"{path}: there are no DICOM images ({len(files)} files). Give a folder or a zip of a series."
        )
    frames = _chosen(path, groups, series)
    ordered = _ordered(path, frames)
    if not skipped:
        return ordered
    note = f"{path.name}: {skipped} of {len(files)} files are not DICOM images of a scan, so they are not read."
    return ordered._replace(notes=(note, *ordered.notes))


def is_scan(dataset: Any) -> bool:
    """Returns whether a DICOM dataset is an image of a scan, that is, it has pixels and is not a segmentation.

    Args:
        dataset: pydicom dataset, read with the tags SOPClassUID, Rows, Columns and BitsStored.

    Raises:
        ValueError: the file is an image whose header ends early. Without this error, its slice would be missing without
            a message.
    """
    has_pixels = all(name in dataset for name in ("Rows", "Columns", "BitsStored"))
    if not has_pixels and "Image Storage" in getattr(dataset.file_meta.get("MediaStorageSOPClassUID"), "name", ""):
        raise ValueError("the header ends early")
    return has_pixels and not str(dataset.get("SOPClassUID")).startswith(_SEGMENTATION)


def _frames(number: int, dataset: Any, size: int) -> list[_Frame]:
    """Returns the headers of the slices in a file; [] if it is not an image of a scan."""
    if not is_scan(dataset):
        return []
    count = int(dataset.get("NumberOfFrames") or 1)
    pixel_bytes = promised_bytes(dataset, size)
    if count > MOST_FILES:
        raise ValueError("there are too many frames")
    if not 0 < int(dataset.BitsStored) <= high_bit(dataset) + 1 <= int(dataset.BitsAllocated):
        raise ValueError("the bits of a pixel contradict each other")
    if not isinstance(dataset.PhotometricInterpretation, str) or int(dataset.get("SamplesPerPixel") or 1) < 1:
        raise ValueError("the kind of pixel is not clear")
    shared, each = (dataset.get(name) or [] for name in _GROUPS)
    common = shared[0] if shared else {}
    if count > 1 and len(each) != count:  # such as ultrasound over time: frames have no position
        frame = replace(_frame(number, 0, dataset, pixel_bytes, common, {}), place=None)
        return [replace(frame, index=index) for index in range(count)]
    return [_frame(number, index, dataset, pixel_bytes, common, each[index] if each else {}) for index in range(count)]


def _frame(number: int, index: int, dataset: Any, pixel_bytes: int, common: Any, own: Any) -> _Frame:
    """Reads the header of a slice from the groups of its frame, else from those for all frames, else from the file."""

    def value(name: str, group: str) -> Any:
        for part in (own, common):
            items = part.get(group) if part else None
            if items and name in items[0]:
                return items[0].get(name)
        return dataset.get(name)

    def real(name: str, group: str) -> float | None:
        found = value(name, group)
        return None if found is None or found == "" else float(found)

    place = None
    position = value("ImagePositionPatient", "PlanePositionSequence")
    directions = value("ImageOrientationPatient", "PlaneOrientationSequence")
    distances = value("PixelSpacing", "PixelMeasuresSequence")
    if position and directions and distances:
        place = np.array([*position, *directions, *distances], np.float64)
        if place.shape != (11,) or not np.isfinite(place).all() or not (place[9:] > 0).all():
            raise ValueError("the position is not finite numbers")
    uid, modality = str(dataset.get("SeriesInstanceUID")), str(dataset.get("Modality"))
    slope = real("RescaleSlope", "PixelValueTransformationSequence")
    slope, intercept = (
        1.0 if slope is None else slope,
        real("RescaleIntercept", "PixelValueTransformationSequence") or 0.0,
    )
    if not np.isfinite([slope, intercept]).all():
        raise ValueError("the scale is not finite numbers")
    return _Frame(
        file=number,
        index=index,
        series=uid if re.fullmatch(r"[0-9.]{1,64}", uid) else "(no SeriesInstanceUID)",
        modality=modality if re.fullmatch(r"[A-Z]{2,10}", modality) else "unknown modality",
        size=(int(dataset.Rows), int(dataset.Columns)),
        place=place,
        slope=slope,
        intercept=intercept,
        between=real("SpacingBetweenSlices", "PixelMeasuresSequence"),
        thickness=real("SliceThickness", "PixelMeasuresSequence"),
        inverted=dataset.PhotometricInterpretation == "MONOCHROME1",
        lossy=dataset.get("LossyImageCompression") == "01",
        gray=int(dataset.get("SamplesPerPixel") or 1) == 1 and dataset.PhotometricInterpretation.startswith("MONO"),
        has_table="ModalityLUTSequence" in dataset,
        pixel_bytes=pixel_bytes,
    )


def _chosen(path: Path, groups: list[list[_Frame]], series: str | None) -> list[_Frame]:
    """Returns the slices of the series that the user named, or of the only series."""
    wanted = [group for group in groups if series is None or group[0].series == series]
    if not wanted:
        wanted = [group for group in groups if group[0].series.startswith(series or "")]
    if len(wanted) == 1:
        return wanted[0]
    listed = "; ".join(_in_words(group) for group in (wanted or groups)[:20])
    if not wanted:
        raise AtrousError(f"{path}: no SeriesInstanceUID starts with {series!r}. The series are: {listed}.")
    if len({group[0].series for group in wanted}) > 1:
        what = f"there are {len(wanted)} series" + (f" that start with {series!r}" if series else "")
        raise SeveralSeries(
            f"{path}: {what}: {listed}. Choose one as {path}/SeriesInstanceUID, or, in Python, with the argument "
            "series. Or give a folder of one series.",
            listed,
        )
    raise AtrousError(
        f"{path}: the slices of the series have {len(wanted)} different sizes, directions or pixel distances: {listed}."
        " Move the slices of one volume into a separate folder or zip."
    )


def _in_words(group: list[_Frame]) -> str:
    """Returns a series' UID, number of slices, size and modality."""
    first = group[0]
    slices = "1 slice" if len(group) == 1 else f"{len(group)} slices"
    text = f"{first.series} ({slices} of {first.size[0]}×{first.size[1]} pixels, {first.modality}"
    return text + (", without a position in the patient)" if first.place is None else ")")


def _ordered(path: Path, frames: list[_Frame]) -> _Series:
    """Orders the slices of a series, and computes their grid."""
    if not all(frame.gray for frame in frames):
        raise AtrousError(
            f"{path}: the slices are in colour, but a volume has one value per voxel. Give the original scan."
        )
    if any(frame.has_table for frame in frames):
        raise AtrousError(
            f"{path}: a table (Modality LUT) scales the values, which is not supported. Convert the scan to .nii.gz."
        )
    places = np.array([frame.place for frame in frames if frame.place is not None])
    if not len(places):
        raise AtrousError(
            f"{path}: the slices have no position (ImagePositionPatient, ImageOrientationPatient, PixelSpacing), so "
            "they are not a volume. Export the original series, or convert it to .nii.gz."
        )
    order, grid = slice_order(path, places, frames[0].size)
    if len(frames) > 1:
        return _Series([frames[one] for one in order], grid, ())
    distance, note = _distance_of_one(path, frames[0])
    return _Series(frames, Grid(grid.shape, grid.affine @ np.diag([1, 1, distance, 1])), (note,))


def _distance_of_one(path: Path, frame: _Frame) -> tuple[float, str]:
    """Returns the voxel side of a single slice along its normal, and a note about its source."""
    for name, side in (("SpacingBetweenSlices", frame.between), ("SliceThickness", frame.thickness)):
        if side is not None and np.isfinite(side) and side > 0:
            return side, f"{path.name} has one slice. Its voxel side along the normal is {name}, {side:.4g} mm."
    raise AtrousError(
        f"{path}: there is only one slice, without SpacingBetweenSlices or SliceThickness. Give all slices."
    )
