"""Finds pictures that look nearly alike, such as exposures of one object or neighbouring frames of a video.

Blank pictures, such as black tiles or empty slices, are left out: blank pictures are equal, but may show different
scenes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from atrous.data.doctor.remove_camera_overlay import FixedParts
from atrous.data.doctor.scan import PictureFacts

# Smallest correlation of 16×16 thumbnails, without slow changes of brightness, for near copies. On the datasets in
# shared/, pictures of one magnetic tile under six exposures reach 0.98 (median). Different pictures of one road, tissue
# or video reach at most 0.71.
PICTURES_ALIKE = 0.95
# Smallest correlation of the fingerprints of volumes for near copies. Copies with other intensities, 10 % noise or
# another data type reach 0.9999. Brains of different people, registered to one space and skull-stripped (Colin27 and
# MNI152), reach 0.97.
VOLUMES_ALIKE = 0.995
_AT_ONCE = 512  # number of pictures compared with all others in one matrix product


class NearCopies:
    """Finds near copies: pictures with similar thumbnails.

    If many pictures share a fixed part, such as a caption bar, near copies must also be similar in their other parts
    (`FixedParts`).

    Args:
        pictures: the facts of each picture by its path, at least one.
        alike: correlation, 0–1, that the thumbnails of near copies exceed: `PICTURES_ALIKE` or `VOLUMES_ALIKE`.
    """

    def __init__(self, pictures: Mapping[Path, PictureFacts], alike: float = PICTURES_ALIKE) -> None:
        self._least = alike
        self._paths = list(pictures)
        self._digests = [facts.digest for facts in pictures.values()]
        self._rows = {path: row for row, path in enumerate(self._paths)}
        self._thumbnails = np.stack([facts.thumbnail for facts in pictures.values()])
        self._fixed_parts = FixedParts(self._thumbnails, np.array([facts.contrast for facts in pictures.values()]))

    def between(self, pictures: list[Path], others: list[Path]) -> Iterator[tuple[Path, Path, float | None]]:
        """Yields the most similar picture for each of ``others`` that has a copy or near copy among ``pictures``.

        Args:
            pictures: the pictures to search, at least one.
            others: the pictures to find copies of.

        Yields:
            Tuples (other, picture, correlation); the correlation is None for an exact copy.
        """
        rows = np.array([self._rows[path] for path in pictures])
        thumbnails = self._thumbnails[rows]
        same = {self._digests[self._rows[path]]: path for path in pictures if not self._is_blank(self._rows[path])}
        for other in others:
            row = self._rows[other]
            if twin := same.get(self._digests[row]):
                if twin != other:
                    yield other, twin, None
                continue
            likeness = thumbnails @ self._thumbnails[row]
            near = self._alike(row, rows, np.flatnonzero(likeness > self._least))
            if len(near):
                best = int(near[likeness[near].argmax()])
                yield other, pictures[best], float(likeness[best])

    def pairs(self) -> Iterator[tuple[Path, Path]]:
        """Yields all pairs of pictures that are copies or near copies of each other; a pair may come twice."""
        first_of: dict[bytes, Path] = {}
        for row, (path, digest) in enumerate(zip(self._paths, self._digests, strict=True)):
            if self._is_blank(row):
                continue
            first = first_of.setdefault(digest, path)
            if first != path:
                yield first, path
        all_rows = np.arange(len(self._paths))
        for start in range(0, len(all_rows), _AT_ONCE):
            likeness = self._thumbnails[start : start + _AT_ONCE] @ self._thumbnails.T
            for row, likenesses in enumerate(likeness, start):
                near = np.flatnonzero(likenesses[row + 1 :] > self._least) + row + 1
                yield from ((self._paths[row], self._paths[other]) for other in self._alike(row, all_rows, near))

    def _is_blank(self, row: int) -> bool:
        return not self._thumbnails[row].any()

    def _alike(self, row: int, rows: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Returns the rows in ``near`` whose pictures are similar to that of ``row``, also without the fixed parts."""
        return near[self._fixed_parts.are_alike(row, rows[near])] if len(near) else near
