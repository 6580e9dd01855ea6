"""docs/fields/volumes.md: its recipe trains, and its commands run, on volumes made by the test."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.data.volumes.rt_files import write
from tests.data.volumes.series_files import write_series

from atrous.data.mask_value_map import ClassTable
from atrous.data.volumes.read_volume import read_volume

nibabel = pytest.importorskip("nibabel")
highdicom = pytest.importorskip("highdicom")
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
    # with all attributes that a DICOM-SEG needs
    needed = {"FrameOfReferenceUID": "1.2.826.0.1.6", "PatientID": "Doe", "RescaleSlope": 0.01}
    for series in ("series", "cases/Doe_Jane"):
        write_series(tmp_path / series, 100 * scan, spacing=(1.5, 1.5, 3), **needed)
    return tmp_path


@pytest.mark.slow
def test_the_page_runs(folder):
    recipe = next(block for block in blocks("yaml") if block.startswith("# volumes.yaml"))
    (folder / "volumes.yaml").write_text(recipe)
    (folder / "classes.yaml").write_text(next(block for block in blocks("yaml") if block.startswith("# classes.yaml")))
    assert [len(codes) for codes in ClassTable.from_yaml(folder / "classes.yaml").codes] == [0, 1, 2]
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("atrous ")]
    verbs = ["train", "predict", "evaluate", "predict", "predict", "evaluate", "report", "doctor"]
    assert [line.split()[1] for line in commands] == verbs
    for line in commands:
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(line)], cwd=folder, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    masks = sorted(path.name for path in (folder / "masks").iterdir())
    assert masks == ["case_0001.nii.gz", *(f"case_{case}_0000.nii.gz" for case in range(6)), "series.dcm"]
    found = highdicom.seg.segread(folder / "masks/series.dcm")
    assert [one.SegmentLabel for one in found.SegmentSequence] == ["block"]
    assert "Doe" not in (folder / "masks.json").read_text()
    for name in ("run/evaluation.json", "run/report.html", "doctor.json"):
        assert "case_1_0000" not in (folder / name).read_text()
    square = np.array([[5.5, 5.5, 3], [12.5, 5.5, 3], [12.5, 9.5, 3], [5.5, 9.5, 3]])
    write(folder / "masks/structures.dcm", read_volume(folder / "series").stored, {"block": [square]})
    for block in blocks("python"):
        done = subprocess.run([sys.executable, "-c", block], cwd=folder, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{block}: {done.stdout}{done.stderr}"
    assert "{1: 'block'}" in done.stdout
    scan, mask = (nibabel.load(folder / name) for name in ("data/imagesTr/case_0_0000.nii.gz", f"masks/{masks[1]}"))
    assert scan.shape == mask.shape and (scan.affine == mask.affine).all()
    scores = json.loads((folder / "scores.json").read_text())
    assert [entry["name"] for entry in scores["volumes"]["classes"]] == ["block"]
