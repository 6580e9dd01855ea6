"""CT is clipped to percentiles of the labelled voxels, as nnU-Net does; the model's record stores the numbers."""

import json
import tracemalloc

import numpy as np
import pytest

import atrous
from atrous.data import foreground_intensities
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError
from atrous.input_spec import Input
from atrous.learning.fit import fit
from atrous.learning.model_for_data import create_for
from atrous.learning.recipe import to_recipe

nibabel = pytest.importorskip("nibabel")

CASES = 5


def hounsfield(root, names=("CT",), layout="nnunet", seed=0, cases=CASES):
    """Volumes of noise in any orientation; returns the labelled values of each contrast, by volume."""
    rng, inside = np.random.default_rng(seed), {}
    images, labels = ("imagesTr", "labelsTr") if layout == "nnunet" else ("images", "masks")
    for folder in (images, labels):
        (root / folder).mkdir(parents=True)
    for case in range(cases):
        shape = tuple(rng.integers(5, 9, 3))
        mask = rng.integers(0, 3, shape).astype(np.uint8)
        scan = rng.normal(40 + 10 * case, 60, (*shape, len(names))).astype(np.float32) + 500 * (mask == 0)[..., None]
        affine = np.zeros((4, 4))
        affine[rng.permutation(3), range(3)] = rng.choice([-1, 1], 3) * rng.uniform(0.5, 4, 3)
        affine[:3, 3], affine[3, 3] = rng.normal(0, 50, 3), 1
        for folder, values in ((images, scan.squeeze()), (labels, mask)):
            nibabel.save(nibabel.Nifti1Image(values, affine), root / folder / f"case_{case}.nii.gz")
        inside[f"case_{case}"] = scan[mask > 0]
    if layout == "nnunet":
        record = {"channel_names": {str(index): name for index, name in enumerate(names)}}
        (root / "dataset.json").write_text(json.dumps({**record, "labels": {"background": 0, "a": 1, "b": 2}}))
    else:
        (root / "classes.yaml").write_text("classes: [{name: background}, {name: a}, {name: b}]\n")
    return inside


def created(root, **data):
    recipe = to_recipe(
        {"data": {"root": str(root), **data}, "model": {"backbone": "mobilenetv2_035", "pretrained": False}}
    )
    dataset = open_dataset(root, slices=data.get("slices"))
    return create_for(recipe, dataset).info.preprocessing, dataset


@pytest.mark.parametrize("seed", range(3))
def test_ct_has_the_percentiles_mean_and_deviation_of_all_labelled_training_voxels(tmp_path, seed):
    inside = hounsfield(tmp_path, seed=seed)
    found, dataset = created(tmp_path, slices=3)
    one, training = found.image, {item.group for item in dataset.split("train")}
    weights = [np.full(len(inside[name]), 1 / len(inside[name])) for name in training]
    weights = np.concatenate(weights) / len(training)  # each volume counts equally
    values = np.concatenate([inside[name][:, 0] for name in training]).astype(np.float64)
    order = np.argsort(values)
    low, high = np.interp([0.005, 0.995], np.cumsum(weights[order]), values[order])
    mean = weights @ values
    assert one.normalize == "window" and 0 < len(training) < CASES
    np.testing.assert_allclose(one.window, (low, high), atol=12)  # the steps between the outermost voxels
    np.testing.assert_allclose(one.mean, [mean] * 3, atol=0.5)
    np.testing.assert_allclose(one.std, [np.sqrt(weights @ (values - mean) ** 2)] * 3, rtol=0.01)
    assert created(tmp_path, slices=3)[0] == found  # the same numbers each time


