"""The bands of a raster are found by name or wavelength, wherever the file has them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.data.pictures import read_pixels
from atrous.data.rasters.band_names import (
    agreed_names,
    bands_to_read,
    checked_names,
    descriptions_in_metadata,
    shared_names,
    wavelengths_in,
)
from atrous.data.sources.geotiff import GeoTiffSource
from atrous.data.sources.scene_files import read_input
from atrous.data.sources.source import Window
from atrous.errors import AtrousError
from atrous.input_spec import Input

rasterio = pytest.importorskip("rasterio")

NAMES = ("B2", "B3", "B4", "B8")


def write(path, values, names, **more):
    """Writes a raster, H×W×C, with descriptions of its bands."""
    height, width, count = values.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": values.dtype, **more}
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(values.transpose(2, 0, 1))
        raster.descriptions = names
    return path


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=20)  # each writes a file
@given(order=st.permutations(range(4)), planar=st.booleans())
def test_the_order_of_bands_in_a_file_changes_nothing(tmp_path_factory, order, planar):
    values = np.random.default_rng(0).integers(1, 1000, (9, 7, 4)).astype(np.uint16)
    path = tmp_path_factory.mktemp("bands") / "scene.tif"
    kind = {"interleave": "band" if planar else "pixel"}
    write(path, values[:, :, order], [NAMES[band] for band in order], **kind)
    one = Input((0.0,) * 4, (1.0,) * 4, dtype="uint16", bands=tuple(name.lower() for name in NAMES))
    assert np.array_equal(read_input(path, one).values, values)
    source = GeoTiffSource(path, 4, names=one.bands)
    assert np.array_equal(source.read(Window(2, 1, 5, 4)).values, values[2:7, 1:5])
    source.close()


@pytest.mark.filterwarnings("ignore")
def test_a_file_without_one_of_the_bands_is_refused(tmp_path):
    values = np.ones((4, 4, 3), np.uint16)
    path = write(tmp_path / "scene.tif", values, ["B2", "B3", "B11"])
    one = Input((0.0,) * 3, (1.0,) * 3, dtype="uint16", bands=("B2", "B3", "B4"))
    with pytest.raises(AtrousError, match=r"scene.tif: the bands B2, B3, B4 are needed, and the file has B2, B3"):
        read_input(path, one)
    with pytest.raises(AtrousError, match="B11"):
        GeoTiffSource(path, 3, names=one.bands)


def test_wavelengths_choose_the_nearest_bands():
    names = ["band 1 (418.24 Nanometers)", "band 2 (0.5521 micrometers)", "red (660 nm)", "nir (842 nm)"]
    assert wavelengths_in(names) == (418.24, 552.1, 660.0, 842.0)
    assert bands_to_read(names, (), (655, 550), 4) == [2, 1]
    assert bands_to_read(names, ("nir (842 nm)",), (418,), 4) == [3]  # a name is more certain
    assert bands_to_read([*names, "mask"], (), (655, 550), 5) == [2, 1]
    with pytest.raises(AtrousError, match=r"the bands 600 nm are needed"):
        bands_to_read(names, (), (600,), 4)
    with pytest.raises(AtrousError, match="nearest to one band"):
        bands_to_read(names, (), (655, 662), 4)


def test_names_that_state_positions_choose_nothing():
    assert bands_to_read(["Band 1", "Band 2"], ("red", "nir"), (), 2) is None
    assert bands_to_read([], ("red", "nir"), (), 2) is None
    assert bands_to_read(["Band 1", "Band 2"], (), (), 2) is None
    assert shared_names([["band_1", "band_2"], ["band_1", "band_2"]]) == ()
    for names in ([], ["Band 1", "Band 2", "Band 3"]):
        with pytest.raises(AtrousError, match="3 bands without names, so it is not certain which to take"):
            bands_to_read(names, ("red", "nir"), (), 3)


def test_names_of_satellites_are_names():
    assert shared_names([["B1", "B2"], ["B2", "B1"]]) == ("B1", "B2")
    assert bands_to_read(["B2", "B1"], ("B1", "B2"), (), 2) == [1, 0]
    assert bands_to_read(["B4", "", "B2"], ("B2", "B4"), (), 3) == [2, 0]  # one band has no name
    with pytest.raises(AtrousError, match="the file has B4, one without a name"):
        bands_to_read(["B4", ""], ("B2", "B4"), (), 2)


def test_shared_names_are_in_the_order_of_the_first_file():
    assert shared_names([["B8", "B2", "B3"], ["b3", "B8", "B4"]]) == ("B8", "B3")
    assert shared_names([["B8"], []]) == ()
    assert shared_names([["B8"], ["1"]]) == ()


def test_only_names_that_occur_twice_are_lost():
    names = checked_names(("B4", "B3", None, "B2", "QA", "qa "))
    assert names == ("B4", "B3", "", "B2", "", "")
    assert checked_names(("QA", "QA", None)) == checked_names((None,)) == ()
    assert bands_to_read(names, ("B2", "B3", "B4"), (), 6) == [3, 1, 0]
    assert bands_to_read(("", ""), ("B2", "B3"), (), 2) is None
    with pytest.raises(AtrousError, match="has B4, B3, one without a name of its own, B2"):
        bands_to_read(names, ("QA",), (), 6)
    found, notes = agreed_names([("a", ("B2", "B3", "B4")), ("b", names)], None)
    assert found == ("B2", "B3", "B4") and len(notes) == 1 and "such as 3 of 6 bands in b" in notes[0]


A, B = ("a", ("B2", "B3", "B4")), ("b", ("B4", "B3", "B2"))


@pytest.mark.parametrize(
    ("files", "channels", "names", "note"),
    [
        ([A, B], None, ("B2", "B3", "B4"), None),
        ([A, B], 2, ("B2", "B3"), None),
        ([A, ("b", ("b4", "B2"))], None, ("B2", "B4"), "some files lack them: B3."),
        ([A, ("b", ("B2", "B3", "B4", "B8"))], 4, (), None),  # the first bands are the same
        (
            [A, ("b", ()), ("c", ("1", "2", "3"))],
            None,
            (),
            "2 of 3 files have no names.* order, which is B2, B3, B4 in a",
        ),
        ([("a", ()), ("b", ("Band 1", "Band 2"))], None, (), None),
        ([("a", ("height",)), ("b", ("elevation",))], None, (), None),  # one band has no order
        ([("a", ("x (650 nm)", "y (700 nm)")), ("b", ("x (650.5 nm)", "y (701 nm)"))], None, (), None),
    ],
)
def test_names_that_all_files_have_decide(files, channels, names, note):
    found, notes = agreed_names(files, channels)
    assert found == names
    assert (not notes) if note is None else re.search(note, *notes)


@pytest.mark.parametrize(
    ("files", "channels", "message"),
    [
        ([A, B, ("c", ())], None, "no names in common: a has B2, B3, B4, b has B4, B3, B2, c has no names. Write"),
        ([A, ("b", ("red", "green", "blue"))], None, "a has B2, B3, B4, b has red, green, blue. Write"),
        ([("d", ()), A, B], 3, "d has no names"),
        ([A, ("b", ("B4", "B3", "SCL"))], 3, "share only the names B3, B4, and the model takes 3 channels: a has"),
    ],
)
def test_names_that_contradict_each_other_are_refused(files, channels, message):
    with pytest.raises(AtrousError, match=message):
        agreed_names(files, channels)


def test_descriptions_need_one_per_band():
    one = '<Item name="DESCRIPTION" sample="{}" role="description">{}</Item>'
    text = f"<GDALMetadata>{one.format(0, 'a &amp; b')}{one.format(1, 'c')}</GDALMetadata>"
    assert checked_names(descriptions_in_metadata(text, 2)) == ("a & b", "c")
    assert checked_names(descriptions_in_metadata(text, 3)) == ("a & b", "c", "")
    assert (
        checked_names(descriptions_in_metadata(text.replace("&amp; b", "").replace("a ", "c"), 2)) == ()
    )  # the same name twice
    assert checked_names(descriptions_in_metadata(text.replace("&amp; b", "").replace("a ", "c"), 3)) == ()
    assert checked_names(descriptions_in_metadata("<GDALMetadata/>", 1)) == ()


@pytest.mark.filterwarnings("ignore")
def test_gdals_own_descriptions_are_read(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 6, 3)).astype(np.float32)
    pixels = read_pixels(write(tmp_path / "a.tif", values, ["VV", "VH", "Höhe <m>"]))
    assert pixels.names == ("VV", "VH", "Höhe <m>")
    assert pixels.choosing([2, 0]).names == ("Höhe <m>", "VV")


@pytest.mark.filterwarnings("ignore")
def test_bands_of_jpeg_2000_are_found_by_name_on_every_path(tmp_path):
    values = np.random.default_rng(0).integers(0, 3000, (20, 30, 4)).astype(np.uint16)
    options = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    with rasterio.open(tmp_path / "a.jp2", "w", height=20, width=30, count=4, dtype="uint16", **options) as raster:
        raster.write(values.transpose(2, 0, 1))
        raster.descriptions = ("B8", "B4", "B3", "B2")
    one = Input((0.0,) * 3, (1.0,) * 3, dtype="uint16", bands=("B2", "B3", "B4"))
    expected = values[:, :, [3, 2, 1]]
    assert np.array_equal(read_input(tmp_path / "a.jp2", one).values, expected)
    assert np.array_equal(read_input(tmp_path / "a.jp2/window/0_0_20_30", one).values, expected)
    source = GeoTiffSource(tmp_path / "a.jp2", 3, names=one.bands)
    assert np.array_equal(source.read(Window(0, 0, 20, 30)).values, expected)
    source.close()


def test_hyperspectral_tiles_are_read_by_wavelength(shared):
    path = sorted((shared / "data/enmap_potsdam/images").glob("*.tif"))[0]
    one = Input((0.0,) * 3, (1.0,) * 3, dtype="float32", wavelengths=(660, 560, 490))
    values = read_input(path, one).values
    everything = read_pixels(path)
    own = np.array(wavelengths_in(everything.names))
    bands = [int(np.abs(own - wavelength).argmin()) for wavelength in (660, 560, 490)]
    assert np.array_equal(values, everything.values[:, :, bands])
