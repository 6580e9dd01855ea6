"""Reads DICOM-SEG: segments as the labels of a volume (PS3.3 A.51, and A.94 for label maps).

Each frame is one plane of one segment (BINARY, FRACTIONAL) or of all segments (LABELMAP). The position of a frame is in
the Plane Position Sequence. Files usually have no frames for planes without a segment; planes without a frame are
empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atrous.data.volumes.dicom_files import MOST_FILES, damaged, one_file, promised_bytes, read_dataset, reading_tags
from atrous.data.volumes.dicom_grid import MILLIMETRES, SHARE, slice_order
from atrous.data.volumes.grid import SAME_GRID, Grid, in_words, reorientation
from atrous.data.volumes.segments import ChooseValues, Description, Labels, Segment, Segmentation, code_of, own_numbers
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError

#: Smallest value of a voxel of a FRACTIONAL segment, as a share of MaximumFractionalValue.
THRESHOLD = 0.5
#: Label map segmentations.
_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
#: SOP classes of DICOM-SEG.
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", _LABEL_MAP)
#: Tags that describe the segments of a file.
DESCRIBING = ["SOPClassUID", "SegmentationType", "SegmentSequence"]
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_PIXELS = ("BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel", "PhotometricInterpretation")
_TAGS = [
    *DESCRIBING,
    *("MaximumFractionalValue", "NumberOfFrames", "Rows", "Columns", "PixelRepresentation"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *_PIXELS,
    *_GROUPS,
]


@dataclass(frozen=True, eq=False)
class _Plane:
    """A frame: its segment (0 for all segments of a label map), its position as in `slice_order`, its distances."""

    segment: int
    place: np.ndarray
    between: float
    thickness: float


def read_dicom_seg(
    path: Path, like: Grid | None = None, order: Sequence[str] = (), choose: ChooseValues | None = None
) -> Segmentation:
    """Reads a DICOM-SEG file.

    A voxel belongs to a FRACTIONAL segment if its value is at least half of MaximumFractionalValue; a note states this
    rule.

    Args:
        path: the file.
        like: grid of the scan with the scan's own axes, `Volume.stored`, on which to place the segments; None for the
            grid of the file, which begins and ends at its first and last plane.
        order: names of segments, the most important one first. Where segments of the order overlap, a voxel belongs to
            the first of them. Segments may only overlap if both are in the order.
        choose: function that gets the segments by number and returns their values; with None, the values are the
            numbers, and ``order`` is used.

    Raises:
        AtrousError: pydicom is not installed, the file is missing, damaged or not a DICOM-SEG of a scan, segments
            overlap, a frame has a segment number below 1, a name of the order is unknown, the planes do not form a
            regular grid, or a segment is not on the grid ``like``.
    """
    dataset = _opened(path)
    with reading_tags(path):
        promised_bytes(dataset, path.stat().st_size)
        segments = _segments(dataset)
        planes = _planes(dataset)
        notes = _notes(path, dataset)
    stored = _own_grid(path, planes, (int(dataset.Rows), int(dataset.Columns))) if like is None else like
    grid = reorientation(stored).ras_grid(stored)
    described = _foreground(segments)
    chosen = own_numbers(path, described, order) if choose is None else choose(described)
    labels = Labels(path, grid.shape, segments, chosen)
    for index in labels.sorted(plane.segment for plane in planes):
        plane = planes[index]
        if plane.segment in labels.left_out:
            continue
        pixels = _pixels(path, dataset, index)
        rows, columns = np.nonzero(pixels)
        numbers = pixels[rows, columns] if plane.segment == 0 else np.full(len(rows), plane.segment)
        if not set(np.unique(numbers).tolist()) <= segments.keys():
            raise AtrousError(f"{path}: frame {index + 1} has a segment that the file does not describe.")
        kept = ~np.isin(numbers, labels.left_out)
        if kept.any():
            labels.paint(_voxels(path, grid, plane.place, rows[kept], columns[kept]), numbers[kept])
    names = {number: one.name for number, one in segments.items()}
    return Segmentation(Volume(labels.array[..., None], stored, notes), names)


def described_seg(path: Path, dataset: Any) -> Description:
    """Returns the segments of a DICOM-SEG file without the background of a label map, and whether it has fractions.

    Args:
        path: the file.
        dataset: its pydicom dataset with the tags `DESCRIBING`.

    Raises:
        AtrousError: the file is damaged.
    """
    with reading_tags(path):
        return Description(_foreground(_segments(dataset)), _notes(path, dataset))


def _notes(path: Path, dataset: Any) -> tuple[str, ...]:
    if dataset.get("SegmentationType") != "FRACTIONAL":
        return ()
    return (f"{path.name} contains fractions: voxels of at least {THRESHOLD:.0%} belong to a segment.",)


def _opened(path: Path) -> Any:
    """Reads a DICOM-SEG file with its pixels."""
    files = one_file(path)
    dataset = read_dataset(path, files, 0, [*_TAGS, "PixelData"], files[0].size)
    if dataset is None or str(dataset.get("SOPClassUID")) not in SEGMENTATIONS:
        raise AtrousError(f"{path}: this is not a DICOM-SEG file.")
    return dataset


def _segments(dataset: Any) -> dict[int, Segment]:
    return {
        int(one.SegmentNumber): Segment(
            str(one.get("SegmentLabel") or ""), code_of(one.get("SegmentedPropertyTypeCodeSequence"))
        )
        for one in dataset.SegmentSequence
    }


def _foreground(segments: dict[int, Segment]) -> dict[int, Segment]:
    """Returns the segments without number 0, with which a label map may describe the voxels of no segment."""
    return {number: one for number, one in segments.items() if number != 0}


def _planes(dataset: Any) -> list[_Plane]:
    """Reads the segment and the place of each frame."""
    shared, each = (dataset.get(name) or [] for name in _GROUPS)
    if len(each) != int(dataset.get("NumberOfFrames") or 1) or len(each) > MOST_FILES:
        raise ValueError("each frame needs a functional group")
    is_map = str(dataset.SOPClassUID) == _LABEL_MAP
    if (kind := dataset.get("SegmentationType")) and (kind == "LABELMAP") != is_map:
        raise AtrousError(
            "the SOP class and SegmentationType contradict each other: one of them is that of a label map, the other "
            "that of single segments. Export the segmentation again."
        )
    return [_plane(each[index], shared[0] if shared else {}, is_map) for index in range(len(each))]


def _plane(own: Any, common: Any, is_map: bool) -> _Plane:
    def group(name: str) -> Any:
        found = own.get(name) or common.get(name)
        return found[0] if found else {}

    position = group("PlanePositionSequence").get("ImagePositionPatient")
    directions = group("PlaneOrientationSequence").get("ImageOrientationPatient")
    measures = group("PixelMeasuresSequence")
    distances = measures.get("PixelSpacing")
    if not position or not directions or not distances:
        raise AtrousError(
            "the frames have no position in a patient, as in slide microscopy; only segmentations of volumes are read."
        )
    place = np.array([*position, *directions, *distances], np.float64)
    if place.shape != (11,) or not np.isfinite(place).all() or not (place[9:] > 0).all():
        raise ValueError("the position is not finite numbers")
    segment = 0 if is_map else int(group("SegmentIdentificationSequence").get("ReferencedSegmentNumber"))
    if not is_map and segment < 1:
        raise AtrousError(
            f"a frame belongs to the segment number {segment}, and segment numbers start at 1 (DICOM PS3.3 C.8.20.4). "
            "Export the segmentation again."
        )
    sides = (float(measures.get(name) or 0) for name in ("SpacingBetweenSlices", "SliceThickness"))
    between, thickness = (side if np.isfinite(side) and side > 0 else 0.0 for side in sides)
    return _Plane(segment, place, between, thickness)


def _own_grid(path: Path, planes: list[_Plane], size: tuple[int, int]) -> Grid:
    """Returns the smallest regular grid that holds all planes, with the axes columns, rows and slices."""
    places = np.array([plane.place for plane in planes])
    if np.abs(places[:, 3:] - places[0, 3:]).max() > 1e-4:
        raise AtrousError(f"{path}: the frames have different directions or pixel distances, so they are not a volume.")
    normal = np.cross(places[0, 3:6], places[0, 6:9])
    normal = normal / max(float(np.linalg.norm(normal)), 1e-9)
    heights, first = np.unique(np.round(places[:, :3] @ normal, 3), return_index=True)
    if len(heights) == 1:
        distance = planes[0].between or planes[0].thickness
        if not distance:
            raise AtrousError(f"{path}: there is one plane, without SpacingBetweenSlices or SliceThickness.")
        grid = slice_order(path, places[:1], size)[1]
        return Grid(grid.shape, grid.affine @ np.diag([1, 1, distance, 1]))
    steps = [side for side in (planes[0].between, float(np.diff(heights).min())) if side]
    distance = next((side for side in steps if _are_multiples(heights - heights[0], side)), None)
    if distance is None or (heights[-1] - heights[0]) / distance > MOST_FILES:
        raise AtrousError(
            f"{path}: the distances between the planes are not multiples of one distance: "
            f"{np.unique(np.round(np.diff(heights), 3))[:5].tolist()} mm. Give the grid of the series."
        )
    numbers = np.rint((heights - heights[0]) / distance).astype(int)
    filled = np.repeat(places[first[:1]], numbers[-1] + 1, axis=0)
    filled[:, :3] += np.arange(numbers[-1] + 1)[:, None] * distance * normal
    filled[numbers] = places[first]  # the other planes of the grid have no frame
    return slice_order(path, filled, size)[1]


def _are_multiples(heights: np.ndarray, distance: float) -> bool:
    off = np.abs(heights - np.rint(heights / distance) * distance)
    return bool((off <= max(MILLIMETRES, SHARE * distance)).all() and (np.diff(heights) > distance / 2).all())


def _pixels(path: Path, dataset: Any, index: int) -> np.ndarray:
    """Decodes a frame: H×W segment numbers of a label map, or booleans of one segment."""
    from pydicom.pixels import pixel_array

    if int(dataset.BitsAllocated) == 1 and not dataset.file_meta.TransferSyntaxUID.is_compressed:
        return _bits(path, dataset, index)
    try:
        pixels = pixel_array(dataset, index=index)
    except Exception as error:  # decoders raise many types for damaged pixels
        raise damaged(path, 0, error) from None
    if str(dataset.SOPClassUID) == _LABEL_MAP:
        return pixels
    if dataset.get("SegmentationType") == "FRACTIONAL":
        return pixels >= THRESHOLD * int(dataset.get("MaximumFractionalValue") or 255)
    return pixels > 0


def _bits(path: Path, dataset: Any, index: int) -> np.ndarray:
    """Unpacks a frame of one bit per pixel; frames need not begin at the start of a byte (PS3.5 section 8.1.1)."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    first, behind = index * rows * columns, (index + 1) * rows * columns
    content = np.frombuffer(dataset.PixelData[first // 8 : -(-behind // 8)], np.uint8)
    bits = np.unpackbits(content, bitorder="little")[first % 8 :][: rows * columns]
    if len(bits) < rows * columns:
        raise damaged(path, 0, EOFError())
    return bits.reshape(rows, columns) > 0


def _voxels(path: Path, grid: Grid, place: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns the voxels of a frame's pixels on a grid with RAS axes: 3×N.

    Raises:
        AtrousError: a pixel is more than a tenth of a voxel side from the centre of a voxel, or outside the grid.
    """
    inverse, flip = np.linalg.inv(grid.affine), np.diag([-1, -1, 1])  # DICOM: left, posterior, superior
    origin = inverse[:3, :3] @ flip @ place[:3] + inverse[:3, 3]
    right, down = (inverse[:3, :3] @ flip @ side for side in (place[3:6] * place[10], place[6:9] * place[9]))
    exact = origin[:, None] + right[:, None] * columns + down[:, None] * rows
    voxels = np.rint(exact).astype(np.int64)
    whole = np.rint([right, down])
    if not (np.abs(whole).sum(axis=1) == 1).all() or (np.abs(exact - voxels) > SAME_GRID).any():
        raise AtrousError(f"{path}: a segment is not on the grid of the scan, {in_words(grid)}.")
    if ((voxels < 0) | (voxels >= np.array(grid.shape)[:, None])).any():
        raise AtrousError(f"{path}: a segment reaches beyond the grid of the scan, {in_words(grid)}.")
    return voxels
