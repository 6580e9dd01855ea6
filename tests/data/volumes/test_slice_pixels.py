"""Slices as the input of a model: the normalisation of the whole volume, missing values, masks."""

import numpy as np
import pytest

from atrous.data.pictures import read_kind, read_mask, read_pixels
from atrous.data.sources.scene_files import read_input
from atrous.data.volumes.read_volume import read_volume
from atrous.data.volumes.slices import SlicePlace, pictures_of
from atrous.errors import AtrousError
from atrous.input_spec import Input

nibabel = pytest.importorskip("nibabel")


def saved(path, values):
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


def spec(slices=1, contrasts=1, **more):
    channels = slices * contrasts
    return Input((0.0,) * channels, (1.0,) * channels, dtype="float32", slices=slices, planes=("axial",), **more)


def test_the_readers_of_pictures_read_slices(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    path = SlicePlace(saved(tmp_path / "scan.nii.gz", values), "axial", 2).path
    expected = pictures_of(values, "axial")[2]
    np.testing.assert_array_equal(read_pixels(path).values[..., 0], expected)
    assert (read_kind(path).channels, read_kind(path).dtype) == (1, "float32")
    labels = (values > 0).astype(np.int16) * 300
    path = SlicePlace(saved(tmp_path / "mask.nii", labels), "coronal", 1).path
    np.testing.assert_array_equal(read_mask(path).values, pictures_of(labels, "coronal")[1])


def test_masks_of_whole_floats_are_read_and_fractions_refused(tmp_path):
    path = SlicePlace(saved(tmp_path / "mask.nii", np.full((2, 2, 2), 3.0, np.float32)), "axial", 0).path
    assert read_mask(path).values.tolist() == [[3, 3], [3, 3]]
    path = SlicePlace(saved(tmp_path / "soft.nii", np.full((2, 2, 2), 0.5, np.float32)), "axial", 0).path
    with pytest.raises(AtrousError, match="fractions"):
        read_mask(path)


LARGE = [2**24, 2**24 + 1, 2**31 - 1]


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64])
def test_integers_of_masks_are_exact(tmp_path, dtype):
    labels = np.zeros((2, 2, 2), dtype)
    labels[0, 0, 0], labels[1, 0, 0], labels[1, 1, 0] = LARGE
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4), dtype=dtype), tmp_path / "mask.nii")
    assert sorted(read_mask(SlicePlace(tmp_path / "mask.nii", "axial", 0).path).values.ravel().tolist()) == [0, *LARGE]


@pytest.mark.parametrize("number", LARGE)
@pytest.mark.parametrize("kind", ["float32", "float64", "scaled"])
def test_a_mask_whose_numbers_may_be_rounded_is_refused(tmp_path, number, kind):
    labels = np.full((2, 2, 2), number, np.int32 if kind == "scaled" else kind)
    image = nibabel.Nifti1Image(labels, np.eye(4))
    content = bytearray(image.to_bytes())
    if kind == "scaled":
        content[112:120] = np.array([1, 1], "<f4").tobytes()
    (tmp_path / "mask.nii").write_bytes(content)
    with pytest.raises(AtrousError, match=r"mask\.nii: the mask holds numbers of 16777216 or more"):
        read_mask(SlicePlace(tmp_path / "mask.nii", "axial", 0).path)


def test_a_missing_value_is_a_number_and_not_its_remainder_in_a_small_type(tmp_path):
    values = np.full((2, 2, 2), 255, np.uint8)
    values[0, 0, 0] = 7
    volume = read_volume(saved(tmp_path / "scan.nii", values))
    assert volume.valid((-1,)).all() and volume.valid((263, -249)).all()
    assert np.argwhere(~volume.valid((7,))).tolist() == [[0, 0, 0]]


def test_a_volume_is_standardised_by_its_voxels_that_are_not_zero(tmp_path):
    values = np.random.default_rng(0).normal(500, 40, size=(6, 6, 6)).astype(np.float32)
    values[:3] = 0  # air
    path = saved(tmp_path / "scan.nii", values)
    parts = [read_input(SlicePlace(path, "axial", z).path, spec(normalize="per_image")).values for z in range(6)]
    inside = np.stack(parts)[np.stack([pictures_of(values, "axial")[z] for z in range(6)])[..., None] != 0]
    assert abs(inside.mean()) < 1e-4 and abs(inside.std() - 1) < 1e-4


