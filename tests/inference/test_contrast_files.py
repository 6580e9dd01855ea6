"""Contrasts in several files, as nnU-Net stores them, are one volume: in datasets, in training and in prediction."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import atrous
from atrous.commands.doctor import doctor
from atrous.commands.evaluate import evaluate
from atrous.commands.predict import predict
from atrous.data.doctor.examine import examine
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.volumes.contrast_files import place_of_contrasts
from atrous.data.volumes.grid import Grid
from atrous.data.volumes.read_volume import read_volume, volume_shape
from atrous.data.volumes.slice_pixels import volume_pixels
from atrous.data.volumes.slices import pictures_of
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError, SomeInputsFailed
from atrous.inference.segment_volume import segment_volume
from atrous.inference.segmenter import Segmenter
from atrous.input_spec import Input
from atrous.learning.fit import fit
from atrous.learning.recipe import to_recipe
from atrous.models.info import Preprocessing

nibabel = pytest.importorskip("nibabel")

OPTIONS = {"engine": "torch", "device": "cpu", "precision": "float32"}


def random_affine(rng):
    affine = np.zeros((4, 4))
    affine[rng.permutation(3), range(3)] = rng.choice([-1, 1], 3) * rng.uniform(0.5, 4, 3)
    affine[:3, 3], affine[3, 3] = rng.normal(0, 50, 3), 1
    return affine


def reoriented(image, axes):
    target = nibabel.orientations.axcodes2ornt(axes)
    return image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), target))


def write_case(folder, name, contrasts=2, seed=0, shape=(6, 7, 8)):
    """Writes the contrasts of a volume, each with another orientation and type; returns them as one image."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    values = rng.normal(100, 30, (*shape, contrasts)).round().clip(0, 255).astype(np.int16)
    affine = random_affine(rng)
    for contrast, axes in zip(range(contrasts), ("RAS", "LPS", "SAR", "PIL"), strict=False):
        dtype = (np.float32, np.int16, np.int32, np.uint8)[contrast]
        image = nibabel.Nifti1Image(values[..., contrast].astype(dtype), affine)
        nibabel.save(reoriented(image, axes), folder / f"{name}_{contrast:04d}.nii.gz")
    return reoriented(nibabel.Nifti1Image(values.astype(np.float32), affine), "RAS")


def nnunet(root, names=("PET", "CT"), cases=4):
    for case in range(cases):
        joined = write_case(root / "imagesTr", f"case_{case}", len(names), seed=case)
        mask = np.random.default_rng(case).integers(0, 2, joined.shape[:3]).astype(np.uint8)
        (root / "labelsTr").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(mask, joined.affine), root / f"labelsTr/case_{case}.nii.gz")
    record = {"channel_names": {str(index): name for index, name in enumerate(names)}}
    (root / "dataset.json").write_text(json.dumps({**record, "labels": {"background": 0, "a": 1}}))
    return root


@pytest.fixture(scope="module")
def model(make_model, tmp_path_factory):
    """A file of a model of two contrasts and three slices; the first contrast is normalised in each volume."""
    path = tmp_path_factory.mktemp("model") / "two.safetensors"
    made = make_model("deeplabv3plus", backbone="mobilenetv2_050", in_channels=6)
    mean, std, window = (0.0, 90.0) * 3, (1.0, 30.0) * 3, (None, (50.0, 120.0))
    one = Input(mean, std, dtype="float32", normalize="window", window=window, slices=3, planes=("axial",))
    made.info = replace(made.info, preprocessing=Preprocessing((one,)))
    atrous.save(made, path)
    return path


