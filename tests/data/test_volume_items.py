"""Datasets of volumes: one item per slice, whole volumes in one split, and masks on the grid of their scan."""

import json
import shutil
import zipfile

import numpy as np
import pytest

import atrous
from atrous.data.doctor.examine import examine
from atrous.data.open_dataset import open_dataset
from atrous.data.volumes.slices import SlicePlace, pictures_of
from atrous.errors import AtrousError
from atrous.learning.fit import fit
from atrous.learning.recipe import to_recipe

nibabel = pytest.importorskip("nibabel")

LABELS = {"background": 0, "anterior": 1, "posterior": 2}


def volumes(root, names, images="imagesTr", labels="labelsTr", ending="", shape=(4, 5, 6)):
    """Volumes of noise with a brighter block, which the mask marks."""
    rng = np.random.default_rng(0)
    for folder in (images, labels):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        mask = np.zeros(shape, np.uint8)
        mask[1:3, 1:4, 1:3], mask[1:3, 1:4, 3:5] = 1, 2
        scan = (rng.normal(size=shape) + 4 * mask + 10).astype(np.float32)
        for folder, stem, values in ((images, f"{name}{ending}", scan), (labels, name, mask)):
            nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, 1, 2, 1])), root / folder / f"{stem}.nii.gz")


def nnunet(root, names=("case_1", "case_2", "case_3"), ending="_0000"):
    volumes(root, names, ending=ending)
    record = {"channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": 3, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(record))
    return root


@pytest.mark.parametrize("ending", ["_0000", ""], ids=["nnU-Net", "Decathlon"])
def test_every_slice_of_the_planes_is_an_item(tmp_path, ending):
    dataset = open_dataset(nnunet(tmp_path, ending=ending), planes=("axial", "sagittal"), slices=3)
    assert dataset.layout == "nnunet" and dataset.classes.names == tuple(LABELS)
    items = [item for part in dataset.splits.values() for item in part]
    assert len(items) == 3 * (6 + 4)
    own = [item for item in items if item.group == "case_2"]
    assert [item.name for item in own[:2]] == ["case_2_axial_0000", "case_2_axial_0001"]
    sample = dataset.read(own[2])
    mask = np.asanyarray(nibabel.load(tmp_path / "labelsTr/case_2.nii.gz").dataobj)[::-1]  # its first axis points left
    np.testing.assert_array_equal(sample.label, pictures_of(mask, "axial")[2])
    assert sample.image.shape == (5, 4, 1)  # one slice, before a model asks for its neighbours
    assert dataset.inputs[0].slices == 3 and dataset.inputs[0].normalize == "per_image"


def test_no_volume_is_in_two_splits(tmp_path):
    dataset = open_dataset(nnunet(tmp_path, [f"case_{index}" for index in range(12)]))
    groups = {name: {item.group for item in part} for name, part in dataset.splits.items()}
    assert len(groups) > 1 and all(groups.values())
    for name, own in groups.items():
        assert not any(own & other for other_name, other in groups.items() if other_name != name)


def test_a_mask_on_another_grid_is_refused(tmp_path):
    root = nnunet(tmp_path)
    path = root / "labelsTr/case_2.nii.gz"
    mask = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(mask.dataobj), np.diag([1.0, 1, 2, 1])), path)
    with pytest.raises(AtrousError, match=r"labelsTr/case_2\.nii\.gz is not on the grid of"):
        open_dataset(root)


def test_volumes_and_pictures_are_not_mixed(tmp_path):
    from PIL import Image

    root = nnunet(tmp_path)
    for folder, name in (("imagesTr", "x_0000"), ("labelsTr", "x")):
        Image.new("L", (4, 4)).save(root / folder / f"{name}.png")
    with pytest.raises(AtrousError, match="mixes volumes and pictures"):
        open_dataset(root)


@pytest.mark.parametrize(("planes", "slices"), [(("oblique",), 1), (("axial", "axial"), 1), ((), 2), ((), 33), ((), 0)])
def test_wrong_planes_and_slices_are_refused(tmp_path, planes, slices):
    with pytest.raises(AtrousError, match=r"planes must|slices must"):
        open_dataset(nnunet(tmp_path), planes=planes, slices=slices)


def test_a_model_is_trained_on_slices_and_segments_them(tmp_path):
    nnunet(tmp_path / "data", [f"case_{index}" for index in range(4)])
    recipe = to_recipe(
        {
            "name": "volumes",
            "data": {"root": str(tmp_path / "data"), "workers": 0, "planes": ["axial", "coronal"], "slices": 3},
            "model": {"backbone": "mobilenetv2_035", "pretrained": False},
            "augment": {"crop": [6, 6]},
            "train": {"epochs": 1, "batch_size": 4},
        }
    )
    fit(recipe, tmp_path / "run")
    model = atrous.load(tmp_path / "run/best.safetensors")
    one = model.info.preprocessing.image
    assert (one.slices, one.planes, one.channels, one.colors) == (3, ("axial", "coronal"), 3, 0)
    assert one.normalize == "per_image"
    slice_ = SlicePlace(tmp_path / "data/imagesTr/case_0_0000.nii.gz", "axial", 2).path
    assert atrous.Segmenter(tmp_path / "run/best.safetensors", device="cpu")(slice_).mask.shape == (5, 4)


def test_scans_without_orientation_are_noted(tmp_path):
    root = nnunet(tmp_path)
    for folder in ("imagesTr/case_1_0000", "labelsTr/case_1"):
        image = nibabel.load(root / f"{folder}.nii.gz")
        image = nibabel.Nifti1Image(np.asanyarray(image.dataobj), None)
        image.header.set_sform(None, 0)
        image.header.set_qform(None, 0)
        nibabel.save(image, root / f"{folder}.nii.gz")
    notes = [note for note in open_dataset(root).notes if "does not state its orientation" in note]
    assert len(notes) == 1 and notes[0].startswith("case_1_0000.nii.gz")


def test_series_are_pictures_of_the_layout_folder(shared, tmp_path):
    """A real CT series as a zip and as a folder, with its liver mask in NIfTI."""
    pytest.importorskip("pydicom")
    source, root = shared / "data/chaos_ct_liver", tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    (root / "classes.yaml").write_text("classes: [{name: background}, {name: liver, code: [SCT, 10200004, Liver]}]")
    shutil.copy(source / "series.zip", root / "images/zipped.zip")
    with zipfile.ZipFile(source / "series.zip") as archive:
        archive.extractall(root / "images/case.01")
    for name in ("zipped", "case.01"):
        shutil.copy(source / "liver_mask.nii.gz", root / f"masks/{name}.nii.gz")
    dataset = open_dataset(root)
    assert not dataset.masks_without_image and not any("skipped" in note for note in dataset.notes)
    items = {item.name: item for part in dataset.splits.values() for item in part}
    assert len(items) == 2 * 30 and {item.group for item in items.values()} == {"zipped", "case.01"}
    one, other = (dataset.read(items[f"{name}_axial_0012"]) for name in ("zipped", "case.01"))
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.label, other.label)
    assert one.image[one.label == 1].mean() == pytest.approx(142, abs=15)  # in Hounsfield units
    report = examine(root)
    assert not report.errors
    mask = nibabel.load(root / "masks/zipped.nii.gz")
    shifted = mask.affine.copy()
    shifted[2, 3] += 2
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(mask.dataobj), shifted), root / "masks/zipped.nii.gz")
    with pytest.raises(AtrousError, match=r"zipped\.nii\.gz is not on the grid of .*zipped\.zip"):
        open_dataset(root)
