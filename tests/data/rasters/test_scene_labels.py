"""A dataset of scenes reads labels of any grid, and polygons, as class indices on the grid of the scene."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from tests.data.rasters.test_band_names import write

from atrous.data.dataset import Item
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.raster_items import with_window
from atrous.data.sources.source import Window
from atrous.errors import AtrousError

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("rasterio.features")
pytest.importorskip("pyogrio")
pytestmark = pytest.mark.filterwarnings("ignore")
SIDE = 60
BACKGROUND = "  - {name: background}\n"


@pytest.fixture
def root(tmp_path):
    """A scene of 60×60 pixels of 10 m, without labels."""
    (tmp_path / "scenes").mkdir()
    transform = rasterio.transform.from_origin(400_000, 5_800_000, 10, 10)
    place = {"crs": "EPSG:32633", "transform": transform}
    write(tmp_path / "scenes/a.tif", np.ones((SIDE, SIDE, 1), np.uint8), [""], **place)
    return tmp_path


def square(left, top, right, bottom, **properties):
    """A feature whose corners are in pixels of the scene."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    ring = [[400_000 + 10 * x, 5_800_000 - 10 * y] for x, y in corners]
    return {"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": [ring]}}


def label(root, features, classes):
    """Writes polygons and a class table, and returns the labels of the whole scene, read window by window."""
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    content = {"type": "FeatureCollection", "crs": crs, "features": features}
    (root / "labels.geojson").write_text(json.dumps(content), encoding="utf-8")
    return read(root, classes)


def read(root, classes):
    (root / "classes.yaml").write_text(classes, encoding="utf-8")
    dataset, found = open_dataset(root, window=25), np.zeros((SIDE, SIDE), np.uint8)
    assert dataset.layout == "rasters"
    for item in dataset.unlisted:
        top, left, height, width = map(int, item.image.name.split("_"))
        found[top : top + height, left : left + width] = dataset.read(item).label
    return found


FIELDS = [square(5, 5, 30, 20, crop="wheat", id=1), square(30, 30, 55, 50, crop="maize", id=2)]


def expected(background):
    found = np.full((SIDE, SIDE), background, np.uint8)
    found[5:20, 5:30], found[30:50, 30:55] = 1, 2
    return found


def test_the_attribute_whose_values_are_classes_is_used(root):
    classes = f"classes:\n{BACKGROUND}  - {{name: wheat}}\n  - {{name: corn, segments: [maize]}}\n"
    assert np.array_equal(label(root, FIELDS, classes), expected(0))


def test_a_named_attribute_and_raw_values(root):
    classes = f"attribute: id\nclasses:\n{BACKGROUND}  - {{name: one, raw: 1}}\n  - {{name: two, raw: 2}}\n"
    assert np.array_equal(label(root, FIELDS, classes), expected(0))
    assert ClassTable.from_yaml(root / "classes.yaml").yaml_text().count("attribute: id") == 1


CODES = [square(5, 5, 30, 20, code=1), square(30, 30, 55, 50, code=2)]


@pytest.mark.parametrize(
    ("classes", "one", "two"),
    [
        ("{name: field, segments: ['2']}, {name: water, segments: ['1']}", 2, 1),  # not their positions
        ("{name: field, segments: [2]}, {name: water, segments: [1]}", 2, 1),
        ("{name: '2'}, {name: '1'}", 2, 1),  # names
        ("{name: field, raw: 2}, {name: water, raw: 1}", 2, 1),
        ("{name: field}, {name: water}", 1, 2),  # positions: no class lists a number
        ("{name: field, raw: 1}, {name: water, raw: 2, segments: [7]}", 1, 2),  # written, though they are positions
    ],
)
def test_listed_numbers_come_before_positions_in_the_table(root, classes, one, two):
    found = label(root, CODES, f"attribute: code\nclasses: [{{name: background}}, {classes}]\n")
    assert np.array_equal(found, np.select([expected(0) == 1, expected(0) == 2], (one, two), 0))
    table = ClassTable.from_yaml(root / "classes.yaml")
    (root / "again.yaml").write_text(table.yaml_text(), encoding="utf-8")
    assert ClassTable.from_yaml(root / "again.yaml") == table


def test_segments_come_before_the_names_of_other_classes(root):
    classes = f"classes:\n{BACKGROUND}  - {{name: wheat, segments: [corn]}}\n  - {{name: corn, segments: [maize]}}\n"
    found = label(root, [square(0, 0, 9, 9, crop="corn"), square(9, 9, 20, 20, crop="maize")], classes)
    assert found[0, 0] == 1 and found[10, 10] == 2


