"""Polygons as labels: drawn as rasterio draws them, the same in every window, and bad files are refused."""

import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.data.rasters.rasters import write_vector

from atrous.data.rasters import vector_files
from atrous.data.rasters.raster_grid import RasterGrid, coordinates, grid_of
from atrous.data.rasters.reprojection import transformer
from atrous.data.rasters.vector_labels import VectorLabels, _drawn, _in_pixels
from atrous.data.raw_values import NO_NUMBER
from atrous.errors import AtrousError

rasterio, shapely = pytest.importorskip("rasterio"), pytest.importorskip("shapely")
pyogrio = pytest.importorskip("pyogrio")
pytest.importorskip("pyproj")
from rasterio.crs import CRS  # noqa: E402
from rasterio.features import rasterize  # noqa: E402
from rasterio.transform import Affine, from_origin  # noqa: E402
from shapely import MultiPolygon, Point, Polygon, box  # noqa: E402

UTM, CODE = CRS.from_epsg(32632), "EPSG:32632"
SCENE = RasterGrid(UTM, from_origin(600000, 4600000, 10, 10), 60, 80)
WHOLE = (0, 0, 60, 80)
FORMATS = ["gpkg", "geojson", "shp", "fgb"]


def on_ground(shape, grid=SCENE):
    """Maps a shape from pixels of a scene to coordinates."""
    return shapely.transform(shape, lambda points: np.stack(coordinates(grid.transform, *points.T), 1))


def squares(*bounds):
    return [on_ground(box(*one)) for one in bounds]


@pytest.mark.parametrize("suffix", FORMATS)
def test_classes_from_an_attribute(tmp_path, suffix):
    shapes = squares((2, 3, 10, 9), (20, 5, 30, 50), (40, 40, 60, 70))
    path = write_vector(
        tmp_path / f"a.{suffix}", shapes, CODE, kind=["house", "road ", "house"], number=[1.0, 2.0, 1.0]
    )
    labels = VectorLabels(path, "kind")
    assert labels.values() == {"house": 2, "road": 1}
    assert labels.values("number") == {"1": 2, "2": 1}
    assert labels.attributes == ("kind", "number")
    values, nodata, disputed = labels.window(SCENE, WHOLE, {"house": 1, "road": 5}, 0)
    expected = np.zeros((60, 80), int)
    expected[3:9, 2:10] = expected[40:60, 40:60] = 1
    expected[5:50, 20:30] = 5
    assert np.array_equal(values, expected)
    assert (nodata, disputed) == (NO_NUMBER, 0)
    part = labels.window(SCENE, (30, 25, 20, 30), {"house": 1, "road": 5}, None).values
    assert np.array_equal(part, np.where(expected == 0, NO_NUMBER, expected)[30:50, 25:55])


def test_real_buildings(shared):
    folder = shared / "data/spacenet_sample"
    labels, grid = VectorLabels(folder / "geotiff_labels.geojson"), grid_of(folder / "sample_geotiff.tif")
    found = json.loads(labels.path.read_text())["features"]
    expected = np.asarray(rasterize([one["geometry"] for one in found], (900, 900), transform=grid.transform))
    assert expected.sum() > 10_000
    values = labels.window(grid, (0, 0, 900, 900), {"building": 1}, 0).values
    assert (values != expected).sum() <= 5  # vertices are rounded to 1/1024 of a pixel
    assert np.array_equal(labels.window(grid, (333, 211, 200, 300), {}, 0).values, values[333:533, 211:511])
    assert labels.values("building") == {"yes": 43}


