"""Areas from an error matrix: the published example, properties of the estimator, and intervals over groups."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from atrous.learning.area_estimate import area_intervals, estimate_areas

#: Olofsson et al. 2014: deforestation, forest gain, stable forest, stable non-forest; mapped areas in pixels of 30 m.
MATRIX = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
MAPPED = np.array([200_000, 150_000, 3_200_000, 6_450_000])

matrices = arrays(np.int64, (4, 4), elements=st.integers(1, 500))
areas = arrays(np.float64, 4, elements=st.floats(0.5, 1e6))


def test_the_published_example():
    found = estimate_areas(MATRIX, MAPPED)
    assert found.area[0] == pytest.approx(235_086, abs=0.5)  # pixels, which are 21,158 ha
    assert 1.96 * found.pixel_error[0] == pytest.approx(68_418, abs=1)
    assert found.overall == pytest.approx(0.95, abs=0.005)
    np.testing.assert_allclose(found.users, [0.88, 0.73, 0.93, 0.96], atol=0.005)
    np.testing.assert_allclose(found.producers, [0.75, 0.85, 0.93, 0.96], atol=0.005)


@given(matrices, areas)
def test_the_area_of_all_classes_together_is_that_of_the_map(matrix, mapped):
    assert estimate_areas(matrix, mapped).area.sum() == pytest.approx(mapped.sum())


@given(arrays(np.int64, 4, elements=st.integers(1, 500)), areas)
def test_a_map_without_errors_is_not_corrected(hits, mapped):
    found = estimate_areas(np.diag(hits), mapped)
    np.testing.assert_allclose(found.area, mapped)
    np.testing.assert_allclose([found.users, found.producers], 1)
    assert found.overall == pytest.approx(1)


@given(matrices, areas, st.integers(2, 9), st.floats(0.01, 100))
def test_the_numbers_of_samples_in_a_row_and_the_unit_of_area_do_not_matter(matrix, mapped, times, unit):
    found, scaled = estimate_areas(matrix, mapped), estimate_areas(matrix * [[1], [times], [1], [3]], mapped * unit)
    np.testing.assert_allclose(scaled.area, found.area * unit)
    np.testing.assert_allclose(scaled.producers, found.producers)


def test_a_mapped_class_without_a_sample_gives_no_estimate_and_an_unmapped_class_needs_none():
    matrix = MATRIX.copy()
    matrix[1] = 0
    assert np.isnan(estimate_areas(matrix, MAPPED).area).all()
    found = estimate_areas(matrix, MAPPED * [1, 0, 1, 1])
    kept = estimate_areas(MATRIX, MAPPED * [1, 0, 1, 1])
    np.testing.assert_array_equal(found.area, kept.area)
    assert np.isnan(found.users[1])
    assert found.producers[1] == 0  # there is some of it in the other strata


def test_many_matrices_are_estimated_as_each_alone():
    several = np.stack([MATRIX, MATRIX.T + 1])
    found = estimate_areas(several, MAPPED)
    for index, matrix in enumerate(several):
        alone = estimate_areas(matrix, MAPPED)
        np.testing.assert_allclose(found.area[index], alone.area)
        np.testing.assert_allclose(found.pixel_error[index], alone.pixel_error)


def test_equal_groups_have_no_spread():
    found = area_intervals(np.stack([MATRIX] * 12), MAPPED, draws=50)
    for interval, area in zip(found.area, estimate_areas(MATRIX, MAPPED).area, strict=True):
        assert interval == pytest.approx((area, area))
    assert found.undefined == 0


def test_groups_of_one_pixel_have_the_standard_error_of_the_formula():
    """Where each group is one pixel, pixels are independent, and the published formula is right."""
    rng = np.random.default_rng(0)
    matrix = np.array([[300, 60], [40, 400]])
    groups = np.zeros((800, 2, 2), np.int64)
    groups[np.arange(800), *np.unravel_index(np.repeat(np.arange(4), matrix.ravel()), (2, 2))] = 1
    rng.shuffle(groups)
    mapped = np.array([30.0, 70.0])
    found, formula = area_intervals(groups, mapped, draws=4000), estimate_areas(matrix, mapped)
    np.testing.assert_allclose(found.error, formula.pixel_error, rtol=0.06)
    assert found.area[0] is not None
    low, high = found.area[0]
    assert high - low == pytest.approx(2 * 1.96 * formula.pixel_error[0], rel=0.08)


def test_intervals_over_few_large_groups_are_wider_than_those_of_pixels():
    groups = np.array([[[900, 100], [0, 1000]], [[500, 500], [300, 700]], [[990, 10], [100, 900]]])
    mapped = np.array([50.0, 50.0])
    found = area_intervals(groups, mapped, draws=2000)
    assert found.error[0] > 5 * estimate_areas(groups.sum(0), mapped).pixel_error[0]


def test_one_group_has_no_interval():
    found = area_intervals(MATRIX[None], MAPPED)
    assert found.area == [None] * 4 and found.overall is None


def test_draws_without_a_sample_of_a_mapped_class_are_counted():
    """The class is in one of three groups, so (2/3)³ of the draws miss it."""
    groups = np.array([[[5, 1], [0, 0]], [[5, 0], [0, 0]], [[5, 0], [1, 9]]])
    found = area_intervals(groups, np.array([50.0, 50.0]), draws=4000)
    assert found.undefined == pytest.approx((2 / 3) ** 3, abs=0.03)
    assert found.area[0] is not None