def test_a_large_foreground_has_the_percentiles_of_numpy(tmp_path, monkeypatch):
    """One volume whose voxels are all labelled: the numbers are those of nnU-Net's formulas over all voxels."""
    inside = hounsfield(tmp_path, cases=1)["case_0"][:, 0]
    monkeypatch.setattr(foreground_intensities, "SAMPLES", 10**6)
    dataset = open_dataset(tmp_path, "nnunet")
    one = Input((0.0,), (1.0,), dtype="float32", planes=("axial",))
    split = next(iter(dataset.splits))
    found = foreground_intensities.foreground_intensities(dataset, split, one)[0]
    sampled = np.sort(inside)
    near = [np.abs(sampled - np.percentile(inside, q)).min() for q in (0.5, 99.5)]
    assert abs(found.window[0] - np.percentile(inside, 0.5)) <= max(near[0], np.diff(sampled[:4]).max())
    assert abs(found.window[1] - np.percentile(inside, 99.5)) <= max(near[1], np.diff(sampled[-4:]).max())
    np.testing.assert_allclose((found.mean, found.std), (inside.mean(), inside.std()), rtol=0.01)


def test_other_channels_are_normalised_in_each_volume(tmp_path):
    hounsfield(tmp_path, names=("MRI",))
    assert created(tmp_path)[0].image.normalize == "per_image"


def test_each_contrast_has_its_own_normalisation(tmp_path):
    hounsfield(tmp_path, names=("PET", "ct"))
    found, dataset = created(tmp_path, slices=3)
    pet, ct = found.image.windows[:2]
    assert pet is None and ct is not None and found.image.windows == (pet, ct) * 3
    assert found.image.mean[0] == 0 and found.image.std[0] == 1 and found.image.mean[1] == found.image.mean[5] != 0
    item = dataset.split("train")[2]
    values = dataset.taking_inputs(found.inputs).read(item).image
    raw = dataset.read(item).image
    np.testing.assert_array_equal(values[..., 3], raw[..., 1])  # CT is clipped by the network
    assert abs(values[..., 2].mean()) < 1 < abs(raw[..., 0].mean())


@pytest.mark.parametrize("window", ["[null, foreground]", "[[0, 1], foreground]"])
def test_only_contrasts_whose_window_is_the_foreground_are_measured(tmp_path, window):
    """The first contrast is constant in the foreground, so measuring its percentiles would be refused."""
    hounsfield(tmp_path, names=("MRI", "CT"))
    (tmp_path / "inputs.yaml").write_text(f"inputs:\n  image: {{normalize: window, window: {window}}}\n")
    expected = created(tmp_path, slices=3)[0].image
    for path in (tmp_path / "imagesTr").iterdir():
        scan = nibabel.load(path)
        values = scan.get_fdata(dtype=np.float32)
        values[..., 0] = 0.25
        nibabel.save(nibabel.Nifti1Image(values, scan.affine), path)
    found = created(tmp_path, slices=3)[0].image
    assert found.windows == expected.windows and found.windows[0] in (None, (0, 1))
    assert (found.mean[1::2], found.std[1::2]) == (expected.mean[1::2], expected.std[1::2])
    np.testing.assert_allclose(found.mean[::2], 0 if found.windows[0] is None else 0.25)


@pytest.mark.parametrize("written", ["{normalize: window}", "{normalize: window, window: foreground}"])
def test_the_layout_folder_measures_it_if_the_inputs_file_says_so(tmp_path, written):
    hounsfield(tmp_path, layout="folder")
    assert created(tmp_path)[0].image.normalize == "per_image"
    (tmp_path / "inputs.yaml").write_text(f"inputs:\n  image: {written}\n")
    low, high = created(tmp_path)[0].image.window
    assert -150 < low < high < 300


def test_the_inputs_file_takes_precedence_over_the_channel_names(tmp_path):
    hounsfield(tmp_path)
    for written, window in (("normalize: window, window: [-160, 240]", (-160, 240)), ("normalize: per_image", None)):
        (tmp_path / "inputs.yaml").write_text(f"inputs:\n  image: {{{written}}}\n")
        assert created(tmp_path)[0].image.window == window


