import dataclasses
import json
import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import atrous
from atrous import model_file
from atrous.cli import main
from atrous.commands.evaluate import evaluate
from atrous.commands.train import train
from atrous.data.doctor.readiness import few_pictures
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.statistics import channel_statistics
from atrous.errors import AtrousError
from atrous.input_spec import Input
from atrous.learning.model_for_data import create_for
from atrous.learning.recipe import Recipe, read_recipe, write_recipe
from atrous.learning.training_step import TrainingStep


def lines(run: Path, kind: str) -> list[dict]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


# What a finished run holds


def test_a_run_is_a_folder_with_everything(run):
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("tensorboard/events.")}
    assert events
    assert files - events == {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints/last.safetensors",
        "checkpoints/lock",
        "best.safetensors",
        "evaluation.json",
        "report.html",
    }


@pytest.mark.parametrize(("backbone", "aligned"), [("tf_efficientnet_lite0", True), ("mobilenetv2_035", False)])
def test_pictures_are_aligned_where_the_backbone_pads_as_tensorflow_does(backbone, aligned, tiny, shapes):
    recipe, dataset = tiny(model__backbone=backbone), open_dataset(shapes)
    model = create_for(recipe, dataset)
    assert model.info.preprocessing.aligned is model.align_corners is aligned
    assert model.info.arguments["align_corners"] is aligned
    told = replace(recipe, model=replace(recipe.model, arguments={**recipe.model.arguments, "align_corners": False}))
    assert create_for(told, dataset).align_corners is False
    assert create_for(recipe, dataset, fresh=False).align_corners is False  # as runs before this were trained


@pytest.mark.slow
def test_a_run_keeps_the_corners_that_were_chosen_for_it(tiny, shapes, tmp_path):
    recipe = tiny(model__backbone="tf_efficientnet_lite0", train__epochs=1)
    run = train(recipe, out=tmp_path / "run")
    assert read_recipe(run / "config.yaml").model.arguments["align_corners"] is True
    assert atrous.load(run / "best.safetensors").align_corners is True
    resumed = train(read_recipe(run / "config.yaml", {"train.epochs": 2}), resume=run)
    assert atrous.load(resumed / "best.safetensors").align_corners is True


def test_it_learns_every_class(run):
    losses = [line["loss"] for line in lines(run, "train")]
    assert losses[-1] < losses[0] / 2
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert min(entry["iou"] for entry in evaluation["classes"]) > 0.3
    assert not evaluation["warnings"]


def test_metrics_are_logged_every_ten_steps_and_at_validations(run):
    assert [line["step"] for line in lines(run, "train")] == list(range(10, 121, 10))
    rates = {"lr", "lr_backbone"}
    assert {*lines(run, "train")[0]} == {"kind", "step", "epoch", "loss", "images_per_second", "grad_norm"} | rates
    validations = lines(run, "val")
    assert [(line["epoch"], line["step"]) for line in validations] == [(15, 60), (30, 120)]
    assert {"miou", "pixel_accuracy", "per_class"} <= {*validations[0]}
    assert [*validations[0]["per_class"]] == ["ground", "box", "disc"]


def test_validation_in_training_is_the_later_test(run, model, shapes):
    """The pain of other tools: the score seen in training is not the one measured afterwards."""
    best = max(lines(run, "val"), key=lambda line: line["miou"])
    written = json.loads((run / "evaluation.json").read_text())
    again = evaluate(model, shapes, split="val", device="cpu")
    for key in ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "dice"):
        assert best[key] == written[key] == again[key] == model_file.read_info(model).scores["val"][key]
    assert [entry["iou"] for entry in again["classes"]] == [*best["per_class"].values()]


def test_the_model_knows_its_classes_and_where_it_comes_from(model):
    info = model_file.read_info(model)
    assert info.classes == ("ground", "box", "disc")
    assert info.colors == ((90, 60, 30), (220, 40, 40), (40, 60, 220))
    assert info.table.raw == ((0,), (7, 8), (300,))
    assert info.table.ignore == (65535,)
    assert info.provenance["recipe"] == "tiny"
    assert info.provenance["data"] == "shapes"


@pytest.mark.slow
def test_the_config_is_the_resolved_recipe_and_repeats_the_run(run, tmp_path):
    recipe = read_recipe(run / "config.yaml")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["optim"]["momentum"] == Recipe().optim.momentum  # also what was not given
    short = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, epochs=2))
    for name in "ab":
        train(short, out=tmp_path / name)
    first, second = (model_file.load(tmp_path / name / "best.safetensors").state_dict() for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)


