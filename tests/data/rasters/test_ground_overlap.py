"""Rasters over the same ground, in one CRS or in several."""

from pathlib import Path

import numpy as np
import pytest

from atrous.data.rasters.date_line import full_turn
from atrous.data.rasters.ground_overlap import _near_pairs, overlapping_outlines
from atrous.data.rasters.pixel_area import PixelAreas
from atrous.data.sources.geotiff import Place

pytest.importorskip("rasterio")
pyproj = pytest.importorskip("pyproj")
pytest.importorskip("shapely")
from rasterio.crs import CRS  # noqa: E402
from rasterio.transform import Affine, from_origin  # noqa: E402


def found(*rasters: tuple[str, Affine], size: tuple[int, int] = (100, 100)) -> list[tuple[int, int, float]]:
    outlines = {
        Path(str(index)): PixelAreas(Place(CRS.from_user_input(crs), transform, (), None), size, "a.tif").outline()
        for index, (crs, transform) in enumerate(rasters)
    }
    return [(int(str(one)), int(str(other)), shared) for one, other, shared in overlapping_outlines(outlines)]


def test_the_shared_part_is_that_of_the_smaller_raster():
    utm = "EPSG:32632"
    (pair,) = found((utm, from_origin(500_000, 5e6, 10, 10)), (utm, from_origin(500_500, 5e6, 5, 5)))
    assert pair == pytest.approx((0, 1, 1.0), abs=1e-3)
    (pair,) = found((utm, from_origin(500_000, 5e6, 10, 10)), (utm, from_origin(500_750, 5e6, 10, 10)))
    assert pair[2] == pytest.approx(0.25, abs=1e-3)


def test_neighbours_that_touch_do_not_overlap():
    utm = "EPSG:32632"
    places = [from_origin(500_000 + 1000 * x, 5e6 - 1000 * y, 10, 10) for x in range(3) for y in range(3)]
    assert not found(*((utm, place) for place in places))


def test_a_rotated_raster_beside_another_does_not_overlap_though_the_rectangle_around_it_does():
    utm = "EPSG:32632"
    rotated = Affine(7, 7, 500_000, 7, -7, 5_000_000)
    assert not found((utm, rotated), (utm, from_origin(500_000, 5_000_000 + 1000, 3, 3)))


def test_the_same_ground_in_two_utm_zones():
    to_next = pyproj.Transformer.from_crs(32632, 32633, always_xy=True)
    x, y = to_next.transform(740_000, 5e6)
    pairs = found(("EPSG:32632", from_origin(740_000, 5e6, 100, 100)), ("EPSG:32633", from_origin(x, y, 100, 100)))
    assert len(pairs) == 1 and pairs[0][2] > 0.8
    assert not found(("EPSG:32632", from_origin(500_000, 5e6, 10, 10)), ("EPSG:32633", from_origin(500_000, 5e6, 9, 9)))


def test_both_sides_of_the_date_line():
    east, west = from_origin(179.5, 10, 0.01, 0.01), from_origin(-180.25, 10, 0.01, 0.01)
    ((_, _, shared),) = found(("EPSG:4326", east), ("EPSG:4326", west))
    assert shared == pytest.approx(0.75, abs=0.01)


def test_around_the_pole():
    around, beside = from_origin(-50_000, 50_000, 1000, 1000), from_origin(40_000, 40_000, 1000, 1000)
    ((_, _, shared),) = found(("EPSG:3413", around), ("EPSG:3413", beside))
    assert shared == pytest.approx(0.09, abs=0.005)


def test_the_pairs_of_the_tree_are_those_of_comparing_all_with_all():
    draw = np.random.default_rng(0)
    spheres = []
    for number in range(400):
        around = (0, 0, 1) if number % 4 == 0 else (1, 0, 0) if number % 4 == 1 else draw.normal(size=3)
        centre = np.array(around) + draw.normal(size=3) * 0.1
        spheres.append((centre / np.linalg.norm(centre), float(draw.choice((0.003, 0.03, 0.3)))))
    expected = [
        (first, second)
        for first in range(400)
        for second in range(first + 1, 400)
        if np.linalg.norm(spheres[second][0] - spheres[first][0]) < spheres[first][1] + spheres[second][1]
    ]
    assert _near_pairs(spheres) == expected and len(expected) > 1000
    assert _near_pairs(spheres[:1]) == _near_pairs([]) == []
    assert _near_pairs([spheres[0], spheres[0]]) == [(0, 1)]


DEGREES = "EPSG:4326"
WORLD = (DEGREES, from_origin(-180, 90, 1, 1), (180, 360))
MERCATOR = ("EPSG:3857", from_origin(-20037508.34, 20037508.34, 156543.03, 156543.03), (256, 256))
THREE_HUNDRED = (DEGREES, from_origin(-150, 60, 1, 1), (100, 300))
HALF = (DEGREES, from_origin(-90, 45, 1, 1), (90, 180))
TEN = (DEGREES, from_origin(10, 10, 1, 1), (10, 10))


