"""NRRD and MetaImage are read as NIfTI is: SimpleITK writes the same volume in each format."""

import json
from pathlib import Path

import numpy as np
import pytest

from atrous.data.doctor.examine import examine
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.skipped_files import passed_over_notes
from atrous.data.volumes.itk_files import SUFFIXES, read_itk
from atrous.data.volumes.nifti import read_nifti
from atrous.data.volumes.read_volume import read_volume, volume_shape
from atrous.data.volumes.slices import volume_name
from atrous.data.volumes.write_mask import write_volume_mask
from atrous.errors import AtrousError

pytest.importorskip("nibabel")
sitk = pytest.importorskip("SimpleITK", reason="SimpleITK of the extra medical is not installed")

CLASSES = ClassTable(("background", "a", "b"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), ((0,), (1,), (2,)))


def image(values, seed):
    """An ITK image of Z×Y×X values with a random orientation; every fourth one is oblique."""
    rng = np.random.default_rng(seed)
    directions = np.zeros((3, 3))
    directions[rng.permutation(3), range(3)] = rng.choice([-1, 1], 3)
    if seed % 4 == 3:
        directions = np.linalg.qr(directions + rng.normal(0, 0.2, (3, 3)))[0]
    found = sitk.GetImageFromArray(values, isVector=values.ndim == 4)
    found.SetDirection(directions.ravel().tolist())
    found.SetSpacing(rng.choice([0.5, 0.75, 1.25, 3.0], 3).tolist())
    found.SetOrigin(rng.integers(-200, 200, 3).astype(float).tolist())
    return found


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("packed", [False, True])
def test_a_volume_has_the_voxels_and_the_affine_of_its_nifti_file(tmp_path, suffix, seed, packed):
    dtype = (np.int16, np.uint8, np.float32, np.int32, np.float64, np.uint16, np.int8, np.uint32)[seed]
    values = np.random.default_rng(seed).integers(0, 100, (5, 4, 3)).astype(dtype)
    paths = [tmp_path / f"scan{end}" for end in (".nii.gz", suffix)]
    for path in paths:
        sitk.WriteImage(image(values, seed), path, useCompression=packed)
    nifti, found = read_nifti(paths[0]), read_itk(paths[1])
    np.testing.assert_array_equal(found.values, nifti.values)
    assert found.values.dtype == nifti.values.dtype and not found.notes
    np.testing.assert_allclose(found.stored.affine, nifti.stored.affine, rtol=0, atol=1e-9 if seed % 4 != 3 else 1e-4)
    assert found.grid.axes == "RAS" or seed % 4 == 3
    grid, contrasts = volume_shape(paths[1])
    assert contrasts == 1 and grid.shape == found.grid.shape
    np.testing.assert_array_equal(grid.affine, found.grid.affine)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_components_of_a_voxel_are_contrasts(tmp_path, suffix):
    values = np.random.default_rng(0).integers(0, 99, (5, 4, 3, 2)).astype(np.int16)
    sitk.WriteImage(image(values, 1), tmp_path / f"two{suffix}")
    for contrast in range(2):
        sitk.WriteImage(image(np.ascontiguousarray(values[..., contrast]), 1), tmp_path / f"one_{contrast:04d}{suffix}")
    joined, several = read_volume(tmp_path / f"two{suffix}"), read_volume(tmp_path / f"one_????{suffix}")
    np.testing.assert_array_equal(joined.values, several.values)
    assert volume_shape(tmp_path / f"two{suffix}")[1] == 2 == volume_shape(tmp_path / f"one_????{suffix}")[1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_mask_of_a_scan_is_nifti_on_its_grid(tmp_path, suffix):
    values = np.random.default_rng(0).integers(0, 99, (5, 4, 3)).astype(np.int16)
    scan = tmp_path / f"scan{suffix}"
    sitk.WriteImage(image(values, 2), scan)
    volume = read_volume(scan)
    labels = (volume.values[..., 0] % 3).astype(np.uint8)
    write_volume_mask(tmp_path / "mask.nii.gz", labels, scan, CLASSES, format="nifti", raw=False)
    mask = sitk.ReadImage(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), values % 3)
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(mask, name)(), getattr(sitk.ReadImage(scan), name)(), atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("layout", ["folder", "nnunet"])
def test_a_dataset_of_scans_and_masks(tmp_path, suffix, layout):
    images, masks = ("images", "masks") if layout == "folder" else ("imagesTr", "labelsTr")
    for folder in (images, masks):
        (tmp_path / folder).mkdir()
    for case in range(3):
        mask = np.random.default_rng(case).integers(0, 3, (5, 4, 3)).astype(np.uint8)
        end = "_0000" if layout == "nnunet" else ""
        sitk.WriteImage(image(mask.astype(np.int16) * 100, 1), tmp_path / images / f"case_{case}{end}{suffix}")
        sitk.WriteImage(image(mask, 1), tmp_path / masks / f"case_{case}{suffix}")
    if layout == "folder":
        (tmp_path / "classes.yaml").write_text("classes: [{name: background}, {name: a}, {name: b}]\n")
    else:
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1, "b": 2}}))
    dataset = open_dataset(tmp_path)
    assert not any("skipped" in note or "not used" in note for note in dataset.notes), dataset.notes
    for item in (item for part in dataset.splits.values() for item in part):
        sample = dataset.read(item)
        np.testing.assert_array_equal(sample.image[..., 0], sample.label * 100.0)
    found = examine(tmp_path)
    assert sum(found.images.values()) == 3 and not any(error.kind == "unreadable" for error in found.errors)


