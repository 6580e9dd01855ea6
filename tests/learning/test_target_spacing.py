"""Training with a target spacing: the run, its model, and its resumption after the data or the recipe changed."""

import json
from dataclasses import replace

import numpy as np
import pytest

import atrous
from atrous import AtrousError, fit
from atrous.commands.train import train
from atrous.learning.checkpoint import checkpoint_of, saved_info
from atrous.learning.recipe import to_recipe

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("scipy")


def add(root, split, name, sides):
    """Adds a volume of 24×20×8 voxels with a bright block, which its mask marks."""
    rng, mask = np.random.default_rng(len(name)), np.zeros((24, 20, 8), np.uint8)
    mask[6:16, 5:15, 2:6] = 1
    scan = (rng.normal(size=mask.shape) + 6 * mask + 10).astype(np.float32)
    for folder, values in (("images", scan), ("masks", mask)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nibabel.save(
            nibabel.Nifti1Image(values, np.diag([-sides[0], sides[1], sides[2], 1])), root / folder / f"{name}.nii.gz"
        )
    (root / "splits").mkdir(exist_ok=True)
    with (root / f"splits/{split}.txt").open("a") as file:
        file.write(f"{name}\n")


def volumes(root, **image):
    """Two volumes for training and one for validation; the arguments are those of the image in inputs.yaml."""
    add(root, "train", "a", (1.0, 1.0, 2.0))
    add(root, "train", "b", (1.2, 1.2, 3.0))
    add(root, "val", "c", (0.8, 1.0, 2.0))
    (root / "classes.yaml").write_text("classes: [{name: background}, {name: block}]\n")
    if image:
        (root / "inputs.yaml").write_text(json.dumps({"inputs": {"image": image}}))
    return root


def recipe_for(root, spacing="median", **sections):
    arguments = {"aspp_channels": 8, "low_channels": 8}
    return to_recipe(
        {
            "data": {"root": str(root), "workers": 0, "check": False, "spacing": spacing},
            "model": {"backbone": "mobilenetv2_035", "pretrained": False, "arguments": arguments},
            "augment": {"crop": [16, 16]},
            "train": {"epochs": 1, "batch_size": 8, "device": "cpu", "precision": "float32"},
            "watch": {"tensorboard": False},
            **sections,
        }
    )


def longer(recipe, **data):
    return replace(recipe, train=replace(recipe.train, epochs=2), data=replace(recipe.data, **data))


@pytest.mark.slow
def test_a_run_is_trained_measured_and_resumed_with_its_spacing(tmp_path):
    root, run = volumes(tmp_path / "data"), tmp_path / "run"
    recipe = recipe_for(root)
    train(recipe, out=run)
    spacing = (1.1, 1.1, 2.5)  # the medians of the two training volumes
    assert saved_info(run).preprocessing.image.spacing == pytest.approx(spacing)
    trained = atrous.load(run / "best.safetensors").info.preprocessing.image
    assert trained.spacing == pytest.approx(spacing)
    results = json.loads((run / "evaluation.json").read_text())
    assert results["images"] == 8  # stored slices
    assert [case["volume"].rpartition("/")[2] for case in results["volumes"]["cases"]] == ["c.nii.gz"]
    add(root, "train", "coarse", (2.0, 2.0, 6.0))  # the median is another one now
    for given in (1.1, 1.1, 2.6), None:
        with pytest.raises(AtrousError, match="a resumed run keeps its spacing"):
            fit(longer(recipe, spacing=given), resume=run)
    before = checkpoint_of(run).read_bytes()
    assert train(longer(recipe), resume=run) == run
    assert checkpoint_of(run).read_bytes() != before
    assert saved_info(run).preprocessing.image.spacing == trained.spacing
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").open() if '"val"' in line] == [1, 2]


@pytest.mark.slow
def test_a_run_without_a_spacing_cannot_get_one(tmp_path):
    recipe = recipe_for(volumes(tmp_path / "data"), spacing=None)
    fit(recipe, tmp_path / "run")
    for given in ("median", (1.0, 1.0, 2.0)):
        with pytest.raises(AtrousError, match="was trained with none"):
            fit(longer(recipe, spacing=given), resume=tmp_path / "run")
    assert fit(longer(recipe), resume=tmp_path / "run").progress.epoch == 2


@pytest.mark.parametrize(("spacing", "planes"), [("median", ["axial"]), (None, ["axial", "sagittal"])])
def test_a_trainable_crf_is_refused_before_the_training(tmp_path, spacing, planes):
    root = volumes(tmp_path / "data", planes=planes, normalize="window", window=[0, 20])
    recipe = recipe_for(root, spacing, crf={"trainable": True})
    with pytest.raises(AtrousError, match="the CRF refines single slices"):
        fit(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
