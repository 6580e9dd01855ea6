"""Datasets of volumes: one item per slice, whole volumes in one split, and masks on the grid of their scan."""

import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest

import atrous
from atrous.commands.doctor import doctor
from atrous.data.doctor.examine import examine
from atrous.data.open_dataset import open_dataset, open_whole
from atrous.data.transforms import Augment
from atrous.data.volume_items import holds_volumes, with_slices
from atrous.data.volumes import read_volume
from atrous.data.volumes.resampling import resampled
from atrous.data.volumes.slices import SlicePlace, pictures_of
from atrous.errors import AtrousError
from atrous.input_spec import Input
from atrous.learning.data_loader import AugmentedSamples
from atrous.learning.distributed import current_group
from atrous.learning.fit import fit
from atrous.learning.model_for_data import create_for
from atrous.learning.recipe import to_recipe
from atrous.learning.training_data import open_training_data

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


@pytest.mark.parametrize("written", ["case_2", "case_2.nii.gz", "images/case_2.nii.gz", "case_2.NII"])
def test_a_split_list_names_volumes_with_and_without_their_suffix(tmp_path, written):
    volumes(tmp_path, ["case_1", "case_2"], "images", "masks")
    (tmp_path / "classes.yaml").write_text("classes: [{name: background}, {name: anterior}, {name: posterior}]\n")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("case_1\n")
    (tmp_path / "splits/val.txt").write_text(f"{written}\n")
    dataset = open_dataset(tmp_path, "folder")
    assert {item.group for item in dataset.splits["val"]} == {"case_2"}
    assert len(dataset.splits["val"]) == 6


def test_a_mask_on_another_grid_is_refused(tmp_path):
    root = nnunet(tmp_path)
    path = root / "labelsTr/case_2.nii.gz"
    mask = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(mask.dataobj), np.diag([1.0, 1, 2, 1])), path)
    with pytest.raises(AtrousError, match=r"labelsTr/case_2\.nii\.gz is not on the grid of"):
        open_dataset(root)


def with_contrasts(path, number):
    """Repeats the values of a file along a fourth dimension."""
    image = nibabel.load(path)
    values = np.stack([np.asanyarray(image.dataobj)] * number, axis=-1)
    nibabel.save(nibabel.Nifti1Image(values, image.affine), path)


def test_a_mask_with_a_fourth_dimension_is_refused(tmp_path):
    root = nnunet(tmp_path)
    with_contrasts(root / "labelsTr/case_2.nii.gz", 2)
    with pytest.raises(
        AtrousError, match=r"labelsTr/case_2\.nii\.gz: a mask has one value per voxel, and the file has 2"
    ):
        open_dataset(root)


def test_volumes_and_pictures_are_not_mixed(tmp_path):
    from PIL import Image

    root = nnunet(tmp_path)
    for folder, name in (("imagesTr", "x_0000"), ("labelsTr", "x")):
        Image.new("L", (4, 4)).save(root / folder / f"{name}.png")
    with pytest.raises(AtrousError, match="mixes volumes and pictures"):
        open_dataset(root)


def test_items_without_a_list_are_volumes_too(tmp_path):
    """A dataset whose lists name no item has only unlisted items."""
    whole = open_whole(nnunet(tmp_path))
    assert whole.unlisted and holds_volumes(replace(whole, splits={}))
    sliced = with_slices(replace(whole, splits={"train": ()}), (), None)
    assert {item.group for item in sliced.unlisted} == {"case_1", "case_2", "case_3"}
    picture = replace(whole.unlisted[0], image=tmp_path / "x.png")
    with pytest.raises(AtrousError, match="mixes volumes and pictures"):
        holds_volumes(replace(whole, unlisted=(*whole.unlisted, picture)))


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
    checked = json.loads((tmp_path / "run/doctor.json").read_text())
    slices = open_dataset(tmp_path / "data", planes=("axial", "coronal")).splits
    assert checked["images"] == {"train": 3, "val": 1}
    assert checked["slices"] == {name: len(items) for name, items in slices.items()}
    model = atrous.load(tmp_path / "run/best.safetensors")
    one = model.info.preprocessing.image
    assert (one.slices, one.planes, one.channels, one.colors) == (3, ("axial", "coronal"), 3, 0)
    assert one.normalize == "per_image"
    slice_ = SlicePlace(tmp_path / "data/imagesTr/case_0_0000.nii.gz", "axial", 2).path
    assert atrous.Segmenter(tmp_path / "run/best.safetensors", device="cpu")(slice_).mask.shape == (5, 4)