def test_the_voxels_beside_a_header_are_a_part_of_the_volume(tmp_path):
    for suffix in (".mhd", ".nhdr"):
        path = tmp_path / f"scan{suffix}"
        sitk.WriteImage(image(np.zeros((5, 4, 3), np.int16), 0), path)
        assert not read_volume(path).values.any() and not passed_over_notes([tmp_path])
        (tmp_path / "scan.raw").write_bytes(b"\1" * 120)
        assert (read_volume(path).values == 257).all()
        (tmp_path / "scan.raw").unlink()
        with pytest.raises(AtrousError, match=r"scan\.raw: no such file"):
            read_volume(path)
        text = path.read_bytes()
        for name in (b"../scan.raw", b"/etc/passwd", b"LIST", b"part%d.raw 1 2 1"):
            path.write_bytes(text.replace(b"scan.raw", name))
            with pytest.raises(AtrousError, match="must be in one file in the folder of the header"):
                read_volume(path)
        path.unlink()


def test_a_file_without_orientation_has_a_note_and_other_units_are_refused(tmp_path):
    base = "NRRD0004\ntype: int16\ndimension: 3\nsizes: 2 3 4\nencoding: raw\nendian: little\n"
    placed = "space: left-posterior-superior\nspace directions: (1,0,0) (0,2,0) (0,0,3)\n"
    path = tmp_path / "scan.nrrd"
    path.write_bytes(f"{base}spacings: 1 2 3\n\n".encode() + b"\0" * 48)
    (note,) = read_itk(path).notes
    assert "does not state its orientation" in note
    path.write_bytes(f'{base}{placed}space units: "m" "m" "m"\n\n'.encode() + b"\0" * 48)
    with pytest.raises(AtrousError, match="the unit of length is 'm', and only mm is read"):
        read_itk(path)
    path.write_bytes(f'{base}{placed}space units: "mm" "mm" "mm"\n\n'.encode() + b"\0" * 48)
    assert not read_itk(path).notes
    right = placed.replace("left-posterior", "right-anterior")
    path.write_bytes(f"{base}{right}space origin: (5,6,7)\n\n".encode() + b"\0" * 48)
    np.testing.assert_array_equal(
        read_itk(path).stored.affine, [[1, 0, 0, 5], [0, 2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]]
    )
    huge = base.replace("2 3 4", "20000 30000 4000")
    path.write_bytes(f"{huge}spacings: 1 2 3\n\n".encode() + b"\0" * 48)
    with pytest.raises(AtrousError, match=r"its header promises 4\.8e"):
        read_itk(path)
    path.write_bytes(f"{base}spacings: 1 2 3\ndata file: /etc/passwd\n\n".encode())
    with pytest.raises(AtrousError, match="the voxels are in another file"):
        read_itk(path)


@pytest.mark.parametrize("unit", ["cm", "um", "CM"])
def test_a_metaimage_in_another_unit_is_refused(tmp_path, unit):
    path = tmp_path / "scan.mha"
    sitk.WriteImage(image(np.zeros((5, 4, 3), np.int16), 0), path)
    content = path.read_bytes()
    for written in ("mm", "?"):
        path.write_bytes(content.replace(b"TransformMatrix", f"DistanceUnits = {written}\nTransformMatrix".encode()))
        assert read_itk(path).stored.shape == (3, 4, 5)
    path.write_bytes(content.replace(b"TransformMatrix", f"DistanceUnits = {unit}\nTransformMatrix".encode()))
    for read in (read_itk, volume_shape):
        with pytest.raises(AtrousError, match=f"the unit of length is '{unit}', and only mm is read"):
            read(path)


def test_a_metaimage_without_orientation_has_a_note(tmp_path):
    path = tmp_path / "scan.mha"
    sitk.WriteImage(image(np.zeros((5, 4, 3), np.int16), 0), path)
    content = path.read_bytes()
    for name, notes in ((b"TransformMatrix", 0), (b"Orientation", 0), (b"Comment", 1)):
        path.write_bytes(content.replace(b"TransformMatrix", name))
        found = read_itk(path).notes
        assert len(found) == notes and all("does not state its orientation" in note for note in found)