def shares(*rasters: tuple[str, Affine, tuple[int, int]]) -> dict[tuple[int, int], float]:
    outlines = {
        Path(str(index)): PixelAreas(Place(CRS.from_user_input(crs), transform, (), None), size, "a.tif").outline()
        for index, (crs, transform, size) in enumerate(rasters)
    }
    return {(int(str(one)), int(str(other))): shared for one, other, shared in overlapping_outlines(outlines)}


@pytest.mark.parametrize("large", [WORLD, MERCATOR, THREE_HUNDRED, HALF], ids=["world", "mercator", "300", "180"])
def test_a_raster_of_most_of_the_earth_overlaps_with_what_it_contains(large):
    utm = ("EPSG:32633", from_origin(500_000, 3e6, 1000, 1000), (50, 50))
    assert shares(large, TEN, utm) == {(0, 1): 1.0, (0, 2): pytest.approx(1.0)}
    assert shares(TEN, large) == {(0, 1): 1.0}


def test_a_raster_of_most_of_the_earth_does_not_overlap_with_what_is_outside():
    outside = (DEGREES, from_origin(150, 10, 1, 1), (10, 60))  # touches 300° on both sides
    assert shares(THREE_HUNDRED, outside) == {}
    in_meters = ("EPSG:3857", from_origin(-18e6, 1e6, 1000, 1000), (1000, 1000))
    assert shares(THREE_HUNDRED, in_meters) == shares(HALF, in_meters) == {}
    antarctica = ("EPSG:3031", from_origin(-3e5, 3e5, 1000, 1000), (600, 600))
    assert shares(MERCATOR, antarctica) == {} and shares(WORLD, antarctica) == {(0, 1): pytest.approx(1.0)}


@pytest.mark.parametrize("start", [-180, 0, 20, 180])
def test_boxes_of_degrees_are_compared_exactly(start):
    band = (DEGREES, from_origin(start, 30, 1, 1), (30, 340))  # without the 20 degrees before ``start``
    beside = (DEGREES, from_origin(start - 15, 30, 1, 1), (60, 20))
    assert shares(band, beside) == {(0, 1): pytest.approx(5 / 20 / 2)}  # half of it is on the other hemisphere
    assert shares(band, (DEGREES, from_origin(start + 700, 30, 1, 1), (30, 20))) == {}
    assert shares(band, (DEGREES, from_origin(start + 360, 0, 1, 1), (10, 340))) == {}


def test_large_rasters_in_two_systems_share_the_right_part():
    north = ("EPSG:3857", from_origin(-20037508.34, 20037508.34, 156543.03, 156543.03), (128, 256))
    half_north = (DEGREES, from_origin(100, 40, 1, 1), (80, 20))
    assert shares(north, half_north) == {(0, 1): pytest.approx(0.5, abs=0.01)}
    pacific = ("EPSG:3857", from_origin(0, 5e6, 1e5, 1e5), (100, 400))  # 0 to 359 degrees
    assert shares(pacific, (DEGREES, from_origin(-100, 10, 1, 1), (10, 10))) == {(0, 1): pytest.approx(1)}


def test_a_map_of_a_hemisphere_with_corners_outside_the_earth():
    disc = ("+proj=ortho +lat_0=0 +lon_0=0 +ellps=sphere +R=6371000", from_origin(-6.4e6, 6.4e6, 1e5, 1e5), (128, 128))
    assert shares(disc, TEN) == {(0, 1): pytest.approx(1)}
    assert shares(disc, (DEGREES, from_origin(170, 10, 1, 1), (10, 10))) == {}
    arctic = ("EPSG:3413", from_origin(-12e6, 12e6, 1e5, 1e5), (240, 240))  # beyond the equator
    assert shares(arctic, TEN) == {(0, 1): pytest.approx(1)}


def test_wide_neighbours_that_touch_do_not_overlap():
    rows = [(DEGREES, from_origin(0, 10 * row, 1, 1), (10, 100)) for row in (7, 6, 5)]
    halves = [(DEGREES, from_origin(start, 90, 1, 1), (180, 180)) for start in (-180, 0)]
    assert shares(*rows) == shares(*halves) == {}


@pytest.mark.parametrize(("crs", "turn"), [("EPSG:4326", 360), ("EPSG:4807", 400), ("EPSG:4979", 360)])
def test_a_turn_in_units_of_the_system(crs, turn):
    assert full_turn(crs) == turn


def test_a_turn_of_projections():
    assert full_turn("EPSG:3857") == pytest.approx(2 * np.pi * 6378137, rel=1e-9)
    assert [full_turn(crs) for crs in ("EPSG:32632", "EPSG:3413", "EPSG:3035", "+proj=sinu")] == [None] * 4
