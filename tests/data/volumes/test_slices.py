"""Slices of volumes: their paths, how they are seen, and their neighbours."""

from pathlib import Path

import numpy as np
import pytest

from atrous.data.file_of_picture import file_of_picture
from atrous.data.volumes.slices import (
    AXES,
    SlicePlace,
    is_volume,
    pictures_of,
    slice_place,
    volume_name,
    volume_stem,
    with_neighbours,
)
from atrous.errors import AtrousError


def test_a_path_names_a_slice_and_back():
    place = SlicePlace(Path("a/scan.nii.gz"), "coronal", 12)
    assert place.path == Path("a/scan.nii.gz/coronal/0012")
    assert slice_place(place.path) == place
    assert file_of_picture(place.path) == Path("a/scan.nii.gz")


@pytest.mark.parametrize(
    "path",
    ["scan.nii.gz", "scan.nii.gz/oblique/0001", "scan.nii.gz/axial/one", "a/axial/0001", "scan.nii/axial/٣", "x"],
)
def test_other_paths_are_no_slices(path):
    assert slice_place(Path(path)) is None
    assert file_of_picture(Path(path)) == Path(path)


def test_both_suffixes_are_one_stem():
    assert [volume_stem(Path(name)) for name in ("a.b.nii.gz", "a.b.NII", "a.b.png")] == ["a.b", "a.b", "a.b"]
    assert [is_volume(Path(name)) for name in ("a.nii.gz", "a.NII", "a.gz", "nii")] == [True, True, False, False]


def test_the_name_of_a_series_and_of_its_slices_is_that_of_its_folder(tmp_path):
    study = tmp_path / "LIDC.0001"
    study.mkdir()
    (tmp_path / "LIDC.0002.zip").touch()
    series = study / "1.2.840.55555.77"
    assert volume_name(study) == "LIDC.0001" and volume_name(tmp_path / "LIDC.0002.zip") == "LIDC.0002"
    assert volume_name(series) == f"LIDC.0001_{series.name[-8:]}"
    assert volume_name(study / "axial/0012") == "LIDC.0001_axial_0012"
    for name in ("a/scan.nii.gz", "a/scan_????.nii.gz"):
        assert [volume_name(Path(name) / part) for part in ("", "coronal/12")] == ["scan", "scan_coronal_0012"]


def test_slices_are_seen_as_radiologists_see_them():
    # one voxel at the patient's right, anterior, superior end
    volume = np.zeros((3, 4, 5), np.uint8)
    volume[2, 3, 4] = 1
    axial, coronal, sagittal = (pictures_of(volume, plane) for plane in ("axial", "coronal", "sagittal"))
    assert (axial.shape, coronal.shape, sagittal.shape) == ((5, 4, 3), (4, 5, 3), (3, 5, 4))
    assert axial[4, 0, 0] == 1  # anterior at the top, right at the left
    assert coronal[3, 0, 0] == 1  # superior at the top, right at the left
    assert sagittal[2, 0, 0] == 1  # superior at the top, anterior at the left


@pytest.mark.parametrize("plane", AXES)
def test_what_is_written_into_a_slice_is_in_the_volume(plane):
    volume = np.random.default_rng(0).integers(0, 9, (3, 4, 5, 2))
    copy = np.zeros_like(volume)
    pictures = pictures_of(copy, plane)
    for index, picture in enumerate(pictures_of(volume, plane)):
        pictures[index] = picture
    np.testing.assert_array_equal(copy, volume)


def test_neighbours_are_channels_and_ends_are_repeated():
    pictures = np.arange(4).reshape(4, 1, 1, 1) * 10 + np.arange(2).reshape(1, 1, 1, 2)
    assert with_neighbours(pictures, 0, 3)[0, 0].tolist() == [0, 1, 0, 1, 10, 11]
    assert with_neighbours(pictures, 2, 3)[0, 0].tolist() == [10, 11, 20, 21, 30, 31]
    assert with_neighbours(pictures, 3, 5)[0, 0].tolist() == [10, 11, 20, 21, 30, 31, 30, 31, 30, 31]
    assert with_neighbours(pictures, 1, 1)[0, 0].tolist() == [10, 11]
    with pytest.raises(AtrousError, match="slices 0 to 3"):
        with_neighbours(pictures, 4, 1)
