"""Polygons of masks: exact, merged across windows and across rasters."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.errors import AtrousError
from atrous.inference.adjacent_rasters import Raster, check_one_crs, grids_of, read_raster
from atrous.inference.mask_polygons import mask_polygons

rasterio = pytest.importorskip("rasterio")
shapely = pytest.importorskip("shapely")
from rasterio.features import rasterize  # noqa: E402
from rasterio.io import MemoryFile  # noqa: E402

UTM = rasterio.CRS.from_epsg(32632)


def grid_at(column: float = 0, row: float = 0, size: float = 10):
    """The transform of a raster whose first pixel is at a column and a row of one grid."""
    return rasterio.Affine(size, 0, 500_000 + size * column, 0, -size, 4_600_000 - size * row)


class Masks:
    """Masks in memory, as rasters for `mask_polygons`."""

    def __init__(self, *masks: tuple[np.ndarray, rasterio.Affine]) -> None:
        self._files, self.rasters = [], []
        for index, (mask, transform) in enumerate(masks):
            memory = MemoryFile()
            height, width = mask.shape
            profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": mask.dtype}
            with memory.open(**profile, crs=UTM, transform=transform) as file:
                file.write(mask, 1)
            self._files.append(memory)
            self.rasters.append(Raster(Path(memory.name), f"{index}.tif", height, width, UTM, transform))

    def __enter__(self) -> list[Raster]:
        return self.rasters

    def __exit__(self, *error: object) -> None:
        for memory in self._files:
            memory.close()


def polygons_of(*masks: tuple[np.ndarray, rasterio.Affine], window: int = 2048, raw: np.ndarray | None = None):
    with Masks(*masks) as rasters:
        return list(mask_polygons(rasters, raw, window=window))


def drawn(polygons, shape: tuple[int, int], transform) -> np.ndarray:
    mask = np.full(shape, 255, np.uint8)
    if polygons:
        rasterize(((one.polygon, one.label) for one in polygons), out=mask, transform=transform)
    return mask


def count_of_parts(mask: np.ndarray) -> int:
    """The number of connected parts, by a flood fill in plain Python."""
    seen = mask == 255
    count = 0
    for start in np.ndindex(mask.shape):
        if seen[start]:
            continue
        count, stack = count + 1, [start]
        seen[start] = True
        while stack:
            row, column = stack.pop()
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                inside = 0 <= near[0] < mask.shape[0] and 0 <= near[1] < mask.shape[1]
                if inside and not seen[near] and mask[near] == mask[row, column]:
                    seen[near] = True
                    stack.append(near)
    return count


masks = st.builds(
    lambda height, width, classes, seed, void: np.random.default_rng(seed)
    .choice(np.array([*range(classes), *([255] if void else [])], np.uint8), (height, width)),
    st.integers(1, 14), st.integers(1, 14), st.integers(1, 3), st.integers(0, 10**6), st.booleans(),
)  # fmt: skip


def check_polygons(polygons, mask: np.ndarray, transform) -> None:
    """The polygons are valid, one for each connected part, and give the mask when they are drawn."""
    assert all(one.polygon.geom_type == "Polygon" and one.polygon.is_valid for one in polygons)
    assert len(polygons) == count_of_parts(mask)
    assert np.array_equal(drawn(polygons, mask.shape, transform), mask)
    pixel = abs(transform.a * transform.e)
    for label in np.unique(mask[mask != 255]):
        area = sum(one.polygon.area for one in polygons if one.label == label)
        assert area == pytest.approx(np.sum(mask == label) * pixel, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(masks, st.integers(1, 15))
def test_the_polygons_of_any_mask_give_the_mask_back(mask, window):
    polygons = polygons_of((mask, grid_at()), window=window)
    check_polygons(polygons, mask, grid_at())
    whole = polygons_of((mask, grid_at()))
    assert {one.polygon.normalize().wkt for one in polygons} == {one.polygon.normalize().wkt for one in whole}


@settings(max_examples=40, deadline=None)
@given(masks, st.integers(1, 13), st.integers(1, 13), st.integers(1, 15))
def test_the_polygons_of_neighbouring_rasters_are_those_of_the_mosaic(mask, row, column, window):
    row, column = min(row, mask.shape[0]), min(column, mask.shape[1])
    parts = [
        (mask[rows, columns], grid_at(columns.start, rows.start))
        for rows in (slice(row, None), slice(0, row))  # the second raster is to the north: offsets are negative
        for columns in (slice(0, column), slice(column, None))
        if mask[rows, columns].size
    ]
    check_polygons(polygons_of(*parts, window=window), mask, grid_at())


def test_holes_and_touching_corners():
    mask = np.zeros((6, 6), np.uint8)
    mask[1, 1] = mask[2, 2] = 1  # two holes that share a corner
    mask[4, 1:3] = 255
    for window in (2, 3, 6):
        polygons = polygons_of((mask, grid_at()), window=window)
        (land,) = [one.polygon for one in polygons if one.label == 0]
        assert sorted(shapely.Polygon(hole).area for hole in land.interiors) == [100, 100, 200]
        assert land.area == 32 * 100
        assert len(polygons) == 3


def test_neighbouring_rasters_have_one_polygon_with_both_names():
    mask = np.ones((4, 5), np.uint8)
    (one,) = polygons_of((mask, grid_at()), (mask, grid_at(5)))
    assert (one.label, one.sources, one.polygon.area) == (1, ("0.tif", "1.tif"), 4000)
    assert len(one.polygon.exterior.coords) == 5  # no corner where the rasters meet


@pytest.mark.parametrize("transform", [grid_at(5.5), grid_at(5, size=20), grid_at(4), grid_at(6)])
def test_other_rasters_keep_their_own_polygons(transform):
    """Rasters that are on another grid, overlap, or do not touch."""
    mask = np.ones((4, 5), np.uint8)
    found = polygons_of((mask, grid_at()), (mask, transform), window=3)
    assert [one.sources for one in found] == [("0.tif",), ("1.tif",)]


def test_corners_of_a_grid_that_are_rounded():
    mask = np.ones((4, 5), np.uint8)
    third = rasterio.Affine(1 / 3, 0, 10, 0, -1 / 3, 50)
    other = rasterio.Affine(0.333333333, 0, round(10 + 5 / 3, 9), 0, -0.333333333, 50)
    with Masks((mask, third), (mask, other)) as rasters:
        assert len(grids_of(rasters)) == 1
        assert len(list(mask_polygons(rasters))) == 1


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32"])
def test_raw_values_become_class_indices(dtype):
    mask = np.array([[7, 7, 9], [3, 3, 9]], dtype)
    found = polygons_of((mask, grid_at()), raw=np.array([9, 7], dtype))
    assert sorted((one.label, one.polygon.area) for one in found) == [(0, 200), (1, 200)]


def test_rasters_without_coordinates_are_refused(tmp_path):
    profile = {"driver": "GTiff", "height": 4, "width": 4, "count": 1, "dtype": "uint8"}
    with warnings.catch_warnings(action="ignore"), rasterio.open(tmp_path / "a.tif", "w", **profile) as file:
        file.write(np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(AtrousError, match=r"a\.tif has no coordinates on Earth"):
        read_raster(tmp_path / "a.tif", "a.tif")
    points = [rasterio.control.GroundControlPoint(row, row, row * 2.0, row * 3.0) for row in (0, 4)]
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.gcps = (points, rasterio.CRS.from_epsg(4326))
    with pytest.raises(AtrousError, match=r"a\.tif has only ground control points"):
        read_raster(tmp_path / "a.tif", "a.tif")


def test_rasters_of_two_coordinate_systems_are_refused():
    first = Raster(Path("a.tif"), "a.tif", 4, 4, UTM, grid_at())
    other = Raster(Path("b.tif"), "b.tif", 4, 4, rasterio.CRS.from_epsg(32633), grid_at())
    check_one_crs([first, first])
    with pytest.raises(AtrousError, match=r"a\.tif has EPSG:32632, and b\.tif has EPSG:32633.*once for each"):
        check_one_crs([first, other])
