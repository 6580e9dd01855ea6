"""Grids of rasters: real files with noise in their coordinates, and which grids are equal."""

import numpy as np
import pytest
from tests.data.rasters.rasters import write_raster

from atrous.data.rasters.raster_grid import RasterGrid, grid_of, grid_text, same_grid
from atrous.errors import AtrousError

rasterio = pytest.importorskip("rasterio")
from rasterio.crs import CRS  # noqa: E402
from rasterio.transform import Affine, from_origin  # noqa: E402

UTM = CRS.from_epsg(32632)
GRID = RasterGrid(UTM, from_origin(500000, 4600000, 10, 10), 512, 400)
PLAIN = RasterGrid(None, Affine.identity(), 512, 400)


def moved(across: float, down: float = 0.0) -> RasterGrid:
    return RasterGrid(UTM, GRID.transform * Affine.translation(across, down), 512, 400)


def test_real_labels_with_noise_in_their_coordinates_are_on_the_grid_of_their_scenes(shared):
    folder = shared / "data/sen1floods11"
    names = ["India_900498", "Nigeria_812045", "Pakistan_849790", "Spain_7370579"]
    pairs = [
        (grid_of(folder / f"S1/{name}_S1Hand.tif"), grid_of(folder / f"labels/{name}_LabelHand.tif")) for name in names
    ]
    assert all(scene.transform != label.transform for scene, label in pairs)
    assert all(same_grid(scene, label) and same_grid(label, scene) for scene, label in pairs)
    assert not same_grid(pairs[0][0], pairs[1][1])


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        (moved(0.0005), True),
        (moved(0, -0.0005), True),
        (moved(0.002), False),
        (moved(0, 1), False),
        (RasterGrid(UTM, GRID.transform, 400, 512), False),
        (RasterGrid(UTM, GRID.transform * Affine.scale(1 + 1e-5), 512, 400), False),  # half a hundredth at the far end
        (RasterGrid(UTM, GRID.transform * Affine.rotation(0.01), 512, 400), False),
        (RasterGrid(CRS.from_epsg(32633), GRID.transform, 512, 400), False),
        (RasterGrid(CRS.from_wkt(UTM.to_wkt()), GRID.transform, 512, 400), True),
        (RasterGrid(CRS.from_wkt(UTM.to_wkt(version="WKT2_2019")), GRID.transform, 512, 400), True),
        (RasterGrid(CRS.from_wkt(UTM.to_wkt(version="WKT1_ESRI")), GRID.transform, 512, 400), True),
        (RasterGrid(None, GRID.transform, 512, 400), True),  # a world file without a system
        (RasterGrid(None, moved(1).transform, 512, 400), False),
        (PLAIN, True),
        (RasterGrid(None, Affine.identity(), 512, 401), False),
    ],
)
def test_which_grids_are_equal(other, equal):
    assert same_grid(GRID, other) is equal
    assert same_grid(other, GRID) is equal


def test_a_changed_file_is_read_again(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.zeros((5, 7), "u1"), "EPSG:32632", GRID.transform)
    assert grid_of(path) == RasterGrid(UTM, GRID.transform, 5, 7)
    write_raster(tmp_path / "b.tif", np.zeros((6, 7), "u1"), "EPSG:32632", GRID.transform)
    (tmp_path / "b.tif").replace(path)
    assert grid_of(path).height == 6


def test_a_grid_in_words():
    assert grid_text(GRID) == "400×512 px in EPSG:32632, pixels of 10×10, corner at (500000, 4600000)"
    assert grid_text(PLAIN) == "400×512 px without coordinates"
    turned = RasterGrid(None, GRID.transform * Affine.rotation(30), 512, 400)
    assert "without a coordinate reference system, pixels of 10×10, rotated" in grid_text(turned)


def test_a_turned_tiff_is_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "turned.tif"
    tifffile.imwrite(path, np.zeros((5, 7), "u1"), extratags=[(274, "H", 1, 6, True)])
    with pytest.raises(AtrousError, match=r"Orientation is 6.*tiffset -u 274"):
        grid_of(path)


def test_files_that_are_no_rasters(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"nothing")
    for name in ("a.tif", "none.tif"):
        with pytest.raises(AtrousError, match="cannot be read"):
            grid_of(tmp_path / name)