def test_positions_are_no_codes_beside_listed_numbers(root):
    classes = "attribute: code\nclasses: [{name: background}, {name: field}, {name: water, segments: [1]}]\n"
    with pytest.raises(AtrousError, match="the values '2', which belong to no class"):
        label(root, CODES, classes)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("{name: field, raw: 1}, {name: water, segments: [1]}", r"raw value 1 of 'field'.* for 'water'.*the code 1"),
        ("{name: field, raw: 2}, {name: '2', raw: 1}", r"raw value 2 of 'field'.* for '2'"),
        ("{name: field, raw: 5}, {name: water, segments: [9]}]\nignore: [9", r"raw value 9 of 'ignore'.* for 'water'"),
    ],
)
def test_raw_values_that_are_segments_of_another_class_are_refused(root, classes, message):
    with pytest.raises(AtrousError, match=message):
        label(root, CODES, f"attribute: code\nclasses: [{{name: background}}, {classes}]\n")


def test_without_a_background_the_rest_belongs_to_no_class(root):
    classes = "classes:\n  - {name: other}\n  - {name: wheat}\n  - {name: maize}\n"
    assert np.array_equal(label(root, FIELDS, classes), expected(255))


def test_polygons_of_one_class_need_no_attribute(root):
    found = label(root, FIELDS, f"classes:\n{BACKGROUND}  - {{name: field}}\n")
    assert np.array_equal(found, np.minimum(expected(0), 1))


def test_overlaps_belong_to_no_class_or_to_the_later_class(root):
    features = [*FIELDS, square(10, 0, 20, 10, crop="maize", id=3)]
    classes = f"classes:\n{BACKGROUND}  - {{name: wheat}}\n  - {{name: maize}}\n"
    found = label(root, features, classes)
    assert (found[5:10, 10:20] == 255).all()
    assert (found[0:5, 10:20] == 2).all()
    assert (label(root, features, f"overlap: last\n{classes}")[0:10, 10:20] == 2).all()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            f"classes:\n{BACKGROUND}  - {{name: rye}}\n  - {{name: oats}}\n",
            r"no attribute has only values.*crop \(wheat",
        ),
        ("attribute: kind\nclasses:\n  - {name: wheat}\n", r"kind"),
        ("attribute: crop\nclasses:\n  - {name: wheat}\n", r"'maize', which belong to no class"),
        ("classes:\n  - {name: a, raw: [[1, 2, 3]]}\n", r"polygons have no colours"),
    ],
)
def test_uncertain_classes_are_refused(root, classes, message):
    with pytest.raises(AtrousError, match=message):
        label(root, FIELDS, classes)


def test_all_unknown_values_are_named_once_for_the_file(root):
    features = [square(5 * i, 0, 5 * i + 5, 5, crop=f"v{i}") for i in range(11)] + [square(50, 50, 60, 60)]
    message = (
        "the attribute crop has the values 'v0', 'v10', 'v2', 'v3', 'v4', 'v5', 'v6', 'v7', 'v8', 'v9' and 1 polygon "
        "without a value, which belong to no class. In classes.yaml, add each value to segments: of its class, or to "
        'ignore: of the file; "" stands for polygons without a value.'
    )
    with pytest.raises(AtrousError, match=re.escape(message)):
        label(root, features, "attribute: crop\nclasses:\n  - {name: v1}\n")
    last = with_window(open_dataset(root).unlisted[0], Window(40, 40, 20, 20))  # it shows one polygon only
    with pytest.raises(AtrousError, match=re.escape(message)):
        open_dataset(root).read_label(last.mask, last.image)


def test_values_of_polygons_are_ignored(root):
    features = [square(0, 0, 10, 10, crop="wheat"), square(20, 20, 30, 30, crop="fallow"), square(40, 40, 50, 50)]
    table = f"ignore: [fallow, '']\nclasses:\n{BACKGROUND}  - {{name: wheat}}\n"
    found = label(root, features, table)
    assert (found[:10, :10] == 1).all()
    assert (found[20:30, 20:30] == 255).all()
    assert (found[40:50, 40:50] == 255).all()
    assert (found == 255).sum() == 200
    classes = ClassTable.from_yaml(root / "classes.yaml")
    assert classes.ignored_values == ("fallow", "")
    (root / "again.yaml").write_text(classes.yaml_text(), encoding="utf-8")
    assert ClassTable.from_yaml(root / "again.yaml") == classes


@pytest.mark.parametrize(
    "classes",
    [
        f"ignore: [fallow]\nclasses:\n{BACKGROUND}  - {{name: field}}\n",
        "classes:\n  - {name: background, segments: [fallow]}\n  - {name: field}\n",
    ],
)
def test_values_in_the_class_table_exclude_that_all_polygons_are_one_class(root, classes):
    kinds = [square(10 * i, 0, 10 * i + 10, 10, kind=kind) for i, kind in enumerate(("field", "fallow", "pond"))]
    with pytest.raises(AtrousError, match=r"no attribute has only values.*Write attribute: NAME.*kind \("):
        label(root, kinds, classes)
    with pytest.raises(AtrousError, match="the attribute kind has the values 'pond', which belong to no class"):
        label(root, kinds, f"attribute: kind\n{classes}")


