"""Scenes that overlap are divided along common lines, so no ground is in two splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.rasters.rasters import write_raster

from atrous.data.file_of_picture import file_of_picture
from atrous.data.open_dataset import open_dataset
from atrous.data.raster_items import LEAST_PLACES
from atrous.data.rasters.ground_lattice import lattice_of, overlapping, parts_on
from atrous.data.rasters.raster_grid import RasterGrid

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore")


def grid(left, top, height, width, pixel=10.0, crs="EPSG:32632"):
    return RasterGrid(rasterio.CRS.from_user_input(crs), rasterio.Affine(pixel, 0, left, 0, -pixel, top), height, width)


def test_scenes_overlap_directly_or_through_others():
    near = [grid(0, 0, 50, 50), grid(300, 0, 50, 50), grid(700, 0, 50, 50)]  # each 500 wide
    touching, elsewhere = grid(1200, 0, 50, 50), grid(0, 0, 50, 50, crs="EPSG:32633")
    turned = RasterGrid(near[0].crs, near[0].transform @ rasterio.Affine.rotation(30), 50, 50)
    assert overlapping([*near, touching, elsewhere, turned, None]) == [[0, 1, 2]]


@settings(max_examples=60)
@given(
    first=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    second=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    move=st.tuples(st.integers(-15, 15), st.integers(-15, 15)),
    pixel=st.sampled_from([1.0, 2.0]),
    side=st.sampled_from([8, 16, 40]),
)
def test_parts_cover_each_scene_and_agree_on_the_ground(first, second, move, pixel, side):
    grids = [grid(5e5, 5e6, *first, 1.0), grid(5e5 + move[0], 5e6 - move[1], *second, pixel)]
    lattice = lattice_of(grids, side)
    found = []
    for one in grids:
        places = np.zeros((one.height, one.width), int)
        for (row, column), window in parts_on(lattice, one).items():
            assert not places[window.rows, window.columns].any()
            places[window.rows, window.columns] = 1000 * row + column + 1
            assert max(window.height, window.width) <= 1.5 * side * pixel / one.transform.a + 1
        assert places.all()
        found.append(places)
    if pixel == 1:  # the pixels coincide
        right, down = move
        here = found[0][max(down, 0) : second[0] + down, max(right, 0) : second[1] + right]
        there = found[1][max(-down, 0) :, max(-right, 0) :][: here.shape[0], : here.shape[1]]
        assert here.size
        assert np.array_equal(here, there)


def test_no_ground_is_in_two_splits(tmp_path):
    for folder in ("scenes", "labels"):
        (tmp_path / folder).mkdir()
    moves = {"a": (0, 0), "b": (137, 61), "c": (5000, 0)}
    for name, (right, down) in moves.items():
        transform = rasterio.Affine(10, 0, 5e5 + 10 * right, 0, -10, 5e6 - 10 * down)
        values = np.zeros((300, 400), np.uint8)
        write_raster(tmp_path / f"scenes/{name}.tif", values, "EPSG:32632", transform)
        write_raster(tmp_path / f"labels/{name}.tif", values, "EPSG:32632", transform)
    (tmp_path / "classes.yaml").write_text("classes:\n  - {name: land}\n  - {name: water}\n", encoding="utf-8")
    dataset = open_dataset(tmp_path, window=64)
    taken, groups = np.full((400, 5500), "", "U5"), set()
    for name, items in dataset.splits.items():
        for item in items:
            groups.add(item.group)
            right, down = moves[file_of_picture(item.image).stem]
            top, left, height, width = item.region
            area = taken[top + down : top + down + height, left + right : left + right + width]
            assert np.isin(area, ["", name]).all()
            area[:] = name
    assert len(groups) >= LEAST_PLACES
    assert set(dataset.splits) == {"train", "val", "test"}
    assert {group.split("@")[0] for group in groups} == {"a", "c"}  # b has the places of a
    assert f"divided into {len(groups)} places" in " ".join(dataset.notes)


@pytest.mark.parametrize(("sites", "dates", "places"), [(1, 12, True), (12, 2, False)])
def test_dates_of_one_site_are_one_scene(tmp_path, sites, dates, places):
    """Twelve dates of one site are divided into places; two dates of twelve sites are drawn together."""
    for folder in ("scenes", "labels"):
        (tmp_path / folder).mkdir()
    for site in range(sites):
        for date in range(dates):
            transform = rasterio.Affine(10, 0, 5e5 + 5000 * site, 0, -10, 5e6)
            for folder in ("scenes", "labels"):
                values = np.zeros((80, 80), np.uint8)
                write_raster(tmp_path / folder / f"s{site:02d}_{date:02d}x.tif", values, "EPSG:32632", transform)
    (tmp_path / "classes.yaml").write_text("classes:\n  - {name: land}\n  - {name: water}\n", encoding="utf-8")
    dataset = open_dataset(tmp_path, window=64)
    ground = {}
    for name, items in dataset.splits.items():
        for item in items:
            assert (item.region != (0, 0, 80, 80)) == places
            scene = file_of_picture(item.image).stem.split("_")[0]
            assert ground.setdefault((scene, item.region), name) == name
    assert {"train", "val"} <= set(dataset.splits)
