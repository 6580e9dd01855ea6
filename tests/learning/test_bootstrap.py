"""Intervals and paired tests against closed forms, enumeration by hand, and simulated sets whose truth is known."""

import itertools

import numpy as np
import pytest

from atrous.learning import bootstrap
from atrous.learning.bootstrap import (
    DETECTABLE,
    bootstrap_intervals,
    class_counts,
    grouped_counts,
    groups_with_class,
    mean_intervals,
    paired_differences,
    scores_of,
)
from atrous.learning.confusion_matrix import ConfusionMatrix

PIXELS = 1000


def one_class(shares: np.ndarray) -> np.ndarray:
    """G×3×2: in each group 1000 pixels of class 0, of which a share is found; class 1 only takes what is missed."""
    hits = np.round(shares * PIXELS).astype(np.int64)
    found = np.zeros((len(hits), 3, 2), np.int64)
    found[:, 0, 0], found[:, 1, 0], found[:, 2, 0], found[:, 2, 1] = hits, PIXELS, hits, PIXELS - hits
    return found


def test_scores_are_those_of_the_confusion_matrix():
    rng = np.random.default_rng(0)
    matrix = ConfusionMatrix(4)
    matrix.update(rng.choice([0, 1, 3, 255], 500).astype(np.uint8), rng.choice([0, 1, 3], 500).astype(np.uint8))
    scores = scores_of(class_counts(matrix.counts))
    np.testing.assert_array_equal(scores.iou, matrix.iou)
    assert scores.miou == pytest.approx(matrix.miou, rel=1e-15)
    assert scores.pixel_accuracy == matrix.pixel_accuracy
    assert np.isnan(scores.iou[2])  # in neither truth nor prediction


def test_pictures_of_a_group_are_summed_and_others_stay_alone():
    counts = [np.full((3, 2), number) for number in (1, 10, 100, 1000)]
    summed = grouped_counts(counts, ["x", None, "x", None])
    assert summed[:, 0, 0].tolist() == [101, 10, 1000]
    assert grouped_counts(counts, [1, None, 2, 1])[:, 0, 0].tolist() == [1001, 10, 100]  # a number is no place


@pytest.mark.parametrize("groups", [40, 200])
def test_the_interval_of_a_mean_is_the_normal_one(groups):
    """Of groups of one size pixel accuracy is a mean, whose bootstrap variance is the variance of the groups over G."""
    shares = np.random.default_rng(groups).beta(8, 2, groups)
    counts = one_class(shares)
    (_, accuracy), (recall, _) = bootstrap_intervals(counts, draws=20_000)
    exact = np.round(shares * PIXELS) / PIXELS
    error = exact.std() / np.sqrt(groups)
    assert accuracy is not None
    assert accuracy == pytest.approx((exact.mean() - 1.96 * error, exact.mean() + 1.96 * error), abs=0.12 * error)
    assert recall == accuracy  # nothing else is taken for the class, so its IoU is the same mean


@pytest.mark.parametrize("groups", [40, 200])
def test_the_standard_error_of_a_difference_is_that_of_the_mean_of_pairs(groups):
    rng = np.random.default_rng(groups)
    first = rng.beta(8, 2, groups)
    counts = one_class(first), one_class(np.clip(first + rng.normal(0.02, 0.03, groups), 0, 1))
    difference = paired_differences(*counts, draws=20_000)[1]
    pairs = (counts[1][:, 0, 0] - counts[0][:, 0, 0]) / PIXELS
    assert difference.change == pytest.approx(pairs.mean())
    assert difference.error == pytest.approx(pairs.std() / np.sqrt(groups), rel=0.03)
    assert difference.detectable == pytest.approx(2.8016 * difference.error, rel=1e-4)
    alone = bootstrap_intervals(counts[0])[0][1]
    assert alone is not None and difference.interval is not None
    assert difference.interval[1] - difference.interval[0] < (alone[1] - alone[0]) / 2  # pairs cancel what they share


def test_intervals_cover_the_truth_as_often_as_they_say():
    """300 sets of 40 groups, drawn from a population whose pixel accuracy is 0.8."""
    rng = np.random.default_rng(7)
    inside = 0
    for _ in range(300):
        (_, interval), _ = bootstrap_intervals(one_class(rng.beta(8, 2, 40)), draws=500)
        assert interval is not None
        inside += interval[0] <= 0.8 <= interval[1]
    assert 0.90 <= inside / 300 <= 0.98


def test_intervals_over_pictures_miss_the_truth_where_pictures_come_in_groups():
    """Ten pictures of each of 12 groups, alike within a group: only the groups are independent."""
    rng = np.random.default_rng(3)
    covered = {"groups": 0, "pictures": 0}
    for _ in range(200):
        pictures = one_class(np.repeat(rng.beta(8, 2, 12), 10))
        names = np.repeat(np.arange(12), 10).tolist()
        for over, groups in (("groups", names), ("pictures", [None] * 120)):
            (_, interval), _ = bootstrap_intervals(grouped_counts(list(pictures), groups), draws=300)
            assert interval is not None
            covered[over] += interval[0] <= 0.8 <= interval[1]
    assert covered["groups"] / 200 > 0.84
    assert covered["pictures"] / 200 < 0.60


