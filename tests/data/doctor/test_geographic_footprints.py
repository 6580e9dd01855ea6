"""Where pictures lie on Earth, and the doctor's warning where two splits show the same ground."""

import random
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from atrous.cli import main
from atrous.data.class_colors import default_colors
from atrous.data.doctor.examine import examine
from atrous.data.doctor.geographic_footprints import LEAST_SHARED, Footprint, Grounds, footprint_of, overlapping
from atrous.data.mask_value_map import ClassTable

UTM_33N, WGS_84 = 32633, 4326


def write_geotiff(path, left, top, pixel=0.5, size=(40, 60), code=UTM_33N, transformation=False):
    """A GeoTIFF whose upper left corner lies at (left, top), by a scale and a tie point or by a matrix."""
    kind, key = (1, 3072) if code == UTM_33N else (2, 2048)
    keys = (1, 1, 0, 2, 1024, 0, 1, kind, key, 0, 1, code)
    place = (
        [(34264, "d", 16, (pixel, 0, 0, left, 0, -pixel, 0, top, 0, 0, 0, 0, 0, 0, 0, 1), True)]
        if transformation
        else [(33550, "d", 3, (pixel, pixel, 0), True), (33922, "d", 6, (0, 0, 0, left, top, 0), True)]
    )
    values = np.random.default_rng(abs(hash((left, top)))).integers(0, 256, (*size, 3), np.uint8)
    tifffile.imwrite(path, values, photometric="rgb", extratags=[*place, (34735, "H", len(keys), keys, True)])


@pytest.mark.parametrize("transformation", [False, True])
@pytest.mark.parametrize("code", [UTM_33N, WGS_84])
def test_a_geotiff_lies_where_rasterio_says(tmp_path, transformation, code):
    rasterio = pytest.importorskip("rasterio")
    write_geotiff(tmp_path / "a.tif", 10.5, 50.25, code=code, transformation=transformation)
    found = footprint_of(tmp_path / "a.tif")
    with rasterio.open(tmp_path / "a.tif") as dataset:
        bounds = dataset.bounds
        assert found == Footprint(f"EPSG:{dataset.crs.to_epsg()}", *bounds)


def test_a_turned_raster_has_the_box_around_its_corners(tmp_path):
    matrix = (0, 2, 0, 100, 3, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0, 1)  # x = 2·row + 100, y = 3·column + 200
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 6), np.uint8), extratags=[(34264, "d", 16, matrix, True)])
    assert footprint_of(tmp_path / "a.tif") == Footprint("", 100, 200, 108, 218)


@pytest.mark.parametrize(("suffix", "world"), [(".jpg", ".jgw"), (".png", ".pgw"), (".jpg", ".jpgw"), (".png", ".wld")])
def test_a_world_file_tells_the_centre_of_the_first_pixel(tmp_path, suffix, world):
    Image.new("RGB", (6, 4)).save(tmp_path / f"a{suffix}")
    (tmp_path / f"a{world}").write_text("2.0\n0.0\n0.0\n-2.0\n101.0\n199.0\n", encoding="ascii")
    assert footprint_of(tmp_path / f"a{suffix}") == Footprint("", 100, 192, 112, 200)


def write_photo(path, north, east):
    """A photograph with a GPS position, in degrees, minutes and seconds as cameras write them."""

    def parts(angle):
        minutes = abs(angle) % 1 * 60
        return (int(abs(angle)), int(minutes), minutes % 1 * 60)

    exif = Image.Exif()
    exif.get_ifd(34853).update(
        {1: "N" if north >= 0 else "S", 2: parts(north), 3: "E" if east >= 0 else "W", 4: parts(east)}
    )
    values = np.random.default_rng(abs(int(north * 1e6))).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(values).save(path, exif=exif)