@pytest.mark.parametrize("suffix", ["gpkg", "geojson"])
def test_another_crs(tmp_path, suffix):
    """The file is in degrees; one of its polygons goes around the Earth, which UTM cannot represent."""
    from pyproj import Transformer

    back = Transformer.from_crs(UTM.to_string(), "EPSG:4326", always_xy=True)
    random = np.random.default_rng(0)
    shapes = [on_ground(Point(x, y).buffer(r)) for x, y, r in random.uniform(3, 60, (20, 3)) * (1, 1, 0.1)]
    degrees = [shapely.transform(one, lambda p: np.stack(back.transform(*p.T), 1)) for one in shapes]
    path = write_vector(
        tmp_path / f"a.{suffix}", [*degrees, box(-180, -80, 180, 41.545)], "EPSG:4326", n=[1] * 20 + [2]
    )
    values = VectorLabels(path, "n").window(SCENE, WHOLE, {"1": 1, "2": 2}, 0, order=[1, 2]).values
    expected = np.asarray(rasterize(shapes, (60, 80), transform=SCENE.transform))
    assert ((values == 1) != expected).mean() < 1e-3
    _, latitudes = back.transform(*coordinates(SCENE.transform, *np.meshgrid(np.arange(80) + 0.5, np.arange(60) + 0.5)))
    far = np.abs(latitudes - 41.545) > 1e-5
    assert np.array_equal(values[far] == 2, (latitudes[far] < 41.545) & (expected[far] == 0))
    assert (values == 2).any()


def test_edges_are_straight_in_the_crs_of_the_file(tmp_path):
    """In the polar stereographic projection, a rectangle of all longitudes is a disc."""
    from pyproj import Transformer

    path = write_vector(tmp_path / "a.geojson", [box(-180, 86, 180, 90)], "EPSG:4326")
    polar = RasterGrid(CRS.from_epsg(3995), from_origin(-640000, 640000, 10000, 10000), 128, 128)
    x, y = coordinates(polar.transform, *np.meshgrid(np.arange(128) + 0.5, np.arange(128) + 0.5))
    _, latitudes = Transformer.from_crs("EPSG:3995", "EPSG:4326", always_xy=True).transform(x, y)
    values = VectorLabels(path).window(polar, (0, 0, 128, 128), {}, 0).values
    far = np.abs(latitudes - 86) > 0.02
    far[:, 63:65] = False  # the edge at 180 degrees is between two columns
    assert far.mean() > 0.9
    assert np.array_equal(values[far], (latitudes > 86)[far])


def test_a_scene_across_the_antimeridian(tmp_path):
    scene = RasterGrid(CRS.from_epsg(32601), from_origin(160000, 100000, 1000, 1000), 100, 20)
    parts = [box(-180, -10, -179.5, 10), box(179.5, -10, 180, 10)]
    path = write_vector(tmp_path / "a.geojson", parts, "EPSG:4326")
    values = VectorLabels(path).window(scene, (0, 0, 100, 20), {}, 0).values
    assert values[:, 7:].all()  # the antimeridian is in column 6
    assert values.all()


def test_an_empty_file(tmp_path):
    path = write_vector(tmp_path / "a.gpkg", [], CODE)
    assert (VectorLabels(path).window(SCENE, WHOLE, {}, 4).values == 4).all()


RINGS = st.lists(st.tuples(st.integers(-40, 200), st.integers(-40, 160)), min_size=3, max_size=8, unique=True)


def drawn(polygons, values, window, default=0, order=()):
    shapes = np.array([on_ground(one) for one in polygons], object)
    pixels = _in_pixels(shapes, SCENE, window, CODE)
    return _drawn(pixels, np.array(values), window[2:], default, order)


@settings(max_examples=30)
@given(st.lists(RINGS, min_size=1, max_size=4), st.data())
def test_windows_agree_with_the_whole(rings, data):
    """Also if edges go through pixel centres, and polygons reach far beyond the scene or cross themselves."""
    polygons = [Polygon(np.array(ring) / 2) for ring in rings]
    values = [data.draw(st.integers(1, 3)) for _ in polygons]
    whole = drawn(polygons, values, WHOLE)
    rows, columns = ([0, *sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=2))), n] for n in (60, 80))
    found = np.full((60, 80), -1)
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            part = drawn(polygons, values, (top, left, bottom - top, right - left)).values
            found[top:bottom, left:right] = part
    assert np.array_equal(found, whole.values)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.floats(-50, 130), st.floats(-50, 110)), min_size=3, max_size=12))
def test_vertices_outside_the_window_do_not_matter(points):
    """Leaving them out gives what rasterio draws from all of them."""
    polygon = Polygon(np.rint(np.array(points) * 64) / 64)
    expected = np.asarray(rasterize([polygon], (60, 80)) if polygon.area else np.zeros((60, 80)))
    found = drawn([polygon], [1], WHOLE).values
    centres = shapely.points(*np.meshgrid(np.arange(80) + 0.5, np.arange(60) + 0.5))
    clear = shapely.distance(polygon.boundary, centres) > 1e-6
    assert np.array_equal(found[clear], expected[clear])