def test_neighbours_of_each_contrast_are_channels(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    path = SlicePlace(saved(tmp_path / "scan.nii", values), "axial", 0).path
    found = read_input(path, spec(slices=3, contrasts=2)).values
    seen = pictures_of(values, "axial")
    np.testing.assert_array_equal(found, np.concatenate([seen[0], seen[0], seen[1]], axis=2))
    with pytest.raises(AtrousError, match="2 contrasts, and the model takes 1"):
        read_input(path, spec(slices=3))


@pytest.mark.parametrize(
    ("contrasts", "slices", "takes", "message"),
    [
        (
            2,
            3,
            1,
            r"scan\.nii: the volume has 2 contrasts, and the model takes 1: a fourth dimension is read as contrasts",
        ),
        (3, 3, 1, r"has 3 contrasts, and the model takes 1: .* one point in time, as a 3-D file"),
        (
            1,
            1,
            3,
            r"has 1 contrast, and the model takes 3: give the 3 contrasts .* case_0000.nii.gz to case_0002.nii.gz",
        ),
        (2, 1, 3, r"has 2 contrasts, and the model takes 3: give the 3 contrasts"),
    ],
)
def test_a_wrong_number_of_contrasts_is_told_from_the_number_of_slices(tmp_path, contrasts, slices, takes, message):
    path = saved(tmp_path / "scan.nii", np.ones((3, 3, 3, contrasts), np.float32))
    with pytest.raises(AtrousError, match=message):
        read_input(SlicePlace(path, "axial", 1).path, spec(slices, takes))


def test_a_model_of_pictures_says_that_channels_are_no_contrasts(tmp_path):
    path = saved(tmp_path / "scan.nii", np.ones((3, 3, 3), np.float32))
    with pytest.raises(
        AtrousError, match="the volume has 1 contrast, and the model takes 3: it was trained on pictures"
    ):
        read_input(SlicePlace(path, "axial", 1).path, Input((0.0,) * 3, (1.0,) * 3))


def test_voxels_without_a_number_hold_no_data(tmp_path):
    values = np.ones((3, 3, 3), np.float32)
    values[0, 0, 1] = np.nan
    values[1, 1, 1] = -2000
    path = saved(tmp_path / "scan.nii", values)
    found = read_input(SlicePlace(path, "axial", 1).path, spec(missing=(-2000,)))
    assert found.valid is not None and (~found.valid).sum() == 2
    assert np.isfinite(found.values).all()
    assert read_input(SlicePlace(path, "axial", 0).path, spec()).valid is None


def test_a_slice_beyond_the_end_is_refused(tmp_path):
    path = saved(tmp_path / "scan.nii", np.ones((3, 3, 3), np.float32))
    with pytest.raises(AtrousError, match=r"scan\.nii: there is no slice 3"):
        read_pixels(SlicePlace(path, "axial", 3).path)


def test_a_changed_file_is_read_again(tmp_path):
    path = saved(tmp_path / "scan.nii", np.ones((3, 3, 3), np.float32))
    slice_ = SlicePlace(path, "axial", 1).path
    assert read_pixels(slice_).values.max() == 1
    saved(path, np.full((3, 3, 4), 2, np.float32))
    assert read_pixels(slice_).values.max() == 2


def test_padding_is_in_no_statistic(tmp_path):
    values = np.random.default_rng(0).normal(500, 40, size=(6, 6, 6)).astype(np.float32)
    values[:3] = -2000
    path = saved(tmp_path / "scan.nii", values)
    one = spec(normalize="per_image", missing=(-2000,))
    found = read_input(SlicePlace(path, "axial", 2).path, one)
    assert found.valid is not None and abs(found.values[found.valid].mean()) < 0.5


def test_a_mask_of_floats_has_no_class_where_it_is_nan(tmp_path):
    values = np.zeros((2, 2, 2), np.float32)
    values[0, 0, 0] = np.nan
    mask = read_mask(SlicePlace(saved(tmp_path / "mask.nii", values), "axial", 0).path)
    assert (mask.values == mask.nodata).sum() == 1