@pytest.mark.parametrize(
    "given", ["", "normalize: fixed", "normalize: per_image", "normalize: window, window: [0, 12]"]
)
def test_volumes_are_normalised_as_the_inputs_file_states(tmp_path, given):
    root = nnunet(tmp_path / "data", [f"case_{index}" for index in range(4)])
    (root / "inputs.yaml").write_text(f"inputs:\n  image: {{{given}}}\n")
    recipe = to_recipe({"name": "v", "data": {"root": str(root)}, "model": {"pretrained": False}})
    dataset = open_dataset(root)
    image = create_for(recipe, dataset).info.preprocessing.image
    if given in ("", "normalize: per_image"):
        assert (image.normalize, image.mean, image.std) == ("per_image", (0,), (1,))
        return
    scans = [dataset.read(item).image for item in dataset.split("train")]
    values = np.stack(scans).astype(float)
    if "window" in given:
        values = values.clip(0, 12)
    assert image.normalize == given.split()[1].strip(",")
    np.testing.assert_allclose((*image.mean, *image.std), (values.mean(), values.std()), rtol=1e-5)


@pytest.mark.parametrize(("given", "expected"), [(None, 3), (1, 1), (5, 5)])
def test_the_recipe_takes_precedence_over_the_slices_of_the_inputs_file(tmp_path, given, expected):
    root = nnunet(tmp_path / "data", [f"case_{index}" for index in range(4)])
    (root / "inputs.yaml").write_text("inputs:\n  image: {slices: 3, planes: [coronal]}\n")
    recipe = to_recipe({"name": "volumes", "data": {"root": str(root), "check": False, "slices": given}})
    dataset, _, _ = open_training_data(recipe, current_group())
    assert (dataset.inputs[0].slices, dataset.inputs[0].planes) == (expected, ("coronal",))


def test_model_in_channels_is_the_number_of_contrasts_times_slices(tmp_path):
    root = nnunet(tmp_path / "data")
    for path in (root / "imagesTr").iterdir():
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.stack([np.asanyarray(image.dataobj)] * 2, axis=3), image.affine), path)
    data = {"root": str(root), "slices": 3}
    network = {"backbone": "mobilenetv2_035", "pretrained": False, "in_channels": 6}
    dataset = open_dataset(root, slices=3)
    model = create_for(to_recipe({"name": "two contrasts", "data": data, "model": network}), dataset)
    assert model.info.preprocessing.channels == 6
    one = dataset.taking_inputs(model.info.preprocessing.inputs)
    assert one.read(one.split("train")[0]).image.shape[2] == 6
    assert not examine(root, slices=3, in_channels=6).errors


@pytest.mark.parametrize("ending", ["_0000", ""], ids=["nnU-Net", "Decathlon"])
def test_the_doctor_writes_lists_of_volumes_by_patient(tmp_path, ending):
    names = [f"case_{index}" for index in range(12)]
    root = nnunet(tmp_path, names, ending=ending)
    patients = {name: f"p{index % 6}" for index, name in enumerate(names)}
    rows = [f"{name},{patient}" for name, patient in patients.items()]
    (root / "groups.csv").write_text("\n".join(["picture,group", *rows]))
    before = open_dataset(root).splits
    assert doctor(root, write_split=True) == 0
    written = {path.stem: path.read_text().split() for path in (root / "splits").iterdir()}
    assert sorted(name for part in written.values() for name in part) == sorted(names)
    owners = [{patients[name] for name in part} for part in written.values()]
    assert sum(map(len, owners)) == 6
    assert open_dataset(root).splits == before


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


def test_only_the_left_and_right_of_the_patient_are_mirrored(tmp_path):
    """In a sagittal slice, the columns run from anterior to posterior, so a mirrored one is of no patient."""
    dataset = open_dataset(nnunet(tmp_path), planes=("axial", "coronal", "sagittal"))
    items = dataset.split("train")
    samples = AugmentedSamples(dataset, items, Augment(scale=(1, 1), flip=1.0), channels=1, seed=0, fill=(0.0,))
    planes = set()
    for index, item in enumerate(items):
        read, (image, label, _) = dataset.read(item), samples[0, index]
        step = 1 if "sagittal" in item.image.parts else -1
        np.testing.assert_array_equal(label, read.label[:, ::step])
        np.testing.assert_array_equal(image[0], read.image[:, ::step, 0])
        planes.add(item.image.parent.name)
    assert planes == {"axial", "coronal", "sagittal"}


def test_with_a_spacing_items_are_the_slices_of_resampled_volumes(tmp_path):
    nnunet(tmp_path)
    dataset = open_dataset(tmp_path, planes=("axial", "sagittal"), spacing=(0.5, 1.0, 1.0))
    own = [item for part in dataset.splits.values() for item in part if item.group == "case_2"]
    assert len(own) == 12 + 8  # 4×5×6 voxels of 1×1×2 mm
    for item in own:
        sample = dataset.read(item)
        assert sample.image.shape == (*sample.label.shape, 1)
        assert sample.label.shape == ((5, 8) if item.image.parent.name == "axial" else (12, 5))
    taken = dataset.taking_inputs([Input((0.0,), (1.0,), dtype="float32", planes=("axial",), spacing=(0.5, 1, 1))])
    assert taken.read(own[0]).image.shape == (5, 8, 1)
    same = open_dataset(tmp_path, planes=("axial",), spacing=(1.0, 1.0, 2.0))
    stored = open_dataset(tmp_path, planes=("axial",))
    for one, other in zip(same.split("train"), stored.split("train"), strict=True):
        np.testing.assert_array_equal(same.read(one).image, stored.read(other).image)
        np.testing.assert_array_equal(same.read(one).label, stored.read(other).label)


