"""docs/fields/volumes.md: its recipe trains, and its commands run, on volumes made by the test."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("scipy")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/fields/volumes.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    """Six volumes of noise with a bright block, in nnU-Net's layout."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    for case in range(6):
        mask = np.zeros((20, 24, 16), np.uint8)
        mask[5:14, 6:16, 4:12] = 1
        scan = (rng.normal(size=mask.shape) + 3 * mask).astype(np.float32)
        for name, values in ((f"imagesTr/case_{case}_0000", scan), (f"labelsTr/case_{case}", mask)):
            nibabel.save(nibabel.Nifti1Image(values, np.diag([1.5, 1.5, 3, 1])), root / f"{name}.nii.gz")
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "block": 1}, "file_ending": ".nii.gz"}))
    return tmp_path


@pytest.mark.slow
def test_the_page_runs(folder):
    recipe = next(block for block in blocks("yaml") if block.startswith("# volumes.yaml"))
    (folder / "volumes.yaml").write_text(recipe)
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("atrous ")]
    assert [line.split()[1] for line in commands] == ["train", "predict", "evaluate"]
    for line in commands:
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(line)], cwd=folder, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    masks = sorted(path.name for path in (folder / "masks").iterdir())
    assert masks == [f"case_{case}_0000.nii.gz" for case in range(6)]
    scan, mask = (nibabel.load(folder / name) for name in ("data/imagesTr/case_0_0000.nii.gz", f"masks/{masks[0]}"))
    assert scan.shape == mask.shape and (scan.affine == mask.affine).all()
    scores = json.loads((folder / "scores.json").read_text())
    assert [entry["name"] for entry in scores["volumes"]["classes"]] == ["block"]