def test_one_group_has_no_interval_and_a_class_of_one_group_none_either():
    alone = one_class(np.array([0.5]))
    assert bootstrap_intervals(alone) == ([None, None], [None, None])
    counts = np.concatenate([alone, one_class(np.array([0.7, 0.9]))])
    wider = np.zeros((3, 3, 3), np.int64)
    wider[:, :, :2] = counts
    wider[0, :, 2] = [5, 10, 10]  # a third class, in the first group only
    assert groups_with_class(wider).tolist() == [3, 3, 1]
    (miou, _), of_classes = bootstrap_intervals(wider)
    assert miou is not None and of_classes[0] is not None and of_classes[2] is None
    assert [one.interval is None for one in paired_differences(wider, wider)] == [False] * 4 + [True]


def test_the_same_seed_gives_the_same_and_parts_change_nothing(monkeypatch):
    counts = one_class(np.random.default_rng(1).beta(8, 2, 30))
    whole = bootstrap_intervals(counts, draws=400), paired_differences(counts, counts[::-1], draws=400)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 1)  # a row at a time
    assert (bootstrap_intervals(counts, draws=400), paired_differences(counts, counts[::-1], draws=400)) == whole
    assert bootstrap_intervals(counts, draws=400, seed=1) != whole[0]


def by_hand(first: np.ndarray, second: np.ndarray) -> list[float]:
    """The permutation test of pairs, one way to swap after the other."""
    found = np.abs(scores_of(second.sum(0)).columns - scores_of(first.sum(0)).columns)
    extreme = np.zeros(len(found))
    for swaps in itertools.product([False, True], repeat=len(first)):
        one = sum(b if swap else a for a, b, swap in zip(first, second, swaps, strict=True))
        other = sum(a if swap else b for a, b, swap in zip(first, second, swaps, strict=True))
        extreme += np.abs(scores_of(other).columns - scores_of(one).columns) >= found - 1e-12
    return (extreme / 2 ** len(first)).tolist()


@pytest.mark.parametrize("groups", [2, 5, 9])
def test_few_groups_are_swapped_in_every_way(groups):
    rng = np.random.default_rng(groups)
    first, second = (one_class(rng.beta(8, 2, groups)) for _ in range(2))
    assert [one.p for one in paired_differences(first, second)] == pytest.approx(by_hand(first, second))


def test_groups_in_which_the_models_agree_change_no_chance():
    rng = np.random.default_rng(5)
    first, second = (one_class(rng.beta(8, 2, 6)) for _ in range(2))
    same = one_class(rng.beta(8, 2, 30))
    more = [np.concatenate([each, same]) for each in (first, second)]
    assert paired_differences(*more)[1].p == pytest.approx(paired_differences(first, second)[1].p)  # exact in both


def test_many_groups_are_swapped_at_random_near_the_exact_chance(monkeypatch):
    rng = np.random.default_rng(9)
    first = rng.beta(8, 2, 12)
    counts = one_class(first), one_class(np.clip(first + rng.normal(0.02, 0.05, 12), 0, 1))
    exact = [one.p for one in paired_differences(*counts)]
    monkeypatch.setattr(bootstrap, "ENUMERATED", 11)
    drawn = [one.p for one in paired_differences(*counts)]
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=0.015)


def test_the_test_of_pairs_keeps_its_level():
    """Of 400 pairs of models that are equally good, about 5 % differ at 5 %."""
    rng = np.random.default_rng(11)
    p = []
    for _ in range(400):
        shares = rng.beta(8, 2, 10)
        noisy = [one_class(np.clip(shares + rng.normal(0, 0.05, 10), 0, 1)) for _ in range(2)]
        p.append(paired_differences(*noisy, draws=2)[1].p)
    assert 0.025 <= np.mean(np.array(p) < 0.05) <= 0.08


def test_the_smallest_difference_is_found_in_four_of_five_sets():
    rng = np.random.default_rng(13)
    error = 0.03 / np.sqrt(30)
    found = 0
    for _ in range(200):
        shares = rng.uniform(0.4, 0.6, 30)
        other = shares + DETECTABLE * error + rng.normal(0, 0.03, 30)
        difference = paired_differences(one_class(shares), one_class(other), draws=1000)[1]
        found += difference.p is not None and difference.p < 0.05
    assert 0.72 <= found / 200 <= 0.88


def test_models_that_are_the_same_do_not_differ():
    counts = one_class(np.random.default_rng(0).beta(8, 2, 20))
    difference = paired_differences(counts, counts)[0]
    assert (difference.change, difference.interval, difference.p) == (0, (0, 0), 1)
    alone = paired_differences(counts[:1], counts[1:2])[0]
    assert (alone.interval, alone.p, alone.detectable) == (None, None, None)


def test_memory_is_bounded_for_many_pictures_of_many_classes():
    import tracemalloc

    rng = np.random.default_rng(0)
    counts = rng.integers(0, 100, (3000, 3, 150))
    counts[:, 1:] += counts[:, :1]
    tracemalloc.start()
    bootstrap_intervals(counts, draws=2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400e6  # 2000 draws × 3000 pictures × 450 numbers would be 21 GB


def test_intervals_of_means_leave_out_missing_values():
    values = np.random.default_rng(0).normal(5, 2, (80, 3))
    values[::2, 1] = np.nan
    values[1:, 2] = np.nan
    whole, half, single = mean_intervals(values)
    for interval, known in ((whole, values[:, 0]), (half, values[1::2, 1])):
        error = known.std() / np.sqrt(len(known))
        assert interval == pytest.approx((known.mean() - 1.96 * error, known.mean() + 1.96 * error), abs=0.2 * error)
    assert single is None
    assert mean_intervals(np.zeros((0, 2))) == [None, None]
    assert mean_intervals(values[:, :1]) == [whole]  # the same draws for every value
