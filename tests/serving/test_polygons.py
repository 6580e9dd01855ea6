from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from atrous.serving.polygons import Polygon, polygons_of

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans())


def filled(polygons: list[Polygon], shape: tuple[int, ...]) -> np.ndarray:
    """Even-odd filling, pixel by pixel: a pixel is inside where an odd number of vertical sides lie left of it."""
    sides = np.zeros((shape[0], shape[1] + 1), int)
    for ring in (ring for polygon in polygons for ring in polygon):
        for (x, y), (next_x, next_y) in pairwise(ring):
            assert (x == next_x) != (y == next_y)  # along the edges of pixels
            if x == next_x:
                sides[min(y, next_y) : max(y, next_y), x] += 1
    return np.cumsum(sides, axis=1)[:, :-1] % 2 == 1


@given(masks)
def test_filling_gives_the_mask_again(mask):
    assert np.array_equal(filled(polygons_of(mask), mask.shape), mask)


@given(masks)
def test_each_polygon_is_one_area_with_its_holes(mask):
    count, areas = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    expected = {(areas == area).tobytes() for area in range(1, count)}
    assert {filled([polygon], mask.shape).tobytes() for polygon in polygons_of(mask)} == expected


@given(masks)
def test_outlines_turn_one_way_and_holes_the_other(mask):
    for outline, *holes in polygons_of(mask):
        assert all(ring[0] == ring[-1] for ring in (outline, *holes))
        assert signed_area(outline) > 0
        assert all(signed_area(hole) < 0 for hole in holes)


def signed_area(ring: list[tuple[int, int]]) -> float:
    return sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in pairwise(ring)) / 2


@given(masks)
def test_the_same_areas_as_gdal(mask):
    features = pytest.importorskip("rasterio.features", reason="the extra 'geo' is not installed")
    theirs = [shape["coordinates"] for shape, _ in features.shapes(mask.astype(np.uint8), mask=mask, connectivity=4)]
    polygons = [[[(int(x), int(y)) for x, y in ring] for ring in polygon] for polygon in theirs]
    assert sorted(filled([one], mask.shape).tobytes() for one in polygons) == sorted(
        filled([one], mask.shape).tobytes() for one in polygons_of(mask)
    )


def test_a_square_with_a_hole():
    mask = np.ones((3, 3), bool)
    mask[1, 1] = False
    ((outline, hole),) = polygons_of(mask)
    assert set(outline) == {(0, 0), (3, 0), (3, 3), (0, 3)}
    assert set(hole) == {(1, 1), (2, 1), (2, 2), (1, 2)}