def test_a_split_without_foreground_or_with_one_value_is_refused(tmp_path):
    hounsfield(tmp_path)
    for path in (tmp_path / "imagesTr").iterdir():
        scan = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.full(scan.shape, 7, np.float32), scan.affine), path)
    with pytest.raises(AtrousError, match=r"nearly all labelled voxels of contrast 0 .* value 7. Give the window"):
        created(tmp_path)
    for path in (tmp_path / "labelsTr").iterdir():
        mask = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine), path)
    with pytest.raises(AtrousError, match=r"no voxel of the split train belongs to a class other than background"):
        created(tmp_path)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("normalize: window, window: front", r"window must be \[LOW, HIGH\] or, for volumes, foreground, got 'front'"),
        ("normalize: per_image, window: foreground", "window must be given with normalize='window', and only then"),
        ("normalize: window, window: [null, null]", "a window for at least one contrast"),
        ("normalize: window, window: [foreground, [2, 1]]", "the lower first"),
        (
            "normalize: window, window: [foreground, null]",
            "the files have 1 contrast, but the normalisation is given for 2",
        ),
    ],
)
def test_wrong_windows_are_refused(tmp_path, written, message):
    hounsfield(tmp_path)
    (tmp_path / "inputs.yaml").write_text(f"inputs:\n  image: {{{written}}}\n")
    with pytest.raises(AtrousError, match=message):
        created(tmp_path)


def test_channel_names_in_another_form_are_refused(tmp_path):
    hounsfield(tmp_path)
    for named in (["CT"], {"1": "CT"}, {"0": 3}):
        (tmp_path / "dataset.json").write_text(json.dumps({"modality": named, "labels": {"a": 0, "b": 1, "c": 2}}))
        with pytest.raises(AtrousError, match=r"channel_names \(or modality\) must be names by number"):
            open_dataset(tmp_path)


def test_pictures_need_a_window_in_numbers(tmp_path):
    from PIL import Image

    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / folder / "a.png")
    (tmp_path / "classes.yaml").write_text("classes: [{name: background}, {name: a}]\n")
    (tmp_path / "inputs.yaml").write_text("inputs:\n  image: {normalize: window}\n")
    with pytest.raises(AtrousError, match=r"the window is measured only for volumes: give window: \[LOW, HIGH\]"):
        open_dataset(tmp_path)


def test_the_model_file_stores_the_window_and_predicts_with_it(tmp_path):
    hounsfield(tmp_path / "data")
    recipe = to_recipe(
        {
            "name": "ct",
            "data": {"root": str(tmp_path / "data"), "workers": 0},
            "model": {"backbone": "mobilenetv2_035", "pretrained": False},
            "augment": {"crop": [6, 6]},
            "train": {"epochs": 1, "batch_size": 4},
        }
    )
    fit(recipe, tmp_path / "run")
    found = atrous.load(tmp_path / "run/best.safetensors").info.preprocessing
    assert found == created(tmp_path / "data")[0]
    segmenter = atrous.Segmenter(tmp_path / "run/best.safetensors", device="cpu")
    path = tmp_path / "data/imagesTr/case_0.nii.gz"
    expected = segmenter(path / "axial/0001").mask
    scan = nibabel.load(path)
    high = found.image.window[1]  # values above the window make no difference
    values = scan.get_fdata(dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(np.where(values > high, 5000, values).astype(np.float32), scan.affine), path)
    np.testing.assert_array_equal(segmenter(path / "axial/0001").mask, expected)


def test_intensities_in_blocks_are_those_of_numpy_and_need_little_memory(monkeypatch):
    monkeypatch.setattr(foreground_intensities, "BLOCK", 10_000)
    values = np.random.default_rng(0).normal(1e4, 3, 400_001).astype(np.float32)
    exact, expected = values.astype(np.float64), np.percentile(values, (0.5, 99.5)).tolist()
    tracemalloc.start()
    found = foreground_intensities._measured(values)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < values.nbytes / 2
    assert list(found.window) == expected
    np.testing.assert_allclose((found.mean, found.std), (exact.mean(), exact.std()), rtol=1e-12)
