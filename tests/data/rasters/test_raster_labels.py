"""Label rasters on the grid of a scene: the values are those of `read_mask` and of GDAL's nearest neighbour."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.rasters.rasters import write_raster

from atrous.data.formats.tiff import TiffPicture
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.pictures import read_mask
from atrous.data.rasters import raster_labels, scene_labels
from atrous.data.rasters.raster_grid import RasterGrid, coordinates, grid_of, same_grid
from atrous.data.rasters.raster_labels import has_labels_in, read_raster_labels, warp_command
from atrous.data.rasters.reprojection import bounds_in, positions_in, transformer
from atrous.data.rasters.scene_labels import has_own_grid, read_scene_labels
from atrous.data.rasters.scene_windows import WindowPlace, window_place
from atrous.data.raw_values import NO_NUMBER
from atrous.data.sources.source import Window
from atrous.errors import AtrousError

rasterio = pytest.importorskip("rasterio")
from rasterio.crs import CRS  # noqa: E402
from rasterio.transform import Affine, from_origin  # noqa: E402
from rasterio.warp import Resampling, reproject  # noqa: E402

UTM, NEXT_UTM, DEGREES = CRS.from_epsg(32632), CRS.from_epsg(32633), CRS.from_epsg(4326)
SCENE = RasterGrid(UTM, from_origin(600000, 4600000, 10, 10), 150, 170)
RANDOM = np.random.default_rng(0)
WHOLE = (0, 0, 150, 170)


def test_real_labels(shared):
    folder = shared / "data/sen1floods11"
    path = folder / "labels/Spain_7370579_LabelHand.tif"
    grid = grid_of(folder / "S1/Spain_7370579_S1Hand.tif")
    values, nodata, *_ = read_raster_labels(path, grid, (100, 30, 400, 480))
    assert np.array_equal(values, read_mask(path).values[100:500, 30:510])
    assert nodata is None
    assert values.min() == -1  # the value to ignore


@pytest.mark.parametrize("blocks", [{}, {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "deflate"}])
@pytest.mark.parametrize(
    ("dtype", "lowest", "nodata"),
    [("u1", 0, 255), ("i2", -32768, -32768), ("i2", -9999, -9999), ("i4", -1, None), ("f4", -1, None), ("f8", 0, 7)],
)
def test_windows_on_the_grid_are_those_of_read_mask(tmp_path, dtype, lowest, nodata, blocks):
    values = RANDOM.integers(0, 9, (150, 170)).astype(dtype)
    values[5, 20:40] = lowest
    if dtype == "f4":
        values[9, 9] = np.nan
    path = write_raster(tmp_path / "a.tif", values, UTM, SCENE.transform, nodata=nodata, **blocks)
    whole = read_mask(path)
    for top, left, height, width in ((0, 0, 150, 170), (3, 7, 40, 50), (149, 169, 1, 1), (8, 8, 3, 3)):
        found, declared, *_ = read_raster_labels(path, SCENE, (top, left, height, width))
        assert np.array_equal(found, whole.values[top : top + height, left : left + width])
        assert found.dtype == whole.values.dtype
        assert declared == whole.nodata


def test_indices_of_a_colour_table_and_values_of_few_bits_stay(tmp_path):
    values = RANDOM.integers(0, 2, (150, 170)).astype("u1")
    path = write_raster(tmp_path / "bits.tif", values, UTM, SCENE.transform, nbits=1)
    assert np.array_equal(read_raster_labels(path, SCENE, (5, 5, 20, 30))[0], values[5:25, 5:35])
    path = write_raster(tmp_path / "palette.tif", values + 3, UTM, SCENE.transform, photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {3: (200, 0, 0, 255), 4: (0, 200, 0, 255)})
    for scene in (SCENE, RasterGrid(NEXT_UTM, SCENE.transform * Affine.translation(-49000, 0), 9, 9)):
        window = (0, 0, 9, 9) if scene is not SCENE else WHOLE
        assert {*np.unique(read_raster_labels(path, SCENE, window)[0])} <= {3, 4}


def test_a_virtual_raster_and_a_png(tmp_path):
    values = RANDOM.integers(-5, 5, (150, 170)).astype("i2")
    write_raster(tmp_path / "a.tif", values, UTM, SCENE.transform, nodata=-5)
    from rasterio.shutil import copy

    copy(str(tmp_path / "a.tif"), str(tmp_path / "a.vrt"), driver="VRT")
    found, nodata, *_ = read_raster_labels(tmp_path / "a.vrt", SCENE, (10, 20, 30, 40))
    assert np.array_equal(found, values[10:40, 20:60])
    assert nodata == -5
    write_raster(tmp_path / "a.png", np.abs(values).astype("u1"), None, Affine.identity(), driver="PNG")
    found, _, *_ = read_raster_labels(tmp_path / "a.png", SCENE, (10, 20, 30, 40))  # no coordinates, and the same size
    assert np.array_equal(found, np.abs(values)[10:40, 20:60])


def by_gdal(path, grid: RasterGrid, void: int) -> np.ndarray:
    found = np.full((grid.height, grid.width), void, np.int64)
    with rasterio.open(path) as labels:
        reproject(
            labels.read(1).astype(np.int64), found, src_transform=labels.transform, src_crs=labels.crs,
            dst_transform=grid.transform, dst_crs=grid.crs, resampling=Resampling.nearest, init_dest_nodata=False,
            tolerance=0,
        )  # fmt: skip
    return found


def clear(grid: RasterGrid, labels: RasterGrid) -> np.ndarray:
    """Pixels whose centre is farther from the border of a label than the error of interpolated positions."""
    places = np.stack(positions_in(grid, (0, 0, grid.height, grid.width), labels))
    return np.min(np.abs(places - np.rint(places)), axis=0) > 0.01


OTHER_GRIDS = {
    "coarser": (UTM, SCENE.transform * Affine.scale(2, 2), (75, 85)),
    "finer": (UTM, SCENE.transform * Affine.scale(0.5, 0.5), (300, 340)),
    "smaller": (UTM, SCENE.transform * Affine.translation(30.25, 40.25), (50, 60)),
    "larger": (UTM, SCENE.transform * Affine.translation(-100, -90), (400, 400)),
    "rotated": (UTM, SCENE.transform * Affine.translation(-20, -20) * Affine.rotation(-31), (200, 130)),
    "rows go north": (UTM, Affine(10, 0, 600000, 0, 10, 4598500.3), (150, 170)),
    "next zone": (NEXT_UTM, from_origin(99700, 4610600, 11, 9), (300, 250)),
    "degrees": (DEGREES, from_origin(10.2, 41.55, 1.3e-4, 0.9e-4), (200, 170)),
}


@pytest.fixture(scope="module", params=OTHER_GRIDS)
def other(request, tmp_path_factory):
    crs, transform, shape = OTHER_GRIDS[request.param]
    values = np.random.default_rng(1).integers(-3, 5, shape).astype("i2")
    path = tmp_path_factory.mktemp("other") / "labels.tif"
    return write_raster(path, values, crs, transform, tiled=True, blockxsize=64, blockysize=64)


def test_another_grid_equals_gdal(other):
    found, nodata, *_ = read_raster_labels(other, SCENE, WHOLE)
    expected, sure = by_gdal(other, SCENE, NO_NUMBER), clear(SCENE, grid_of(other))
    assert nodata in (None, NO_NUMBER)
    assert (found != NO_NUMBER).any()
    if grid_of(other).transform.a in (20, 5):
        sure[:] = True  # centres are on borders of labels, and the coordinates are exact
    assert sure.mean() > 0.9
    assert np.array_equal(found[sure], expected[sure])


@settings(max_examples=10)
@given(st.data())
def test_windows_agree_with_the_whole(other, data):
    top, left = data.draw(st.integers(0, 149)), data.draw(st.integers(0, 169))
    height, width = data.draw(st.integers(1, 150 - top)), data.draw(st.integers(1, 170 - left))
    whole, _, *_ = read_raster_labels(other, SCENE, WHOLE)
    found, _, *_ = read_raster_labels(other, SCENE, (top, left, height, width))
    assert np.array_equal(found, whole[top : top + height, left : left + width])


def test_labels_that_are_too_large_for_one_reading_are_read_in_parts(other, monkeypatch):
    whole, _, *_ = read_raster_labels(other, SCENE, WHOLE)
    monkeypatch.setattr(raster_labels, "MOST_PIXELS", 2000)
    assert np.array_equal(read_raster_labels(other, SCENE, WHOLE)[0], whole)


@pytest.mark.parametrize(
    ("crs", "step"), [(DEGREES, 0.02), (CRS.from_epsg(3035), 3000), (CRS.from_epsg(3857), 5000), (NEXT_UTM, 100)]
)
def test_interpolated_positions_are_exact_enough(crs, step):
    from pyproj import Transformer

    scene = RasterGrid(UTM, from_origin(300000, 5600000, 1000, 1000), 400, 400)
    labels = RasterGrid(crs, from_origin(0, 0, step, step), 1, 1)
    columns, rows = positions_in(scene, (33, 50, 300, 310), labels)
    x, y = coordinates(scene.transform, *np.meshgrid(np.arange(50, 360) + 0.5, np.arange(33, 333) + 0.5))
    exact = coordinates(~labels.transform, *Transformer.from_crs(UTM, crs, always_xy=True).transform(x, y))
    assert np.abs(np.subtract((columns, rows), exact)).max() < 0.02


def test_pixels_outside_get_a_value_that_is_no_class(tmp_path):
    transform = SCENE.transform * Affine.translation(100, 100)
    path = write_raster(tmp_path / "a.tif", np.zeros((20, 20), "u1"), UTM, transform, nodata=0)
    window = (90, 90, 40, 40)
    table = ClassTable(("land", "water"), ((0, 0, 0), (0, 0, 255)), ((0,), (1,)))
    values, nodata, *_ = read_raster_labels(path, SCENE, window, listed=[0, 1])
    labels = table.encode(values, nodata)
    assert (labels[10:30, 10:30] == 0).all()
    assert (labels == 255).sum() == 40 * 40 - 20 * 20
    assert read_raster_labels(path, SCENE, window)[1] == 0
    values, nodata, *_ = read_raster_labels(path, SCENE, (0, 0, 10, 10), listed=[0, 1])  # no label in the window
    assert (values == nodata).all()


def test_colours_on_another_grid(tmp_path):
    values = RANDOM.integers(0, 255, (3, 80, 90)).astype("u1")
    path = write_raster(tmp_path / "a.tif", values, UTM, SCENE.transform * Affine.scale(2, 2))
    found, nodata, *_ = read_raster_labels(path, SCENE, (0, 0, 160, 170))
    expected = values.transpose(1, 2, 0).repeat(2, axis=0).repeat(2, axis=1)
    # the centre of a pixel is inside a label of twice its size
    assert np.array_equal(found, expected[:160, :170])
    assert nodata is None
    large = RasterGrid(UTM, SCENE.transform, 200, 200)
    with pytest.raises(AtrousError, match="colours, and do not cover the scene"):
        read_raster_labels(path, large, (150, 150, 50, 50))


def test_labels_of_another_place_are_refused(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.zeros((20, 20), "u1"), DEGREES, from_origin(20, 41, 1e-4, 1e-4))
    with pytest.raises(AtrousError, match=r"another place than the scene.*EPSG:4326.*EPSG:32632"):
        read_raster_labels(path, SCENE, (0, 0, 10, 10))


def test_labels_without_a_system_name_the_command(tmp_path):
    path = write_raster(tmp_path / "my labels.tif", np.zeros((75, 85), "u1"), None, SCENE.transform * Affine.scale(2))
    with pytest.raises(AtrousError) as raised:
        read_raster_labels(path, SCENE, (0, 0, 10, 10))
    text = str(raised.value)
    assert "85×75 px without a coordinate reference system, pixels of 20×20" in text
    assert "170×150 px in EPSG:32632, pixels of 10×10" in text
    assert (
        "gdalwarp -r near -t_srs EPSG:32632 -s_srs CRS_OF_THE_LABELS -te 600000.0 4598500.0 601700.0 4600000.0" in text
    )
    assert f"'{tmp_path}/my labels.tif'" in text


@pytest.mark.parametrize(
    ("labels", "scene", "message"),
    [
        ((None, Affine.identity()), SCENE, "the labels have no coordinates"),
        ((UTM, SCENE.transform), RasterGrid(None, Affine.identity(), 9, 9), "the scene has no coordinates"),
        ((UTM, SCENE.transform), RasterGrid(None, SCENE.transform, 9, 9), r"gdal_edit.py -a_srs EPSG:CODE SCENE"),
        ((None, SCENE.transform), RasterGrid(UTM, SCENE.transform * Affine.rotation(3), 9, 9), "by nearest neighbour."),
    ],
)
def test_rasters_that_cannot_be_placed(tmp_path, labels, scene, message):
    path = write_raster(tmp_path / "a.tif", np.zeros((20, 20), "u1"), *labels)
    with pytest.raises(AtrousError, match=f"not on the grid of the scene.*{message}"):
        read_raster_labels(path, scene, (0, 0, 5, 5))


@pytest.mark.parametrize("scene", [SCENE, RasterGrid(DEGREES, from_origin(10.2, 41.55, 1.3e-4, 1.1e-4), 333, 77)])
def test_the_command_describes_the_grid_of_the_scene(tmp_path, scene):
    """The arguments, as gdalwarp documents them, give this grid."""
    path = write_raster(tmp_path / "a.tif", np.zeros((20, 20), "u1"), NEXT_UTM, SCENE.transform)
    arguments = warp_command(path, scene)
    assert arguments is not None
    assert arguments[:3] == ["gdalwarp", "-r", "near"]
    left, bottom, right, top = map(float, arguments[arguments.index("-te") + 1 :][:4])
    width, height = map(int, arguments[arguments.index("-ts") + 1 :][:2])
    transform = from_origin(left, top, (right - left) / width, (top - bottom) / height)
    written = RasterGrid(CRS.from_string(arguments[arguments.index("-t_srs") + 1]), transform, height, width)
    assert same_grid(written, scene)
    assert "-s_srs" not in arguments
    assert arguments[-2:] == [str(path), str(tmp_path / "a_on_grid.tif")]


def test_labels_must_be_whole_numbers_in_one_band(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.full((150, 170), 0.5, "f4"), UTM, SCENE.transform)
    with pytest.raises(AtrousError, match="the mask holds fractions"):
        read_raster_labels(path, SCENE, (0, 0, 5, 5))
    path = write_raster(tmp_path / "b.tif", np.zeros((5, 150, 170), "u1"), UTM, SCENE.transform)
    with pytest.raises(AtrousError, match="5 bands"):
        read_raster_labels(path, SCENE, (0, 0, 5, 5))


class CountedSystem:
    """A coordinate reference system that counts how often PROJ searches its database for it."""

    def __init__(self, crs):
        self.crs, self.searches = crs, 0

    def to_string(self):
        self.searches += 1
        return self.crs.to_string()

    def to_epsg(self, **_):
        self.searches += 1
        return self.crs.to_epsg()


def test_the_text_of_a_system_is_found_once_and_not_for_each_window():
    scene, labels = (RasterGrid(CountedSystem(crs), SCENE.transform, 150, 170) for crs in (UTM, NEXT_UTM))
    for top in range(0, 100, 10):
        assert not same_grid(scene, labels)
        positions_in(scene, (top, 0, 10, 10), labels)
        bounds_in(scene, (top, 0, 10, 10), "EPSG:4326")
    assert scene.crs.searches == labels.crs.searches == 2


def count_calls(monkeypatch, owner, name):
    """Replaces a function by one that counts its calls, and returns the list of their first arguments."""
    calls, function = [], getattr(owner, name)

    def counting(*args, **options):
        calls.append(args[0])
        return function(*args, **options)

    monkeypatch.setattr(owner, name, counting)
    return calls


def test_a_window_opens_no_file_again(tmp_path, monkeypatch):
    opened = [
        count_calls(monkeypatch, rasterio, "open"),
        count_calls(monkeypatch, Path, "open"),
        count_calls(monkeypatch, TiffPicture, "__init__"),
    ]
    scene = write_raster(tmp_path / "scene.tif", np.zeros((40, 40), "u1"), UTM, SCENE.transform)
    half = write_raster(tmp_path / "half.tif", np.ones((20, 20), "u1"), UTM, SCENE.transform * Affine.scale(2))
    compared = count_calls(monkeypatch, scene_labels, "same_grid")
    for top in range(0, 40, 4):
        place = WindowPlace(half, Window(top, 0, 4, 40))
        assert has_own_grid(place, scene)
        assert (read_scene_labels(place, scene, None).values == 1).all()
        if top == 0:
            assert sum(map(len, opened)) > 0
            for calls in opened:
                calls.clear()
    assert not any(opened)
    assert len(compared) == 1


PALETTE = {0: (0, 0, 0, 255), 1: (200, 0, 0, 255), 2: (0, 200, 0, 255)}
COLORS = np.array([color[:3] for color in PALETTE.values()], "u1")


def write_half(path, shape, **profile):
    """Writes indices of a colour table, with pixels of twice the size of those of the scene."""
    values = np.random.default_rng(3).integers(0, 3, shape).astype("u1")
    kind = {"photometric": "palette"} if path.suffix == ".tif" else {}
    write_raster(path, values, UTM, SCENE.transform * Affine.scale(2), **kind, **profile)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, PALETTE)
    return values


def data_with_labels(root, name, shape):
    (root / "scenes").mkdir()
    (root / "labels").mkdir()
    write_raster(root / "scenes/a.tif", np.ones((40, 40), "u1"), UTM, SCENE.transform)
    values = write_half(root / "labels/a.tif", shape)
    if name == "a.vrt":
        from rasterio.shutil import copy

        (root / "labels/a.tif").rename(root / "hidden.tif")
        copy(str(root / "hidden.tif"), str(root / "labels/a.vrt"), driver="VRT")
    return values.repeat(2, axis=0).repeat(2, axis=1)


def labels_of(root):
    dataset = open_dataset(root, window=20)
    found = np.zeros((40, 40), "u1")
    for item in dataset.unlisted:
        window = window_place(item.image).window
        found[window.rows, window.columns] = dataset.read_label(item.mask, item.image)
    return found


@pytest.mark.parametrize("name", ["a.tif", "a.vrt"])
def test_a_colour_table_at_half_resolution_gives_the_classes_of_its_colours(tmp_path, name):
    expected = data_with_labels(tmp_path, name, (20, 20))
    classes = [
        f"  - {{name: {one}, raw: [{COLORS[number].tolist()}]}}\n" for one, number in zip("abc", (2, 0, 1), strict=True)
    ]
    (tmp_path / "classes.yaml").write_text("classes:\n" + "".join(classes))
    assert np.array_equal(labels_of(tmp_path), np.array([1, 2, 0])[expected])
    (tmp_path / "classes.yaml").write_text("classes: [{name: a}, {name: b}, {name: c}]\n")
    assert np.array_equal(labels_of(tmp_path), expected)


def test_the_palettes_of_resampled_labels_must_agree(tmp_path):
    data_with_labels(tmp_path, "a.tif", (20, 20))
    write_raster(tmp_path / "scenes/b.tif", np.ones((40, 40), "u1"), UTM, SCENE.transform)
    write_half(tmp_path / "labels/b.tif", (20, 20))
    with rasterio.open(tmp_path / "labels/b.tif", "r+") as file:
        file.write_colormap(1, {**PALETTE, 1: (0, 0, 200, 255)})
    (tmp_path / "classes.yaml").write_text("classes: [{name: a}, {name: b}, {name: c}]\n")
    with pytest.raises(AtrousError, match="the palettes of the masks differ"):
        labels_of(tmp_path)


def test_a_colour_table_that_does_not_cover_the_scene(tmp_path):
    """Pixels outside have no colour: a class table of numbers ignores them, and one of colours refuses the labels."""
    expected = data_with_labels(tmp_path, "a.tif", (15, 15))
    (tmp_path / "classes.yaml").write_text("classes: [{name: a}, {name: b}, {name: c}]\n")
    found = labels_of(tmp_path)
    assert np.array_equal(found[:30, :30], expected)
    assert (found == 255).sum() == 40 * 40 - 30 * 30
    classes = [f"{{name: c{number}, raw: [{color.tolist()}]}}" for number, color in enumerate(COLORS)]
    (tmp_path / "classes.yaml").write_text(f"classes: [{', '.join(classes)}]\n")
    with pytest.raises(AtrousError, match="colours, and do not cover the scene"):
        labels_of(tmp_path)


def scene_at(longitude, latitude=-17.0, crs=None, side=64):
    """A scene of 100 m or 0.001°, with its middle at a position."""
    system = CRS.from_user_input(crs or "EPSG:32701")
    x, y = transformer("EPSG:4326", system.to_wkt())(np.array(longitude), np.array(latitude))
    pixel = 0.001 if system.is_geographic else 100
    x = longitude if system.is_geographic else x
    return RasterGrid(system, from_origin(x - side / 2 * pixel, y + side / 2 * pixel, pixel, pixel), side, side)


@pytest.mark.parametrize(
    ("crs", "pixel", "left", "top", "width"),
    [
        ("EPSG:4326", 0.01, -180.5, -16.5, 100),
        ("EPSG:4326", 0.01, 179.5, -16.5, 100),
        ("EPSG:4326", 0.01, 539.5, -16.5, 100),
        ("EPSG:4326", 0.5, 0, 0, 720),
        ("EPSG:4326", 0.5, -180, 0, 720),
        ("EPSG:4807", 0.5, 0, 0, 800),  # grads from Paris
        ("EPSG:3857", 1000, 19_900_000, -1_800_000, 300),
        ("EPSG:3857", 1000, -20_175_016, -1_800_000, 300),
    ],
)
@pytest.mark.parametrize("scene_crs", ["EPSG:32701", "EPSG:4326"])
def test_label_rasters_at_the_date_line_have_any_longitudes(tmp_path, crs, pixel, left, top, width, scene_crs):
    labels = RANDOM.integers(0, 200, (150, width)).astype("u1")
    path = write_raster(tmp_path / "a.tif", labels, CRS.from_user_input(crs), from_origin(left, top, pixel, pixel))
    scene = scene_at(180, crs=scene_crs)
    x, y = coordinates(scene.transform, *np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5))
    longitude, latitude = transformer(scene.crs_text, "EPSG:4326")(x, y)
    x, y = transformer("EPSG:4326", crs)(longitude, latitude)
    turn = {"EPSG:4326": 360, "EPSG:4807": 400, "EPSG:3857": 2 * np.pi * 6378137}[crs]
    columns, rows = ((x - left) % turn) / pixel, (top - y) / pixel
    expected = labels[rows.astype(int), columns.astype(int)]
    found = read_raster_labels(path, scene, (0, 0, 64, 64))
    sure = (np.abs(columns - np.rint(columns)) > 0.02) & (np.abs(rows - np.rint(rows)) > 0.02)
    assert np.array_equal(found.values[sure], expected[sure]) and sure.mean() > 0.4
    assert has_labels_in(path, scene)


def test_labels_that_end_at_the_date_line_have_the_half_of_the_scene(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.ones((200, 200), "u1"), DEGREES, from_origin(180, -16.9, 0.001, 0.001))
    for scene in (scene_at(180, crs="EPSG:4326"), scene_at(-180, crs="EPSG:4326"), scene_at(540, crs="EPSG:4326")):
        found, void, *_ = read_raster_labels(path, scene, (0, 0, 64, 64))
        assert (found[:, 32:] == 1).all() and (found[:, :32] == void).all()
    with pytest.raises(AtrousError, match="another place than the scene"):
        read_raster_labels(path, scene_at(0, crs="EPSG:4326"), (0, 0, 64, 64))


def test_bounds_across_the_date_line_are_narrow():
    left, _, right, _ = bounds_in(scene_at(180), (0, 0, 64, 64), "EPSG:4326")
    assert 0.06 < right - left < 0.08 and abs((left + right) / 2) == pytest.approx(180, abs=0.01)
    west, east = (bounds_in(scene_at(180), (0, start, 64, 8), "EPSG:4326") for start in (0, 56))
    assert left <= west[0] < west[2] < east[0] < east[2] <= right  # one count of longitudes for all windows


def test_a_scene_beside_the_labels_has_none(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.ones((150, 170), "u1"), NEXT_UTM, from_origin(99_000, 4611000, 10, 10))
    x, y = transformer("EPSG:32633", "EPSG:32632")(np.array(99_000 + 1700), np.array(4611000 - 800))
    for offset, meets in ((-300, True), (200, False)):
        scene = RasterGrid(UTM, from_origin(x + offset, y + 150, 10, 10), 30, 30)
        assert has_labels_in(path, scene) is meets
        found, void, *_ = read_raster_labels(path, scene, (0, 0, 30, 30))
        assert (found != void).any() == meets
