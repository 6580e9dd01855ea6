import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from atrous.learning.boundary_metrics import SEAM, TOLERANCE, BoundaryIoU, BoundaryScore, near, outline, seam


def square(top: int, left: int, side: int, size: tuple[int, int] = (300, 400)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def score(truth, prediction, classes=2):
    boundary = BoundaryScore(classes)
    boundary.update(truth, prediction)
    return boundary


def slow(truth, prediction, index):
    """By distances between all pairs."""
    tolerance = max(1.0, TOLERANCE * math.hypot(*truth.shape))

    def points(labels):
        own = np.pad(labels == index, 1, mode="edge")
        inner = own[1:-1, 1:-1] & own[:-2, 1:-1] & own[2:, 1:-1] & own[1:-1, :-2] & own[1:-1, 2:]
        return np.argwhere((labels == index) & ~inner)

    here, there = points(truth), points(prediction)
    apart = cdist(there, here)
    right = apart.min(1) <= tolerance
    counted = right | (truth[tuple(there.T)] != 255)
    precision, recall = right.sum() / counted.sum(), (apart.min(0) <= tolerance).mean()
    return 2 * precision * recall / (precision + recall)


def test_equal_masks_score_one_and_absent_classes_nothing():
    boundary = score(square(50, 60, 100), square(50, 60, 100), classes=3)
    assert boundary.f_score[:2].tolist() == [1, 1]
    assert np.isnan(boundary.f_score[2])
    assert boundary.mean == 1


def test_outlines_within_the_tolerance_are_right():
    truth = square(50, 60, 100)
    assert TOLERANCE * 500 == 3.75  # pixels
    assert score(truth, square(52, 62, 100)).f_score[1] == 1
    assert score(truth, square(54, 64, 100)).f_score[1] < 0.2


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_score_by_all_pairs(seed):
    rng = np.random.default_rng(seed)
    truth, prediction = (np.kron(rng.integers(0, 3, (8, 9)), np.ones((7, 8))).astype(np.uint8) for _ in range(2))
    truth[10:20, 5:30] = 255
    prediction = np.where(rng.random(truth.shape) < 0.7, np.minimum(truth, 2), prediction).astype(np.uint8)
    boundary = score(truth, prediction, 3)
    assert boundary.f_score == pytest.approx([slow(truth, prediction, index) for index in range(3)])


def test_a_wrong_outline_among_ignored_pixels_does_not_count():
    truth = square(50, 60, 100)
    truth[200:] = 255
    prediction = square(50, 60, 100)
    prediction[250:270, 100:120] = 1
    assert score(truth, prediction).f_score[1] == 1
    truth[200:] = 0
    assert score(truth, prediction).f_score[1] < 0.95


def test_a_missed_and_an_invented_class_score_zero():
    truth, prediction = square(50, 60, 100), square(200, 300, 60) * 2
    assert score(truth, prediction, 3).f_score[1:].tolist() == [0, 0]


def test_pictures_add_up_in_any_order():
    pairs = [(square(50, 60, 100), square(54 + shift, 60, 90)) for shift in (0, 10, 20)]
    one, other = BoundaryScore(2), BoundaryScore(2)
    for pair in pairs:
        one.update(*pair)
    for pair in reversed(pairs):
        other.update(*pair)
    assert np.array_equal(one.counts, other.counts)
    assert 0 < one.mean < 1


def test_the_pictures_border_is_no_outline():
    assert not outline(np.ones((5, 7), bool)).any()
    assert not near(np.zeros((5, 7), bool), 3).any()


def slow_seam(mask, width):
    """By the square around each pixel, whatever lies outside the picture being of another class."""
    padded = np.pad(mask, width)
    inside = [padded[y : y + 2 * width + 1, x : x + 2 * width + 1].all() for y, x in np.ndindex(mask.shape)]
    return mask & ~np.reshape(inside, mask.shape)


@pytest.mark.parametrize("width", [1, 3, 8])
def test_a_seam_is_what_has_another_class_or_the_border_in_its_square(width):
    mask = np.random.default_rng(0).random((30, 41)) < 0.97
    np.testing.assert_array_equal(seam(mask, width), slow_seam(mask, width))


def test_boundary_iou_is_the_iou_of_the_seams_and_ignored_pixels_are_left_out():
    rng = np.random.default_rng(1)
    truth, prediction = (np.kron(rng.integers(0, 3, (6, 8)), np.ones((20, 20), int)).astype(np.uint8) for _ in "ab")
    truth[:15] = 255
    found = BoundaryIoU(4)
    found.update(truth, prediction)
    width = round(SEAM * math.hypot(120, 160))
    assert width == 4
    labelled = truth != 255
    for index in range(3):
        true, predicted = (slow_seam(mask == index, width) & labelled for mask in (truth, prediction))
        assert found.iou[index] == (true & predicted).sum() / (true | predicted).sum()
    assert np.isnan(found.iou[3]) and found.mean == pytest.approx(found.iou[:3].mean())


def test_boundary_iou_feels_a_shift_that_iou_hardly_does():
    truth, prediction = square(50, 60, 200), square(53, 63, 200)
    found = BoundaryIoU(2)
    found.update(truth, prediction)
    whole = (truth & prediction).sum() / (truth | prediction).sum()
    assert whole > 0.93 and found.iou[1] < 0.75


def test_pixels_without_data_end_the_picture():
    """Both scores of a picture whose right half has no data are those of its left half."""
    rng = np.random.default_rng(0)
    truth, prediction = (np.kron(rng.integers(0, 3, (5, 5)), np.ones((4, 4))).astype(np.uint8) for _ in range(2))
    void = np.full((20, 20), 255, np.uint8)
    for score in (BoundaryScore, BoundaryIoU):
        half, whole = score(3), score(3)
        half.update(truth, prediction)
        whole.update(np.concatenate([truth, void], 1), np.concatenate([prediction, void], 1))
        assert half.counts.any() and np.array_equal(half.counts, whole.counts)
        whole.update(void, void)
        assert np.array_equal(half.counts, whole.counts)
