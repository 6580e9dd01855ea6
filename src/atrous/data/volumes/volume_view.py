"""Packs a volume and its masks as 8-bit arrays for the slice viewer of HTML pages; `volume_view.js` reads them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atrous.data.volumes.volume import Volume

#: Folder of volume_view.js and volume_view.css.
VIEWER = Path(__file__).parent
#: Letters of the patient directions at the left, right, upper and lower side of the pictures of each plane; see
#: `pictures_of`.
LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
#: A window is the pair of values that become black and white. If no window is given, these percentiles of the values
#: are used.
ENDS = (0.5, 99.5)
#: Approximate number of values from which the percentiles are computed.
SAMPLED = 2**20

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class VolumeView:
    """A box of a volume as arrays for the viewer; of large boxes, only every n-th voxel along an axis is shown.

    Attributes:
        scan: X×Y×Z uint8 grey values along right, anterior and superior.
        masks: masks of the same voxels, each X×Y×Z uint8 class indices, 255 for voxels without a class.
        full: shape of the whole volume in voxels.
        first: for each axis, the index in the volume of the first shown voxel.
        step: for each axis, the distance of shown voxels in voxels of the volume, ≥ 1.
        spacing: for each axis, the distance of shown voxels in millimetres.
    """

    scan: np.ndarray
    masks: tuple[np.ndarray, ...]
    full: tuple[int, ...]
    first: tuple[int, ...]
    step: tuple[int, ...]
    spacing: tuple[float, ...]

    def packed(self, files: Mapping[str, bytes] | None = None, level: int = 1) -> bytes:
        """Returns the view as bytes for volume_view.js, compressed with gzip.

        The decompressed bytes are the length of the header as a little-endian uint32, the header as JSON, and the
        parts: the scan, the masks and the files. The header contains the shape of the arrays (in C order), their
        position in the volume, the number of bytes of each part, and the suffixes of the files.

        Args:
            files: content of further files by file name suffix, such as {".nii.gz": ...}; None for no files.
            level: compression level of gzip, 1 (fastest) to 9 (smallest).
        """
        files = files or {}
        header = {
            "shape": self.scan.shape,
            "full": self.full,
            "first": self.first,
            "step": self.step,
            "spacing": self.spacing,
            "parts": [self.scan.size] * (1 + len(self.masks)) + [len(content) for content in files.values()],
            "files": list(files),
        }
        text = json.dumps(header).encode()
        arrays = [array.tobytes() for array in (self.scan, *self.masks)]
        return gzip.compress(
            b"".join([len(text).to_bytes(4, "little"), text, *arrays, *files.values()]), level, mtime=0
        )


def view_of(
    volume: Volume,
    masks: Sequence[np.ndarray],
    *,
    window: tuple[float, float] | None,
    voxels: int,
    box: Box | None = None,
) -> VolumeView:
    """Returns the view of a volume's first contrast and of its masks.

    Args:
        volume: the volume.
        masks: masks on the volume's grid, each X×Y×Z uint8.
        window: values that become black and white; None for percentiles 0.5 and 99.5 of the values.
        voxels: largest number of shown voxels, ≥ 1.
        box: part of the volume to show, as one slice per axis; None for the whole volume.
    """
    values = volume.values[..., 0]
    parts = [slice(0, side) for side in values.shape] if box is None else list(box)
    step = steps([part.stop - part.start for part in parts], volume.grid.spacing, voxels)
    shown = tuple(slice(part.start, part.stop, by) for part, by in zip(parts, step, strict=True))
    return VolumeView(
        grey(values[shown], window or ends_of(values)),
        tuple(np.ascontiguousarray(mask[shown]) for mask in masks),
        values.shape,
        tuple(part.start for part in parts),
        step,
        tuple(side * by for side, by in zip(volume.grid.spacing, step, strict=True)),
    )


def steps(shape: Sequence[int], spacing: Sequence[float], voxels: int) -> tuple[int, ...]:
    """Returns the distance of shown voxels along each axis, in voxels, for at most ``voxels`` shown voxels.

    The distance is increased first along the axis on which it is smallest in millimetres, so shown voxels become more
    cubic.

    Args:
        shape: number of voxels along each axis.
        spacing: distance of voxels along each axis, in millimetres.
        voxels: largest number of shown voxels, ≥ 1.
    """
    step = np.ones(len(shape), int)
    while (count := -(-np.array(shape) // step)).prod() > voxels:
        step[np.where(count > 1, np.asarray(spacing) * step, np.inf).argmin()] += 1
    return tuple(step.tolist())


def ends_of(values: np.ndarray) -> tuple[float, float]:
    """Returns the values that become black and white: percentiles of the finite values among about `SAMPLED` voxels.

    Args:
        values: X×Y×Z of any number type.
    """
    step = max(1, values.size // SAMPLED)
    sampled = values.ravel(order="K")[::step].astype(np.float64)
    sampled = sampled[np.isfinite(sampled)]
    if not sampled.size:
        return 0.0, 1.0
    low, high = np.percentile(sampled, ENDS).tolist()
    return (low, high) if high > low else (float(sampled.min()), float(sampled.max()))


def grey(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Returns values as uint8 grey values; NaN becomes 0.

    Args:
        values: array of any number type.
        window: values that become 0 and 255.
    """
    low, high = window
    found = np.empty(values.shape, np.uint8)
    for index in range(values.shape[0]):  # one slab at a time, so that the copy as float64 stays small
        slab = (values[index].astype(np.float64) - low) * (255 / (high - low) if high > low else 0.0)
        found[index] = np.nan_to_num(np.clip(slab, 0, 255), nan=0.0).round()
    return found
