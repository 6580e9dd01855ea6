"""Scores of one class in a volume, in millimetres and millilitres: surface Dice, Hausdorff distance, Dice, volumes.

A surface element lies at each corner of the voxel grid whose 2×2×2 neighbouring voxels are partly inside the mask. The
area of an element is the area of the marching cubes surface through these eight voxels (Lorensen and Cline, SIGGRAPH
1987). Distances are Euclidean, in millimetres, from an element to the nearest element of the other surface. Surface
Dice and the other scores of surfaces equal those of google-deepmind/surface-distance, the code of arXiv:1809.04430.
Voxels outside the volume are background, so a mask that touches the volume's border has a surface there.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.errors import AtrousError, missing_extra, shown
from atrous.learning.bootstrap import DRAWS, SEED, Interval, mean_intervals
from atrous.learning.marching_cubes_areas import element_areas, neighbour_codes, voxel_steps

#: Lengths of a voxel's sides, or a 3×3 matrix.
Spacing = Sequence[float] | Sequence[Sequence[float]] | NDArray[np.floating]
#: Scores that `summarise_cases` averages: attributes of `SurfaceMetrics`.
SCORES = (
    *("dice", "surface_dice", "hd95_mm", "mean_distance_mm", "truth_to_prediction_mm", "prediction_to_truth_mm"),
    *("truth_ml", "predicted_ml", "volume_difference_ml", "relative_volume_difference"),
)

#: The robust Hausdorff distance is the smallest distance within which this share (%) of each surface's area lies.
PERCENT = 95.0
#: Largest |cosine| between two axes that count as perpendicular. It is above 0, because affines in headers are rounded.
_PERPENDICULAR = 1e-4
#: Largest number of voxels of a box for a distance transform, 256³. For larger boxes, such as that of a mask with stray
#: voxels far from the organ, a search tree of the surface's elements is used. For such boxes, the tree is 7 times as
#: fast and takes a third of the memory.
_TRANSFORMED = 2**24


@dataclass(frozen=True)
class SurfaceMetrics:
    """Scores of one class of one volume.

    If the class is in neither truth nor prediction, the volumes are 0, `hd95_mm` is inf, and the other scores are NaN.
    If the class is in only one of the two, Dice and surface Dice are 0. The directed distance that starts at the
    missing surface is then NaN, and the other distances are inf. These are the values of
    google-deepmind/surface-distance.

    Attributes:
        truth_ml: volume of the true mask, ml.
        predicted_ml: volume of the predicted mask, ml.
        dice: 2·|A∩B| / (|A| + |B|) of voxels, 0–1.
        surface_dice: share of the area of both surfaces that is within the tolerance of the other surface, 0–1.
        hd95_mm: robust Hausdorff distance, mm: 95 % of each surface's area is at most this far from the other surface.
        truth_to_prediction_mm: mean distance of the true surface from the predicted surface, weighted by area, mm.
        prediction_to_truth_mm: mean distance of the predicted surface from the true surface, weighted by area, mm.
        mean_distance_mm: mean distance over the elements of both surfaces, weighted by area, mm. It is the mean of the
            two directed distances, weighted by the total areas of the surfaces.

    All attributes from `surface_dice` on are None if surfaces were not measured.
    """

    truth_ml: float
    predicted_ml: float
    dice: float
    surface_dice: float | None = None
    hd95_mm: float | None = None
    truth_to_prediction_mm: float | None = None
    prediction_to_truth_mm: float | None = None
    mean_distance_mm: float | None = None

    @property
    def volume_difference_ml(self) -> float:
        """Predicted volume minus true volume, ml."""
        return self.predicted_ml - self.truth_ml

    @property
    def relative_volume_difference(self) -> float:
        """Volume difference divided by the true volume; inf if only the true volume is 0, NaN if both volumes are 0."""
        if not self.truth_ml:
            return math.inf if self.predicted_ml else math.nan
        return self.volume_difference_ml / self.truth_ml


@dataclass(frozen=True)
class MeanScore:
    """Mean of a score over patients.

    Attributes:
        mean: mean over the patients with a finite score; NaN if there are none.
        interval: 95 % bootstrap interval of the mean over patients; None with fewer than two patients.
        patients: number of patients with a finite score.
    """

    mean: float
    interval: Interval | None
    patients: int


@dataclass(frozen=True)
class ClassSummary:
    """Scores of one class over all cases.

    Attributes:
        scores: mean of each score in `SCORES`. Means of distances leave out missed and spurious cases, whose distances
            are infinite; means of Dice and surface Dice count them as 0.
        cases: number of cases with the class in truth or prediction.
        absent: number of cases with the class in neither truth nor prediction; they are left out.
        missed: number of cases with the class in truth only.
        spurious: number of cases with the class in prediction only.
    """

    scores: dict[str, MeanScore]
    cases: int
    absent: int
    missed: int
    spurious: int


def case_metrics(
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    spacing: Spacing,
    classes: Sequence[int],
    *,
    tolerance: float | None,
) -> dict[int, SurfaceMetrics]:
    """Measures each class of one volume.

    Voxels that are 255 in truth count as background in both masks, so a class that reaches such voxels has a surface at
    their border. A predicted 255 belongs to no class.

    Args:
        truth: X×Y×Z class indices, 255 = ignore.
        prediction: X×Y×Z class indices, or 255 where nothing was predicted.
        spacing: size of a voxel along the axes of the arrays, 3 lengths in mm, > 0; or the 3×3 matrix whose columns are
            the steps along the axes in mm, as in an affine, which may be sheared.
        classes: class indices to measure, 0–254.
        tolerance: largest distance at which surface Dice counts surfaces as equal, mm, ≥ 0. None measures Dice and
            volumes only, which does not need scipy.

    Returns:
        The scores of each class, in the order of `classes`.

    Raises:
        AtrousError: an argument is not as described, or scipy is needed and not installed.
    """
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.dtype != np.uint8:
            raise AtrousError(f"{name} has the type {labels.dtype}: class indices must be uint8.")
    _check(truth, prediction, spacing, tolerance)
    if wrong := [index for index in classes if not 0 <= index < IGNORE_INDEX]:
        raise AtrousError(f"{shown(wrong[0])} is not a class to measure: class indices are 0–{IGNORE_INDEX - 1}.")
    found = {}
    for index in classes:
        true, predicted = truth == index, prediction == index
        predicted &= truth != IGNORE_INDEX
        found[index] = mask_metrics(true, predicted, spacing, tolerance=tolerance)
    return found


def mask_metrics(
    truth: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing: Spacing, *, tolerance: float | None
) -> SurfaceMetrics:
    """Measures one pair of masks.

    Args:
        truth: X×Y×Z booleans.
        prediction: X×Y×Z booleans.
        spacing: size of a voxel along the axes of the arrays, 3 lengths in mm, > 0; or the 3×3 matrix whose columns are
            the steps along the axes in mm, as in an affine, which may be sheared.
        tolerance: largest distance at which surface Dice counts surfaces as equal, mm, ≥ 0. None measures Dice and
            volumes only, which does not need scipy.

    Raises:
        AtrousError: an argument is not as described, or scipy is needed and not installed.
    """
    for name, mask in (("truth", truth), ("prediction", prediction)):
        if mask.dtype != np.bool_:
            raise AtrousError(f"{name} has the type {mask.dtype}: masks must be boolean. Compare labels with a class.")
    steps = _check(truth, prediction, spacing, tolerance)
    box = _bounding_box(truth | prediction)
    truth, prediction = truth[box], prediction[box]
    both, true, predicted = (int(np.count_nonzero(mask)) for mask in (truth & prediction, truth, prediction))
    millilitres = abs(float(np.linalg.det(steps))) / 1000
    dice = 2 * both / (true + predicted) if true + predicted else math.nan
    volumes = (true * millilitres, predicted * millilitres, dice)
    if tolerance is None:
        return SurfaceMetrics(*volumes)
    return SurfaceMetrics(*volumes, *_surface_scores(*_surfaces(truth, prediction, steps), tolerance))


def summarise_cases(
    cases: Sequence[Mapping[int, SurfaceMetrics]],
    patients: Sequence[Hashable] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> dict[int, ClassSummary]:
    """Averages the scores of each class over patients, with bootstrap intervals over patients.

    The scores of a patient with several cases are averaged first, so each patient has the same weight.

    Args:
        cases: the results of `case_metrics`, one for each volume.
        patients: patient of each case; None if each case is of a different patient.
        draws: number of bootstrap draws, ≥ 1.
        seed: random seed of the draws, ≥ 0.

    Returns:
        The summary of each class that was measured in at least one case, sorted by class index.

    Raises:
        AtrousError: the number of patients is not the number of cases.
    """
    if patients is not None and len(patients) != len(cases):
        raise AtrousError(f"there are {len(cases)} cases, but {len(patients)} patients: name the patient of each case.")
    rows: dict[Hashable, int] = {}
    row_of_case = [rows.setdefault(name, len(rows)) for name in (range(len(cases)) if patients is None else patients)]
    summaries = {}
    for index in sorted({index for case in cases for index in case}):
        measured = [(row, case[index]) for row, case in zip(row_of_case, cases, strict=True) if index in case]
        present = [(row, one) for row, one in measured if one.truth_ml or one.predicted_ml]
        sums, counts = np.zeros((2, len(rows), len(SCORES)))
        for row, one in present:
            values = np.array([getattr(one, name) for name in SCORES], np.float64)  # None becomes NaN
            finite = np.isfinite(values)
            sums[row] += np.where(finite, values, 0)
            counts[row] += finite
        with np.errstate(invalid="ignore"):
            means = sums / counts
        means = means[counts.any(1)]
        summaries[index] = ClassSummary(
            {
                name: MeanScore(float(known.mean()) if len(known) else math.nan, interval, len(known))
                for name, interval, known in zip(
                    SCORES,
                    mean_intervals(means, draws=draws, seed=seed),
                    (column[~np.isnan(column)] for column in means.T),
                    strict=True,
                )
            },
            cases=len(present),
            absent=len(measured) - len(present),
            missed=sum(not one.predicted_ml for _, one in present),
            spurious=sum(not one.truth_ml for _, one in present),
        )
    return summaries


def _surfaces(
    truth: NDArray[np.bool_], prediction: NDArray[np.bool_], steps: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the elements of both surfaces: two arrays N×2 of distance (mm) and area (mm²), sorted by distance."""
    areas = element_areas(steps)
    codes = [neighbour_codes(mask) for mask in (truth, prediction)]
    borders = [(code != 0) & (code != 255) for code in codes]
    found = []
    for code, border, other in zip(codes, borders, reversed(borders), strict=True):
        points = np.stack(np.nonzero(border), axis=1)
        distances, weights = _distances(points, other, steps), areas[code[border]]
        order = np.lexsort((weights, distances))
        found.append(np.stack([distances[order], weights[order]], axis=1))
    return found[0], found[1]


