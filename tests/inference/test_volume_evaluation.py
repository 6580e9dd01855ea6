"""`atrous evaluate` on volumes: whole cases, in millimetres and millilitres."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import atrous
from atrous.commands import evaluate as evaluate_module
from atrous.commands.evaluate import evaluate, search_crf
from atrous.commands.predict import predict
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.pictures import read_pixels
from atrous.errors import AtrousError
from atrous.inference.segmenter import Segmenter
from atrous.input_spec import Input
from atrous.learning import volume_evaluation
from atrous.learning.crf_search import Trial
from atrous.learning.evaluation import measure
from atrous.learning.volume_evaluation import VolumeScores, measure_volumes
from atrous.models.info import Preprocessing
from atrous.models.task import Task

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("scipy")

OPTIONS = {"engine": "torch", "precision": "float32"}
TABLE = ClassTable(("background", "one", "two"), ((0, 0, 0), (9, 9, 9), (99, 99, 99)), ((0,), (1,), (2,)))


@pytest.fixture(scope="module")
def folder(make_model, tmp_path_factory):
    """A random model, and two scans of two orientations whose masks are the model's own predictions."""
    root = tmp_path_factory.mktemp("volumes")
    one = Input((0.0,), (1.0,), dtype="float32", normalize="per_image", planes=("axial", "sagittal"))
    model = make_model("deeplabv3plus", backbone="mobilenetv2_050", num_classes=3, in_channels=1)
    model.info = replace(model.info, preprocessing=Preprocessing((one,)), tasks=(Task(TABLE),))
    atrous.save(model, root / "model.safetensors")
    (root / "data/images").mkdir(parents=True)
    for name, affine in (("a", np.diag([1.0, 1, 2, 1])), ("b", np.diag([-2.0, 1, -1, 1]))):
        values = np.kron(np.random.default_rng(0).normal(size=(3, 4, 5)), np.ones((4, 4, 4))).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, affine), root / f"data/images/{name}.nii.gz")
    predict(root / "model.safetensors", [root / "data/images"], out=root / "data/masks", device="cpu", **OPTIONS)
    TABLE.to_yaml(root / "data/classes.yaml")
    (root / "data/splits").mkdir()
    (root / "data/splits/val.txt").write_text("a\nb\n")
    return root


def test_a_model_agrees_with_its_own_masks(folder, tmp_path):
    results = evaluate(
        folder / "model.safetensors",
        folder / "data",
        layout="folder",
        json=tmp_path / "all.json",
        device="cpu",
        **OPTIONS,
    )
    volumes = json.loads((tmp_path / "all.json").read_text())["volumes"]
    assert volumes == json.loads(json.dumps(results["volumes"]))
    assert [case["volume"].rpartition("/")[2] for case in volumes["cases"]] == ["a.nii.gz", "b.nii.gz"]
    assert {entry["name"] for entry in volumes["classes"]} == {"one", "two"}
    for case in volumes["cases"]:
        for scores in case["classes"].values():
            if scores["truth_ml"]:
                assert scores["dice"] == scores["surface_dice"] == 1 and scores["hd95_mm"] == 0


def test_removed_parts_change_the_scores_of_volumes_only_and_a_remark_states_it(folder, capsys):
    measured = {}
    for parts in ((), ("all=1000",)):
        options = {"layout": "folder", "device": "cpu", "smallest_part": parts, **OPTIONS}
        measured[parts] = evaluate(folder / "model.safetensors", folder / "data", **options)
        printed = " ".join(capsys.readouterr().out.split())
        assert ("scores of slices are those of the masks with them" in printed) == bool(parts)
        assert len(measured[parts]["volumes"]["remarks"]) == len(parts)
    before, after = measured.values()
    assert (before["miou"], before["per_image"]) == (after["miou"], after["per_image"])
    assert not any(case["classes"][name]["dice"] for case in after["volumes"]["cases"] for name in case["classes"])
    assert before["volumes"]["cases"] != after["volumes"]["cases"]


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_millilitres_of_a_tilted_gantry_are_those_of_its_sheared_voxels(folder, tmp_path, axes):
    shutil.copytree(folder / "data", tmp_path / "data")
    affine = np.array([[1.0, 0, 0, 5], [0, -1, 1.5, 6], [0, 0, 2, 7], [0, 0, 0, 1]])
    affine = affine[:, [*axes, 3]]
    values = np.transpose(nibabel.load(folder / "data/images/a.nii.gz").get_fdata(dtype=np.float32), axes)
    mask = np.zeros(values.shape, np.uint8)
    mask[2:10, 2:10, 2:10] = 1
    for name, array in (("images", values), ("masks", mask)):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"data/{name}/a.nii.gz")
    (tmp_path / "data/splits/val.txt").write_text("a\n")
    results = evaluate(folder / "model.safetensors", tmp_path / "data", layout="folder", device="cpu", **OPTIONS)
    (case,) = results["volumes"]["cases"]
    assert case["classes"]["one"]["truth_ml"] == pytest.approx(8**3 * 2 / 1000)  # a box of the same sides has 2.5 mm³


