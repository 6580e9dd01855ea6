"""Boundary F-score and boundary IoU, which measure outlines of masks; outline errors hardly change the mean IoU."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from atrous.data.mask_value_map import IGNORE_INDEX

#: Largest distance between matching outline pixels, as a share of the picture's diagonal (Csurka et al., "What is a
#: good evaluation measure for semantic segmentation?", BMVC 2013).
TOLERANCE = 0.0075
#: Width of the seam along the contour of a class, as a share of the picture's diagonal (arXiv:2103.16562 §4.3).
SEAM = 0.02


class BoundaryScore:
    """Boundary F-score: counts, per class, the outline pixels of truth and prediction that match each other.

    A pixel is on the outline of its class if one of its four neighbours has another class. A pixel of a predicted
    outline matches if a pixel of the true outline of the same class is within the tolerance. Pixels of a true outline
    match in the same way. Predicted outline pixels on ignored pixels count only if they match. The picture's border and
    the border to pixels without data are not outlines.

    Args:
        num_classes: number of classes K ≥ 2.

    Attributes:
        counts: K×4 int64: per class the numbers of matching predicted, all predicted, matching true and all true
            outline pixels.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = np.zeros((num_classes, 4), dtype=np.int64)

    def update(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Adds one picture.

        Args:
            truth: H×W class indices, 255 = ignore.
            prediction: H×W class indices, all < K, or 255 where the picture has no data.
        """
        tolerance = max(1.0, TOLERANCE * math.hypot(*truth.shape))
        labelled = truth != IGNORE_INDEX
        void = prediction == IGNORE_INDEX
        for index in np.union1d(truth[labelled], prediction[~void]):
            true, predicted = outline(truth == index, void), outline(prediction == index, void)
            right, found = predicted & near(true, tolerance), true & near(predicted, tolerance)
            counted = right | (predicted & labelled)
            self.counts[index] += [np.count_nonzero(one) for one in (right, counted, found, true)]

    @property
    def f_score(self) -> NDArray[np.float64]:
        """F-score of each of K classes, 2·precision·recall / (precision + recall); NaN for a class without outlines."""
        right, predicted, found, true = self.counts.T.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision, recall = right / predicted, found / true
            score = 2 * precision * recall / (precision + recall)
        score[(predicted > 0) & (right == 0)] = 0.0
        score[(true > 0) & (found == 0)] = 0.0
        return score

    @property
    def mean(self) -> float:
        """Mean F-score over the classes that have outlines, 0–1; NaN if no class has outlines."""
        present = self.f_score[~np.isnan(self.f_score)]
        return float(present.mean()) if present.size else float("nan")


class BoundaryIoU:
    """Boundary IoU (arXiv:2103.16562): IoU of the true and predicted seams of each class.

    A seam is all pixels of a class within 2 % of the picture's diagonal from the contour of the class. As in the
    authors' code (bowenc0221/boundary-iou-api), distances are Chebyshev distances (king's moves in chess), and the
    picture's border is a contour. The border to pixels without data is a contour, too. Ignored pixels (255 in truth) do
    not count.

    Args:
        num_classes: number of classes K ≥ 2.

    Attributes:
        counts: K×2 int64: per class the numbers of pixels in both seams, and of pixels in at least one seam.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = np.zeros((num_classes, 2), dtype=np.int64)

    def update(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Adds one picture.

        Args:
            truth: H×W class indices, 255 = ignore.
            prediction: H×W class indices, all < K, or 255 where the picture has no data.
        """
        width = max(1, round(SEAM * math.hypot(*truth.shape)))
        labelled = truth != IGNORE_INDEX
        for index in np.union1d(truth[labelled], prediction[prediction != IGNORE_INDEX]):
            true, predicted = (seam(mask == index, width) & labelled for mask in (truth, prediction))
            self.counts[index] += [np.count_nonzero(true & predicted), np.count_nonzero(true | predicted)]

    @property
    def iou(self) -> NDArray[np.float64]:
        """Boundary IoU of each of K classes, 0–1; NaN for a class in neither truth nor prediction."""
        both, either = self.counts.T.astype(np.float64)
        with np.errstate(invalid="ignore"):
            return both / either

    @property
    def mean(self) -> float:
        """Mean boundary IoU over the classes in truth or prediction, 0–1; NaN if there is no such class."""
        present = self.iou[~np.isnan(self.iou)]
        return float(present.mean()) if present.size else float("nan")


def seam(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Returns the pixels of a mask that are at most `width` from a pixel outside the mask or outside the picture.

    Args:
        mask: H×W booleans.
        width: largest Chebyshev distance, in pixels.
    """
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)
    return mask & (inner[1:-1, 1:-1] == 0)


def outline(mask: NDArray[np.bool_], void: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Returns the pixels of a mask that have a neighbour outside the mask; the picture's border is not an outline.

    Args:
        mask: H×W booleans.
        void: H×W booleans, True for pixels without data; the border of these pixels is not an outline. None if all
            pixels have data.
    """
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    covered = mask if void is None else mask | void
    return mask & (cv2.erode(covered.astype(np.uint8), cross) == 0)


def near(points: NDArray[np.bool_], distance: float) -> NDArray[np.bool_]:
    """Returns the pixels within a Euclidean distance, in pixels, of any of the points (H×W booleans)."""
    if not points.any():
        return np.zeros_like(points)
    return cv2.distanceTransform((~points).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= distance