def _distances(points: NDArray[np.intp], surface: NDArray[np.bool_], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the distances, in mm, of N×3 voxel indices from the nearest True voxel of a surface; inf if empty."""
    try:
        from scipy import ndimage, spatial
    except ImportError:
        raise missing_extra("scipy", "medical") from None
    if not len(points) or not surface.any():
        return np.full(len(points), math.inf)
    sides = np.diag(steps)
    if surface.size <= _TRANSFORMED and not (steps - np.diag(sides)).any():
        # Only the nearest voxels are requested, because an array of all distances would double time and memory.
        nearest: Any = ndimage.distance_transform_edt(
            ~surface, sampling=sides, return_distances=False, return_indices=True
        )
        nearest = nearest[:, points[:, 0], points[:, 1], points[:, 2]].T
    else:
        candidates = np.stack(np.nonzero(surface), axis=1)
        nearest = candidates[spatial.KDTree(candidates @ steps.T).query(points @ steps.T)[1]]
    squared = ((nearest - points) @ steps.T) ** 2
    # summed in the same order as in scipy, so that rounding is equal
    return np.sqrt(squared[:, 0] + squared[:, 1] + squared[:, 2])


def _surface_scores(
    truth: NDArray[np.float64], prediction: NDArray[np.float64], tolerance: float
) -> tuple[float, float, float, float, float]:
    """Returns surface Dice, the 95 % Hausdorff distance, both directed mean distances and the mean over both surfaces.

    Args:
        truth: N×2 sorted distances (mm) and areas (mm²) of the true surface.
        prediction: M×2 sorted distances (mm) and areas (mm²) of the predicted surface.
        tolerance: largest distance of matching elements, mm.
    """
    both = (truth, prediction)
    area = [float(surface[:, 1].sum()) for surface in both]
    near = sum(float(surface[surface[:, 0] <= tolerance, 1].sum()) for surface in both)
    moved = [float((surface[:, 0] * surface[:, 1]).sum()) for surface in both]
    total = area[0] + area[1]
    hausdorff = 0.0
    for surface, whole in zip(both, area, strict=True):
        if whole:
            place = int(np.searchsorted(np.cumsum(surface[:, 1]) / whole, PERCENT / 100))
            hausdorff = max(hausdorff, float(surface[min(place, len(surface) - 1), 0]))
        else:
            hausdorff = math.inf
    directed = [distance / whole if whole else math.nan for distance, whole in zip(moved, area, strict=True)]
    if not total:
        return math.nan, hausdorff, math.nan, math.nan, math.nan
    return near / total, hausdorff, directed[0], directed[1], (moved[0] + moved[1]) / total


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Returns the smallest box that contains all True voxels; an empty box if there are none."""
    box: list[slice] = []
    for axis in range(3):
        part = mask[(*box,)]
        there = np.flatnonzero(part.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(there[0]), int(there[-1]) + 1) if len(there) else slice(0, 0))
    return box[0], box[1], box[2]


