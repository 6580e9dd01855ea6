import dataclasses
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import atrous
from atrous import model_file
from atrous.cli import main
from atrous.commands.evaluate import _print, evaluate
from atrous.commands.report import report
from atrous.crf import PRESETS, DenseCRF
from atrous.crf.settings import settings_of
from atrous.data.class_colors import default_colors
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError
from atrous.inference.segmenter import Segmenter
from atrous.learning.accuracy_by_size import SizeScore
from atrous.learning.boundary_metrics import BoundaryIoU
from atrous.learning.class_matching import matching_classes
from atrous.learning.confusion_matrix import ConfusionMatrix
from atrous.learning.evaluation import class_warnings

RAW = {0: 0, 7: 1, 8: 1, 300: 2}  # raw value → class index, as classes.yaml says; 65535 is ignored


def slow_matrix(model: Path, folder: Path, names: list[str]) -> list[list[int]]:
    """Counted pixel by pixel from the Segmenter's own masks and the mask files."""
    segmenter = Segmenter(model, device="cpu", precision="float32")
    counts = [[0] * 3 for _ in range(3)]
    for name in names:
        predicted = segmenter(folder / "images" / f"{name}.png").mask.ravel().tolist()
        truth = np.asarray(Image.open(folder / "masks" / f"{name}.png")).ravel().tolist()
        for t, p in zip(truth, predicted, strict=True):
            if t != 65535:
                counts[RAW[t]][p] += 1
    return counts


@pytest.fixture(scope="module")
def results(model, shapes) -> dict:
    return evaluate(model, shapes, split="test", device="cpu")


@pytest.mark.slow
def test_the_matrix_is_that_of_a_slow_loop(results, model, shapes):
    expected = slow_matrix(model, shapes, ["test_0", "test_1", "test_2"])
    assert results["confusion"] == expected
    assert sum(map(sum, expected)) == 3 * 47 * 64  # the first row of each mask is ignored
    assert all(expected[index][index] for index in range(3))  # not vacuous


def test_mistakes_of_each_picture_add_up_to_the_matrix(results):
    counts = np.zeros((3, 3), int)
    for entry in results["per_image"]:
        pixels = [each[2] for each in entry["mistakes"]]
        assert pixels == sorted(pixels, reverse=True) and all(pixels)
        for true, taken, count in entry["mistakes"]:
            counts[true, taken] += count
    matrix = np.array(results["confusion"])
    assert (counts <= matrix).all() and not counts.diagonal().any()
    largest = [max(each[2] for each in entry["mistakes"]) for entry in results["per_image"] if entry["mistakes"]]
    assert sum(largest) <= counts.sum()


def test_the_accuracy_by_size_is_printed_only_if_sizes_differ(results, capsys):
    for only, printed in (({"small": 0.5, "medium": None, "large": None}, False), ({"small": 0.5, "large": 0.7}, True)):
        _print({**results, "accuracy_by_size": only})
        assert ("accuracy on segments" in capsys.readouterr().out) == printed


def test_boundaries_and_sizes_are_measured(results, model, shapes):
    boundary, sizes = BoundaryIoU(3), SizeScore(3)
    dataset = open_dataset(shapes)
    segmenter = Segmenter(model, engine="torch", device="cpu", precision="float32")
    for item in dataset.split("test"):
        sample = dataset.read(item)
        for counter in (boundary, sizes):
            counter.update(sample.label, segmenter(sample.image).mask)
    assert [entry["boundary_iou"] for entry in results["classes"]] == boundary.iou.tolist()
    assert results["boundary_iou"] == boundary.mean
    found = [list(entry["accuracy_by_size"].values()) for entry in results["classes"]]
    expected = [[None if value != value else value for value in row] for row in sizes.accuracy().tolist()]
    assert found == expected and any(value is not None for row in found for value in row)


