"""Warnings of rasterio and pyogrio are hidden, and the filters of other threads and of the user stay."""

from __future__ import annotations

import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.data.rasters.rasters import write_raster, write_vector

from atrous.data.mask_value_map import ClassTable
from atrous.data.rasters.gdal_picture import GdalPicture
from atrous.data.rasters.raster_grid import RasterGrid, grid_of, open_raster
from atrous.data.rasters.vector_labels import VectorLabels
from atrous.data.sources.geotiff import GeoTiffSink, GeoTiffSource
from atrous.inference.adjacent_rasters import read_raster

rasterio, shapely = pytest.importorskip("rasterio"), pytest.importorskip("shapely")
pytest.importorskip("pyogrio")
PLACE = rasterio.transform.from_origin(600000, 4600000, 10, 10)


@pytest.fixture
def plain(tmp_path):
    """A raster without coordinates."""
    with warnings.catch_warnings(action="ignore"):
        return write_raster(tmp_path / "plain.tif", np.ones((6, 6), "u1"), None, rasterio.Affine.identity())


def test_overlapping_readings_leave_the_filters_of_the_process(plain):
    """With `warnings.catch_warnings`, the filter of the second reading would stay and hide all warnings."""
    first, second = open_raster(plain), open_raster(plain)
    with (
        ThreadPoolExecutor(1) as one,
        ThreadPoolExecutor(1) as other,
        warnings.catch_warnings(record=True, action="always") as shown,
    ):
        one.submit(first.__enter__).result()
        other.submit(second.__enter__).result()
        one.submit(first.__exit__, None, None, None).result()
        other.submit(second.__exit__, None, None, None).result()
        warnings.warn("of the user", UserWarning, stacklevel=1)
    assert [str(one.message) for one in shown] == ["of the user"]


def test_no_reading_or_writing_replaces_the_filters(plain, tmp_path, monkeypatch):
    write_raster(tmp_path / "placed.tif", np.ones((6, 6), "u1"), "EPSG:32632", PLACE)
    write_vector(tmp_path / "a.geojson", [shapely.box(600000, 4599960, 600040, 4600000)], "EPSG:32632", kind=["x"])
    with warnings.catch_warnings(record=True, action="always") as shown:

        def checked(*args, catch=warnings.catch_warnings, **options):
            assert not sys._getframe(1).f_globals["__name__"].startswith("atrous"), "it is not safe for threads"
            return catch(*args, **options)

        monkeypatch.setattr(warnings, "catch_warnings", checked)
        grid_of(plain)
        GdalPicture(plain).pixels((0, 0, 6, 6))
        read_raster(tmp_path / "placed.tif", "placed.tif")
        grid = RasterGrid(rasterio.crs.CRS.from_epsg(32632), PLACE, 6, 6)
        assert VectorLabels(tmp_path / "a.geojson", "kind").window(grid, (0, 0, 6, 6), {"x": 1}, 0).values.sum() == 16
        source = GeoTiffSource(plain, 1)
        table = ClassTable(("a", "b"), ((0, 0, 0), (1, 1, 1)), ((0,), (1,)))
        with GeoTiffSink(tmp_path / "mask.tif", source, table) as sink:
            sink.write((0, 0, 6, 6), np.ones((6, 6), np.uint8))
        source.close()
        monkeypatch.undo()
    # Python shows no PendingDeprecationWarning by default
    assert [str(one.message) for one in shown if one.category is not PendingDeprecationWarning] == []


def test_warnings_are_hidden_when_all_warnings_are_errors(plain):
    with warnings.catch_warnings(action="error", category=UserWarning):
        grid_of(plain)
        with open_raster(plain) as dataset:
            assert dataset.transform.is_identity
        count = len(warnings.filters)
        with open_raster(plain):
            assert len(warnings.filters) == count
