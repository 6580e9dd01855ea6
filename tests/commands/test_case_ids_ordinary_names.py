"""With case ids, `doctor` also hides names of patients that look like ordinary words or numbers."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.data.volumes.series_files import write_series

from atrous.cli import main
from atrous.data.mask_value_map import ClassTable
from atrous.data.volumes.read_volume import read_volume

nibabel = pytest.importorskip("nibabel")

TABLE = ClassTable(("background", "one"), ((0, 0, 0), (9, 9, 9)), ((0,), (1,)))
#: Names of volumes without the patient; no count of the findings is 7.
OTHERS = ("scan_a", "scan_b")


def write_volume(root: Path, name: str, seed: int, kind: str, *, with_mask: bool = True) -> None:
    """Writes a volume of noise as a DICOM folder or a file, and its mask."""
    random = np.random.default_rng(seed)
    values = np.kron(random.integers(0, 900, (6, 5, 4)), np.ones((2, 2, 2))).astype(np.int16)
    place = root / "images" / (name if kind == "folder" else f"{name}.nii.gz")
    if kind == "folder":
        write_series(place, values, f"1.2.826.0.1.{seed + 1}{len(name)}{ord(name[-1])}")
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), place)
    (root / "masks").mkdir(exist_ok=True)
    if with_mask:
        labels = random.integers(0, 2, values.shape, np.uint8)
        affine = read_volume(place).grid.affine
        nibabel.save(nibabel.Nifti1Image(labels, affine), root / f"masks/{name}.nii.gz")


def findings(capfd, *more: str) -> str:
    """Runs `doctor` and returns its findings as text."""
    capfd.readouterr()
    assert main(["doctor", "data", "--json", "found.json", "--overwrite", *more]) in (0, 2)
    found = json.loads(Path("found.json").read_text(encoding="utf-8"))
    texts = [*found["notes"], *(text for one in found["errors"] + found["warnings"] for text in texts_of(one))]
    texts += [name for part in (found["proposed_split"] or {}).values() for name in part]
    captured = capfd.readouterr()
    return "\n".join([*texts, captured.err, *re.findall(r"^.*(?:SMITH|smith).*$", captured.out, re.MULTILINE)])


def texts_of(finding: dict) -> list[str]:
    return [finding["message"], *finding["examples"]]


@pytest.mark.parametrize("name", ["SMITH", "smith", "7"])
@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("group", "twin"),
        *((kind, damage) for kind in ("file", "folder") for damage in ("twin", "absent", "mask", "grid", "blank")),
    ],
)
def test_doctor_hides_ordinary_names(tmp_path, monkeypatch, capfd, name, kind, damage):
    monkeypatch.chdir(tmp_path)
    root = Path("data")
    own = f"{name}_1" if kind == "group" else name
    for number, one in enumerate(OTHERS):
        write_volume(root, one, number, kind)
    write_volume(root, own, 0 if damage == "twin" else 5, kind, with_mask=damage != "mask")
    TABLE.to_yaml(root / "classes.yaml")
    (root / "splits").mkdir()
    listed = [own, *(["smith" if name != "smith" else "SMITH"] if damage == "absent" else [])]
    (root / "splits/train.txt").write_text(
        "".join(f"{one}\n" for one in (*OTHERS, *([] if damage == "twin" else listed)))
    )
    (root / "splits/val.txt").write_text("".join(f"{one}\n" for one in (listed if damage == "twin" else OTHERS[1:])))
    if kind == "group":
        (root / "groups.csv").write_text(f"name,group\n{own},{name}\nscan_a,{name}\nscan_b,b\n")
    if damage == "grid":
        nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9), np.uint8), np.eye(4)), root / f"masks/{own}.nii.gz")
    if damage == "blank" and kind != "folder":
        nibabel.save(nibabel.Nifti1Image(np.zeros((12, 10, 8), np.int16), np.eye(4)), root / f"images/{own}.nii.gz")
    elif damage == "blank":
        shutil.rmtree(root / "images" / own)
        write_series(root / "images" / own, np.zeros((12, 10, 8)), "1.2.826.0.1.99")
    words = re.compile(rf"(?<![\w.×]){name}(?![\w×]|\.\d)|smith", re.IGNORECASE)
    shown = findings(capfd)
    assert words.search(shown), shown  # without ids, the findings name the patient
    hidden = findings(capfd, "--case-ids", "private/ids.csv")
    print(shown, "\n-----\n", hidden)
    assert not words.search(hidden), hidden
    assert "case_000" in hidden or "a missing volume" in hidden
