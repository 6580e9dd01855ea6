"""How well the outlines of masks agree, which the mean IoU hardly feels: boundary F-score and boundary IoU."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from atrous.data.mask_value_map import IGNORE_INDEX

#: How far an outline may be off, in diagonals of the picture (Csurka et al., "What is a good evaluation measure for
#: semantic segmentation?", BMVC 2013).
TOLERANCE = 0.0075
#: How wide a class's seam is, in diagonals of the picture (arXiv:2103.16562 §4.3).
SEAM = 0.02


class BoundaryScore:
    """Counts, for each class, the pixels of true and predicted outlines that have one of the other nearby.

    A pixel is on its class's outline where one of its four neighbours is of another class. Predicted outlines among
    ignored pixels count only where they are right. Beside pixels without data there is no outline, as at the border.

    Args:
        num_classes: K ≥ 2.

    Attributes:
        counts: K×4 int64: predicted outline pixels that are right, all predicted, true ones that were found, all true.
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
        """2·precision·recall / (precision + recall) per class, K; NaN for a class without outlines on either side."""
        right, predicted, found, true = self.counts.T.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision, recall = right / predicted, found / true
            score = 2 * precision * recall / (precision + recall)
        score[(predicted > 0) & (right == 0)] = 0.0
        score[(true > 0) & (found == 0)] = 0.0
        return score

    @property
    def mean(self) -> float:
        """The mean over the classes that have outlines; NaN where none has."""
        present = self.f_score[~np.isnan(self.f_score)]
        return float(present.mean()) if present.size else float("nan")


class BoundaryIoU:
    """IoU of seams: of the pixels of a class that lie within 2 % of the diagonal of its contour (arXiv:2103.16562).

    As in the authors' code (bowenc0221/boundary-iou-api), the picture's border is a contour and distances are counted
    in king's moves. Pixels without a label are left out. Where there is no data, the picture ends.

    Args:
        num_classes: K ≥ 2.

    Attributes:
        counts: K×2 int64: pixels in both seams, pixels in either.
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
        """Per class, K; NaN for a class without pixels on either side."""
        both, either = self.counts.T.astype(np.float64)
        with np.errstate(invalid="ignore"):
            return both / either

    @property
    def mean(self) -> float:
        """The mean over the classes that are there; NaN where none is."""
        present = self.iou[~np.isnan(self.iou)]
        return float(present.mean()) if present.size else float("nan")


def seam(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels of a mask within so many king's moves of what is not of it, the picture's outside included."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)
    return mask & (inner[1:-1, 1:-1] == 0)


def outline(mask: NDArray[np.bool_], void: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """The pixels of a mask beside others that are not of it; the picture's border is none.

    Args:
        mask: H×W.
        void: H×W, True where the picture has no data, which is no outline either; None for nowhere.
    """
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    covered = mask if void is None else mask | void
    return mask & (cv2.erode(covered.astype(np.uint8), cross) == 0)


def near(points: NDArray[np.bool_], distance: float) -> NDArray[np.bool_]:
    """The pixels within a distance of some of the points, in pixels."""
    if not points.any():
        return np.zeros_like(points)
    return cv2.distanceTransform((~points).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= distance
