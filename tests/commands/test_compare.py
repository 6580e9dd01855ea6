"""`atrous compare`: two models on the same pictures, with intervals, a test and what could have been found."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.commands.conftest import CLASSES, draw

from atrous import compare, model_file
from atrous.cli import main
from atrous.commands.compare import compared
from atrous.commands.evaluate import evaluate
from atrous.errors import AtrousError

SCENES = 4


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """12 pictures of 4 scenes, all of the split val."""
    root = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(5)
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir()
    names = [f"scene{scene}_{index}" for scene in range(SCENES) for index in range(3)]
    for name in names:
        image, mask = draw(rng)
        Image.fromarray(image).save(root / f"images/{name}.png")
        Image.fromarray(mask).save(root / f"masks/{name}.png")
    (root / "splits/val.txt").write_text("\n".join(names))
    (root / "splits/train.txt").write_text("\n".join(names[:1]))
    CLASSES.to_yaml(root / "classes.yaml")
    return root


@pytest.fixture(scope="module")
def worse(model, tmp_path_factory) -> Path:
    """The model with noise on the weights of its last layer."""
    loaded = model_file.load(model)
    last = [module for module in loaded.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight += (
            0.5 * last.weight.std() * torch.randn(last.weight.shape, generator=torch.Generator().manual_seed(0))
        )
    path = tmp_path_factory.mktemp("worse") / "worse.safetensors"
    model_file.save(loaded, path)
    return path


@pytest.fixture(scope="module")
def results(model, worse, scenes) -> dict:
    return compare(model, worse, scenes, groups=r"(scene\d)", device="cpu")


def test_the_scores_are_those_of_evaluate(results, model, worse, scenes):
    for side, path in (("a", model), ("b", worse)):
        alone = evaluate(path, scenes, device="cpu")
        assert results["miou"][side] == pytest.approx(alone["miou"])
        assert results["pixel_accuracy"][side] == pytest.approx(alone["pixel_accuracy"])
        assert [entry[side] for entry in results["classes"]] == pytest.approx(
            [entry["iou"] for entry in alone["classes"]]
        )
    assert results["miou"]["difference"] == pytest.approx(results["miou"]["b"] - results["miou"]["a"])
    assert (results["units"], results["over"], results["groups_from"], results["images"]) == (
        4,
        "groups",
        "pattern",
        12,
    )
    assert [entry["units"] for entry in results["classes"]] == [4, 4, 4]


def test_the_test_says_what_four_scenes_can_say(results):
    assert results["miou"]["difference"] < 0
    assert results["miou"]["p"] in [count / 16 for count in range(2, 17)]
    low, high = results["miou"]["interval"]
    assert low <= results["miou"]["difference"] <= high
    assert results["miou"]["detectable"] == pytest.approx(2.8016 * results["miou"]["standard_error"], rel=1e-4)
    said = " ".join([*results["verdict"], *results["remarks"]])
    assert "the smallest possible p is 0.125" in said
    assert "The smallest difference in mIoU that these pictures could show is" in said
    assert "4 groups are too narrow to trust" in said


def test_a_model_does_not_differ_from_itself(model, scenes):
    same = compare(model, model, scenes, device="cpu")
    assert same["miou"]["difference"] == 0 and same["miou"]["interval"] == [0, 0] and same["miou"]["p"] == 1
    assert same["verdict"] == ["A and B have the same counts on every picture: there is no difference."]
    assert (same["over"], same["units"]) == ("pictures", 12)
    assert any("--groups" in remark for remark in same["remarks"])


@pytest.mark.slow
def test_recorded_results_give_the_same_comparison(results, model, worse, scenes, tmp_path, capsys):
    files = []
    for path in (model, worse):
        files.append(tmp_path / f"{path.stem}.json")
        evaluate(path, scenes, device="cpu", json=files[-1])
    out = tmp_path / "compared.json"
    words = ["compare", *map(str, files), str(scenes), "--groups", r"(scene\d)", "--json", str(out)]
    capsys.readouterr()
    assert main(words) == 0
    recorded = json.loads(out.read_text())
    for key in ("miou", "pixel_accuracy", "classes", "verdict", "units", "over"):
        assert recorded[key] == json.loads(json.dumps(results[key]))
    printed = capsys.readouterr().out
    assert re.search(r"mean +0\.\d{3} +0\.\d{3} +-0\.\d{3} +[+-]0\.\d{3} to [+-]0\.\d{3} +0\.\d{3}", printed)
    mixed = compare(files[0], worse, scenes, groups=r"(scene\d)", device="cpu")
    assert mixed["miou"] == results["miou"]


def test_other_classes_are_refused_and_named(model, scenes, tmp_path):
    loaded = model_file.load(model)
    for names, said in (
        (("ground", "box", "ball"), r"only .*model.* has disc; only .*other.* has ball"),
        (("ground", "disc", "box"), r"class 1 is 'box' in .* and 'disc' in "),
    ):
        loaded.info = loaded.info.with_table(replace(loaded.info.table, names=names))
        other = tmp_path / "other.safetensors"
        model_file.save(loaded, other, overwrite=True)
        first = tmp_path / "model.safetensors"
        shutil.copy(model, first)
        with pytest.raises(AtrousError, match=said):
            compare(first, other, scenes)


def test_results_that_do_not_fit_are_refused(model, shapes, scenes, tmp_path):
    file = tmp_path / "scores.json"
    evaluate(model, shapes, split="test", device="cpu", json=file)
    with pytest.raises(AtrousError, match="not measured on the pictures of this split: it has no scores of"):
        compare(file, file, scenes)
    with pytest.raises(AtrousError, match="not measured on the pictures of this split"):
        compare(file, file, shapes, split="val")
    assert compare(file, file, shapes, split="test")["miou"]["p"] == 1
    old = json.loads(file.read_text())
    for entry in old["per_image"]:
        del entry["counts"]
    file.write_text(json.dumps(old))
    with pytest.raises(AtrousError, match=r"stored no pixel counts per picture. Measure again"):
        compare(file, file, shapes, split="test")
    file.write_text("[1]")
    with pytest.raises(AtrousError, match="contains no results"):
        compare(file, file, shapes)


@pytest.mark.slow
def test_models_that_were_trained_in_other_splits_are_warned_of(model, scenes, tmp_path, capsys):
    unlisted = tmp_path / "unlisted"
    shutil.copytree(scenes, unlisted)
    shutil.rmtree(unlisted / "splits")
    loaded = model_file.load(model)
    loaded.info = replace(loaded.info, provenance={**loaded.info.provenance, "groups": r"(scene\d)"})
    grouped = tmp_path / "grouped.safetensors"
    model_file.save(loaded, grouped)
    capsys.readouterr()
    found = compare(grouped, model, unlisted, device="cpu")
    assert "trained with different groups" in " ".join(capsys.readouterr().out.split())
    assert found["images"] == 3  # the whole scene that this model did not learn from
    alone = evaluate(grouped, unlisted, device="cpu")
    assert len({entry["group"] for entry in alone["per_image"]}) == 1
    assert alone["intervals"]["miou"] is None
    assert any(
        "There are no intervals: the data has only one group" in remark for remark in alone["intervals"]["remarks"]
    )
    evaluate(grouped, scenes, device="cpu")  # whose split is listed
    assert "warning" not in capsys.readouterr().out


def picture(name: str, hits: int, missed: int) -> dict:
    return {"name": name, "group": name, "counts": [[0, hits, hits + missed, hits], [1, 0, 0, missed]]}


def test_a_clear_difference_is_called_one():
    first = [picture(str(index), 50 + index, 50 - index) for index in range(15)]
    second = [picture(str(index), 58 + index + index % 3, 42 - index - index % 3) for index in range(15)]
    found = compared(first, second, ("a", "b"))
    assert found["test"] == "drawn ways to swap" and found["classes"][0]["p"] < 0.001
    assert found["verdict"][0].startswith("B is better than A")
    back = compared(second, first, ("a", "b"))
    assert back["verdict"][0].startswith("A is better than B")
    assert back["miou"]["difference"] == -found["miou"]["difference"]