def test_a_moved_mask_has_its_distance_in_millimetres(folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    path = tmp_path / "data/masks/a.nii.gz"
    mask = nibabel.load(path)
    values = np.asanyarray(mask.dataobj)
    grown = np.zeros_like(values)
    grown[2:10, 2:10, 2:10] = 1
    nibabel.save(nibabel.Nifti1Image(grown, mask.affine), path)
    (tmp_path / "data/splits/val.txt").write_text("a\n")
    results = evaluate(folder / "model.safetensors", tmp_path / "data", layout="folder", device="cpu", **OPTIONS)
    (case,) = results["volumes"]["cases"]
    truth, labels = grown == 1, values == 1
    assert case["classes"]["one"]["truth_ml"] == pytest.approx(8**3 * 2 / 1000)  # voxels of 1×1×2 mm
    assert case["classes"]["one"]["dice"] == pytest.approx(2 * (truth & labels).sum() / (truth.sum() + labels.sum()))


def test_the_slices_measured_are_those_of_the_models_planes(folder):
    results = evaluate(folder / "model.safetensors", folder / "data", layout="folder", device="cpu", **OPTIONS)
    names = {Path(entry["image"]).parent.name for entry in results["per_image"]}
    assert names == {"axial", "sagittal"}


def test_mirrored_views_change_the_scores_of_axial_slices_and_not_of_sagittal_slices(folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data", ignore=lambda *_: ["a.nii.gz", "b.nii.gz"])
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        values = np.kron(rng.normal(size=(6, 6, 6)), np.ones((8, 8, 8))).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"data/images/{name}.nii.gz")
        labels = np.kron(rng.integers(0, 3, (6, 6, 6)), np.ones((8, 8, 8))).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), tmp_path / f"data/masks/{name}.nii.gz")
    scores = {}
    for flip in (False, True):
        found = evaluate(
            folder / "model.safetensors", tmp_path / "data", layout="folder", device="cpu", flip=flip, **OPTIONS
        )
        for plane in ("axial", "sagittal"):
            scores[plane, flip] = [e for e in found["per_image"] if Path(e["image"]).parent.name == plane]
    assert scores["sagittal", False] == scores["sagittal", True]
    assert scores["axial", False] != scores["axial", True]


def windowed(folder, path, planes):
    """The model, whose slices have values of a window as colours, which a CRF can compare."""
    model = atrous.load(folder / "model.safetensors")
    one = Input((0.0,), (1.0,), dtype="float32", normalize="window", window=(-3.0, 3.0), planes=planes)
    model.info = replace(model.info, preprocessing=Preprocessing((one,)))
    atrous.save(model, path)
    return path


@pytest.mark.slow
def test_tiled_sagittal_slices_have_no_mirrored_views_in_scores_without_a_crf(folder, tmp_path, monkeypatch, capsys):
    """A tiled slice is segmented again for these scores, so this run must leave out the mirrored views, too."""
    for name in ("images", "masks", "splits"):
        (tmp_path / "data" / name).mkdir(parents=True)
    rng = np.random.default_rng(1)
    values = np.kron(rng.normal(size=(1, 10, 10)), np.ones((1, 8, 8))).astype(np.float32)
    labels = np.kron(rng.integers(0, 3, (1, 10, 10)), np.ones((1, 8, 8))).astype(np.uint8)
    for name, array in (("images", values), ("masks", labels)):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"data/{name}/a.nii.gz")
    TABLE.to_yaml(tmp_path / "data/classes.yaml")
    (tmp_path / "data/splits/val.txt").write_text("a\n")
    model = windowed(folder, tmp_path / "model.safetensors", ("sagittal",))
    dataset = open_dataset(tmp_path / "data", planes=("sagittal",))
    items, tiles = dataset.split("val"), {"device": "cpu", "tile": 64, "overlap": 16, **OPTIONS}
    picture, network = read_pixels(items[0].image).values, atrous.load(model)
    logits = Segmenter(model, device="cpu", **OPTIONS).any_size.logits(picture, np.arange(picture[..., 0].size))
    head = [part for part in network.modules() if isinstance(part, torch.nn.Conv2d) and part.out_channels == 3][-1]
    assert head.bias is not None
    head.bias.data -= torch.from_numpy(logits.mean(0))  # so that the mask has several classes
    atrous.save(network, model)
    plain, mirrored = (Segmenter(model, flip=flip, **tiles) for flip in (False, True))
    expected = measure(plain, dataset, items).confusion
    assert (plain.any_size(picture) != mirrored.any_size(picture)).any()  # mirrored views would change the mask
    refined = measure(mirrored.looking(crf="deeplabv2,iterations=1"), dataset, items)
    np.testing.assert_array_equal(refined.without_crf.confusion.counts, expected.counts)
    monkeypatch.setattr(evaluate_module, "coarse_to_fine", lambda score: [Trial({"iterations": 1}, 0.0)])
    search_crf(mirrored, dataset, items)
    assert f"mIoU {expected.miou:.4f} without CRF" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("options", [{"crf_search": True}, {"crf": "deeplabv2"}])
