import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import atrous
from atrous.data.pixels import to_depth
from atrous.data.sources.array import ArraySink, ArraySource
from atrous.errors import AtrousError
from atrous.inference.segmenter import Segmenter
from atrous.inference.value_range import (
    PictureWarning,
    distance_in_std,
    doubt,
    doubt_of_medians,
    medians_of,
    scale_range,
)
from atrous.models.info import Preprocessing


def model(dtype="uint8", mean=128.0, std=60.0):
    torch.manual_seed(0)
    made = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_050", num_classes=3).eval()
    made.info = replace(made.info, preprocessing=Preprocessing.of_pictures((mean,) * 3, (std,) * 3, dtype=dtype))
    return made


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


def segmenter(made, **options):
    return Segmenter(made, engine="torch", device="cpu", precision="float32", **options)


def test_depth_is_kept_where_it_fits_and_rounds_where_not():
    values = np.array([[[0, 256, 257, 65535]]], np.uint16)
    assert to_depth(values, "uint16") is values
    assert to_depth(values, "float32").dtype == np.float32
    assert np.array_equal(to_depth(values, "float32"), values)
    assert to_depth(values, "uint8").tolist() == [[[0, 1, 1, 255]]]
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert np.array_equal(to_depth(to_depth(every, "uint16"), "uint8"), every)
    with pytest.raises(AtrousError, match="--range LOW,HIGH"):
        to_depth(values.astype(np.float32), "uint8")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("wanted", ["uint8", "uint16"])
def test_a_range_becomes_the_models_whole_range(dtype, wanted):
    image = np.array([[[10, 12, 60, 110, 200]]], dtype)
    most = np.iinfo(wanted).max
    expected = np.rint(np.array([0, 0.02 * most, 0.5 * most, most, most]))
    found = scale_range(image, (10, 110), wanted)
    assert found.dtype == wanted
    assert np.abs(found.astype(float)[0, 0] - expected).max() <= 1


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_few_bits_in_16_are_said_and_the_range_proposed_gives_the_8_bit_picture(picture, bits):
    made, most = model(), 2**bits - 1
    deep = np.rint(picture / 255 * most).astype(np.uint16)
    with pytest.warns(PictureWarning, match=f"--range 0,{most}"):
        segmenter(made)(deep)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled = segmenter(made, range=(0, most))
        assert np.array_equal(scaled.preparation.prepare(deep), picture)
        assert np.array_equal(scaled(deep).mask, segmenter(made)(picture).mask)


def test_a_doubt_is_said_once_by_each_segmenter(picture):
    one = segmenter(model())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        one(picture.astype(np.uint16))
        one(picture.astype(np.uint16) * 3)
    assert len(said) == 1


@pytest.mark.slow
def test_whole_16_bits_and_pictures_of_the_models_own_type_are_beyond_doubt(picture):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segmenter(model())(picture.astype(np.uint16) * 257)
        segmenter(model())(picture)
        segmenter(model("uint16", 2000.0, 500.0))(picture.astype(np.uint16))
        segmenter(model("uint16", 30000.0, 15000.0))(picture)
        segmenter(model("float32", 0.5, 0.2))(picture.astype(np.float32) / 255)


def test_8_bit_pictures_for_a_model_of_12_bits_are_said(picture):
    with pytest.warns(PictureWarning, match="reached about 3500"):
        segmenter(model("uint16", 2000.0, 500.0))(picture)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_whole_numbers_for_a_model_of_floats_are_said_and_taken_as_they_are(picture, dtype):
    one = segmenter(model("float32", 0.5, 0.2))
    with pytest.warns(PictureWarning, match=r"taken as they are.*mean 0\.5"):
        mask = one(picture.astype(dtype)).mask
    assert np.array_equal(mask, one(picture.astype(np.float32)).mask)


def test_windows_are_judged_by_the_largest_value_of_all(picture):
    one = segmenter(model(), tile=256)
    deep = np.zeros((300, 300, 3), np.uint16)
    deep[:40, :56] = picture
    with pytest.warns(PictureWarning, match="--range 0,255"):
        one.windows(ArraySource(deep), ArraySink(300, 300))
    deep[-1, -1] = 65535  # in the last window only
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segmenter(model(), tile=256).windows(ArraySource(deep), ArraySink(300, 300))


@pytest.mark.parametrize("given", [(5, 5), (9, 1), (0,), (0, 1, 2), (0, float("nan"))])
def test_ranges_that_are_none_are_refused(given):
    with pytest.raises(AtrousError, match=r"two numbers, the lower first|range must be a number, got NaN"):
        segmenter(model(), range=given)


def test_a_range_for_a_model_of_floats_is_refused():
    with pytest.raises(AtrousError, match="trained on float32 pictures"):
        segmenter(model("float32"), range=(0, 1))


def test_an_empty_doubt_is_none():
    assert doubt("uint16", 0, Preprocessing.of_pictures((1.0,), (1.0,))) is None


def test_medians_are_those_of_finite_pixels_with_data():
    image = np.array([[[1, np.nan], [2, np.nan]], [[9, np.nan], [-9999, 5]]], np.float32)
    valid = np.array([[True, True], [True, False]])
    assert medians_of(image, valid)[0] == 2 and np.isnan(medians_of(image, valid)[1])
    assert medians_of(image)[1] == 5


@pytest.mark.parametrize(
    ("value", "far"), [(2500, True), (-9999, True), (0, False), (1, False), (5.2, False), (5.3, True)]
)
def test_values_far_outside_the_training_are_doubtful(value, far):
    preprocessing = Preprocessing.of_pictures((0.25,) * 3, (0.05,) * 3, dtype="float32")  # 0.25 + 100 · 0.05 = 5.25
    medians = (float(value),) * 3
    assert distance_in_std(medians, preprocessing) == pytest.approx(abs(value - 0.25) / 0.05)
    found = doubt_of_medians(medians, preprocessing)
    assert (found is not None) == far
    assert found is None or "had the mean 0.25, 0.25, 0.25 and the standard deviation 0.05" in found
    assert doubt_of_medians((0.2, 0.3, 1e6), preprocessing) is None  # one unusual channel
    assert doubt_of_medians((float("nan"),) * 3, preprocessing) is None
    assert doubt_of_medians(medians, Preprocessing.of_pictures((0.25,) * 3, (0.05,) * 3, dtype="uint16")) is None


@pytest.mark.parametrize("how", ["picture", "windows"])
def test_a_file_that_lost_its_scale_is_warned_of_once(how):
    made = segmenter(model("float32", mean=0.25, std=0.05), tile=64)

    def run(image):
        if how == "picture":
            made(image)
        else:
            made.windows(ArraySource(image), ArraySink(40, 56))

    lost = np.full((40, 56, 3), 2500, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PictureWarning)
        run(lost / 1e4)
        run(lost * 0)
    with pytest.warns(PictureWarning, match="values far outside .*: the median of the channels is 2.5e"):
        run(lost)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PictureWarning)
        run(lost)