@pytest.mark.parametrize("seed", range(4))
def test_files_of_any_orientation_are_one_volume(tmp_path, seed):
    joined = write_case(tmp_path, "case", 4, seed)
    place = tmp_path / "case_????.nii.gz"
    volume = read_volume(place)
    np.testing.assert_array_equal(volume.values, joined.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(volume.grid.affine, joined.affine, atol=1e-4)
    grid, contrasts = volume_shape(place)
    assert contrasts == 4 and grid.shape == volume.grid.shape and volume.values.dtype == np.float32


@pytest.mark.parametrize("seed", range(3))
def test_voxels_without_data_are_the_mean_in_every_channel_of_a_window(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(-500, 50, (5, 6, 7, 2)).astype(np.float32)
    lost = rng.random(values.shape) < 0.1
    values[lost] = np.nan
    mean, window = (-480.0, -520.0) * 3, ((-1000.0, 0.0), (-900.0, 0.0))
    one = Input(mean, (50.0,) * 6, dtype="float32", normalize="window", window=window, slices=3, planes=("axial",))
    volume = Volume(values, Grid((5, 6, 7), np.diag([*rng.uniform(0.5, 3, 3), 1])))
    found, valid = volume_pixels(volume, "axial", 3, one)
    near = np.concatenate([pictures_of(lost, "axial")[index] for index in (2, 3, 4)], axis=2)
    np.testing.assert_array_equal(found[near], np.broadcast_to(mean, found.shape)[near].astype(np.float32))
    np.testing.assert_array_equal(valid, ~near[..., 2:4].any(axis=2))


def test_names_of_contrasts():
    assert place_of_contrasts(Path("a/case_1_0003.NII.GZ")) == Path("a/case_1_????.NII.GZ")
    for name in ("case.nii.gz", "case_001.nii", "case_00001.nii.gz", "case_0001.png", "_0001.nii"):
        assert place_of_contrasts(Path(name)) is None


@pytest.mark.parametrize("changed", ["shape", "affine"])
def test_contrasts_on_another_grid_are_refused_with_both_grids(tmp_path, changed):
    nnunet(tmp_path)
    path = tmp_path / "imagesTr/case_1_0001.nii.gz"
    image = nibabel.load(path)
    values, affine = np.asanyarray(image.dataobj), image.affine
    values, affine = (values[1:] if changed == "shape" else values), affine.copy()
    if changed == "affine":
        affine[0, 3] += 10
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    with pytest.raises(
        AtrousError, match=r"case_1_0001\.nii\.gz is not on the grid of .*case_1_0000\.nii\.gz.*affine \[.*affine \["
    ):
        open_dataset(tmp_path)


@pytest.mark.parametrize("picture", ["z_0000.png", "z.png"])
def test_volumes_and_pictures_in_one_folder_are_refused(tmp_path, picture):
    write_case(tmp_path / "imagesTr", "case", 1)
    (tmp_path / "labelsTr").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "labelsTr/case.nii.gz")
    if picture == "z_0000.png":  # no volume has a channel number
        (tmp_path / "imagesTr/case_0000.nii.gz").rename(tmp_path / "imagesTr/case.nii.gz")
    Image.new("L", (4, 4)).save(tmp_path / "imagesTr" / picture)
    table = ClassTable(("background", "a"), ((0, 0, 0), (1, 1, 1)), ((0,), (1,)))
    with pytest.raises(AtrousError, match=rf"mixes volumes and pictures, such as case.* and {picture}. Move"):
        open_dataset(tmp_path, classes=table)


@pytest.mark.parametrize("names", [("PET", "CT"), ("PET",)])
def test_files_without_a_channel_number_are_noted(tmp_path, names):
    nnunet(tmp_path, names)
    shutil.copy(tmp_path / "imagesTr/case_0_0000.nii.gz", tmp_path / "imagesTr/late.nii.gz")
    dataset = open_dataset(tmp_path)
    assert {item.group for part in dataset.splits.values() for item in part} == {f"case_{case}" for case in range(4)}
    (note,) = (note for note in dataset.notes if "late" in note)
    assert "1 file (late.nii.gz) is not used" in note and "to late_0000.nii.gz" in note


@pytest.mark.parametrize("damaged", ["imagesTr/case_0_0000", "imagesTr/case_1_0001", "labelsTr/case_3"])
def test_doctor_names_a_damaged_volume_and_examines_the_others(tmp_path, damaged):
    nnunet(tmp_path / "data")
    path = tmp_path / "data" / f"{damaged}.nii.gz"
    path.write_bytes(b"damaged")
    found = examine(tmp_path / "data")
    (unreadable,) = (error for error in found.errors if error.kind == "unreadable")
    assert unreadable.count == 1 and f"{damaged}.nii.gz" in unreadable.examples[0]
    assert sum(found.images.values()) == 4 and all(sum(pixels) for pixels in found.pixels.values())
    doctor(tmp_path / "data", pictures=tmp_path / "drawn")
    assert any((tmp_path / "drawn").iterdir())
    with pytest.raises(AtrousError, match=path.name):
        open_dataset(tmp_path / "data")


def test_a_missing_contrast_is_named(tmp_path):
    nnunet(tmp_path)
    (tmp_path / "imagesTr/case_2_0001.nii.gz").unlink()
    with pytest.raises(AtrousError, match=r"case_2_0001\.nii\.gz is missing. 2 contrasts are needed"):
        open_dataset(tmp_path)
    for path in (tmp_path / "imagesTr").glob("*_0000.nii.gz"):
        path.unlink()
    with pytest.raises(AtrousError, match=r"case_0_0000\.nii\.gz is missing"):
        open_dataset(tmp_path)


def test_a_contrast_without_a_name_is_refused(tmp_path):
    nnunet(tmp_path)
    record = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**record, "channel_names": {"0": "CT"}}))
    with pytest.raises(AtrousError, match=r"names 1 channel \(CT\), and there is case_0_0001\.nii\.gz"):
        open_dataset(tmp_path)


