"""Ctrl-C in predict and evaluate: exit 130, what is written is said and whole."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import atrous
from atrous.build_model import create_model

PICTURES = 400
pytestmark = pytest.mark.slow


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    atrous.save(create_model("deeplabv3plus", backbone="mobilenetv2_050", num_classes=2, pretrained=False), path)
    return path


@pytest.fixture
def data(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    for folder, array in (("images", noise), ("masks", noise[..., 0] % 2)):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for index in range(PICTURES):
            Image.fromarray(array).save(tmp_path / f"data/{folder}/{index:03}.png")
    (tmp_path / "data/splits").mkdir()
    (tmp_path / "data/splits/val.txt").write_text("".join(f"{index:03}\n" for index in range(PICTURES)))
    (tmp_path / "data/classes.yaml").write_text("classes: [{name: a}, {name: b}]\n")
    return tmp_path / "data"


def started(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "atrous", *map(str, words), "--engine", "torch", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 (ignored where tests run in the background)
    return subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment, preexec_fn=heard)


def interrupted(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    return said


def test_masks_that_predict_wrote_before_are_whole_and_counted(model, data, tmp_path):
    out = tmp_path / "out"
    process = started("predict", model, data / "images", "--out", out, "--json", tmp_path / "done.json")
    while process.poll() is None and not list(out.glob("*.png")):
        pass
    said = interrupted(process)
    written = sorted(out.iterdir())
    counted = re.search(rf"interrupted\. (\d+) of {PICTURES} masks (?:is|are) written in {re.escape(str(out))}", said)
    assert counted and int(counted[1]) == len(written) > 0
    assert all(np.asarray(Image.open(path)).shape == (96, 96) for path in written)
    assert f"{tmp_path / 'done.json'} is not written." in said and not (tmp_path / "done.json").exists()


def test_evaluate_writes_no_scores(model, data, tmp_path):
    process = started("evaluate", model, data, "--split", "val", "--json", tmp_path / "scores.json")
    assert process.stdout is not None and "layout" in process.stdout.readline()
    assert "no scores are written" in interrupted(process)
    assert [path for path in Path(tmp_path).iterdir() if path.name.startswith("scores")] == []