@settings(max_examples=25)
@given(st.data())
def test_polygons_that_share_edges_share_no_pixel(data):
    """A tiling of the scene, of which many edges go through pixel centres, covers each pixel once."""
    columns = [0, *sorted(data.draw(st.sets(st.integers(1, 159), max_size=5))), 160]
    rows = [0, *sorted(data.draw(st.sets(st.integers(1, 119), max_size=5))), 120]
    shift = np.array([[data.draw(st.integers(-8, 8)) for _ in columns] for _ in rows]) / 4
    shift[:, [0, -1]] = shift[[0, -1]] = 0
    corner = {
        (r, c): (columns[c] / 2, rows[r] / 2 + shift[r, c] * 0.1) for r in range(len(rows)) for c in range(len(columns))
    }
    polygons, values = [], []
    for r in range(len(rows) - 1):
        for c in range(len(columns) - 1):
            polygon = Polygon([corner[r, c], corner[r, c + 1], corner[r + 1, c + 1], corner[r + 1, c]])
            polygons.append(polygon.reverse() if data.draw(st.booleans()) else polygon)
            values.append(len(values) + 1)
    assume(all(one.is_valid for one in polygons))
    assume(np.isclose(sum(one.area for one in polygons), 4800) and np.isclose(shapely.union_all(polygons).area, 4800))
    found = drawn(polygons, values, WHOLE)
    assert found.disputed == 0
    assert (found.values > 0).all()


def test_polygons_of_different_classes_that_overlap(tmp_path):
    shapes = squares((0, 0, 10, 10), (5, 0, 15, 10), (12, 0, 20, 10))
    path = write_vector(tmp_path / "a.gpkg", shapes, CODE, kind=["a", "b", "b"])
    labels, values = VectorLabels(path, "kind"), {"a": 3, "b": 7}
    row, nodata, disputed = labels.window(SCENE, (0, 0, 1, 25), values, 0)
    assert row[0].tolist() == [3] * 5 + [nodata] * 5 + [7] * 10 + [0] * 5
    assert disputed == 5
    row, _, disputed = labels.window(SCENE, (0, 0, 1, 25), values, 0, order=[7, 3])
    assert row[0].tolist() == [3] * 5 + [7] * 15 + [0] * 5
    assert disputed == 0
    assert labels.window(SCENE, (0, 0, 1, 25), values, 0, order=[3]).disputed == 5


def test_holes_and_invalid_polygons(tmp_path):
    ring = Polygon([(0, 0), (20, 0), (20, 20), (0, 20)], [[(5, 5), (15, 5), (15, 15), (5, 15)]])
    bow_tie = Polygon([(30, 0), (50, 20), (50, 0), (30, 20)])
    both = MultiPolygon([box(0, 30, 20, 50), box(10, 30, 30, 50)])  # invalid: the parts overlap
    path = write_vector(
        tmp_path / "a.gpkg", [on_ground(one) for one in (ring, bow_tie, both)] + [None], CODE, n=[1] * 4
    )
    values = VectorLabels(path, "n").window(SCENE, WHOLE, {"1": 1}, 0).values
    expected = np.zeros((60, 80), int)
    expected[:20, :20] = 1
    expected[5:15, 5:15] = 0
    expected[30:50, :30] = 1
    x, y = np.meshgrid(np.arange(20) + 0.5, np.arange(20) + 0.5)
    clear = (x != y) & (x + y != 20)
    expected[:20, 30:50] = np.abs(x - 10) > np.abs(y - 10)
    sure = np.ones((60, 80), bool)
    sure[:20, 30:50] = clear
    assert np.array_equal(values[sure], expected[sure])


def test_without_an_attribute(tmp_path):
    path = write_vector(tmp_path / "a.geojson", squares((2, 3, 10, 9)), CODE, kind=["x"])
    labels = VectorLabels(path)
    assert labels.window(SCENE, WHOLE, {}, 0).values.max() == 1
    assert labels.window(SCENE, WHOLE, {"background": 0, "house": 6}, 0).values.max() == 6
    with pytest.raises(AtrousError, match=r"2 classes, and no attribute.*The file has: kind"):
        labels.window(SCENE, WHOLE, {"a": 1, "b": 2}, 0)
    with pytest.raises(AtrousError, match="name an attribute"):
        labels.values()


