"""Scenes that overlap are divided along common lines, so no ground is in two splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
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


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    first=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    second=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    move=st.tuples(st.integers(-15, 15), st.integers(-15, 15)),
    pixel=st.sampled_from([1.0, 2.0]),
    side=st.sampled_from([8, 16, 40]),
)
def test_parts_cover_each_scene_and_agree_on_the_ground(first, second, move, pixel, side):
    grids = [grid(0, 0, *first, 1.0), grid(move[0], move[1], *second, pixel)]
    lattice = lattice_of(grids, side)
    place_at = {}  # by metre on the ground
    for one in grids:
        covered = np.zeros((one.height, one.width), int)
        for place, window in parts_on(lattice, one).items():
            covered[window.rows, window.columns] += 1
            assert (
                max(window.height, window.width) <= 1.5 * side * (2 if one.transform.a == 1 and pixel == 2 else 1) + 1
            )
            if one.transform.a == 1:
                for y in range(window.top, window.top + window.height):
                    for x in range(window.left, window.left + window.width):
                        at = one.transform.f - y, one.transform.c + x
                        if pixel == 1:  # lines are between pixels only if both scenes have the same pixels
                            line_near = any(abs(at[1] - line) < 1 for line in lattice.x)
                            line_near |= any(abs(at[0] - line) < 1 for line in lattice.y)
                            assert place_at.setdefault(at, place) == place or line_near
        assert (covered == 1).all()


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
    splits, groups = {}, set()
    for name, items in dataset.splits.items():
        for item in items:
            groups.add(item.group)
            right, down = moves[file_of_picture(item.image).stem]
            top, left, height, width = item.region
            for y in range(top + 1, top + height - 1):  # a line may be inside a pixel
                for x in range(left + 1, left + width - 1):
                    assert splits.setdefault((y + down, x + right), name) == name
    assert len(groups) >= LEAST_PLACES
    assert set(dataset.splits) == {"train", "val", "test"}
    assert {group.split("@")[0] for group in groups} == {"a", "c"}  # b has the places of a
    assert f"divided into {len(groups)} places" in " ".join(dataset.notes)