def test_a_crf_over_several_planes_is_refused_before_the_work(folder, tmp_path, options):
    model = windowed(folder, tmp_path / "model.safetensors", ("axial", "sagittal"))
    with pytest.raises(AtrousError, match="averages several planes"):
        evaluate(model, tmp_path / "missing", device="cpu", **options, **OPTIONS)


def test_a_dataset_of_another_spacing_than_the_model_is_not_measured(folder, tmp_path):
    model = windowed(folder, tmp_path / "model.safetensors", ("axial",))
    dataset = open_dataset(folder / "data", planes=("axial",), spacing=(2.0, 2.0, 2.0))
    with pytest.raises(AtrousError, match="images and masks would differ"):
        measure(Segmenter(model, device="cpu", **OPTIONS), dataset, dataset.split("val"))


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_wrong_tolerance_is_refused_before_the_work(folder, tolerance):
    with pytest.raises(AtrousError, match="tolerance must be"):
        evaluate(folder / "missing.safetensors", folder / "data", tolerance=tolerance)


def test_a_model_with_a_target_spacing_segments_each_volume_once(folder, tmp_path, monkeypatch):
    model = atrous.load(folder / "model.safetensors")
    one = replace(model.info.preprocessing.image, spacing=(1.3, 0.8, 1.6), planes=("axial",))
    model.info = replace(model.info, preprocessing=Preprocessing((one,)))
    atrous.save(model, tmp_path / "model.safetensors")
    segment, runs = volume_evaluation.segment_volume, []
    monkeypatch.setattr(volume_evaluation, "segment_volume", lambda *given: runs.append(given) or segment(*given))
    options = {"layout": "folder", "device": "cpu", **OPTIONS}
    whole, removed = (
        evaluate(tmp_path / "model.safetensors", folder / "data", smallest_part=parts, **options)
        for parts in ((), ("all=1000",))
    )
    assert len(runs) == 4  # two volumes, measured twice
    assert (whole["miou"], whole["per_image"]) == (removed["miou"], removed["per_image"])
    assert not any(scores["dice"] for case in removed["volumes"]["cases"] for scores in case["classes"].values())
    segmenter = Segmenter(tmp_path / "model.safetensors", device="cpu", **OPTIONS)
    dataset = open_dataset(folder / "data", layout="folder", planes=("axial",))
    alone = VolumeScores(segmenter.info.classes, 1.0)
    measure_volumes(segmenter, dataset, dataset.split("val"), alone)
    assert whole["volumes"]["cases"] == alone.as_json()["cases"]


def test_a_model_with_a_target_spacing_is_measured_on_the_grids_of_the_files(folder, tmp_path):
    info = atrous.load(folder / "model.safetensors").info
    model = atrous.load(folder / "model.safetensors")
    one = replace(info.preprocessing.image, spacing=(1.3, 0.8, 1.6), planes=("axial",))
    model.info = replace(info, preprocessing=Preprocessing((one,)))
    atrous.save(model, tmp_path / "model.safetensors")
    assert atrous.load(tmp_path / "model.safetensors").info.preprocessing.image.spacing == (1.3, 0.8, 1.6)
    shutil.copytree(folder / "data", tmp_path / "data", ignore=lambda *_: ["masks"])
    images, masks = tmp_path / "data/images", tmp_path / "data/masks"
    predict(tmp_path / "model.safetensors", [images], out=masks, device="cpu", **OPTIONS)
    for name in ("a", "b"):
        scan, mask = (nibabel.load(part / f"{name}.nii.gz") for part in (images, masks))
        assert scan.shape == mask.shape and (scan.affine == mask.affine).all()
    results = evaluate(tmp_path / "model.safetensors", tmp_path / "data", layout="folder", device="cpu", **OPTIONS)
    assert results["miou"] == 1 and results["images"] == len(results["per_image"]) == 40  # 20 slices in each file
    for case in results["volumes"]["cases"]:
        for scores in case["classes"].values():
            if scores["truth_ml"]:
                assert scores["dice"] == 1
    with pytest.raises(AtrousError, match="no single slices"):
        Segmenter(tmp_path / "model.safetensors", **OPTIONS, device="cpu")(images / "a.nii.gz/axial/0001")
    with pytest.raises(AtrousError, match="leave the CRF out"):
        evaluate(tmp_path / "model.safetensors", tmp_path / "data", layout="folder", device="cpu", crf={}, **OPTIONS)