# Ways to train


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"train__batch_size": 3, "train__epochs": 2}, 6),
        ({"train__batch_size": 1, "optim__accumulate": 3, "train__epochs": 2}, 6),
        ({"train__batch_size": 2, "optim__accumulate": 99}, 1),
        ({"model__backbone": "resnet18", "augment__crop": [33, 33], "train__batch_size": 1}, 8),
        (
            {
                **{"optim__name": "sgd", "optim__clip": 0.0, "schedule__warmup": 0.0, "train__ema": 0.9},
                **{"loss__class_weights": "median_frequency", "loss__label_smoothing": 0.1},
            },
            2,
        ),
        ({"augment__crop": None, "augment__scale": [1, 1], "model__in_channels": 1, "data__statistics": "fit"}, 2),
        (
            {
                **{"train__enlarge": 1.5, "train__precision": "bfloat16", "train__channels_last": False},
                **{"data__workers": 1, "data__check": True},
            },
            2,
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_variants(tiny, tmp_path, changes, steps):
    out = train(tiny(**changes), out=tmp_path / "run")
    last = lines(out, "val")[-1]
    assert last["step"] == steps
    assert 0 <= last["miou"] <= 1
    segmenter = atrous.Segmenter(out / "best.safetensors", device="cpu")
    assert segmenter(np.zeros((30, 41, 3), np.uint8)).mask.shape == (30, 41)


CRF = {"trainable": True, "bilateral_xy": 20, "bilateral_rgb": 15, "lr": 10}


@pytest.mark.slow
@pytest.mark.parametrize(("compatibility", "ema"), [("learned", 0.9), ("potts", 0.0)])
def test_a_crf_as_the_last_layer(tiny, shapes, tmp_path, compatibility, ema):
    crf = {**CRF, "compatibility": compatibility}
    out = train(tiny(crf=crf, train__epochs=4, train__ema=ema), out=tmp_path / "run")
    info = model_file.read_info(out / "best.safetensors")
    assert info.crf is not None
    assert (info.crf["bilateral_xy"], info.crf["iterations"]) == (20, 10)
    assert abs(info.crf["bilateral_weight"] - 4) > 1e-3
    if compatibility == "learned":
        assert np.abs(np.array(info.crf["compatibility"]) - (1 - np.eye(3))).max() > 1e-3
    else:
        assert info.crf["compatibility"] == "potts"
    written = json.loads((out / "evaluation.json").read_text())
    assert written["crf"] == info.crf
    best = max(lines(out, "val"), key=lambda line: line["miou"])
    again = evaluate(out / "best.safetensors", shapes, split="val", crf="model", device="cpu")
    assert best["miou"] == written["miou"] == again["miou"]
    assert "--crf model" in (out / "report.html").read_text()


@pytest.mark.slow
def test_a_run_with_a_crf_goes_on_as_if_never_stopped(tiny, tmp_path):
    recipe = tiny(crf=CRF, train__epochs=2)
    whole = train(recipe, out=tmp_path / "whole")
    short = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, minutes=1e-6))
    half = train(short, out=tmp_path / "half")
    assert lines(half, "val")[-1]["step"] == 1
    train(recipe, resume=half)
    first, second = (load_file(run / "checkpoints" / "last.safetensors") for run in (whole, half))
    assert {"crf.crf.bilateral_weight", "crf.crf.gaussian_weight", "crf.crf.compatibility"} <= first.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    with pytest.raises(AtrousError, match=r"trained with crf\.trainable"):
        train(tiny(train__epochs=3), resume=half)


@pytest.mark.slow
def test_workers_change_nothing(tiny, tmp_path):
    for workers in (0, 2):
        train(tiny(data__workers=workers), out=tmp_path / f"{workers}")
    first, second = (model_file.load(tmp_path / name / "best.safetensors").state_dict() for name in "02")
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_early_stopping(tiny, tmp_path, capsys):
    out = train(tiny(train__epochs=40, train__patience=2, train__batch_size=8, optim__lr=1e-12), out=tmp_path / "run")
    scores = [line["miou"] for line in lines(out, "val")]
    assert len(scores) < 40
    assert scores.index(max(scores)) == len(scores) - 3
    assert "stopping early: no better mIoU in 2 validations" in said(capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("ema", "longest"), [(0.9, 30), (0.97, 30)])