@pytest.mark.parametrize(("north", "east"), [(52.4, 13.05), (-33.9, 18.4), (40.7, -74.0), (69.6, 18.9)])
def test_a_photograph_lies_ten_metres_around_where_it_was_taken(tmp_path, north, east):
    write_photo(tmp_path / "a.jpg", north, east)
    found = footprint_of(tmp_path / "a.jpg")
    assert found is not None and found.system == "GPS"
    assert ((found.top + found.bottom) / 2, (found.left + found.right) / 2) == pytest.approx((north, east), abs=1e-6)
    metres = (found.right - found.left) * 111_320 * np.cos(np.radians(north))
    assert (metres, (found.top - found.bottom) * 111_320) == pytest.approx((10, 10), rel=1e-3)


def test_what_tells_no_place_is_none(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "plain.png")
    write_photo(tmp_path / "no_fix.jpg", 0.0, 0.0)
    Image.new("RGB", (6, 4)).save(tmp_path / "broken.jpg")
    (tmp_path / "broken.jgw").write_text("two\n", encoding="ascii")
    Image.new("RGB", (6, 4)).save(tmp_path / "nan.jpg")
    (tmp_path / "nan.jgw").write_text("nan\n0\n0\nnan\n0\n0\n", encoding="ascii")
    write_geotiff(tmp_path / "far.tif", 1e30, 0)
    write_geotiff(tmp_path / "flat.tif", 0, 0, pixel=0)
    (tmp_path / "empty.tif").write_bytes(b"")
    assert [footprint_of(path) for path in sorted(tmp_path.glob("*.[jpt][pni][gf]"))] == [None] * 7


def test_overlaps_are_those_of_comparing_all_with_all():
    draw = random.Random(0)
    rectangles = {}
    for number in range(300):
        side = draw.choice((1, 2, 2, 2, 40, 3000))
        x, y = draw.uniform(-200, 200), draw.uniform(-200, 200)
        system = draw.choice(("EPSG:32633", "EPSG:4326"))
        rectangles[Path(f"{number}.tif")] = Footprint(system, x, y, x + side, y + draw.choice((1, side)))
    rectangles[Path("again.tif")] = rectangles[Path("7.tif")]
    grounds = Grounds(rectangles)
    for path, one in rectangles.items():
        expected = {rectangles[other] for other in rectangles if one.shares(rectangles[other]) > LEAST_SHARED}
        assert {rectangles[other] for other in grounds.sharing(one)} == expected, path
    joined = {frozenset(pair) for pair in overlapping(rectangles)}
    assert frozenset((Path("7.tif"), Path("again.tif"))) in joined


def test_many_pictures_of_one_place_are_paired_with_the_first_alone():
    one = Footprint("GPS", 0, 0, 1, 1)
    assert len(list(overlapping({Path(f"{number}.jpg"): one for number in range(5000)}))) == 4999


def make(root, place):
    """Twenty tiles of two classes in given splits; `place` writes the picture of a number."""
    for split, numbers in (("train", range(12)), ("val", range(12, 20))):
        (root / "images" / split).mkdir(parents=True)
        (root / "masks" / split).mkdir(parents=True)
        for number in numbers:
            place(root / "images" / split / f"tile_{number:02}", number)
            mask = np.zeros((40, 60), np.uint8)
            mask[:, 20:] = 1
            Image.fromarray(mask).save(root / "masks" / split / f"tile_{number:02}.png")
    ClassTable(("ground", "thing"), default_colors(2), ((0,), (1,)), (255,)).to_yaml(root / "classes.yaml")
    return root


def same_ground(root):
    return [finding for finding in examine(root).warnings if finding.kind == "same_ground"]


@pytest.mark.parametrize(("step", "shared"), [(30, []), (15, ["val 'tile_12' and train 'tile_11'"])])
def test_tiles_that_overlap_across_splits_are_warned_of(tmp_path, step, shared):
    """Tiles 30 m wide side by side: a step of 30 m lets them touch, one of 15 m lets neighbours overlap."""
    data = make(tmp_path, lambda path, number: write_geotiff(path.with_suffix(".tif"), number * step, 5000))
    assert [list(finding.examples) for finding in same_ground(data)] == [shared] * bool(shared)