def test_values_of_no_class(tmp_path):
    shapes = squares((2, 3, 10, 9), (20, 3, 30, 9), (40, 3, 50, 9), (0, 50, 9, 60))
    path = write_vector(tmp_path / "a.gpkg", shapes, CODE, kind=np.array(["a", "tree", None, "far"], object))
    labels = VectorLabels(path, "kind")
    with pytest.raises(AtrousError, match=r"kind has the values 'far', 'tree' and 1 polygon without.*classes.yaml"):
        labels.window(SCENE, (0, 0, 12, 60), {"a": 1}, 0)
    values = labels.window(SCENE, WHOLE, {"a": 1, "tree": 2, "": 255, "far": 1}, 0).values
    assert {*np.unique(values)} == {0, 1, 2, 255}
    with pytest.raises(AtrousError, match=r"unknown attribute 'kinds'. Did you mean 'kind'"):
        VectorLabels(path, "kinds")


def test_values_as_text(tmp_path):
    column = {"b": [True, False, True], "f": [1.5, np.nan, 2.0], "i": [-1, 2**40, 0]}
    path = write_vector(tmp_path / "a.gpkg", squares(*[(0, 0, 1, 1)] * 3), CODE, **column)
    found = {name: VectorLabels(path, name).values() for name in column}
    assert found["b"] == {"true": 2, "false": 1}
    assert found["f"] == {"1.5": 1, "": 1, "2": 1}
    assert found["i"] == {"-1": 1, str(2**40): 1, "0": 1}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "shape", [Point(2, 2), shapely.LineString([(0, 0), (5, 5)]), shapely.MultiPoint([(1, 1), (2, 2)])]
)
def test_points_and_lines_are_refused(tmp_path, suffix, shape):
    path = write_vector(tmp_path / f"a.{suffix}", [on_ground(shape)], CODE, kind=["x"])
    with pytest.raises(AtrousError, match=r"labels need areas: polygons.*Buffer"):
        VectorLabels(path).window(SCENE, WHOLE, {}, 0)


def test_one_line_among_polygons_is_refused(tmp_path):
    shapes = [*squares((2, 3, 10, 9)), on_ground(shapely.LineString([(0, 0), (5, 5)]))]
    path = write_vector(tmp_path / "a.geojson", shapes, CODE, kind=["x", "y"])
    with pytest.raises(AtrousError, match="1 feature of the type LineString"):
        VectorLabels(path).window(SCENE, WHOLE, {}, 0)


def test_files_without_a_system(tmp_path):
    path = write_vector(tmp_path / "a.shp", squares((2, 3, 10, 9)), CODE, kind=["x"])
    assert VectorLabels(path).window(SCENE, WHOLE, {}, 0).values.any()
    path.with_suffix(".prj").unlink()
    with pytest.raises(AtrousError, match=r"no coordinate reference system.*ogr2ogr -a_srs EPSG:CODE .*\.prj file"):
        VectorLabels(path)
    path = write_vector(tmp_path / "a.gpkg", squares((2, 3, 10, 9)), None, kind=["x"])
    with pytest.raises(AtrousError, match="no coordinate reference system"):
        VectorLabels(path)
    path = write_vector(tmp_path / "a.geojson", squares((2, 3, 10, 9)), None, kind=["x"])
    with pytest.raises(AtrousError, match=r"reach 6001\d\d.* and are not degrees.*RFC 7946"):
        VectorLabels(path)


def test_a_scene_without_a_system(tmp_path):
    path = write_vector(tmp_path / "a.gpkg", squares((2, 3, 10, 9)), CODE, kind=["x"])
    plain = RasterGrid(None, Affine.identity(), 60, 80)
    with pytest.raises(AtrousError, match=r"scene without a coordinate.*80×60 px without coordinates.*gdal_edit"):
        VectorLabels(path).window(plain, WHOLE, {}, 0)