def test_one_4d_file_may_have_the_number_of_the_first_contrast(tmp_path):
    nnunet(tmp_path)
    for case in range(4):
        parts = [tmp_path / f"imagesTr/case_{case}_{number:04d}.nii.gz" for number in (0, 1)]
        volume = nibabel.load(parts[0])
        values = np.stack([np.asanyarray(volume.dataobj)] * 2, axis=3)
        nibabel.save(nibabel.Nifti1Image(values, volume.affine), parts[0])
        parts[1].unlink()
    dataset = open_dataset(tmp_path)
    assert dataset.read(dataset.split("train")[0]).image.shape[2] == 2


def test_training_takes_all_contrasts_and_the_doctor_reads_them(tmp_path):
    nnunet(tmp_path / "data")
    dataset = open_dataset(tmp_path / "data")
    item = dataset.split("train")[0]
    assert item.name.startswith("case_") and "_????" not in item.name and item.group == item.name[:6]
    assert dataset.read(item).image.shape[2] == 2
    diagnosis = examine(tmp_path / "data", None)
    assert not diagnosis.errors
    recipe = to_recipe(
        {
            "name": "two",
            "data": {"root": str(tmp_path / "data"), "workers": 0, "slices": 3, "check": False},
            "model": {"backbone": "mobilenetv2_035", "pretrained": False},
            "augment": {"crop": [6, 6]},
            "train": {"epochs": 1, "batch_size": 4},
        }
    )
    fit(recipe, tmp_path / "run")
    one = atrous.load(tmp_path / "run/best.safetensors").info.preprocessing.image
    assert one.channels == 6 and one.standardised == (True, False) * 3
    masks = predict(tmp_path / "run/best.safetensors", [tmp_path / "data/imagesTr"], out=tmp_path / "masks", **OPTIONS)
    assert [mask.name for mask in masks] == [f"case_{case}.nii.gz" for case in range(4)]
    results = evaluate(tmp_path / "run/best.safetensors", tmp_path / "data", split="val", tolerance=1.0, **OPTIONS)
    (case,) = results["volumes"]["cases"]
    assert case["volume"].endswith("_????.nii.gz")


def test_predict_takes_the_files_of_a_folder_together(model, tmp_path):
    joined = write_case(tmp_path / "scans", "case", seed=3)
    nibabel.save(joined, tmp_path / "whole.nii.gz")
    first = nibabel.load(tmp_path / "scans/case_0000.nii.gz")
    segmenter = Segmenter(model, **OPTIONS)
    expected = segment_volume(segmenter, read_volume(tmp_path / "whole.nii.gz"))
    assert len(np.unique(expected)) > 1
    for given in ("scans", "scans/case_0001.nii.gz", "scans/case_????.nii.gz", "whole.nii.gz"):
        (mask,) = predict(model, [tmp_path / given], out=tmp_path / "masks", **OPTIONS)
        assert mask.name == ("whole.nii.gz" if given == "whole.nii.gz" else "case.nii.gz")
        found = nibabel.load(mask)
        np.testing.assert_array_equal(np.asanyarray(reoriented(found, "RAS").dataobj), expected)
        if given != "whole.nii.gz":
            np.testing.assert_array_equal(found.affine, first.affine)
    slice_ = segmenter(tmp_path / "scans/case_????.nii.gz/axial/0002").mask
    np.testing.assert_array_equal(slice_, expected[:, ::-1, 2].T[:, ::-1])


def test_predict_names_a_missing_contrast_and_segments_the_others(model, tmp_path, capsys):
    for name in ("a", "b", "c"):
        write_case(tmp_path / "scans", name)
    (tmp_path / "scans/b_0001.nii.gz").unlink()
    (tmp_path / "scans/c_0000.nii.gz").unlink()
    with pytest.raises(SomeInputsFailed):
        predict(model, [tmp_path / "scans"], out=tmp_path / "masks", **OPTIONS)
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["a.nii.gz"]
    printed = "".join("".join(capsys.readouterr()).split())
    assert "b_0001.nii.gzismissing" in printed and "c_0000.nii.gzismissing" in printed


def test_4d_files_with_numbers_are_volumes_of_their_own(model, tmp_path):
    joined = write_case(tmp_path, "case")
    (tmp_path / "scans").mkdir()
    for number in (0, 1):
        nibabel.save(joined, tmp_path / f"scans/patient_{number:04d}.nii.gz")
    masks = predict(model, [tmp_path / "scans"], out=tmp_path / "masks", **OPTIONS)
    assert [mask.name for mask in masks] == ["patient_0000.nii.gz", "patient_0001.nii.gz"]


def test_the_mask_beside_the_contrasts_is_not_a_contrast(model, tmp_path):
    write_case(tmp_path, "case")
    for _ in range(2):
        masks = predict(model, [tmp_path], out=tmp_path, **OPTIONS)
        assert [mask.name for mask in masks] == ["case.nii.gz"]