def test_patience_waits_until_the_average_follows_the_weights(tiny, tmp_path, capsys, ema, longest):
    """One step an epoch, on weights that stay: 20 steps of an average of 0.9, and 67 of one of 0.97, do not count."""
    changes = {"train__epochs": longest, "train__patience": 2, "train__batch_size": 8, "optim__lr": 1e-12}
    out = train(tiny(**changes, train__ema=ema, watch__tensorboard=False), out=tmp_path / "run")
    done = len(lines(out, "val"))
    assert 20 < done < longest if ema == 0.9 else done == longest
    assert ("stopping early" in said(capsys)) is (ema == 0.9)


@pytest.mark.slow
def test_a_split_of_few_pictures_is_warned_of(tiny, fresh_shapes, tmp_path, capsys):
    (fresh_shapes / "splits" / "val.txt").write_text("val_1")
    train(tiny(data__root=str(fresh_shapes)), out=tmp_path / "run")
    assert "The split 'val' has 1 picture: too few for a reliable score" in said(capsys)
    ((_, sentence),) = few_pictures({"train": 9, "val": 2}, "Validation")
    assert "'Validation' has 2 pictures:" in sentence and not list(few_pictures({"val": 3}))


@pytest.mark.slow
def test_scores_say_in_which_precision_they_were_computed(tiny, tmp_path, capsys):
    train(tiny(train__precision="bfloat16", train__ema=0.9), out=tmp_path / "run")
    told = said(capsys)
    assert re.search(r"epoch 1/1: val mIoU 0\.\d+ \(best\) of the averaged weights, computed in bfloat16", told)
    assert "final scores of best.safetensors, computed in float32:" in told
    assert "torch float32)" in told


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_only_where_pictures_hold_no_data_are_refused(tiny, fresh_shapes, tmp_path, check, split):
    for file in (fresh_shapes / "images").glob("*.png"):
        picture = Image.open(file)
        alpha = np.full(picture.size[::-1], 255, np.uint8)
        if file.name.startswith(split):
            alpha[1:] = 0  # of the masks the first row is void
        picture.putalpha(Image.fromarray(alpha))
        picture.save(file)
    with pytest.raises(AtrousError, match=f"'{split}' of the data has no labelled pixel where its pictures hold data"):
        train(tiny(data__root=str(fresh_shapes), data__check=check), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_pictures_without_a_label_among_others_cost_nothing(tiny, fresh_shapes, tmp_path):
    """Batches of them have a loss of 0, not NaN."""
    for file in (fresh_shapes / "masks").glob("train_*.png"):
        if file.stem != "train_0":
            Image.fromarray(np.full((48, 64), 65535, np.uint16)).save(file)
    recipe = tiny(data__root=str(fresh_shapes), train__batch_size=1, optim__accumulate=1, augment__crop=[48, 64])
    with_batches_of_one = replace(recipe, loss=replace(recipe.loss, dice=1.0, lovasz=1.0, focal=0.5, hardest=0.3))
    out = train(replace(with_batches_of_one, train=replace(recipe.train, epochs=2)), out=tmp_path / "run")
    assert all(math.isfinite(line["loss"]) for line in lines(out, "train"))
    assert lines(out, "val")[-1]["miou"] > 0


@pytest.mark.slow
def test_a_limit_in_minutes_ends_with_a_validation(tiny, tmp_path):
    out = train(tiny(train__epochs=40, train__validate_every=7, train__minutes=1e-6), out=tmp_path / "run")
    assert [line["epoch"] for line in lines(out, "val")] == [1]
    assert (out / "report.html").exists()


@pytest.mark.slow
def test_sixteen_bit_pictures_keep_their_range(fresh_shapes, tiny, tmp_path):
    for path in (fresh_shapes / "images").iterdir():
        grey = np.asarray(Image.open(path))[..., 2].astype(np.uint16) * 200 + 77
        Image.fromarray(grey).save(path)
    out = train(tiny(data__root=str(fresh_shapes)), out=tmp_path / "run")
    preprocessing = model_file.read_info(out / "best.safetensors").preprocessing
    assert preprocessing.dtype == "uint16"
    values = [np.asarray(Image.open(path)) for path in sorted((fresh_shapes / "images").glob("train_*"))]
    assert preprocessing.mean == pytest.approx((np.mean(values),))
    assert preprocessing.std == pytest.approx((np.std(values),))


def test_statistics_of_8_bits_are_refused_for_deeper_pictures(tiny, fresh_shapes):
    for path in (fresh_shapes / "images").iterdir():
        Image.fromarray(np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16).save(path)
    with pytest.raises(AtrousError, match="these pictures are uint16: use fit"):
        create_for(tiny(data__root=str(fresh_shapes), data__statistics="pretrained"), open_dataset(fresh_shapes))


def test_channel_statistics_are_numpys(shapes):
    mean, std = channel_statistics(open_dataset(shapes), "train", Input((0.0,) * 3, (1.0,) * 3))
    pixels = np.concatenate(
        [np.asarray(Image.open(path)).reshape(-1, 3) for path in sorted((shapes / "images").glob("train_*"))]
    )
    np.testing.assert_allclose(mean, pixels.mean(0))
    np.testing.assert_allclose(std, pixels.std(0))


# A part alone, in stages, watched


@pytest.mark.slow
def test_the_head_alone_learns(tiny, tmp_path, capsys):
    out = train(tiny(train__learn="head", train__epochs=2), out=tmp_path / "run")
    assert re.search(r"[\d,]+ of [\d,]+ parameters are trained \(\d+\.\d %\)", said(capsys))
    torch.manual_seed(0)
    before = atrous.create_model(
        "deeplabv3plus", backbone="mobilenetv2_035", num_classes=3, aspp_channels=16, low_channels=8
    ).state_dict()
    after = load_file(out / "checkpoints" / "last.safetensors")
    backbone = [name for name in before if name.startswith("backbone.")]
    assert all(torch.equal(before[name], after[f"weights.{name}"]) for name in backbone)
    assert not torch.equal(before["classifier.weight"], after["weights.classifier.weight"])
    assert "lr_backbone" not in lines(train(tiny(train__learn="head", train__epochs=5), out=tmp_path / "b"), "train")[0]


@pytest.mark.slow
def test_the_papers_second_stage(tiny, model, tmp_path):
    """Output stride 8 with frozen norms, from a model trained at 16 (arXiv:1706.05587 §4.1)."""
    arguments = {"output_stride": 8, "frozen_norm": True}
    out = train(tiny(model__arguments=arguments, optim__lr=1e-4), out=tmp_path / "run", init=model)
    before, after = model_file.load(model), model_file.load(out / "best.safetensors")
    assert (before.info.arguments["output_stride"], after.info.arguments["output_stride"]) == (16, 8)
    statistics = [name for name in before.state_dict() if name.endswith(("running_mean", "running_var"))]
    assert all(torch.equal(before.state_dict()[name], after.state_dict()[name]) for name in statistics)
    assert not torch.equal(before.classifier.weight, after.classifier.weight)


@pytest.mark.slow
def test_the_crop_grows(tiny, tmp_path, monkeypatch):
    seen = []
    normalise = TrainingStep.forward
    monkeypatch.setattr(
        TrainingStep,
        "forward",
        lambda self, batch: seen.append(batch.images.shape) or normalise(self, batch),
    )
    crops = {"augment__first_crop": [32, 32], "augment__crop": [64, 64], "augment__growth": 2}
    train(tiny(**crops, train__epochs=3, train__batch_size=8), out=tmp_path / "run")
    assert [tuple(shape[2:]) for shape in seen] == [(32, 32), (48, 48), (64, 64)]
    with pytest.raises(AtrousError, match=r"first_crop \(64, 64\) must not be larger"):
        tiny(augment__first_crop=[64, 64])


@pytest.mark.slow
def test_weights_and_biases_offline(tiny, tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    recipe = tiny(train__epochs=5, watch={"wandb": True, "project": "shapes"})
    out = train(recipe, out=tmp_path / "run")
    (written,) = (out / "wandb").glob("offline-run-*/run-*.wandb")
    text = written.read_bytes()
    for name in (b"val/miou", b"val_iou/disc", b"train/lr_backbone", b"train/grad_norm", b"val/confusion", b"shapes"):
        assert name in text, name
    assert list((out / "wandb").glob("offline-run-*/files/media/images/val/*.png"))
    address = (out / "wandb-id").read_text()
    assert main(["train", "--resume", str(out), "--train.epochs", "6"]) == 0
    assert (out / "wandb-id").read_text() == address


# The smallest and strangest data


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_three_pictures_smaller_than_the_crop(fresh_shapes, tiny, tmp_path, batch):
    (fresh_shapes / "splits" / "train.txt").write_text("train_0\ntrain_1\ntrain_2")
    recipe = tiny(data__root=str(fresh_shapes), augment__crop=[96, 96], augment__scale=[0.5, 0.5])
    recipe = replace(recipe, train=replace(recipe.train, batch_size=batch))
    assert 0 <= lines(train(recipe, out=tmp_path / "run"), "val")[-1]["miou"] <= 1


@pytest.mark.slow
def test_one_class_only_and_pictures_all_ignored(fresh_shapes, tiny, tmp_path):
    for index in range(8):
        path = fresh_shapes / "masks" / f"train_{index}.png"
        value = 65535 if index % 2 else 7  # every second picture is ignored as a whole, the others are all box
        Image.fromarray(np.full((48, 64), value, np.uint16)).save(path)
    recipe = tiny(data__root=str(fresh_shapes), train__batch_size=1, loss__lovasz=1.0, loss__dice=1.0)
    out = train(recipe, out=tmp_path / "run")
    weights = load_file(out / "checkpoints" / "last.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values() if value.is_floating_point())


# Interruption


def start_process(recipe: Path, out: Path) -> subprocess.Popen:
    words = [sys.executable, "-m", "atrous", "train", str(recipe), "--out", str(out)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(file: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not (file.exists() and file.read_text(encoding="utf-8").count("\n")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def interrupt(tmp_path: Path, recipe: Recipe, number: signal.Signals) -> Path:
    """A run that a signal stopped in the middle of an epoch."""
    write_recipe(recipe, tmp_path / "recipe.yaml")
    out = tmp_path / "halved"
    process = start_process(tmp_path / "recipe.yaml", out)
    wait_for(out / "metrics.jsonl", process)  # ten steps are done
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, (stdout, stderr)
    assert "atrous: interrupted" in stderr
    assert "Traceback" not in stderr
    assert not (out / "report.html").exists()
    assert (out / "checkpoints" / "last.safetensors").exists()
    return out


@pytest.mark.slow
@pytest.mark.needs("signals")
def test_interrupted_and_resumed_is_the_uninterrupted_run(tiny, tmp_path):
    recipe = tiny(train__epochs=8, train__batch_size=1, train__validate_every=4, train__ema=0.9)
    halved = interrupt(tmp_path, recipe, signal.SIGINT)
    assert main(["train", "--resume", str(halved)]) == 0
    whole = train(recipe, out=tmp_path / "whole")
    for kind in ("train", "val"):
        steps = [[line["step"] for line in lines(folder, kind)] for folder in (whole, halved)]
        assert steps[0] == steps[1]
    assert lines(halved, "val")[-1]["step"] == 64
    first, second = (model_file.load(folder / "best.safetensors").state_dict() for folder in (whole, halved))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.needs("signals")
def test_a_polite_kill_saves_too(tiny, tmp_path):
    interrupt(tmp_path, tiny(train__epochs=99, train__batch_size=1, train__validate_every=99), signal.SIGTERM)


@pytest.mark.slow
def test_resuming_a_finished_run_trains_no_more(tiny, tmp_path, capsys):
    out = train(tiny(), out=tmp_path / "run")
    before = (out / "metrics.jsonl").read_text()
    capsys.readouterr()
    assert main(["train", "--resume", str(out)]) == 0
    assert (out / "metrics.jsonl").read_text() == before
    epochs = tiny().train.epochs
    longer = f"atrous train --resume {out} --train.epochs {2 * epochs}"
    said = capsys.readouterr().out
    assert "was finished" in said and longer in said


@pytest.mark.slow
def test_a_finished_run_goes_on_for_more_epochs(tiny, tmp_path):
    out = train(tiny(train__epochs=1), out=tmp_path / "run")
    assert main(["train", "--resume", str(out), "--train.epochs", "3"]) == 0
    assert [line["epoch"] for line in lines(out, "val")] == [1, 2, 3]
    assert read_recipe(out / "config.yaml").train.epochs == 3


@pytest.mark.slow
def test_tensorboard_keeps_every_validation_of_a_resumed_run(tiny, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = train(tiny(train__epochs=1), out=tmp_path / "run")
    train(read_recipe(out / "config.yaml", {"train.epochs": 2}), resume=out)
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("val/miou")] == [line["step"] for line in lines(out, "val")]
    assert len(events.Scalars("val/miou")) == 2


@pytest.mark.parametrize("word", ["--out", "--init"])
def test_a_resumed_run_has_its_own_folder_and_weights(run, model, tmp_path, capsys, word):
    assert main(["train", "--resume", str(run), word, str(model if word == "--init" else tmp_path / "new")]) == 2
    assert f"leave out {word}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_in_which_another_process_trains_is_left_alone(tiny, tmp_path, capsys):
    out = train(tiny(train__epochs=1), out=tmp_path / "run")
    code = f"from atrous.run_folder import locked; from pathlib import Path\nwith locked(Path({str(out)!r})): input()"
    other = subprocess.Popen([sys.executable, "-c", f"{code}; print('let go')"], stdin=-1, stdout=-1, text=True)
    assert other.stdin is not None
    deadline, before = time.monotonic() + 60, (out / "config.yaml").read_bytes()
    try:
        while True:  # until the other has it
            code = main(["train", "--resume", str(out), "--train.epochs", "2", "--train.minutes", "0.0001"])
            if code == 2 or time.monotonic() > deadline:
                break
            before = (out / "config.yaml").read_bytes()
        assert "another process is training" in capsys.readouterr().err
        assert (out / "config.yaml").read_bytes() == before
    finally:
        other.communicate("\n")
    assert main(["train", "--resume", str(out)]) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
def test_a_gpu_trains_with_an_average(tiny, tmp_path):
    recipe = tiny(train__epochs=2, train__ema=0.9, train__device="cuda")
    assert lines(train(recipe, out=tmp_path / "run"), "val")


def test_nothing_to_resume(tmp_path, tiny, capsys):
    assert main(["train", "--resume", str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    write_recipe(tiny(), tmp_path / "run" / "config.yaml")
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    assert "nothing to resume" in capsys.readouterr().err


@pytest.mark.slow
def test_stopped_before_its_recipe_was_written_it_goes_on_all_the_same(tiny, tmp_path, monkeypatch):
    def stop(recipe, path):
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("atrous.learning.fit.write_recipe", stop)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), out=out)
    assert not (out / "config.yaml").exists()
    assert main(["train", "--resume", str(out)]) == 0
    assert read_recipe(out / "config.yaml").data == tiny().data
    assert (out / "report.html").is_file()


@pytest.mark.slow
def test_stopped_before_its_first_checkpoint_it_starts_anew(recipe_file, tmp_path, monkeypatch, capsys):
    def stop(self):
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("atrous.learning.trainer.Trainer.save", stop)
        assert main(["train", str(recipe_file), "--out", str(out)]) == 130
    assert f"atrous train RECIPE --out {out}" in refused(capsys, "train", "--resume", out)
    assert main(["train", str(recipe_file), "--out", str(out)]) == 0


def test_a_folder_with_a_recipe_alone_is_neither_a_run_nor_overwritten(recipe_file, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    config = tmp_path / "run" / "config.yaml"
    config.write_text("name: mine\n")
    message = refused(capsys, "train", recipe_file, "--out", tmp_path / "run")
    assert "no checkpoint to resume from: remove the config.yaml, or give another --out" in message
    assert config.read_text() == "name: mine\n"


# Starting from another model


@pytest.mark.slow
def test_init_keeps_what_fits_and_names_what_is_fresh(model, tiny, fresh_shapes, tmp_path, capsys):
    four = ClassTable(("ground", "box", "disc", "cat"), ((0, 0, 0),) * 4, ((0,), (7, 8), (300,), (9,)), (65535,))
    four.to_yaml(fresh_shapes / "classes.yaml")
    recipe = tiny(data__root=str(fresh_shapes), optim__lr=1e-12)
    out = train(recipe, out=tmp_path / "run", init=model)
    assert "in classifier the classes ground, box, disc keep their rows; newly initialised rows: cat" in said(capsys)
    before, after = (model_file.load(path) for path in (model, out / "best.safetensors"))
    assert len(after.info.classes) == after.classifier.out_channels == 4
    torch.testing.assert_close(after.backbone.net.conv_stem.weight, before.backbone.net.conv_stem.weight)
    torch.testing.assert_close(after.decoder.reduce[0].weight, before.decoder.reduce[0].weight)


@pytest.mark.slow
def test_init_with_the_same_classes_keeps_everything(model, tiny, tmp_path):
    recipe = tiny(optim__lr=1e-12, augment__scale=[1, 1], augment__crop=None)
    out = train(recipe, out=tmp_path / "run", init=model)
    before, after = (model_file.load(path).state_dict() for path in (model, out / "best.safetensors"))
    for name in before:
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[name], before[name])


@pytest.mark.slow
def test_init_brings_its_own_network(model, tiny, tmp_path, capsys):
    """Its weights fit no other; the recipe's arguments count one by one, and a run resumes without the file."""
    recipe = tiny(model__backbone="resnet18", model__architecture="deeplabv3", model__output_stride=8)
    recipe = replace(recipe, model=replace(recipe.model, arguments={"dropout": 0.3}))
    out = train(recipe, out=tmp_path / "run", init=model)
    given, trained = model_file.read_info(model), model_file.read_info(out / "best.safetensors")
    assert trained.architecture == given.architecture
    assert trained.arguments == {**given.arguments, "dropout": 0.3}
    assert "with its network: deeplabv3plus over mobilenetv2_035 at output stride 16" in said(capsys)
    assert read_recipe(out / "config.yaml").model.architecture == "deeplabv3plus"


# Refusals


def test_a_loss_or_gradient_that_is_not_finite_names_the_pictures(tiny, tmp_path):
    recipe = tiny(optim__lr=1e30, optim__name="sgd", optim__clip=0.0, schedule__warmup=0.0, train__epochs=5)
    with pytest.raises(AtrousError, match=r"the (loss|gradient) became (nan|inf) at epoch \d+, step \d+") as caught:
        train(recipe, out=tmp_path / "run")
    named = set(re.findall(r"train_\d", str(caught.value)))
    assert len(named) == 4
    assert f"--resume {tmp_path / 'run'}" in str(caught.value)


@pytest.mark.slow
def test_values_that_are_not_finite_are_void(fresh_shapes, tiny, tmp_path):
    for path in (fresh_shapes / "images").iterdir():
        values = np.asarray(Image.open(path))[..., 0].astype(np.float32)
        if path.stem == "train_3":
            values[20:30, 20:30] = np.inf
            values[:5] = np.nan
        path.unlink()
        Image.fromarray(values).save(path.with_suffix(".tif"))
    recipe = tiny(data__root=str(fresh_shapes), train__batch_size=2, augment__crop=None, augment__scale=[1, 1])
    out = train(recipe, out=tmp_path / "run")
    assert all(math.isfinite(line["loss"]) for line in lines(out, "train"))
    assert np.isfinite(model_file.read_info(out / "best.safetensors").preprocessing.mean).all()


@pytest.fixture
def recipe_file(tiny, tmp_path) -> Path:
    write_recipe(tiny(), tmp_path / "recipe.yaml")
    return tmp_path / "recipe.yaml"


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command says that ends with exit code 2."""
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


def test_data_with_errors_is_refused_before_training(fresh_shapes, recipe_file, tmp_path, capsys):
    mask = np.zeros((48, 64), np.uint8)
    mask[5, 6] = 99
    Image.fromarray(mask).save(fresh_shapes / "masks" / "train_2.png")
    (fresh_shapes / "images" / "val_1.png").write_bytes(b"")
    words = ("train", recipe_file, "--out", tmp_path / "run", "--data.root", fresh_shapes)
    message = refused(capsys, *words, "--data.check", "true")
    assert "train_2" in message
    assert "99" in message
    assert "val_1" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.root", "/absent"], "/absent"),
        (["--data.root", ""], "no data given: set data.root"),
        (["--data.train", "trian"], "no split 'trian'; the splits are .* Did you mean 'train'"),
        (["--data.layout", "folders"], "Did you mean 'folder'"),
        (["--model.backbone", "resnet81"], "unknown backbone 'resnet81'"),
        (["--model.architecture", "deeplabv9"], "Did you mean 'deeplabv"),
        (["--model.in_channels", "4"], "3 channels, and the model takes 4"),
        (["--model.output_stride", "4"], "must be 8, 16 or 32"),
        (["--model.arguments", "{aspp_chanels: 8}"], "Did you mean 'aspp_channels'"),
        (["--augment.crop", "[20, 20]", "--train.batch_size", "1"], "one picture of 20×20 px"),
        (["--optim.lr", "fast"], "optim.lr"),
        (["--optim.learning_rate", "1"], "unknown flag '--optim.learning_rate'"),
        (["--train.epoch", "1"], "unknown flag '--train.epoch'. Did you mean '--train.epochs'"),
        (["--train.epochs", "0"], "train.epochs must be 1 or more"),
        (["--train.device", "cuda:77"], "device"),
        (["--init", "/absent/model.safetensors"], "no model file at"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(recipe_file, tmp_path, capsys, words, message):
    assert re.search(message, refused(capsys, "train", recipe_file, "--out", tmp_path / "run", *words))


def test_a_folder_that_holds_a_run_is_not_overwritten(run, recipe_file, capsys):
    before = (run / "best.safetensors").read_bytes()
    message = refused(capsys, "train", recipe_file, "--out", run)
    assert f"{run} already contains a run. Resume it with --resume" in message
    assert (run / "best.safetensors").read_bytes() == before


@pytest.mark.slow
def test_runs_without_a_folder_are_numbered(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [str(train(tiny())) for _ in range(3)] == ["runs/tiny", "runs/tiny-2", "runs/tiny-3"]


def test_absent_and_broken_recipes(tmp_path, capsys):
    assert "no recipe at" in refused(capsys, "train", tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("train: {epoch: 3}")
    assert "Did you mean 'train.epochs'?" in refused(capsys, "train", tmp_path / "broken.yaml")


@pytest.mark.slow
def test_a_run_that_failed_goes_on_with_another_learning_rate(tiny, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(AtrousError, match="became"):
        train(tiny(optim__lr=1e30, optim__name="sgd", optim__clip=0.0, schedule__warmup=0.0, train__epochs=5), out=out)
    calmer = read_recipe(out / "config.yaml", {"optim.lr": 0.001, "optim.clip": 1.0})
    train(calmer, resume=out)
    assert lines(out, "val")[-1]["step"] == 10
    assert all(line["lr"] <= 0.001 for line in lines(out, "train"))


@pytest.mark.slow
def test_an_epoch_is_not_lost_when_its_validation_fails(fresh_shapes, tiny, tmp_path):
    out, recipe = tmp_path / "run", tiny(data__root=str(fresh_shapes))
    picture = fresh_shapes / "images" / "val_1.png"
    kept = picture.read_bytes()
    picture.write_bytes(kept[:50])
    with pytest.raises(AtrousError, match=r"val_1\.png"):
        train(recipe, out=out)
    trained = (out / "metrics.jsonl").read_text()
    picture.write_bytes(kept)
    train(recipe, resume=out)
    assert (out / "metrics.jsonl").read_text().startswith(trained)
    assert [line["step"] for line in lines(out, "train")] == [2]
    assert [(line["step"], line["epoch"]) for line in lines(out, "val")] == [(2, 1)]


def test_a_failed_start_leaves_no_folder(tiny, tmp_path):
    with pytest.raises(AtrousError, match="unknown device"):
        train(tiny(train__device="cdua"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_init_is_part_of_the_run(model, tiny, tmp_path):
    """The configuration repeats the run; resuming needs neither the file nor pretrained weights."""
    gone = tmp_path / "gone.safetensors"
    gone.write_bytes(model.read_bytes())
    out = train(tiny(model__arguments={"aspp_channels": 16, "low_channels": 8}), out=tmp_path / "run", init=gone)
    assert yaml.safe_load((out / "config.yaml").read_text())["model"]["init"] == str(gone)
    gone.unlink()
    train(read_recipe(out / "config.yaml", {"train.epochs": 2}), resume=out)
    assert lines(out, "val")[-1]["epoch"] == 2


def test_val_without_a_labelled_pixel_is_refused_before_training(fresh_shapes, tiny, tmp_path):
    for path in (fresh_shapes / "masks").glob("val_*"):
        Image.fromarray(np.full((48, 64), 65535, np.uint16)).save(path)
    with pytest.raises(AtrousError, match=r"'val' .* has no labelled pixel"):
        train(tiny(data__root=str(fresh_shapes)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_data_decide_the_number_of_classes(tiny, tmp_path):
    with pytest.raises(AtrousError, match=r"model\.arguments\.num_classes is 5, but .* require 3"):
        train(tiny(model__arguments={"num_classes": 5}), out=tmp_path / "run")


@pytest.mark.slow
def test_what_the_doctor_warns_of_is_printed_kept_and_on_the_page(fresh_shapes, tiny, tmp_path, capsys):
    table = ClassTable(("ground", "box", "disc", "cat"), ((0, 0, 0),) * 4, ((0,), (7, 8), (300,), (9,)), (65535,))
    table.to_yaml(fresh_shapes / "classes.yaml")  # no pixel is a cat
    for kind in ("images", "masks"):  # the same scene in both splits
        copied = (fresh_shapes / kind / "train_0.png").read_bytes()
        (fresh_shapes / kind / "val_0.png").write_bytes(copied)
    out = train(tiny(data__root=str(fresh_shapes), data__check=True), out=tmp_path / "run")
    printed, page = said(capsys), unescape((out / "report.html").read_text(encoding="utf-8"))
    warnings = json.loads((out / "doctor.json").read_text())["warnings"]
    assert {"empty_class", "near_identical"} <= {warning["kind"] for warning in warnings}
    for warning in warnings:
        assert warning["message"] in printed
        assert warning["message"] in page
