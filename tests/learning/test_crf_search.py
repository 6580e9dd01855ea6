import math

import pytest

from atrous.learning.crf_search import FIXED, GRID, Trial, best_of, coarse_to_fine, evenly, trials_of


def peak(**centre):
    """A score that falls off around one place."""
    return lambda settings: 1 - sum(abs(settings[name] - value) / 100 for name, value in centre.items())


def test_the_grid_is_that_of_the_paper():
    assert list(GRID["bilateral_weight"]) == [3, 4, 5, 6]
    assert list(GRID["bilateral_xy"]) == [30, 40, 50, 60, 70, 80, 90, 100]
    assert list(GRID["bilateral_rgb"]) == [3, 4, 5, 6]
    assert FIXED == {"gaussian_weight": 3, "gaussian_xy": 3, "iterations": 10}


def test_each_place_is_tried_once_and_what_is_fixed_stays():
    trials = list(coarse_to_fine(peak(bilateral_weight=4, bilateral_xy=50, bilateral_rgb=5)))
    assert len(trials) == trials_of() == 4 * 8 * 4 + 26
    assert len({tuple(trial.settings.items()) for trial in trials}) == len(trials)
    assert all(trial.settings | FIXED == trial.settings for trial in trials)


@pytest.mark.parametrize("centre", [(4.4, 54, 4.6), (3, 30, 3), (6, 100, 6), (2.4, 106, 5.5)])
def test_the_best_is_within_half_a_step_of_the_peak(centre):
    centre = dict(zip(GRID, centre, strict=True))
    best = best_of(list(coarse_to_fine(peak(**centre)))).settings
    for name, value in centre.items():
        step = GRID[name][1] - GRID[name][0]
        assert abs(best[name] - value) <= step / 2
    grid = [
        dict(zip(GRID, (w, x, r), strict=True))
        for w in GRID["bilateral_weight"]
        for x in GRID["bilateral_xy"]
        for r in GRID["bilateral_rgb"]
    ]
    assert peak(**centre)(best) >= max(map(peak(**centre), grid))


def test_a_parameter_with_one_value_stays_at_it():
    grid = {"bilateral_weight": [5], "bilateral_xy": [10, 20], "bilateral_rgb": [3]}
    trials = list(coarse_to_fine(peak(bilateral_xy=26), grid))
    assert [trial.settings["bilateral_xy"] for trial in trials] == [10, 20, 15, 25]
    assert len(trials) == trials_of(grid)
    assert {trial.settings["bilateral_weight"] for trial in trials} == {5}


def test_of_equals_the_first_is_best_and_nan_is_worst():
    trials = [Trial({}, math.nan), Trial({"a": 1}, 0.0), Trial({"a": 2}, 0.5), Trial({"a": 3}, 0.5)]
    assert best_of(trials).settings == {"a": 2}
    assert best_of(trials[:2]).settings == {"a": 1}
    assert math.isnan(best_of(trials[:1]).miou)


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (2, [0, 5]), (3, [0, 3, 6]), (10, [*range(10)]), (99, [*range(10)])]
)
def test_pictures_are_spread_over_the_split(count, expected):
    assert evenly(range(10), count) == expected
    assert evenly([], count) == []
