"""Segments of a volume, from DICOM-SEG or RT-STRUCT: their names and codes, and the volume of their labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError


class Segment(NamedTuple):
    """The description of a segment.

    Attributes:
        name: SegmentLabel, or name of a region of interest; "" if it has none.
        code: scheme and value of its type, such as ("SCT", "10200004"); None if it has none.
    """

    name: str
    code: tuple[str, str] | None = None


class Description(NamedTuple):
    """The facts in the header of a file of segments.

    Attributes:
        segments: the segments by number.
        notes: sentences for the user about what is not read from the file.
    """

    segments: Mapping[int, Segment]
    notes: tuple[str, ...] = ()


def code_of(sequence: Any) -> tuple[str, str] | None:
    """Returns scheme and value of the first code of a pydicom sequence of codes; None if there is none."""
    code = sequence[0] if sequence else {}
    scheme, value = code.get("CodingSchemeDesignator"), code.get("CodeValue") or code.get("LongCodeValue")
    return (str(scheme), str(value)) if scheme and value else None


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The segments of a file as a volume.

    Attributes:
        volume: X×Y×Z×1 values of the segments, 0 for voxels of no segment.
        names: name of each segment by its number, also of empty segments.
    """

    volume: Volume
    names: dict[int, str]


class SegmentValues(NamedTuple):
    """The values of segments in a volume, and which segments may overlap.

    Attributes:
        values: value of each segment by its number. A segment of value 0 is left out. Segments of one value may
            overlap.
        order: numbers of the segments that may overlap, the most important one first.
    """

    values: Mapping[int, int]
    order: Sequence[int] = ()


#: Function that gets segments by number and returns their values.
ChooseValues = Callable[[Mapping[int, Segment]], SegmentValues]


def own_numbers(path: Path, segments: Mapping[int, Segment], order: Sequence[str] = ()) -> SegmentValues:
    """Returns the numbers of segments as their values.

    Args:
        path: file of the segments, for messages.
        segments: the segments by number.
        order: names of segments that may overlap, the most important one first. If several segments have the same name,
            the first of them in the file is the most important.

    Raises:
        AtrousError: a name of the order is unknown.
    """
    names = [one.name for one in segments.values()]
    if unknown := [name for name in order if name not in names]:
        raise AtrousError(f"{path}: there is no segment {unknown[0]!r}. There are: {', '.join(names)}.")
    numbers = [number for name in order for number, one in segments.items() if one.name == name]
    return SegmentValues({number: number for number in segments}, numbers)


class Labels:
    """The values of segments on a grid, painted one part of a segment after the other.

    Args:
        path: file of the segments, for messages.
        shape: number of voxels along each axis.
        segments: the segments by number.
        chosen: values and order of the segments.

    Attributes:
        array: X×Y×Z values.
        left_out: numbers of the segments of value 0. Their parts must not be painted, and need not be on the grid.
    """

    def __init__(
        self, path: Path, shape: tuple[int, int, int], segments: Mapping[int, Segment], chosen: SegmentValues
    ) -> None:
        self._path, self._segments = path, segments
        self._values = chosen.values
        self.left_out = [number for number, value in chosen.values.items() if value == 0]
        self._ranks = {number: rank for rank, number in enumerate(dict.fromkeys(chosen.order))}
        used = [0, *self._values.values()]
        self.array = np.zeros(shape, np.result_type(*map(np.min_scalar_type, (min(used), max(used)))))

    def sorted(self, numbers: Iterable[int]) -> list[int]:
        """Returns the indices of parts, by the numbers of their segments, in the order in which they are painted."""
        ranks = [self._ranks.get(number, len(self._ranks)) for number in numbers]
        return sorted(range(len(ranks)), key=lambda one: -ranks[one])

    def paint(self, voxels: np.ndarray, numbers: np.ndarray) -> None:
        """Gives voxels to segments.

        Args:
            voxels: 3×N indices of different voxels.
            numbers: N numbers of segments, none of them left out.

        Raises:
            AtrousError: a voxel already belongs to another segment, and not both segments are in the order; the message
                names both segments.
        """
        found = np.unique(numbers).tolist()
        values = np.zeros(len(numbers), self.array.dtype)
        for number in found:
            values[numbers == number] = self._values[number]
        before = self.array[tuple(voxels)]
        taken = (before != 0) & (before != values)
        for one, other in np.unique(np.stack([before[taken], values[taken]]), axis=1).T.tolist():
            if not (self._is_ordered(one) and self._is_ordered(other)):
                raise AtrousError(
                    f"{self._path}: the segments {self._named(one)} and {self._named(other)} overlap, and a voxel has "
                    "one label. Give the order of the segments, the most important one first; in a dataset, write "
                    "overlap: last into classes.yaml, and the most important class last."
                )
        self.array[tuple(voxels)] = values

    def _of_value(self, value: int) -> list[int]:
        return [number for number, one in self._values.items() if one == value]

    def _is_ordered(self, value: int) -> bool:
        return all(number in self._ranks for number in self._of_value(value))

    def _named(self, value: int) -> str:
        return " or ".join(f"{number} ({self._segments[number].name})" for number in self._of_value(value)[:3])