@pytest.mark.parametrize("unit", ["um", "cm", "m"])
def test_units_of_the_axes_of_an_nrrd_file_are_checked(tmp_path, unit):
    path = tmp_path / "scan.nrrd"
    base = "NRRD0005\ntype: int16\ndimension: 4\nsizes: 2 3 4 2\nencoding: raw\nendian: little\nspacings: 1 2 3 1\n"
    path.write_bytes(f'{base}units: "mm" "mm" "mm" "s"\n\n'.encode() + b"\0" * 96)
    assert read_itk(path).grid.spacing == (1, 2, 3)
    path.write_bytes(f'{base}units: "mm" "mm" "{unit}" ""\n\n'.encode() + b"\0" * 96)
    with pytest.raises(AtrousError, match=f"the unit of length is '{unit}'"):
        read_itk(path)


def test_directions_that_itk_does_not_convert_are_refused(tmp_path):
    """A space of time beside the patient's directions: ITK returns right, anterior as left, posterior."""
    path = tmp_path / "scan.nrrd"
    base = "NRRD0005\ntype: int16\ndimension: 4\nsizes: 2 3 4 2\nencoding: raw\nendian: little\n"
    placed = "space directions: (1,0,0,0) (0,2,0,0) (0,0,3,0) (0,0,0,1)\n"
    for space in ("right-anterior-superior-time", "RAST", "left-anterior-superior-time"):
        path.write_bytes(f"{base}space: {space}\n{placed}\n".encode() + b"\0" * 96)
        with pytest.raises(AtrousError, match="anterior-superior-time, which is not read"):
            read_itk(path)
    path.write_bytes(f"{base}space: left-posterior-superior-time\n{placed}\n".encode() + b"\0" * 96)
    assert not read_itk(path).notes
    np.testing.assert_array_equal(np.diag(read_itk(path).stored.affine), [-1, -2, 3, 1])


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_the_voxel_file_may_be_named_with_the_folder_of_the_header(tmp_path, suffix):
    path = tmp_path / f"scan{suffix}"
    values = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    sitk.WriteImage(image(values, 0), path)
    expected = read_itk(path).values
    path.write_bytes(path.read_bytes().replace(b"scan.raw", b"./scan.raw"))
    np.testing.assert_array_equal(read_itk(path).values, expected)


def test_the_message_on_a_short_metaimage_names_no_success(tmp_path):
    path = tmp_path / "scan.mha"
    sitk.WriteImage(image(np.ones((5, 4, 3), np.int16), 0), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(AtrousError, match=r"damaged or not in the format of its suffix: .*cannot be read") as error:
        read_itk(path)
    assert "Reason" not in str(error.value)


@pytest.mark.parametrize("layout", ["folder", "nnunet"])
def test_masks_with_the_name_of_3d_slicer_belong_to_their_scan(tmp_path, layout):
    images, masks, end = ("images", "masks", "") if layout == "folder" else ("imagesTr", "labelsTr", "_0000")
    for folder in (images, masks):
        (tmp_path / folder).mkdir()
    for case in range(2):
        mask = np.random.default_rng(case).integers(0, 3, (5, 4, 3)).astype(np.uint8)
        sitk.WriteImage(image(mask.astype(np.int16) * 100, 1), tmp_path / images / f"case_{case}{end}.nrrd")
        sitk.WriteImage(image(mask, 1), tmp_path / masks / f"case_{case}.seg.nrrd")
    dataset = open_dataset(tmp_path, classes=CLASSES)
    items = [item for part in dataset.splits.values() for item in part]
    assert items
    for item in items:
        sample = dataset.read(item)
        np.testing.assert_array_equal(sample.image[..., 0], sample.label * 100.0)
    assert not dataset.masks_without_image


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_damaged_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"scan{suffix}"
    with pytest.raises(AtrousError, match="no such file"):
        read_itk(tmp_path / f"none{suffix}")
    for packed in (False, True):
        values = np.random.default_rng(0).integers(0, 999, (5, 4, 3)).astype(np.int16)
        sitk.WriteImage(image(values, 0), path, useCompression=packed)
        content = path.read_bytes()
        for cut in [*range(0, len(content) - 120, 31), len(content) - 60, len(content) - 20]:
            path.write_bytes(content[:cut])
            with pytest.raises(AtrousError):
                read_itk(path)
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((5, 4, 3), np.complex64)), tmp_path / "complex.nrrd")
    with pytest.raises(AtrousError, match="only whole numbers and real numbers are read"):
        read_itk(tmp_path / "complex.nrrd")
    assert volume_name(Path(f"a/scan.b{suffix.upper()}")) == "scan.b"
