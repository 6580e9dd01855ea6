"""Reads RT-STRUCT: contours of regions of interest as the labels of a volume (PS3.3 A.19, C.8.8.5 and C.8.8.6).

A contour is a polygon in the plane of one slice. A voxel belongs to a region if its centre is inside the contours of
the region in the slice, by the even-odd rule over all of them. So a contour inside another contour is a hole. The inner
ring of a keyhole contour, whose two bridges coincide, is also a hole. A centre that is exactly on an edge may count as
inside or outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atrous.data.volumes.dicom_files import one_file, read_dataset, reading_tags
from atrous.data.volumes.grid import SAME_GRID, Grid, in_words, reorientation
from atrous.data.volumes.segments import ChooseValues, Description, Labels, Segment, Segmentation, code_of, own_numbers
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError, counted

#: SOP class of RT-STRUCT.
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
#: Types of contours that enclose an area (PS3.3 C.8.8.6.1).
_AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_TAGS = ["SOPClassUID", "StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence"]
_CONTOUR_DATA = 0x30060050
#: Largest distance of a point beyond the centres of the outermost voxels, in voxels. Contours of the body may follow
#: the border of the picture; contours that are farther outside belong to another scan.
_BEYOND = 1.0


@dataclass(frozen=True, eq=False)
class _Contour:
    """A contour: the number of its region, and its N×3 points as voxel indices of a grid with RAS axes."""

    region: int
    points: np.ndarray


def read_rt_struct(
    path: Path, grid: Grid, order: Sequence[str] = (), choose: ChooseValues | None = None
) -> Segmentation:
    """Reads the contours of an RT-STRUCT file onto a grid.

    A contour belongs to a slice if all its points are within a tenth of the slice distance of the slice's plane. The
    slices may lie along any axis of the grid. Points and open contours enclose no area, and are left out with a note.

    Args:
        path: the file.
        grid: grid of the scan, `Volume.stored` or `Volume.grid`.
        order: names of regions, the most important one first, as for `read_dicom_seg`.
        choose: function that gets the regions by ROI number and returns their values; it does not get regions without a
            contour that has an area. With None, the values are the numbers, and ``order`` is used.

    Returns:
        The regions; the volume has the grid ``grid``.

    Raises:
        AtrousError: pydicom is not installed; the file is missing, damaged or not an RT-STRUCT; a contour lies on no
            slice or outside the grid; regions overlap; or a name of the order is unknown.
    """
    dataset = _opened(path)
    change = reorientation(grid)
    ras = change.ras_grid(grid)
    with reading_tags(path):
        segments, contours, notes = _segments(dataset), _contours(dataset, ras), _notes(path, dataset)
    if any(one.region not in segments for one in contours):
        raise AtrousError(f"{path}: a contour belongs to a region that the file does not describe.")
    chosen = own_numbers(path, segments, order) if choose is None else choose(_drawn(segments, contours))
    labels = Labels(path, ras.shape, segments, chosen)
    contours = [one for one in contours if one.region not in labels.left_out]
    axis = _slice_axis(contours)
    _check_places(path, ras, contours, segments, axis)
    numbers = list(dict.fromkeys(one.region for one in contours))
    for index in labels.sorted(numbers):
        own = [one.points for one in contours if one.region == numbers[index]]
        for voxels in _voxels(own, axis, ras.shape):
            labels.paint(voxels, np.full(voxels.shape[1], numbers[index]))
    names = {number: one.name for number, one in segments.items()}
    return Segmentation(Volume(labels.array[..., None], grid, notes), names)


def _drawn(segments: Mapping[int, Segment], contours: list[_Contour]) -> dict[int, Segment]:
    """Returns the regions that have a contour with an area."""
    regions = {one.region for one in contours}
    return {number: one for number, one in segments.items() if number in regions}


def described_rt(path: Path) -> Description:
    """Returns the regions of an RT-STRUCT file by ROI number, and the number of contours that are not read, as a note.

    Regions that have no contour with an area are left out.

    Args:
        path: the file.

    Raises:
        AtrousError: as for `read_rt_struct`.
    """
    dataset = _opened(path)
    with reading_tags(path):
        drawn = {
            int(roi.ReferencedROINumber)
            for roi in _regions(dataset)
            if any(map(_has_area, roi.get("ContourSequence") or []))
        }
        found = {number: one for number, one in _segments(dataset).items() if number in drawn}
        return Description(found, _notes(path, dataset))


def _opened(path: Path) -> Any:
    files = one_file(path)
    # the contours may need more bytes than the header of a scan
    dataset = read_dataset(path, files, 0, _TAGS, files[0].size)
    if dataset is None or str(dataset.get("SOPClassUID")) != STRUCTURES:
        raise AtrousError(f"{path}: this is not an RT-STRUCT file.")
    return dataset


def _segments(dataset: Any) -> dict[int, Segment]:
    codes = {
        int(one.ReferencedROINumber): code_of(one.get("RTROIIdentificationCodeSequence"))
        for one in dataset.get("RTROIObservationsSequence") or []
    }
    return {
        int(one.ROINumber): Segment(str(one.get("ROIName") or ""), codes.get(int(one.ROINumber)))
        for one in dataset.StructureSetROISequence
    }


def _notes(path: Path, dataset: Any) -> tuple[str, ...]:
    left_out = sum(not _has_area(one) for roi in _regions(dataset) for one in roi.get("ContourSequence") or [])
    if not left_out:
        return ()
    verb = "is" if left_out == 1 else "are"
    return (f"{path.name}: {counted(left_out, 'contour')} without an area (points or open lines) {verb} not read.",)


def _regions(dataset: Any) -> Any:
    return dataset.get("ROIContourSequence") or []


def _has_area(contour: Any) -> bool:
    return contour.get("ContourGeometricType") in _AREAS


def _contours(dataset: Any, grid: Grid) -> list[_Contour]:
    """Returns the contours that enclose an area."""
    inverse, flip = np.linalg.inv(grid.affine), np.diag([-1, -1, 1])  # DICOM: left, posterior, superior
    found = []
    for roi in _regions(dataset):
        for one in roi.get("ContourSequence") or []:
            if not _has_area(one):
                continue
            given = one.get_item(_CONTOUR_DATA).value  # bytes: pydicom would create an object for each number
            numbers = given.strip(b" \0").split(b"\\") if isinstance(given, bytes) else given
            points = np.array(numbers, np.float64).reshape(-1, 3)
            if len(points) != int(one.NumberOfContourPoints):
                raise ValueError("points are missing")
            if not len(points) or not np.isfinite(points).all():
                raise ValueError("the points are not finite numbers")
            voxels = points @ (inverse[:3, :3] @ flip).T + inverse[:3, 3]
            found.append(_Contour(int(roi.ReferencedROINumber), voxels))
    return found


def _slice_axis(contours: list[_Contour]) -> int:
    """Returns the axis along which the slices are counted: the axis along which no contour extends."""
    extents = [np.ptp(one.points, axis=0) for one in contours]
    return int(np.argmin(np.max(extents, axis=0))) if extents else 2


def _check_places(path: Path, grid: Grid, contours: list[_Contour], segments: Mapping[int, Segment], axis: int) -> None:
    """Checks that each contour lies on a slice and inside the grid."""
    lost: dict[str, list[float]] = {}
    for one in contours:
        heights = one.points[:, axis]
        index = np.rint(heights.mean())
        if np.abs(heights - index).max() > SAME_GRID or not 0 <= index < grid.shape[axis]:
            lost.setdefault(segments[one.region].name, []).append(float(heights.mean()) * grid.spacing[axis])
    if lost:
        named = "; ".join(
            f"{name!r} ({counted(len(places), 'contour')}, the first {places[0]:.4g} mm from the first slice)"
            for name, places in list(lost.items())[:5]
        )
        raise AtrousError(
            f"{path}: contours lie on no slice of the scan: {named}. Slices are {grid.spacing[axis]:.4g} mm apart, and "
            f"{SAME_GRID * grid.spacing[axis]:.2g} mm from the plane of a slice are allowed. Give the series on which "
            "the contours were drawn, with all its slices."
        )
    for one in contours:
        if (one.points < -_BEYOND).any() or (one.points > np.array(grid.shape) - 1 + _BEYOND).any():
            raise AtrousError(
                f"{path}: the contours of {segments[one.region].name!r} reach beyond the scan, {in_words(grid)}. Give "
                "the series on which the contours were drawn."
            )


def _voxels(contours: list[np.ndarray], axis: int, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """Yields the voxels of one region in each of its slices: 3×N."""
    first, second = (one for one in range(3) if one != axis)
    slices: dict[int, list[np.ndarray]] = {}
    for points in contours:
        slices.setdefault(int(np.rint(points[:, axis].mean())), []).append(points[:, [first, second]])
    for index, polygons in slices.items():
        inside = np.nonzero(inside_polygons(polygons, (shape[first], shape[second])))
        voxels = np.empty((3, len(inside[0])), np.int64)
        voxels[first], voxels[second], voxels[axis] = *inside, index
        yield voxels


def inside_polygons(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Returns which pixel centres are inside polygons, by the even-odd rule over all of them.

    For each row of pixel centres, it finds the edges that the row crosses. A pixel is inside if the number of crossings
    before it is odd.

    Args:
        polygons: N×2 points each, in pixels; the centre of pixel (0, 0) is at (0, 0). The last point is joined to the
            first one.
        shape: number of pixels along both axes.

    Returns:
        Booleans of this shape.
    """
    crossed = np.zeros((shape[0], shape[1] + 1), np.int64)
    for points in polygons:
        behind = np.roll(points, -1, axis=0)
        # Both bridges of a keyhole contour must give the same crossings, so the direction of an edge must not matter.
        turned = (points[:, 0] > behind[:, 0])[:, None]
        start, end = np.where(turned, behind, points), np.where(turned, points, behind)
        low = np.ceil(start[:, 0]).clip(0, shape[0]).astype(np.int64)
        high = np.ceil(end[:, 0]).clip(0, shape[0]).astype(np.int64)
        edges = np.repeat(np.arange(len(points)), high - low)
        rows = np.arange(len(edges)) - np.repeat(np.cumsum(high - low) - (high - low), high - low) + low[edges]
        side = end[edges] - start[edges]
        places = start[edges, 1] + (rows - start[edges, 0]) * side[:, 1] / side[:, 0]
        np.add.at(crossed, (rows, np.ceil(places).clip(0, shape[1]).astype(np.int64)), 1)
    return np.cumsum(crossed, axis=1)[:, :-1] % 2 == 1