@pytest.mark.parametrize(
    ("opened", "taken"),
    [((1.0, 1.0, 2.0), (1.0, 1.0, 3.0)), (None, (1.0, 1.0, 3.0)), ((1.0, 1.0, 2.0), None)],
    ids=["another spacing", "not resampled", "a model of stored volumes"],
)
def test_a_model_of_another_spacing_than_the_dataset_is_refused(tmp_path, opened, taken):
    """Otherwise, images would have the spacing of the model, and masks that of the dataset."""
    dataset = open_dataset(nnunet(tmp_path), spacing=opened)
    one = Input((0.0,), (1.0,), dtype="float32", planes=("sagittal",), spacing=taken)
    with pytest.raises(AtrousError, match="images and masks would differ") as error:
        dataset.taking_inputs([one])
    assert f"spacing={taken}" in str(error.value)
    assert dataset.taking_inputs([replace(one, spacing=opened)]).taken


def test_a_resampled_mask_needs_its_scan(tmp_path):
    dataset = open_dataset(nnunet(tmp_path), spacing=(1.0, 1.0, 1.0))
    item = dataset.split("train")[0]
    assert dataset.read_label(item.mask, item.image).shape == (5, 4)
    with pytest.raises(AtrousError, match="give the picture, too"):
        dataset.read_label(item.mask)


def test_missing_values_are_not_interpolated_and_volumes_are_resampled_once(tmp_path, monkeypatch):
    volumes(tmp_path, ["a"], "images", "masks")
    path = tmp_path / "images/a.nii.gz"
    scan = nibabel.load(path)
    values = scan.get_fdata(dtype=np.float32)
    values[:, :2] = -1000
    nibabel.save(nibabel.Nifti1Image(values, scan.affine), path)
    (tmp_path / "inputs.yaml").write_text("inputs:\n  image: {missing: [-1000]}\n")
    (tmp_path / "classes.yaml").write_text("classes: [{name: background}, {name: anterior}, {name: posterior}]\n")
    dataset = open_dataset(tmp_path, spacing=(1.0, 0.6, 2.0))
    done = []
    monkeypatch.setattr(read_volume, "resampled", lambda *given: done.append(given) or resampled(*given))
    one = Input((0.0,), (1.0,), dtype="float32", planes=("axial",), spacing=(1.0, 0.6, 2.0), missing=(-1000.0,))
    for item in (item for part in dataset.splits.values() for item in part):
        sample, taken = dataset.read(item), dataset.taking_inputs([one]).read(item)
        assert (sample.image >= 0).all()  # noise around 10, 0 without data; a mean with -1000 is below 0
        np.testing.assert_array_equal(sample.label, taken.label)
        assert (taken.label == 255).any()
    assert len(done) == 1


@pytest.mark.parametrize("check", [False, True])
def test_a_missing_volume_of_a_list_is_named_when_the_spacing_is_measured(tmp_path, check):
    volumes(tmp_path, ["a", "b"], "images", "masks")
    (tmp_path / "classes.yaml").write_text("classes: [{name: background}, {name: anterior}, {name: posterior}]\n")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("a\ngone\n")
    (tmp_path / "splits/val.txt").write_text("b\n")
    recipe = to_recipe({"data": {"root": str(tmp_path), "check": check, "spacing": "median"}})
    with pytest.raises(AtrousError, match=r"gone") as error:
        open_training_data(recipe, current_group())
    assert "has none" not in str(error.value)


def test_class_weights_count_the_resampled_voxels_with_and_without_the_examination(tmp_path):
    counts = {}
    for check in (False, True):
        for spacing in (None, [0.5, 1, 1]):
            data = {"root": str(nnunet(tmp_path)), "check": check, **({"spacing": spacing} if spacing else {})}
            _, found, _ = open_training_data(to_recipe({"data": data}), current_group())
            counts[check, spacing is None] = list(found)
    assert counts[True, False] == counts[False, False]
    assert counts[True, True] == counts[False, True]
    assert sum(counts[True, False]) == 4 * sum(counts[True, True])


@pytest.mark.parametrize("given", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, float("inf"))])
def test_a_wrong_spacing_is_refused(tmp_path, given):
    with pytest.raises(AtrousError, match="spacing must be three"):
        open_dataset(nnunet(tmp_path), spacing=given)


@pytest.mark.parametrize(
    ("spacing", "expected"), [("median", (1.0, 1.0, 2.0)), ([0.5, 1, 1], (0.5, 1.0, 1.0)), (None, None)]
)
def test_the_recipes_spacing_is_in_the_models_record(tmp_path, spacing, expected):
    record = {"data": {"root": str(nnunet(tmp_path)), "check": False, **({"spacing": spacing} if spacing else {})}}
    record["model"] = {"backbone": "mobilenetv2_035", "pretrained": False}
    recipe = to_recipe(record)
    dataset, _, _ = open_training_data(recipe, current_group())
    assert create_for(recipe, dataset).info.preprocessing.image.spacing == expected