def test_layers(tmp_path):
    path = write_vector(tmp_path / "a.gpkg", squares((2, 3, 10, 9)), CODE, "houses", kind=["x"])
    assert VectorLabels(path).window(SCENE, WHOLE, {}, 0).values.sum() == 48
    write_vector(path, squares((2, 3, 4, 5)), CODE, "roads", kind=["y"])
    with pytest.raises(
        AtrousError, match=r"2 layers with geometries: houses, roads. .*: ogr2ogr a_houses.gpkg a.gpkg houses$"
    ):
        VectorLabels(path)
    assert VectorLabels(path, layer="roads").window(SCENE, WHOLE, {}, 0).values.sum() == 4
    with pytest.raises(AtrousError, match=r"unknown layer 'road'. Did you mean 'roads'"):
        VectorLabels(path, layer="road")


def test_files_that_are_no_vector_files(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "a.gpkg").write_bytes(b"SQLite format 3\0" + bytes(100))
    for name in ("a.json", "a.gpkg", "none.shp"):
        with pytest.raises(AtrousError, match="cannot be read"):
            VectorLabels(tmp_path / name)


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "shp"])
def test_a_changed_file_is_read_again(tmp_path, suffix):
    path = write_vector(tmp_path / f"a.{suffix}", squares((2, 3, 10, 9)), CODE, kind=["x"])
    labels = VectorLabels(path, "kind")
    assert labels.window(SCENE, WHOLE, {"x": 1}, 0).values.sum() == 48
    path.unlink()
    write_vector(path, squares((2, 3, 4, 5), (0, 0, 1, 1)), CODE, kind=["x", "y"])
    assert labels.values() == {"x": 1, "y": 1}
    assert labels.window(SCENE, WHOLE, {"x": 1, "y": 3}, 0).values.sum() == 7


def total(labels: VectorLabels) -> int:
    return int(labels.window(SCENE, WHOLE, {"x": 1}, 0).values.sum())


@pytest.mark.needs("fork")
@pytest.mark.parametrize("suffix", ["gpkg", "geojson"])
def test_forked_processes_read_the_same_files(tmp_path, suffix):
    path = write_vector(tmp_path / f"a.{suffix}", squares((2, 3, 10, 9)), CODE, kind=["x"])
    labels = VectorLabels(path, "kind")
    assert total(labels) == 48
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        assert [*pool.map(total, [labels] * 4)] == [48] * 4
    assert pickle.loads(pickle.dumps(labels)) == labels


def test_many_files_without_an_index_are_parsed_once(tmp_path, monkeypatch):
    """As training does, windows of all files are read in turn."""
    paths = [
        write_vector(tmp_path / f"{number}.geojson", squares((2, 3, 10, 9)), CODE, kind=["x"]) for number in range(9)
    ]
    labels, parsed, read = [VectorLabels(path, "kind") for path in paths], [], pyogrio.raw.read
    monkeypatch.setattr(pyogrio.raw, "read", lambda path, **options: [parsed.append(path), read(path, **options)][1])
    for _ in range(3):
        assert [total(one) for one in labels] == [48] * 9
    assert parsed == paths


