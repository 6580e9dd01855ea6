from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.charts import (
    Curve,
    binned_curve,
    dot_plot,
    error_map,
    line_chart,
    mask_uri,
    nice_ticks,
    short_count,
    shrink,
    sparkline,
)

finite = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-6)


@given(st.tuples(finite, finite).map(sorted))
def test_ticks_enclose_the_values_in_equal_round_steps(ends: list[float]) -> None:
    low, high = ends
    ticks = nice_ticks(low, high)
    invisible = 1e-6 * (high - low or abs(high))  # a millionth of the chart: less than any pixel
    assert ticks[0] <= low + invisible
    assert ticks[-1] >= high - invisible
    assert 2 <= len(ticks) <= 7
    np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0], rtol=1e-6)


def test_ticks_of_percentages() -> None:
    assert nice_ticks(0, 0.9) == [0, 0.25, 0.5, 0.75, 1]
    assert nice_ticks(0, 0) == [0, 0.25]


def test_a_long_run_keeps_its_spike() -> None:
    points = [(float(step), 100.0 if step == 777 else 1.0) for step in range(10_000)]
    curve = binned_curve("loss", points)
    assert len(curve.points) == 72
    assert max(curve.high) == 100
    assert curve.points[-1][0] == 9999
    assert np.mean([y for _, y in curve.points]) < 2


def test_a_short_run_is_drawn_as_it_is() -> None:
    points = [(1.0, 3.0), (2.0, 2.0)]
    assert list(binned_curve("loss", points).points) == points
    assert list(binned_curve("loss", []).points) == []


@pytest.mark.parametrize("points", [[(0.0, 0.0)], [(5.0, 0.3)], [(1.0, -2.0), (2.0, 4.0)]])
def test_a_chart_is_well_formed_and_inside_its_frame(points: list[tuple[float, float]]) -> None:
    svg = line_chart("a <title>", [Curve("<a>", points), Curve("b", points)], "{:g}".format, mark=(*points[-1], "<m>"))
    root = ElementTree.fromstring(svg)
    assert {"<a>", "<m>"} <= {text.text for text in root.iter("text")}
    circles = list(root.iter("circle"))
    assert len(circles) == 2 * len(points) + 1
    assert all(0 <= float(c.get("cx", "nan")) <= 360 and 0 <= float(c.get("cy", "nan")) <= 232 for c in circles)


def test_sparkline_skips_what_is_not_known() -> None:
    assert sparkline([]) == sparkline([0.5]) == sparkline([None, math.nan, 0.5]) == ""
    assert sparkline([0.1, None, 0.9]).count("L") == 1


def test_counts_are_short() -> None:
    assert [short_count(n) for n in (0, 950, 1500, 2_000_000)] == ["0", "950", "1.5k", "2M"]


def test_shrinking_keeps_small_pictures_and_label_values() -> None:
    small = np.zeros((4, 5, 3), np.uint8)
    assert shrink(small) is small
    mask = np.random.default_rng(0).choice(np.array([0, 7, 255], np.uint8), (50, 2000))
    shrunk = shrink(mask)
    assert shrunk.shape == (16, 640)
    assert set(np.unique(shrunk)) <= {0, 7, 255}


def test_error_map_marks_wrong_and_ignored_pixels() -> None:
    picture = np.full((1, 3, 3), 100, np.uint8)
    truth, prediction = np.array([[1, 2, 255]], np.uint8), np.array([[1, 1, 1]], np.uint8)
    ((right, wrong, ignored),) = error_map(picture, truth, prediction).tolist()
    assert right[0] == right[1] == right[2] > 118
    assert wrong == [224, 45, 45]
    assert max(ignored) < right[0] // 2


def test_all_255_classes_fit_a_palette() -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert mask_uri(mask, [(i, i, i) for i in range(255)]).startswith("data:image/png;base64,")


def test_a_dot_plot_has_a_dot_for_each_score():
    svg = dot_plot("<Dice>", [("a & b", [("x", 0.0), ("y", 1.0), ("z", None)]), ("c" * 40, [])])
    ElementTree.fromstring(svg)
    assert re.findall(r'cx="([^"]+)".*?<title>([^<]+)', svg) == [("170", "x: 0.000"), ("700", "y: 1.000")]
    assert "a &amp; b" in svg and "c" * 23 + "…" in svg
