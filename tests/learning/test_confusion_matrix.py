import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.learning.confusion_matrix import ConfusionMatrix


def pictures(classes, count=7, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (count, 9, 11)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = 255
    prediction = np.where(rng.random(truth.shape) < 0.6, truth % classes, rng.integers(0, classes, truth.shape))
    return truth, prediction.astype(np.uint8)


def slow(truth, prediction, classes):
    counts = [[0] * classes for _ in range(classes)]
    for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if t != 255:
            counts[t][p] += 1
    return counts


def filled(truth, prediction, classes) -> ConfusionMatrix:
    matrix = ConfusionMatrix(classes)
    matrix.update(truth, prediction)
    return matrix


@pytest.mark.parametrize("classes", [2, 3, 21, 254, 255])
def test_counts_are_those_of_a_slow_loop(classes):
    truth, prediction = pictures(classes)
    matrix = filled(truth, prediction, classes)
    assert matrix.counts.dtype == np.int64
    assert matrix.counts.tolist() == slow(truth, prediction, classes)


def test_scores_are_the_definitions():
    truth, prediction = pictures(4)
    scores = filled(truth, prediction, 4)
    valid = truth != 255
    iou, dice, accuracy, weighted = [], [], [], 0.0
    for index in range(4):
        t, p = (truth == index) & valid, (prediction == index) & valid
        iou.append((t & p).sum() / (t | p).sum())
        dice.append(2 * (t & p).sum() / (t.sum() + p.sum()))
        accuracy.append((t & p).sum() / t.sum())
        weighted += t.sum() / valid.sum() * iou[-1]
    np.testing.assert_allclose(scores.iou, iou)
    np.testing.assert_allclose(scores.dice, dice)
    np.testing.assert_allclose(scores.accuracy, accuracy)
    assert scores.summary() == pytest.approx(
        {
            "miou": np.mean(iou),
            "pixel_accuracy": (truth == prediction)[valid].mean(),
            "mean_accuracy": np.mean(accuracy),
            "frequency_weighted_iou": weighted,
            "dice": np.mean(dice),
        }
    )


@settings(deadline=None, max_examples=30)
@given(order=st.permutations(range(7)), cuts=st.sets(st.integers(1, 6)))
def test_neither_order_nor_batches_matter(order, cuts):
    truth, prediction = pictures(5)
    whole = filled(truth, prediction, 5)
    parts = ConfusionMatrix(5)
    for batch in np.split(np.array(order), sorted(cuts)):
        parts.update(truth[batch], prediction[batch])
    assert np.array_equal(whole.counts, parts.counts)
    assert whole.summary() == parts.summary()


def test_an_absent_class_is_left_out_of_the_means():
    matrix = filled(np.array([0, 0, 1, 1], np.uint8), np.array([0, 0, 1, 0], np.uint8), 3)
    np.testing.assert_allclose(matrix.iou, [2 / 3, 1 / 2, np.nan])
    assert matrix.miou == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert matrix.summary()["mean_accuracy"] == pytest.approx(0.75)
    assert matrix.summary()["dice"] == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_a_class_that_is_only_predicted_counts_as_wrong():
    matrix = filled(np.zeros(4, np.uint8), np.array([0, 0, 0, 2], np.uint8), 3)
    np.testing.assert_allclose(matrix.iou, [0.75, np.nan, 0])
    assert matrix.miou == pytest.approx(0.375)
    assert matrix.summary()["mean_accuracy"] == pytest.approx(0.75)  # over classes there are in truth


def test_perfect_is_one():
    truth, _ = pictures(6)
    prediction = np.where(truth == 255, 0, truth).astype(np.uint8)
    assert set(filled(truth, prediction, 6).summary().values()) == {1.0}


def test_nothing_labelled_has_no_score():
    matrix = filled(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8), 3)
    assert not matrix.counts.any()
    summary = matrix.summary()
    assert summary["miou"] is summary["pixel_accuracy"] is summary["dice"] is None
    json.dumps(summary, allow_nan=False)


def test_no_overflow_beyond_32_bits():
    matrix = ConfusionMatrix(2)
    matrix.counts += 3 * 2**40
    matrix.update(np.ones(5, np.uint8), np.ones(5, np.uint8))
    assert matrix.counts[1, 1] == 3 * 2**40 + 5
    assert matrix.pixel_accuracy == pytest.approx(0.5)


def test_more_pixels_than_float32_counts():
    truth = np.zeros(2**24 + 1001, np.uint8)
    truth[-1] = 1
    matrix = ConfusionMatrix(2)
    matrix.update(truth, np.zeros_like(truth))
    assert matrix.counts.tolist() == [[2**24 + 1000, 0], [1, 0]]
