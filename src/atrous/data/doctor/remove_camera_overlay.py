"""Compares pictures without the parts that all pictures of a camera share, such as a caption bar or a round border."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Two pictures are near copies if the correlation of their varying parts exceeds a threshold. This is the lowest
#: threshold.
VARYING_ALIKE = 0.8

_SAME_CAMERA = (
    0.8  # thumbnails of one camera have a higher correlation; other thumbnails, without fixed parts, reached 0.71
)
# A fixed part is searched only if a camera has at least this number and this share of all pictures. Fewer similar
# pictures may be copies, or frames of a video while the camera stood still (5 % of CamVid).
_FEWEST, _LEAST_SHARE = 8, 0.1
_SAMPLE = 200  # about this number of pictures of a camera is examined; more pictures would not change the result
_VARIES = 0.25  # a pixel counts as varying if it varies at least this much, relative to the pixel that varies most
# Smallest contrast of the varying part, in grey levels: JPEG and sensor noise, averaged over a pixel of a
# thumbnail, has 0.1 to 0.5.
_CLEARLY_VARIES = 1.0
# largest squared length of the varying parts of thumbnails of length 1; with a larger length, there is no fixed part
_MOST_VARIES = 0.5
_AS_STRONG = 1.4  # largest ratio of the lengths of the varying parts of two copies; saturated white changes the lengths
_STRICTEST = 0.97  # highest threshold of the correlation; the correlation of copies is still higher


@dataclass(frozen=True, eq=False)
class _Camera:
    """Pictures with a common fixed part.

    Attributes:
        typical: median thumbnail of the pictures.
        rows: N integers, the row in ``varying`` of each picture of the dataset; -1 for pictures of other cameras.
        varying: M×V, the V varying pixels of each of the M pictures of the camera, minus their fixed part.
        lengths: M, the length of each row of ``varying``.
        ways: effective number of independent ways in which the pictures vary.
    """

    typical: np.ndarray
    rows: np.ndarray
    varying: np.ndarray
    lengths: np.ndarray
    ways: float


class FixedParts:
    """Compares pictures only by the parts that vary among the pictures of their camera.

    The pictures of one camera are those with similar thumbnails.

    Args:
        thumbnails: N×D, each of mean 0 and length 1.
        contrasts: N, the root mean square of each thumbnail before it was scaled to length 1, in grey levels.
    """

    def __init__(self, thumbnails: np.ndarray, contrasts: np.ndarray) -> None:
        self._thumbnails, self._contrasts = thumbnails, contrasts
        self._cameras: list[_Camera] = []
        self._camera_of: dict[int, _Camera | None] = {}

    def are_alike(self, picture: int, others: np.ndarray) -> np.ndarray:
        """Returns whether pictures with similar thumbnails are also similar in their varying parts.

        Args:
            picture: a row of the thumbnails.
            others: rows to compare it with.

        Returns:
            One boolean for each of ``others``. It is also True if the two pictures have no common fixed part, or if
            there are too few similar pictures to find a fixed part.
        """
        camera = self._find(picture)
        if camera is None:
            return np.ones(len(others), bool)
        this, rows = camera.varying[camera.rows[picture]], camera.rows[others]
        length = max(float(np.linalg.norm(this)), 1e-6)
        correlation, ratio = camera.varying @ this / (camera.lengths * length), camera.lengths / length
        likeness = np.where((ratio < _AS_STRONG) & (ratio > 1 / _AS_STRONG), correlation, 0)
        return (rows < 0) | (likeness[rows] > _threshold(camera, this))

    def _find(self, picture: int) -> _Camera | None:
        """Returns the camera of a picture; None if the picture has no fixed part. Each camera is computed once."""
        known = [camera for camera in self._cameras if camera.rows[picture] >= 0]
        if known:
            return max(known, key=lambda camera: float(camera.typical @ self._thumbnails[picture]))
        if picture not in self._camera_of:
            self._camera_of[picture] = camera = self._camera(picture)
            if camera is not None:
                self._cameras.append(camera)
        return self._camera_of[picture]

    def _camera(self, picture: int) -> _Camera | None:
        """Computes the camera of a picture from all pictures with similar thumbnails; None without a fixed part."""
        members = np.flatnonzero(self._thumbnails @ self._thumbnails[picture] > _SAME_CAMERA)
        if len(members) < max(_FEWEST, _LEAST_SHARE * len(self._thumbnails)):
            return None
        sample = members[:: max(1, len(members) // _SAMPLE)]
        typical = np.median(self._thumbnails[sample], axis=0)
        deviations = self._thumbnails[sample] - typical
        variation = np.sqrt(np.mean(deviations**2, axis=0))
        varies = variation >= _VARIES * variation.max()
        deviations = deviations[:, varies]
        energy = (deviations**2).sum(axis=1)
        levels = np.sqrt(energy / varies.sum() * self._thumbnails.shape[1]) * self._contrasts[sample]
        if np.median(energy) > _MOST_VARIES or np.median(levels) < _CLEARLY_VARIES:
            return None
        # Remove the fixed part itself, because a change of brightness scales it.
        fixed = typical[varies] / max(float(np.linalg.norm(typical[varies])), 1e-6)
        varying = self._thumbnails[members][:, varies] - typical[varies]
        varying -= np.outer(varying @ fixed, fixed)
        rows = np.full(len(self._thumbnails), -1)
        rows[members] = np.arange(len(members))
        return _Camera(
            typical, rows, varying, np.maximum(np.linalg.norm(varying, axis=1), 1e-6), _independent_ways(deviations)
        )


def _independent_ways(deviations: np.ndarray) -> float:
    """Returns the effective number of independent ways in which pictures vary (participation ratio)."""
    powers = np.linalg.svd(deviations, compute_uv=False) ** 2
    share = (powers**2).sum() / powers.sum() ** 2 - 1 / len(
        deviations
    )  # if there are few pictures, they seem to vary in fewer ways than they really do
    return 1 / max(share, 1 / deviations.shape[1])


def _threshold(camera: _Camera, varying: np.ndarray) -> float:
    """Returns a correlation so high that different pictures of a camera do not reach it by chance.

    The correlation is higher if the pictures vary in fewer ways or in fewer pixels.

    Args:
        camera: the camera.
        varying: V, the varying part of one of its pictures.
    """
    fourth_powers = float((varying**4).sum())
    pixels = float(varying @ varying) ** 2 / max(
        fourth_powers, 1e-12
    )  # this number is small if only one small object varies
    deviations = np.sqrt(2 * np.log(10 * len(camera.varying) ** 2))  # bounds the largest of 10·M² normal numbers
    by_chance = np.tanh(deviations / np.sqrt(max(min(camera.ways, pixels) - 3, 0.5)))  # Fisher's transformation
    return float(np.clip(by_chance, VARYING_ALIKE, _STRICTEST))
