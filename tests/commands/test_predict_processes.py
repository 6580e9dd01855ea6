"""Several processes started by torchrun predict together what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def predict(model: Path, count: int, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """In so many processes; one is started without torchrun."""
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    fixed = ["-m", "atrous", "predict", str(model), "--engine", "torch", "--device", "cpu", "--precision", "float32"]
    return subprocess.run(
        [sys.executable, *start, *fixed, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=500,
    )


@pytest.fixture
def photos(shapes, tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes((shapes / "images" / f"test_{index}.png").read_bytes())
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    Image.open(folder / "0.png").resize((50, 40)).save(folder / "small.jpg")
    return folder


@pytest.mark.slow
def test_two_processes_write_what_one_does_and_lose_nothing(model, photos, tmp_path):
    said, masks, written = [], [], []
    for count in (1, 2):
        out, file = tmp_path / f"masks{count}", tmp_path / f"{count}.json"
        done = predict(model, count, photos, "--out", out, "--json", file)
        assert done.returncode == 1, done.stderr
        said.append([line for line in done.stdout.splitlines() if not line.startswith("2 processes, ")])
        masks.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
        written.append(json.loads(file.read_text().replace(str(out), "OUT")))
    assert written[0] == written[1] and len(written[0]["pictures"]) == 5
    assert masks[0] == masks[1] and len(masks[0]) == 4
    together = [line.replace("masks2", "masks1").replace("2.json", "1.json") for line in said[1]]
    assert together == said[0]  # the second process is silent
    assert sum(line.startswith("skipped") for line in said[1]) == 1
    assert "4 masks in" in said[1][-1]


@pytest.mark.slow
def test_more_processes_than_pictures(model, photos, tmp_path):
    done = predict(model, 3, photos / "0.png", photos / "1.png", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"0.png", "1.png"}


@pytest.mark.slow
def test_where_all_fails_in_every_process_no_folder_is_left(model, photos, tmp_path):
    (photos / "torn.png").write_bytes((photos / "broken.png").read_bytes())
    done = predict(model, 2, photos / "broken.png", photos / "torn.png", "--out", tmp_path / "out")
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert "2 of 2 pictures could not be used" in done.stderr


@pytest.mark.slow
def test_two_processes_on_a_host_share_the_memory(model, tmp_path):
    Image.fromarray(np.zeros((720, 960, 3), np.uint8)).save(tmp_path / "a.png")
    words = [tmp_path / "a.png", "--memory", "1.68"]
    alone = predict(model, 1, *words, "--out", tmp_path / "alone")
    shared = predict(model, 2, *words, "--out", tmp_path / "shared")
    assert alone.returncode == shared.returncode == 0, shared.stderr
    assert "tiles of" not in alone.stdout and "0.8 GB may be used" in shared.stdout


def test_a_schedulers_variables_alone_start_nothing(model, photos, tmp_path, monkeypatch):
    import atrous

    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len(atrous.predict(model, [photos / "0.png", photos / "1.png"], out=tmp_path / "out", device="cpu")) == 2
