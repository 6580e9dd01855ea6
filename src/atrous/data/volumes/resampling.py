"""Resamples volumes and masks to a common voxel size, and probabilities back to the grid of the scan.

Interpolation is linear, except along the coarse axis of an anisotropic volume, where the nearest voxel is taken.
Source: nnU-Net (Isensee et al., Nature Methods 18, 2021), github.com/MIC-DKFZ/nnUNet, ``default_experiment_planner.py``
and ``default_resampling.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from atrous.data.volumes.grid import Grid
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError
from atrous.input_spec import Spacing

#: Ratio of voxel sides above which a volume is anisotropic; nnU-Net's ``ANISO_THRESHOLD``.
ANISOTROPIC = 3.0
#: Percentile of the spacings along the coarse axis that becomes the target spacing of anisotropic volumes.
COARSE_PERCENTILE = 10
#: Largest number of voxels of a resampled volume.
MOST_VOXELS = 2**31


class _Taps(NamedTuple):
    """The two source voxels of each target voxel along one axis, and the weight of the second one, 0–1."""

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray


def median_spacing(grids: Sequence[Grid]) -> Spacing:
    """Returns the target spacing for a set of volumes: the median along each axis, with one exception.

    The volumes are anisotropic if the coarsest median spacing is more than `ANISOTROPIC` times each of the other two,
    and the median number of voxels along this axis is less than a third of each of the other two. The target along the
    coarsest axis is then percentile 10 of the spacings along this axis, but not less than the targets along the other
    axes.

    Args:
        grids: grids of the volumes, at least one, with RAS axes.

    Returns:
        Millimetres along right, anterior and superior.
    """
    spacings = np.array([grid.spacing for grid in grids])
    target, sizes = np.median(spacings, axis=0), np.median([grid.shape for grid in grids], axis=0)
    coarse = int(target.argmax())
    others = np.arange(3) != coarse
    finest = float(target[others].max())
    if target[coarse] > ANISOTROPIC * finest and sizes[coarse] * ANISOTROPIC < sizes[others].min():
        target[coarse] = max(finest, float(np.percentile(spacings[:, coarse], COARSE_PERCENTILE)))
    x, y, z = target.tolist()
    return x, y, z


def target_grid(grid: Grid, spacing: Spacing) -> Grid:
    """Returns the grid of a resampled volume: the same part of the patient, with voxels of nearly the target size.

    The number of voxels along each axis is the extent divided by the target spacing, rounded, and at least 1. The
    result has exactly the extent of the volume, so rounding changes the spacing slightly.

    Args:
        grid: grid of the volume, with RAS axes.
        spacing: target spacing along each axis, in millimetres.

    Returns:
        The target grid; the same object if the number of voxels stays the same along all axes.

    Raises:
        AtrousError: the resampled volume would have more than `MOST_VOXELS` voxels, or the target voxels are more than
            twice as large as the volume along an axis with several voxels.
    """
    extents = np.array(grid.shape) * grid.spacing
    counts = np.round(extents / spacing)
    if ((counts < 1) & (np.array(grid.shape) > 1)).any():
        raise AtrousError(
            f"voxels of {_listed(spacing)} mm are larger than the volume of {_listed(extents)} mm: give a smaller "
            "data.spacing. Millimetres are expected."
        )
    counts = np.maximum(1, counts)
    if counts.prod() > MOST_VOXELS:
        raise AtrousError(
            f"at a spacing of {_listed(spacing)} mm, the volume of {_listed(extents)} mm would have "
            f"{counts.prod():.3g} voxels, but at most {MOST_VOXELS:.3g} are allowed. Check the spacing in the volume's "
            "header, or train with a larger data.spacing."
        )
    x, y, z = counts.astype(int).tolist()
    if (x, y, z) == grid.shape:
        return grid
    scale = np.array(grid.shape) / (x, y, z)
    change = np.diag([*scale, 1.0])
    change[:3, 3] = (scale - 1) / 2  # the outer faces of the first voxels coincide, not their centres
    return Grid((x, y, z), grid.affine @ change)


def nearest_axis(grid: Grid, spacing: Spacing) -> int | None:
    """Returns the axis along which values are copied from the nearest voxel and not interpolated.

    If the voxel sides of the volume differ by more than a factor of `ANISOTROPIC`, the result is the axis of the
    largest side. Otherwise, the same rule is applied to the target spacing. Neighbouring slices along such an axis are
    too far apart for interpolation.

    Args:
        grid: grid of the volume, with RAS axes.
        spacing: target spacing along each axis, in millimetres.

    Returns:
        0, 1 or 2; None if neither spacing is anisotropic, or if two axes of the anisotropic spacing are equally coarse.
    """
    for sides in (np.array(grid.spacing), np.array(spacing)):
        if sides.max() > ANISOTROPIC * sides.min():
            (coarse,) = np.nonzero(sides == sides.max())
            return int(coarse[0]) if len(coarse) == 1 else None
    return None


def resampled(
    volume: Volume, spacing: Spacing, missing: Sequence[float] = (), values: np.ndarray | None = None
) -> Volume:
    """Returns a volume on its target grid.

    Args:
        volume: the volume.
        spacing: target spacing along right, anterior and superior, in millimetres.
        missing: values that mean "no data", as in `Input.missing`. A target voxel holds no data (NaN) if source voxels
            without data have more than half of the weight. Otherwise, its value is the weighted mean of the source
            voxels with data.
        values: X'×Y'×Z'×C float32 array for the result, such as a memory map; None for a new array.

    Returns:
        The volume with float32 values and RAS axes; the given volume if the number of voxels stays the same.

    Raises:
        AtrousError: as for `target_grid`.
    """
    grid = target_grid(volume.grid, spacing)
    if grid is volume.grid:
        return volume
    if values is None:
        values = np.empty((*grid.shape, volume.values.shape[3]), np.float32, order="F")
    for index, plane in enumerate(_planes(volume.values, grid.shape, nearest_axis(volume.grid, spacing), missing)):
        values[:, :, index] = plane
    return Volume(values, grid, volume.notes)


def resampled_labels(labels: np.ndarray, shape: tuple[int, int, int], nearest: int | None) -> np.ndarray:
    """Returns class indices on another grid of the same extent; each voxel gets the class with the largest share.

    The share of a class is interpolated from a mask that is 1 for this class and 0 elsewhere.

    Args:
        labels: X×Y×Z uint8 class indices; 255 (ignore) is interpolated like a class.
        shape: number of voxels of the result.
        nearest: axis along which the nearest voxel is taken, as `nearest_axis` returns it; None for no axis.

    Returns:
        X'×Y'×Z' uint8. If two classes have equal shares, the class with the smaller index is chosen.
    """
    found = np.empty(shape, np.uint8)
    taps = [_taps(*sides, axis == nearest) for axis, sides in enumerate(zip(labels.shape, shape, strict=True))]
    for index, (low, high, weight) in enumerate(zip(*taps[2], strict=True)):
        first, second = labels[:, :, low], labels[:, :, high]
        largest, chosen = np.full(shape[:2], -1, np.float32), found[:, :, index]
        for label in np.union1d(first, second):
            share = _plane((first == label).astype(np.float32), (second == label).astype(np.float32), weight, taps)
            larger = share > largest + 1e-6  # so that rounding does not decide between equal shares
            largest[larger], chosen[larger] = share[larger], label
    return found


def labels_of_probabilities(
    probabilities: np.ndarray, shape: tuple[int, int, int], nearest: int | None
) -> Iterator[np.ndarray]:
    """Yields the axial slices of a mask on another grid of the same extent, with the most probable class of each voxel.

    Args:
        probabilities: X×Y×Z×K float32 probabilities of K classes, or sums of probabilities; may be a memory map.
        shape: X'×Y'×Z', number of voxels of the result.
        nearest: as for `resampled_labels`.

    Yields:
        X'×Y' class indices, Z' times.
    """
    same = probabilities.shape[:3] == shape  # interpolation would not change any value
    for plane in np.moveaxis(probabilities, 2, 0) if same else _planes(probabilities, shape, nearest):
        yield plane.argmax(axis=2)


def _planes(
    values: np.ndarray, shape: Sequence[int], nearest: int | None, missing: Sequence[float] = ()
) -> Iterator[np.ndarray]:
    """Yields the resampled axial slices, each X'×Y'×C float32; temporary arrays have the size of a slice."""
    taps = [_taps(*sides, axis == nearest) for axis, sides in enumerate(zip(values.shape[:3], shape, strict=True))]
    for low, high, weight in zip(*taps[2], strict=True):
        both = [values[:, :, index].astype(np.float32) for index in (low, high)]
        known = [np.isfinite(one) & ~np.isin(one, np.asarray(missing, np.float32)) for one in both]
        if all(one.all() for one in known):
            yield _plane(both[0], both[1], weight, taps)
            continue
        first, second = (np.where(has, one, np.float32(0)) for has, one in zip(known, both, strict=True))
        share = _plane(known[0].astype(np.float32), known[1].astype(np.float32), weight, taps)
        total = _plane(first, second, weight, taps)
        yield np.divide(total, share, out=np.full_like(total, np.nan), where=share >= 0.5)


def _plane(low: np.ndarray, high: np.ndarray, weight: float, taps: Sequence[_Taps]) -> np.ndarray:
    """Returns one resampled axial slice from its two source slices."""
    plane = low if weight == 0 else low + np.float32(weight) * (high - low)
    for axis in (0, 1):
        plane = _along(plane, taps[axis], axis)
    return plane


def _along(plane: np.ndarray, taps: _Taps, axis: int) -> np.ndarray:
    """Returns a slice resampled along one of its axes."""
    low = plane.take(taps.low, axis)
    if not taps.weight.any():
        return low
    weight = taps.weight.reshape([-1 if one == axis else 1 for one in range(plane.ndim)])
    return low + weight * (plane.take(taps.high, axis) - low)


def _taps(count: int, wanted: int, nearest: bool) -> _Taps:
    """Returns the source voxels for the resampling of an axis from ``count`` to ``wanted`` voxels.

    Both grids have the same extent, and voxel centres are at half-integer positions, as for pictures that are resized.
    Beyond the centres of the outermost voxels, the values of these voxels are repeated.
    """
    place = ((np.arange(wanted) + 0.5) * count / wanted - 0.5).clip(0, count - 1)
    low = np.floor(place + 0.5 if nearest else place).astype(int).clip(0, count - 1)
    weight = np.zeros(wanted) if nearest else place - low
    return _Taps(low, np.minimum(low + 1, count - 1), weight.astype(np.float32))


def _listed(numbers: Sequence[float] | np.ndarray) -> str:
    """Returns numbers as text, such as "1×1×2.5"."""
    return "×".join(f"{number:.4g}" for number in numbers)