def test_photographs_of_one_place_are_warned_of(tmp_path):
    data = make(tmp_path, lambda path, number: write_photo(path.with_suffix(".jpg"), 52 + number % 12 * 1e-3, 13.0))
    (finding,) = same_ground(data)
    assert finding.count == 8 and "val 'tile_12' and train 'tile_00'" in finding.examples


@pytest.mark.parametrize("system", [UTM_33N, WGS_84])
def test_a_written_split_keeps_overlapping_tiles_together(tmp_path, system):
    """Six scenes of five tiles that overlap in a row: each scene goes to one split."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    unit = 1.0 if system == UTM_33N else 1e-5
    for number in range(30):
        scene, tile = divmod(number, 5)
        left, top = (10 + scene * 1000 * unit + tile * 20 * unit, 50 + number % 3 * unit)
        write_geotiff(tmp_path / "images" / f"{number:02}.tif", left, top, pixel=0.5 * unit, code=system)
        Image.fromarray(np.eye(40, 60, dtype=np.uint8)).save(tmp_path / "masks" / f"{number:02}.png")
    ClassTable(("ground", "thing"), default_colors(2), ((0,), (1,)), (255,)).to_yaml(tmp_path / "classes.yaml")
    assert main(["doctor", str(tmp_path), "--write-split"]) == 0
    assert not same_ground(tmp_path)
    for scene in range(6):
        places = {
            name
            for name in ("train", "val", "test")
            for line in (tmp_path / "splits" / f"{name}.txt").read_text(encoding="utf-8").split()
            if int(line) // 5 == scene
        }
        assert len(places) == 1, scene


def test_a_scene_of_tiles_in_a_row_is_not_one_group(tmp_path):
    """All tiles overlap with the next: groups that are told stay whole, and the ground cannot."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for number in range(20):
        name = f"{'ABCDE'[number // 4]}_{number:02}"
        write_geotiff(tmp_path / "images" / f"{name}.tif", 1000 + number * 20, 50)
        Image.fromarray(np.eye(40, 60, dtype=np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    ClassTable(("ground", "thing"), default_colors(2), ((0,), (1,)), (255,)).to_yaml(tmp_path / "classes.yaml")
    assert main(["doctor", str(tmp_path), "--groups", "^(.)_", "--write-split"]) == 0
    places = [
        {line[0] for line in (tmp_path / "splits" / f"{name}.txt").read_text(encoding="utf-8").split()}
        for name in ("train", "val", "test")
    ]
    assert sum(map(len, places)) == len(set.union(*places)) == 5


def test_systems_that_users_defined_are_told_apart_and_none_is_the_one_below(tmp_path):
    for name, zone in (("a", b"Zone A|"), ("b", b"Zone B|")):
        keys = (1, 1, 0, 3, 1024, 0, 1, 1, 3072, 0, 1, 32767, 1026, 34737, len(zone), 0)
        place = [(33550, "d", 3, (1, 1, 0), True), (33922, "d", 6, (0, 0, 0, 500_000, 5_000_000, 0), True)]
        tags = [*place, (34735, "H", len(keys), keys, True), (34737, "s", 0, zone.decode(), True)]
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((8, 8), np.uint8), extratags=tags)
    first, second = (footprint_of(tmp_path / f"{name}.tif") for name in "ab")
    assert first is not None and second is not None and "EPSG" not in first.system
    assert first.shares(second) == 0 and first.shares(first) == 1


def test_sizes_far_apart_are_compared_in_little_memory():
    sizes = (1e-8, 1.1e-8, 1.0, 1e8)
    rectangles = {Path(str(size)): Footprint("", 0, 0, size, size) for size in sizes}
    assert set(Grounds(rectangles).sharing(rectangles[Path("1.0")])) == set(rectangles)


def write_placed(path, crs, transform, size=(40, 60)):
    from tests.data.rasters.rasters import write_raster

    return write_raster(path, np.ones(size, np.uint8), crs, transform)


def test_a_vrt_and_a_jpeg_2000_lie_where_their_tiff_lies(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    from rasterio.shutil import copy
    from rasterio.transform import from_origin

    tiff = write_placed(tmp_path / "a.tif", "EPSG:32633", from_origin(500_000, 5_000_000, 10, 10))
    copy(str(tiff), str(tmp_path / "a.vrt"), driver="VRT")
    copy(str(tiff), str(tmp_path / "a.jp2"), driver="JP2OpenJPEG")
    expected = footprint_of(tiff)
    assert expected == Footprint("EPSG:32633", 500_000, 4_999_600, 500_600, 5_000_000)
    for name in ("a.vrt", "a.jp2"):
        assert footprint_of(tmp_path / name) == expected
    part = footprint_of(tmp_path / "a.vrt/window/5_6_7_8")
    assert part == footprint_of(tmp_path / "a.tif/window/5_6_7_8") != expected
    with rasterio.open(tmp_path / "plain.jp2", "w", driver="JP2OpenJPEG", width=9, height=9, count=1, dtype="uint8"):
        pass
    assert footprint_of(tmp_path / "plain.jp2") is None


def test_the_same_ground_in_two_coordinate_systems(tmp_path):
    pytest.importorskip("rasterio")
    pytest.importorskip("shapely")
    pyproj = pytest.importorskip("pyproj")
    from rasterio.transform import from_origin

    to_degrees = pyproj.Transformer.from_crs(32633, 4326, always_xy=True)
    east, north = to_degrees.transform(500_000, 5_000_000)
    lcc = "+proj=lcc +lat_0=45 +lon_0=15 +lat_1=40 +lat_2=50 +datum=WGS84 +units=m"  # no EPSG number
    x, y = pyproj.Transformer.from_crs(32633, lcc, always_xy=True).transform(500_000, 5_000_000)
    # 5 m beside the right edge of the first raster
    beside = pyproj.Transformer.from_crs(32633, 32632, always_xy=True).transform(500_605, 4_999_800)
    paths = [
        write_placed(tmp_path / "utm.tif", "EPSG:32633", from_origin(500_000, 5_000_000, 10, 10)),
        write_placed(tmp_path / "degrees.tif", "EPSG:4326", from_origin(east, north, 1e-4, 1e-4)),
        write_placed(tmp_path / "lambert.tif", lcc, from_origin(x, y, 10, 10)),
        write_placed(tmp_path / "beside.tif", "EPSG:32632", from_origin(beside[0], beside[1] + 20, 1, 1)),
        write_placed(tmp_path / "far.tif", "EPSG:32632", from_origin(500_000, 5_000_000, 10, 10)),
    ]
    places = {path: footprint_of(path) for path in paths}
    assert all(places.values())
    found = {frozenset(path.stem for path in pair) for pair in overlapping(places)}
    assert found == {frozenset(pair) for pair in (("utm", "degrees"), ("utm", "lambert"), ("degrees", "lambert"))}
    assert places[paths[0]].shares(places[paths[1]]) == 0  # rectangles in one system alone are compared exactly


def test_footprints_in_degrees_are_compared_modulo_a_turn():
    pytest.importorskip("pyproj"), pytest.importorskip("shapely")
    at = {"east": 200, "west": -160, "across": 179.5, "before": -180, "beside": 202, "far": 20}
    places = {Path(name): Footprint("EPSG:4326", x, 10, x + 1, 11, "EPSG:4326") for name, x in at.items()}
    found = {frozenset(path.name for path in pair) for pair in overlapping(places)}
    assert found == {frozenset(("east", "west")), frozenset(("across", "before"))}
    places[Path("world")] = Footprint("EPSG:3857", -2e7, -2e7, 2e7, 2e7, "EPSG:3857")
    found = {frozenset(path.name for path in pair) for pair in overlapping(places)} - found
    assert found == {frozenset(("world", name)) for name in at}