def test_polygons_in_memory_are_limited_by_their_size(tmp_path, monkeypatch):
    vertices = 2000
    circles = [on_ground(Point(30, 30).buffer(5, quad_segs=vertices // 4))]
    paths = [write_vector(tmp_path / f"{number}.geojson", circles, CODE, kind=["x"]) for number in range(6)]
    labels = [VectorLabels(path, "kind") for path in paths]
    expected = total(labels[0])
    monkeypatch.setattr(vector_files, "KEPT_BYTES", 3 * 24 * vertices)
    vector_files._loaded.clear()
    for one in labels * 2:
        assert total(one) == expected
        assert sum(kept.nbytes for kept in vector_files._loaded.values()) <= 3 * 24 * vertices
    assert len(vector_files._loaded) == 2
    monkeypatch.setattr(vector_files, "KEPT_BYTES", 0)
    assert [total(labels[0]), total(labels[1])] == [expected] * 2
    assert len(vector_files._loaded) == 1  # the last file stays, whatever its size


CHANGE = transformer(CODE, "EPSG:4326")


def is_of_parent(_) -> bool:
    return transformer(CODE, "EPSG:4326") is CHANGE


@pytest.mark.needs("fork")
def test_a_forked_process_uses_no_transformation_of_its_parent():
    """PROJ keeps its database open, and processes must not share an open SQLite database."""
    assert is_of_parent(None)
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        assert [*pool.map(is_of_parent, range(2))] == [False] * 2


@pytest.mark.parametrize("suffix", ["gpkg", "geojson"])
@pytest.mark.parametrize(("scene", "labels"), [(200, -160), (-160, 200), (-160, -160), (180, 180), (180, -180)])
def test_longitudes_of_polygons_and_scenes_differ_by_whole_turns(tmp_path, scene, labels, suffix):
    grid = RasterGrid(CRS.from_epsg(4326), from_origin(scene - 0.3, 10, 0.01, 0.01), 50, 60)
    shapes = [box(labels - 0.1, 9.7, labels + 0.2, 9.9), box(labels + 5, 9, labels + 6, 10), box(0, 9, 1, 10)]
    path = write_vector(tmp_path / f"a.{suffix}", shapes, "EPSG:4326", number=[1, 2, 3])
    expected = np.zeros((50, 60), int)
    expected[10:30, 20:50] = 1
    values = VectorLabels(path, "number").window(grid, (0, 0, 50, 60), {"1": 1, "2": 2, "3": 3}, 0).values
    assert np.array_equal(values, expected)
    assert vector_files.has_polygons_in(vector_files.open_layer(path), (scene - 0.3, 9.5, scene + 0.3, 10))
    assert not vector_files.has_polygons_in(vector_files.open_layer(path), (scene + 2, 9.5, scene + 3, 10))


@pytest.mark.parametrize("moved", [0, -360, None])
def test_polygons_across_the_date_line_on_a_projected_scene(tmp_path, moved):
    x, y = transformer("EPSG:4326", "EPSG:32701")(np.array(180.0), np.array(-17.0))
    grid = RasterGrid(CRS.from_epsg(32701), from_origin(x - 3200, y + 3200, 100, 100), 64, 64)
    one = [(179.98, -17.01, 180.02, -16.99)]
    halves = [(179.98, -17.01, 180, -16.99), (-180, -17.01, -179.98, -16.99)]
    bounds = halves if moved is None else [(left + moved, low, right + moved, top) for left, low, right, top in one]
    far = [box(-95, -17.5, -85, -16.5), box(100, -17.5, 101, -16.5)]
    path = write_vector(
        tmp_path / "a.gpkg", [box(*one) for one in bounds] + far, "EPSG:4326", number=[1] * (len(bounds) + 2)
    )
    labels = VectorLabels(path)
    whole = labels.window(grid, (0, 0, 64, 64), {"": 1}, 0).values
    columns, rows = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    longitude, latitude = transformer("EPSG:32701", "EPSG:4326")(*coordinates(grid.transform, columns, rows))
    expected = (np.abs(np.abs(longitude) - 180) < 0.02) & (np.abs(latitude + 17) < 0.01)
    assert (whole != expected).sum() <= 4 and expected.sum() > 800  # edges are straight in degrees
    for start in (0, 40):
        part = labels.window(grid, (0, start, 64, 24), {"": 1}, 0).values
        assert np.array_equal(part, whole[:, start : start + 24])


def test_projected_polygons_across_the_date_line_on_a_geographic_scene(tmp_path):
    x, y = transformer("EPSG:4326", "EPSG:32701")(np.array(180.0), np.array(-17.0))
    path = write_vector(tmp_path / "a.gpkg", [box(x - 2000, y - 1000, x + 2000, y + 1000)], "EPSG:32701", number=[1])
    for middle in (180, -180):
        grid = RasterGrid(CRS.from_epsg(4326), from_origin(middle - 0.032, -16.968, 0.001, 0.001), 64, 64)
        values = VectorLabels(path).window(grid, (0, 0, 64, 64), {"": 1}, 0).values
        columns, rows = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
        east, north = transformer("EPSG:4326", "EPSG:32701")(*coordinates(grid.transform, columns, rows))
        expected = (np.abs(east - x) < 2000) & (np.abs(north - y) < 1000)
        assert (values != expected).sum() <= 4 and expected.sum() > 600


def test_longitudes_in_grads_may_reach_400(tmp_path):
    path = write_vector(tmp_path / "a.gpkg", [box(390, 50, 395, 60)], "EPSG:4807", number=[1])
    assert vector_files.open_layer(path).turn == 400