def _check(truth: NDArray, prediction: NDArray, spacing: Spacing, tolerance: float | None) -> NDArray[np.float64]:
    """Raises an error for wrong shapes, spacing or tolerance; returns the 3×3 steps, diagonal if perpendicular."""
    if truth.ndim != 3 or truth.shape != prediction.shape:
        raise AtrousError(
            f"truth has the shape {truth.shape}, prediction {prediction.shape}: both need the same shape X×Y×Z."
        )
    given = np.asarray(spacing, np.float64)
    if given.shape not in ((3,), (3, 3)) or not np.isfinite(given).all() or (given.ndim == 1 and given.min() <= 0):
        raise AtrousError(
            f"the spacing is {shown(spacing)}: it must be three lengths in mm, all above 0, or a 3×3 matrix of steps."
        )
    steps = voxel_steps(given)
    sides = np.linalg.norm(steps, axis=0)
    if not (sides > 0).all() or abs(np.linalg.det(steps / sides)) < 1e-4:
        raise AtrousError(
            f"the spacing is {shown(spacing)}: its three steps must not lie in one plane, and no step may be 0."
        )
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise AtrousError(f"the tolerance is {tolerance}: it must be a finite length in mm, at least 0, or None.")
    cosines = steps.T @ steps / np.outer(sides, sides) - np.eye(3)
    return np.diag(sides) if given.ndim == 2 and np.abs(cosines).max() <= _PERPENDICULAR else steps
