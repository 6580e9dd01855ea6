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

from atrous.data.mask_value_map import ClassTable
from atrous.data.volumes.read_volume import read_volume

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")
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
    write_series(tmp_path / "series", scan)
    write_series(tmp_path / "cases/Doe_Jane", scan)
    return tmp_path


def write_series(folder: Path, scan: np.ndarray, uid: str = "1.2.826.0.1.4") -> None:
    """Writes a volume as the axial slices of a DICOM series, with all attributes that a scan must have."""
    folder.mkdir(parents=True)
    for index in range(scan.shape[2]):
        header = pydicom.Dataset()
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        header.SOPClassUID, header.SOPInstanceUID = pydicom.uid.MRImageStorage, f"1.2.826.0.1.5.{index + 1}"
        header.StudyInstanceUID, header.SeriesInstanceUID = "1.2.826.0.1.3", uid
        header.FrameOfReferenceUID, header.Modality, header.PatientID = "1.2.826.0.1.6", "MR", "Doe"
        header.ImagePositionPatient, header.ImageOrientationPatient = [0, 0, 3 * index], [1, 0, 0, 0, 1, 0]
        header.PixelSpacing, header.SliceThickness = [1.5, 1.5], 3
        header.Columns, header.Rows = scan.shape[:2]
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated = header.BitsStored = 16
        header.HighBit, header.PixelRepresentation, header.RescaleSlope = 15, 1, 0.01
        header.PixelData = (100 * scan[:, :, index].T).astype(np.int16).tobytes()
        header.save_as(folder / f"{index}", enforce_file_format=True)


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
