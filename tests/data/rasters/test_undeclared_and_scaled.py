"""-9999 and -32768 are no data without being declared; scale and offset of bands are applied, after "no data"."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.data.rasters.rasters import write_raster

from atrous.data.doctor.scan import survey
from atrous.data.doctor.taken_channels import TakenChannels
from atrous.data.input_files import InputFiles, read_input_files
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.pictures import read_kind, read_picture, read_pixels
from atrous.data.raw_values import with_undeclared_void
from atrous.data.sources.geotiff import GeoTiffSource
from atrous.data.sources.scene_files import read_input
from atrous.data.sources.source import Window, whole
from atrous.input_spec import Input

pytestmark = pytest.mark.filterwarnings("ignore")
MISSING = InputFiles("image").missing_values
CLASSES = "classes:\n  - {name: land}\n  - {name: water}\n"


def write(path, values, scales=None, offsets=None, **profile):
    """Writes H×W×C values as a GeoTIFF, with scale and offset of the bands."""
    import rasterio

    write_raster(path, np.moveaxis(values, 2, 0), "EPSG:32632", rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), **profile)
    if scales is not None:
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = scales, offsets
    return path


def as_vrt(path):
    from rasterio.shutil import copy

    copy(path, path.with_suffix(".vrt"), driver="VRT")
    return path.with_suffix(".vrt")


@pytest.mark.parametrize(
    ("dtype", "value"), [("int16", -9999), ("int16", -32768), ("float32", -9999), ("int32", -32768)]
)
@pytest.mark.parametrize("kind", ["geotiff", "vrt", "plain"])
def test_undeclared_values_are_void_in_every_kind_of_reading(tmp_path, dtype, value, kind):
    values = np.arange(1, 97).reshape(6, 8, 2).astype(dtype)
    values[2, 3, 1] = value
    if kind == "plain":
        import tifffile

        path = tmp_path / "a.tif"
        tifffile.imwrite(path, values, planarconfig="contig", photometric="minisblack")
    else:
        path = write(tmp_path / "a.tif", values)
    one = Input((1.0, 1.0), (1.0, 1.0), dtype="float32", missing=MISSING)
    truth = np.ones((6, 8), bool)
    truth[2, 3] = False
    if kind == "vrt":
        place = as_vrt(path) / "window" / "0_0_6_8"
    else:
        place = path
        source = GeoTiffSource(path, 2, missing=MISSING)
        assert np.array_equal(whole(source).valid, truth)
        source.close()
    found = read_input(place, one)
    assert np.array_equal(found.valid, truth)
    assert found.values[2, 3].tolist() == [0, 0]
    assert read_input(place, replace(one, missing=())).valid is None


def test_unsigned_numbers_are_never_undeclared_values(tmp_path):
    wrapped = np.full((4, 4, 1), 65536 - 9999, np.uint16)  # -9999 in 16 bits
    path = write(tmp_path / "a.tif", wrapped)
    assert read_input(path, Input((0.0,), (1.0,), dtype="uint16", missing=MISSING)).valid is None


@pytest.mark.parametrize(("given", "expected"), [("", MISSING), ("missing: []", ()), ("missing: [0]", (0, *MISSING))])
def test_inputs_yaml_switches_it_off(tmp_path, given, expected):
    (tmp_path / "inputs.yaml").write_text(f"inputs:\n  image: {{{given}}}\n", encoding="utf-8")
    assert read_input_files(tmp_path)[0].missing_values == expected
    assert replace(read_input_files(tmp_path)[0], planes=("axial",)).missing_values == expected[: len(expected) % 2]


def dataset(root, image, label, **options):
    for folder in ("scenes", "labels"):
        (root / folder).mkdir(parents=True)
    write(root / "scenes/a.tif", image, **options)
    write(root / "labels/a.tif", label)
    (root / "classes.yaml").write_text(CLASSES, encoding="utf-8")
    return root


def test_training_and_the_doctor_agree(tmp_path):
    image, label = np.ones((40, 40, 1), np.int16), np.ones((40, 40, 1), np.int16)
    image[:10] = -9999
    label[10:20] = -32768
    label[20:25] = -9999
    root = dataset(tmp_path / "data", image, label)
    data = open_dataset(root, window=64)
    items = [item for part in data.splits.values() for item in part]
    assert [np.unique(data.read(item).label[:25]).tolist() for item in items] == [[255]]
    assert (data.read(items[0]).label[25:] == 1).all()
    pair = survey(items, data.classes, taken=TakenChannels(missing=data.inputs[0].missing_values))[0]
    assert (pair.picture.void, pair.mask.unknown, pair.mask.values) == (0.25, 0, (1,))
    (root / "inputs.yaml").write_text("inputs:\n  image: {missing: []}\n", encoding="utf-8")
    data = open_dataset(root, window=64)
    assert (data.read(items[0]).label[:10] == 1).all()


def test_labels_keep_values_that_the_class_table_lists():
    values = np.array([[-9999, -32768, 3]], np.int16)
    assert with_undeclared_void(values, None, {-9999, -32768, 3})[1] is None
    found, void = with_undeclared_void(values, None, {-9999, 3})
    assert (found.tolist(), void) == ([[-9999, -32768, 3]], -32768)
    found, void = with_undeclared_void(values, 3, {0})
    assert (found.tolist(), void) == ([[3, 3, 3]], 3)
    table = ClassTable(("low", "high"), ((0, 0, 0), (1, 1, 1)), ((-9999,), (3,)))
    found, void = with_undeclared_void(values, None, {-9999, 3})
    assert table.encode(found, void).tolist() == [[0, 255, 1]]


@pytest.mark.parametrize("kind", ["geotiff", "vrt"])
def test_scale_and_offset_are_applied_after_no_data(tmp_path, kind):
    values = np.array([[[0, 100], [10000, 200]], [[5000, -9999], [7, 300]]], np.int16)
    path = write(tmp_path / "a.tif", values, (1e-4, 0.5), (0.0, -10.0), nodata=7)
    truth = np.array([[[0, 40], [1, 90]], [[0, 0], [0, 0]]], np.float32)
    one = Input((1.0, 1.0), (1.0, 1.0), dtype="float32", missing=MISSING)
    place = as_vrt(path) / "window" / "0_0_2_2" if kind == "vrt" else path
    found = read_input(place, one)
    assert found.valid.tolist() == [[True, True], [False, False]]  # -9999 is compared before scaling
    assert np.allclose(found.values, truth)
    assert read_kind(place).dtype == found.values.dtype.name == "float32"
    if kind == "geotiff":
        source = GeoTiffSource(path, 2, missing=MISSING)
        assert np.array_equal(whole(source).values, found.values)
        source.close()
        assert np.allclose(read_picture(path)[0], truth[0])


def test_chosen_bands_keep_their_own_scale(tmp_path):
    values = np.dstack([np.full((3, 3), 10 * band, np.uint16) for band in range(1, 7)])
    path = write(tmp_path / "a.tif", values, (1, 2, 3, 4, 5, 6), (0, 0, 0, 0, 0, 1))
    stored = read_pixels(path)
    assert stored.choosing([5, 1]).for_model(2)[0][0, 0].tolist() == [361, 40]
    assert stored.for_model(5)[0][0, 0].tolist() == [10, 40, 90, 160, 250]  # the first five of six
    assert stored.window(Window(0, 0, 2, 2)).measured[0, 0].tolist() == [10, 40, 90, 160, 250, 361]


def test_a_scaled_file_and_one_of_measured_values_are_the_same_picture(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 10000, (8, 8, 3)).astype(np.uint16)
    scaled = write(tmp_path / "scaled.tif", numbers, (1e-4,) * 3, (0,) * 3)
    measured = write(tmp_path / "measured.tif", (numbers * 1e-4).astype(np.float32))
    one = Input((0.0,) * 3, (1.0,) * 3, dtype="float32")
    assert np.allclose(read_input(scaled, one).values, read_input(measured, one).values, atol=1e-6)


def test_a_band_of_undeclared_values_alone_voids_no_pixel(tmp_path):
    values = np.random.default_rng(0).integers(1, 900, (20, 20, 3)).astype(np.int16)
    values[:, :, 1] = -9999
    values[4, 5, 0] = -9999
    path = write(tmp_path / "a.tif", values)
    found = read_input(path, Input((5.0, 6.0, 7.0), (1.0,) * 3, dtype="float32", missing=MISSING))
    assert np.argwhere(~found.valid).tolist() == [[4, 5]]
    assert (found.values[found.valid][:, 1] == 6).all()


def test_scale_and_offset_beside_a_jpeg_2000(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 10000, (16, 16, 2)).astype(np.uint16)
    path = write(tmp_path / "a.jp2", numbers, driver="JP2OpenJPEG", QUALITY=100, REVERSIBLE="YES")
    bands = "".join(
        f'<PAMRasterBand band="{band}"><Offset>{offset}</Offset><Scale>0.5</Scale></PAMRasterBand>'
        for band, offset in ((1, 0), (2, -3))
    )
    path.with_name("a.jp2.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>", encoding="utf-8")
    one = Input((0.0,) * 2, (1.0,) * 2, dtype="float32")
    truth = numbers * np.float32(0.5) + np.array([0, -3], np.float32)
    for place in (path, path / "window" / "0_0_16_16"):
        assert np.array_equal(read_input(place, one).values, truth)
        assert read_kind(place).dtype == "float32"


def test_one_band_without_data_is_enough_for_scaled_numbers(tmp_path):
    """As in Landsat Collection 2: numbers without a sign, of which 0 is no data, mean the same as reflectances."""
    values = np.array([[[0, 20000], [8000, 9000]]], np.uint16)
    path = write(tmp_path / "a.tif", values, (2.75e-5,) * 2, (-0.2,) * 2, nodata=0)
    measured = np.where(values > 0, values * 2.75e-5 - 0.2, np.nan).astype(np.float32)
    found = [read_pixels(one).for_model() for one in (path, write(tmp_path / "b.tif", measured))]
    assert [valid.tolist() for _, valid in found] == [[[False, True]]] * 2
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)
    counted = read_pixels(write(tmp_path / "c.tif", values)).for_model(missing_values=(0.0,))
    assert counted[1] is None  # without scale, a 0 may be a dark colour


def test_a_scaled_band_that_is_empty_is_zero(tmp_path):
    values = np.ones((30, 30, 2), np.int16)
    values[..., 1] = -32768
    path = write(tmp_path / "a.tif", values, (0.5,) * 2, (10.0,) * 2, nodata=-32768)
    found, valid = read_pixels(path).for_model()
    assert valid is None
    assert (found[0, 0].tolist(), found.dtype) == ([10.5, 0.0], np.float32)


@pytest.mark.parametrize("inside", [True, False])
def test_scale_and_offset_beside_a_tiff_are_those_of_gdal(tmp_path, inside):
    """GDAL takes both numbers of a band from the file beside the TIFF if it lists one of them, else from the TIFF."""
    import rasterio

    numbers = np.random.default_rng(0).integers(0, 900, (4, 5, 4)).astype(np.uint16)
    stored = ((2.0, 3.0, 4.0, 5.0), (1.0, 2.0, 3.0, 4.0)) if inside else (None, None)
    path = write(tmp_path / "a.tif", numbers, *stored)
    listed = {1: "<Scale>0.5</Scale>", 2: "<Offset>-3</Offset>", 3: "<Scale>0.25</Scale><Offset>7</Offset>", 4: ""}
    bands = "".join(f'<PAMRasterBand band="{band}">{text}</PAMRasterBand>' for band, text in listed.items())
    path.with_name("a.tif.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>", encoding="utf-8")
    with rasterio.open(path) as file:
        scales, offsets = np.array(file.scales, np.float32), np.array(file.offsets, np.float32)
    for place in (path, path / "window" / "0_0_4_5"):
        assert np.array_equal(read_pixels(place).measured, numbers * scales + offsets)
        assert read_kind(place).dtype == "float32"
    source = GeoTiffSource(path, 4)
    assert np.array_equal(whole(source).values, numbers * scales + offsets)
    source.close()