def test_scores_follow_from_the_matrix(results):
    counts = np.array(results["confusion"])
    hits, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    iou = hits / (true + predicted - hits)
    assert results["miou"] == pytest.approx(iou.mean())
    assert results["pixel_accuracy"] == pytest.approx(hits.sum() / counts.sum())
    assert results["mean_accuracy"] == pytest.approx((hits / true).mean())
    assert results["frequency_weighted_iou"] == pytest.approx((true / counts.sum() * iou).sum())
    assert results["dice"] == pytest.approx((2 * hits / (true + predicted)).mean())
    assert [entry["iou"] for entry in results["classes"]] == pytest.approx(iou.tolist())
    assert [entry["pixels_true"] for entry in results["classes"]] == true.tolist()
    assert [entry["pixels_predicted"] for entry in results["classes"]] == predicted.tolist()
    assert [entry["name"] for entry in results["classes"]] == ["ground", "box", "disc"]
    assert results["classes"][1]["color"] == [220, 40, 40]
    assert results["absent"] == []


def test_the_record_says_what_was_measured(results, model, shapes):
    assert results["model"] == str(model)
    assert results["model_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert results["data"] == str(shapes.resolve())
    assert (results["split"], results["images"]) == ("test", 3)
    assert (results["engine"], results["precision"]) == ("torch", "float32")
    assert [entry["name"] for entry in results["per_image"]] == ["test_0", "test_1", "test_2"]
    for entry in results["per_image"]:
        assert Path(entry["image"]).is_file()
        assert Path(entry["mask"]).is_file()


def test_each_picture_alone_adds_up(results, model, shapes, tmp_path):
    for name, entry in zip(["test_0", "test_1", "test_2"], results["per_image"], strict=True):
        matrix = ConfusionMatrix(3)
        matrix.counts += np.array(slow_matrix(model, shapes, [name]))
        assert entry["miou"] == pytest.approx(matrix.miou)
        assert entry["pixel_accuracy"] == pytest.approx(matrix.pixel_accuracy)


def test_json_is_what_is_returned(results, model, shapes, tmp_path, capsys):
    path = tmp_path / "new" / "scores.json"
    words = ["evaluate", model, shapes, "--split", "test", "--json", path, "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == results
    assert f"mIoU {results['miou']:.4f}" in " ".join(capsys.readouterr().out.split())


def test_the_order_of_pictures_does_not_matter(results, model, fresh_shapes):
    (fresh_shapes / "splits" / "test.txt").write_text("test_2\ntest_0\ntest_1")
    assert evaluate(model, fresh_shapes, split="test", device="cpu")["confusion"] == results["confusion"]


def test_classes_are_matched_by_name_whatever_their_order(results, model, fresh_shapes):
    other = ClassTable(("disc", "ground", "box"), default_colors(3), ((300,), (0,), (7, 8)), (65535,))
    other.to_yaml(fresh_shapes / "classes.yaml")
    again = evaluate(model, fresh_shapes, split="test", device="cpu")
    assert again["confusion"] == results["confusion"]
    assert again["miou"] == results["miou"]


def test_raw_values_may_differ_from_those_of_the_training(results, model, fresh_shapes):
    for path in (fresh_shapes / "masks").iterdir():
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.select([mask == 0, mask == 7, mask == 300], [10, 20, 30], 99).astype(np.uint8)).save(path)
    ClassTable(("ground", "box", "disc"), default_colors(3), ((10,), (20,), (30,)), (99,)).to_yaml(
        fresh_shapes / "classes.yaml"
    )
    assert evaluate(model, fresh_shapes, split="test", device="cpu")["confusion"] == results["confusion"]


def test_data_with_fewer_classes_is_measured_and_the_absent_are_named(model, fresh_shapes):
    ClassTable(("ground", "box"), default_colors(2), ((0, 300), (7, 8)), (65535,)).to_yaml(
        fresh_shapes / "classes.yaml"
    )
    results = evaluate(model, fresh_shapes, split="test", device="cpu")
    assert results["classes"][2]["pixels_true"] == 0
    assert results["classes"][2]["iou"] == 0  # it is predicted, so it counts
    assert results["classes"][2]["accuracy"] is None


@pytest.mark.slow
def test_a_class_that_is_nowhere_is_left_out(model, fresh_shapes, tmp_path):
    loaded = model_file.load(model)
    with torch.no_grad():
        loaded.classifier.bias[2] = -1e6
    atrous.save(loaded, tmp_path / "m.safetensors")
    ClassTable(("ground", "box"), default_colors(2), ((0, 300), (7, 8)), (65535,)).to_yaml(
        fresh_shapes / "classes.yaml"
    )
    results = evaluate(tmp_path / "m.safetensors", fresh_shapes, split="test", device="cpu")
    assert results["absent"] == ["disc"]
    assert results["classes"][2]["iou"] is results["classes"][2]["dice"] is None
    assert results["miou"] == pytest.approx(np.mean([entry["iou"] for entry in results["classes"][:2]]))


def test_classes_unknown_to_the_model_are_refused(model, fresh_shapes, capsys):
    ClassTable(("ground", "box", "dog"), default_colors(3), ((0,), (7, 8), (300,)), (65535,)).to_yaml(
        fresh_shapes / "classes.yaml"
    )
    assert main(["evaluate", str(model), str(fresh_shapes)]) == 2
    error = capsys.readouterr().err
    assert "classes that this model does not have: dog. The classes of the model are: ground, box, disc." in error


def test_matching_classes():
    table = ClassTable(("b", "c"), default_colors(2), ((0,), (1,)), (255,))
    remap = matching_classes(table, ["a", "b", "c"])
    assert remap[:2].tolist() == [1, 2]
    assert (remap[2:] == 255).all()
    assert remap.dtype == np.uint8
    with pytest.raises(AtrousError, match="does not have: c"):
        matching_classes(table, ["a", "b"])


@pytest.mark.slow
def test_a_collapsed_model_is_told_apart_from_a_good_pixel_accuracy(model, shapes, tmp_path, capsys):
    loaded = model_file.load(model)
    with torch.no_grad():
        loaded.classifier.bias[0] = 1e6
    atrous.save(loaded, tmp_path / "m.safetensors")
    results = evaluate(tmp_path / "m.safetensors", shapes, device="cpu")
    assert results["pixel_accuracy"] > 0.7
    (warning,) = results["warnings"]
    assert "collapsed to 1 of 3 classes" in warning
    assert "never predicted, though present in the truth: box, disc" in warning
    assert "warning: the model has collapsed" in " ".join(capsys.readouterr().out.split())


def test_a_rare_class_that_is_never_predicted_is_no_collapse():
    matrix = ConfusionMatrix(3)
    matrix.counts += [[500, 0, 0], [0, 490, 0], [5, 5, 0]]
    assert class_warnings(matrix, ["a", "b", "c"]) == ["never predicted, though present in the truth: c."]
    matrix.counts[2] = 0
    assert class_warnings(matrix, ["a", "b", "c"]) == []


def test_a_one_logit_model_is_measured_as_two_classes(fresh_shapes, tmp_path):
    torch.manual_seed(0)
    small = {"backbone": "mobilenetv2_035", "aspp_channels": 8, "low_channels": 8}
    model = atrous.create_model("deeplabv3plus", num_classes=1, **small)
    model.info = model.info.with_table(dataclasses.replace(model.info.table, names=("ground", "thing")))
    atrous.save(model, tmp_path / "m.safetensors")
    ClassTable(("ground", "thing"), default_colors(2), ((0,), (7, 8, 300)), (65535,)).to_yaml(
        fresh_shapes / "classes.yaml"
    )
    results = evaluate(tmp_path / "m.safetensors", fresh_shapes, device="cpu")
    assert np.array(results["confusion"]).shape == (2, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "tets"], "has no split 'tets'; it has .*test.* Did you mean 'test'"),
        (["--layout", "vok"], "Did you mean 'voc'"),
        (["--device", "cuda:77"], "device"),
        (["--precision", "float8"], "unknown precision 'float8'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(model, shapes, capsys, words, message):
    assert main(["evaluate", str(model), str(shapes), *words]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_damaged_data_is_named(model, fresh_shapes):
    (fresh_shapes / "images" / "test_1.png").write_bytes(b"")
    with pytest.raises(AtrousError, match=r"test_1\.png: the file is empty"):
        evaluate(model, fresh_shapes, split="test", device="cpu")
    (fresh_shapes / "masks" / "test_0.png").unlink()
    with pytest.raises(AtrousError, match=r"test_0\.png: the picture has no mask"):
        evaluate(model, fresh_shapes, split="test", device="cpu")


@pytest.mark.slow
def test_every_layout_of_the_same_split_is_open_to_it(model, shapes):
    dataset = open_dataset(shapes)
    counts = {split: evaluate(model, shapes, split=split, device="cpu")["images"] for split in dataset.splits}
    assert counts == {"train": 8, "val": 3, "test": 3}


# With a CRF


@pytest.mark.slow
def test_with_a_crf_both_are_measured(results, model, shapes, capsys):
    refined = evaluate(model, shapes, split="test", crf="deeplabv2,bilateral_rgb=20", device="cpu")
    assert refined["without_crf"] == {key: results[key] for key in refined["without_crf"]}
    assert refined["without_crf"]["miou"] == results["miou"]
    assert refined["confusion"] != results["confusion"]
    assert refined["crf"] == settings_of(DenseCRF.preset("deeplabv2", bilateral_rgb=20))
    assert not {"crf", "without_crf"} & results.keys()
    said = capsys.readouterr().out
    assert re.search(rf"mIoU +{results['miou']:.4f} +{refined['miou']:.4f} +[+-]0\.", said)


def test_the_crf_matrix_is_that_of_the_segmenters_masks(model, shapes):
    crf = "bilateral_rgb=20"
    refined = evaluate(model, shapes, split="test", crf=crf, device="cpu")
    segmenter = Segmenter(model, device="cpu", precision="float32", crf=crf)
    expected = ConfusionMatrix(3)
    for name in ("test_0", "test_1", "test_2"):
        raw = np.asarray(Image.open(shapes / "masks" / f"{name}.png")).astype(int)
        truth = np.select([raw == value for value in RAW], list(RAW.values()), 255).astype(np.uint8)
        expected.update(truth, segmenter(shapes / "images" / f"{name}.png").mask)
    assert refined["confusion"] == expected.counts.tolist()


@pytest.mark.slow
def test_the_search_finds_settings_saves_them_and_says_what_they_give(results, model, shapes, tmp_path, capsys):
    out = tmp_path / "new" / "with_crf.safetensors"
    words = ["--split", "test", "--device", "cpu", "--crf-search", "--crf-images", "2", "--save-crf", str(out)]
    assert main(["evaluate", str(model), str(shapes), *words, "--json", str(tmp_path / "scores.json")]) == 0
    said = capsys.readouterr().out
    assert "searched 154 settings on 2 pictures: mIoU 0." in said
    assert "--crf model" in said
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["images"] == 3  # measured on the whole split
    assert found["without_crf"]["miou"] == results["miou"]
    saved, before = atrous.load(out), atrous.load(model)
    assert saved.info == dataclasses.replace(before.info, crf=found["crf"])
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in before.state_dict().items())
    again = evaluate(out, shapes, split="test", crf="model", device="cpu")
    assert again["confusion"] == found["confusion"]
    assert again["crf"] == found["crf"]


@pytest.mark.slow
def test_the_searched_settings_are_no_worse_than_any_of_the_grid_on_the_same_pictures(model, shapes):
    found = evaluate(model, shapes, split="test", crf_search=True, device="cpu")
    for weight, xy, rgb in ((3, 30, 3), (6, 100, 6), (4, 60, 5)):
        given = {"bilateral_weight": weight, "bilateral_xy": xy, "bilateral_rgb": rgb, "gaussian_xy": 3}
        words = ",".join(f"{name}={value}" for name, value in given.items())
        assert found["miou"] >= evaluate(model, shapes, split="test", crf=words, device="cpu")["miou"]


@pytest.mark.slow
def test_given_settings_are_saved_too(model, shapes, tmp_path):
    out = tmp_path / "m.safetensors"
    evaluate(model, shapes, split="test", crf="deeplabv1", save_crf=out, device="cpu")
    assert model_file.read_info(out).crf == settings_of(DenseCRF(**PRESETS["deeplabv1"]))
    evaluate(out, shapes, split="test", crf="deeplabv2", save_crf=tmp_path / "m2.safetensors", device="cpu")
    evaluate(model, shapes, split="test", crf="deeplabv2", save_crf=out, device="cpu")  # a model may be replaced
    assert model_file.read_info(out).crf == settings_of(DenseCRF(**PRESETS["deeplabv2"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--crf", "model"], "the model file stores no CRF settings"),
        (["--crf", "deplabv1"], "Did you mean 'deeplabv1'"),
        (
            ["--crf-search", "--crf", "deeplabv1"],
            "--crf-search finds settings of the CRF, but --crf deeplabv1 sets them",
        ),
        (["--crf-search", "--crf-images", "0"], "crf_images must be 1 or more, got 0"),
        (["--save-crf", "a.safetensors"], "--save-crf saves the settings from --crf or --crf-search"),
        (["--crf", "deeplabv1", "--save-crf", "a.pth"], "the name of a model file must end in .safetensors"),
        (["--crf", "deeplabv1", "--save-crf", "MODEL"], "the model itself; give another name"),
        (["--crf", "deeplabv1", "--save-crf", "OTHER"], "exists and is not a model file of atrous"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_crf_that_cannot_be_is_refused_before_the_work(model, shapes, tmp_path, capsys, words, message):
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"precious")
    before = model.read_bytes()
    places = {"MODEL": str(model), "OTHER": str(other)}
    assert main(["evaluate", str(model), str(shapes), *(places.get(word, word) for word in words)]) == 2
    assert message in capsys.readouterr().err
    assert other.read_bytes() == b"precious"
    assert model.read_bytes() == before


@pytest.mark.slow
def test_another_output_stride(model, shapes):
    finer = evaluate(model, shapes, split="test", device="cpu", output_stride=8)
    assert finer["output_stride"] == 8
    assert finer["confusion"] != evaluate(model, shapes, split="test", device="cpu")["confusion"]


@pytest.mark.slow
def test_a_report_draws_the_masks_that_were_measured(model, shapes, tmp_path, monkeypatch):
    """With the options of the measurement, the masks on the page have its confusion; with others they have not."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.safetensors").write_bytes(model.read_bytes())
    options = {"scales": [0.5, 1.5], "flip": True, "output_stride": 8}
    options |= {"split": "test", "device": "cpu", "json": run / "evaluation.json"}
    results = evaluate(run / "best.safetensors", shapes, **options)
    masks: list[np.ndarray] = []

    def watched(mask: np.ndarray, colors: object) -> str:
        masks.append(mask)
        return "data:,"

    monkeypatch.setattr("atrous.charts.mask_uri", watched)
    report(run)
    drawn = list(zip(masks[0::2], masks[1::2], strict=True))[: results["images"]]  # all, as best and as worst
    confusion = ConfusionMatrix(3)
    for truth, answer in drawn:
        confusion.update(truth, answer)
    assert confusion.counts.tolist() == results["confusion"]
    assert results["confusion"] != evaluate(model, shapes, split="test", device="cpu")["confusion"]