def test_rasters_on_another_grid(root):
    (root / "labels").mkdir()
    coarse = np.arange(9).reshape(3, 3, 1).astype(np.int16) - 1  # -1 is void; pixels of 200 m
    transform = rasterio.transform.from_origin(400_000, 5_800_000, 200, 200)
    write(root / "labels/a.tif", coarse, [""], crs="EPSG:32633", transform=transform, nodata=-1)
    names = "".join(f"  - {{name: c{index}}}\n" for index in range(8))
    found = read(root, f"classes:\n{names}")
    fine = np.repeat(np.repeat(coarse[:, :, 0], 20, axis=0), 20, axis=1)
    assert np.array_equal(found, np.where(fine < 0, 255, fine))


def test_rasters_without_coordinates_on_another_grid_are_refused(root):
    (root / "labels").mkdir()
    write(root / "labels/a.tif", np.zeros((30, 30, 1), np.uint8), [""])
    with pytest.raises(AtrousError, match="the labels have no coordinates"):
        read(root, "classes:\n  - {name: a}\n")


def test_negative_void_and_grids_that_differ_by_rounding(shared):
    data = shared / "data/sen1floods11"
    item = Item("spain", data / "S1/Spain_7370579_S1Hand.tif", data / "labels/Spain_7370579_LabelHand.tif")
    table = ClassTable(("land", "water"), ((0, 0, 0), (0, 0, 255)), ((0,), (1,)), ignore=(-1,))
    from atrous.data.dataset import Dataset

    dataset = Dataset(data, "rasters", table, {"train": (item,)})
    found = dataset.read(with_window(item, Window(100, 120, 200, 210)))
    with rasterio.open(item.mask) as file:
        stored = file.read(1)[100:300, 120:330]
    with rasterio.open(item.image) as file:
        valid = np.isfinite(file.read()[:, 100:300, 120:330]).all(axis=0)
    assert np.array_equal(found.label, np.where((stored == -1) | ~valid, 255, stored).astype(np.uint8))


def test_buildings_of_spacenet(shared, tmp_path):
    data = shared / "data/spacenet_sample"
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes/tile.tif").symlink_to(data / "sample_geotiff.tif")
    (tmp_path / "labels.geojson").symlink_to(data / "geotiff_labels.geojson")
    (tmp_path / "classes.yaml").write_text(f"classes:\n{BACKGROUND}  - {{name: building}}\n", encoding="utf-8")
    dataset = open_dataset(tmp_path, window=300)
    drawn = np.zeros((900, 900), np.uint8)
    for item in dataset.unlisted:
        top, left, height, width = map(int, item.image.name.split("_"))
        drawn[top : top + height, left : left + width] = dataset.read_label(item.mask, item.image)
    features = json.loads((data / "geotiff_labels.geojson").read_text(encoding="utf-8"))["features"]
    with rasterio.open(data / "sample_geotiff.tif") as file:
        shapes = [(feature["geometry"], 1) for feature in features]
        exact = rasterio.features.rasterize(shapes, (900, 900), transform=file.transform)
    assert (drawn != exact).mean() < 1e-5  # vertices are rounded to 1/1024 of a pixel
    assert drawn.any()


def test_polygons_of_another_place_are_refused_and_scenes_without_polygons_are_named(root):
    classes = f"classes:\n{BACKGROUND}  - {{name: field}}\n"
    with pytest.raises(AtrousError, match=r"another place than a.tif, which has .*32633"):
        label(root, [square(500, 500, 530, 520)], classes)
    transform = rasterio.transform.from_origin(500_000, 5_800_000, 10, 10)
    write(root / "scenes/b.tif", np.ones((SIDE, SIDE, 1), np.uint8), [""], crs="EPSG:32633", transform=transform)
    label(root, FIELDS, classes)
    notes = open_dataset(root).notes
    assert any("has no polygon in the scenes b.tif: all their pixels have no object." in note for note in notes)


def test_scenes_of_which_a_label_raster_covers_no_pixel_are_refused_or_named(root):
    labels = np.ones((SIDE, SIDE, 1), np.uint8)
    classes = f"classes:\n{BACKGROUND}  - {{name: field}}\n"
    (root / "labels").mkdir()
    # 1.5 pixels beside the scene: the bounds overlap, because they have a margin
    place = rasterio.transform.from_origin(400_000 + 10 * SIDE + 15, 5_800_000, 10, 10)
    write(root / "labels/a.tif", labels, [""], crs="EPSG:32633", transform=place)
    with pytest.raises(AtrousError, match=r"a.tif: the labels show another place than a.tif, which has .*32633"):
        read(root, classes)
    place = rasterio.transform.from_origin(400_000 + 10 * SIDE - 15, 5_800_000, 10, 10)
    write(root / "labels/a.tif", labels, [""], crs="EPSG:32633", transform=place)
    assert (read(root, classes)[:, -1] == 1).all()
