"""With case ids, nothing that `evaluate`, `report` and `doctor` print or write contains the name of a patient."""

import base64
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import atrous
from atrous.cli import main
from atrous.commands._report_case_ids import with_case_ids
from atrous.commands.compare import compare
from atrous.commands.evaluate import evaluate
from atrous.commands.predict import predict
from atrous.commands.report import report
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError
from atrous.input_spec import Input
from atrous.models.info import Preprocessing
from atrous.models.task import Task
from atrous.run_folder import Run

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("scipy")

OPTIONS = {"engine": "torch", "precision": "float32", "device": "cpu"}
TABLE = ClassTable(("background", "one", "two"), ((0, 0, 0), (9, 9, 9), (99, 99, 99)), ((0,), (1,), (2,)))
#: The names of two patients, and their parts.
NAMES = ("Doe_Jane", "Roe_Jim")
PARTS = re.compile(rb"(?<![a-z])(doe|jane|roe|jim|poe)(?![a-z])", re.IGNORECASE)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a random model in a run, and a dataset whose files and groups are named by patients."""
    root = tmp_path_factory.mktemp("cases")
    (root / "run").mkdir()
    one = Input((0.0,), (1.0,), dtype="float32", normalize="per_image", planes=("axial",))
    torch.manual_seed(0)
    model = atrous.create_model(
        "deeplabv3plus", backbone="mobilenetv2_050", num_classes=3, in_channels=1, pretrained=False
    )
    model.info = replace(model.info, preprocessing=Preprocessing((one,)), tasks=(Task(TABLE),))
    atrous.save(model, root / "run/best.safetensors")
    (root / "data/images").mkdir(parents=True)
    (root / "data/masks").mkdir()
    files = [f"{NAMES[0]}_1", f"{NAMES[0]}_2", NAMES[1]]
    for number, name in enumerate(files):
        random = np.random.default_rng(number)
        values = np.kron(random.normal(size=(3, 4, 5)), np.ones((4, 4, 4))).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), root / f"data/images/{name}.nii.gz")
        labels = random.integers(0, 3, values.shape, np.uint8)
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), root / f"data/masks/{name}.nii.gz")
    (root / "data/images/Doe_Jane_letter.pdf").write_bytes(b"%PDF-")
    TABLE.to_yaml(root / "data/classes.yaml")
    (root / "data/splits").mkdir()
    (root / "data/splits/val.txt").write_text("".join(f"{name}\n" for name in files))
    (root / "data/groups.csv").write_text("name,group\n" + "".join(f"{name},{name[:8]}\n" for name in files))
    return root


@pytest.fixture
def place(made, tmp_path, monkeypatch) -> Path:
    """A copy of the folder, in which each test writes."""
    folder = tmp_path / "work"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


def written(folder: Path) -> dict[str, bytes]:
    """The content of all files outside the dataset and the table's folder, with base64 data decoded."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not {"data", "private"} & set(path.relative_to(folder).parts):
            content = path.read_bytes()
            packed = re.findall(rb"[A-Za-z0-9+/]{40,}={0,2}", content)
            decoded = b"".join(base64.b64decode(one + b"=" * (-len(one) % 4)) for one in packed)
            found[path.name] = content + b"\n" + (decoded if path.suffix == ".html" else b"")
    return found


def check(folder: Path, captured) -> None:
    """No file and no output contains a name; a part of three letters may be in compressed data by chance."""
    for text in (captured.out, captured.err):
        assert not PARTS.search(text.encode()), text
    for name, content in written(folder).items():
        for one in (*NAMES, "letter.pdf"):
            assert one.encode() not in content and one.lower().encode() not in content, (name, one)
        assert not PARTS.search(name.encode())
        if name.endswith(".json"):
            assert not PARTS.search(content)


def run_evaluate(*more: str) -> int:
    options = [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]
    model, ids = "run/best.safetensors", ["--case-ids", "private/ids.csv"]
    return main(["evaluate", model, "data", "--json", "run/evaluation.json", *ids, *options, *more])


def test_evaluate_and_report_name_no_patient(place, capfd, monkeypatch):
    assert run_evaluate() == 0
    check(place, capfd.readouterr())
    found = json.loads(Path("run/evaluation.json").read_text(encoding="utf-8"))
    assert [case["volume"] for case in found["volumes"]["cases"]] == ["case_0001", "case_0002", "case_0003"]
    assert [case["patient"] for case in found["volumes"]["cases"]] == ["case_0001", "case_0001", "case_0003"]
    assert found["per_image"][0]["name"] == "case_0001_axial_0000" and found["case_ids"] == str(
        place / "private/ids.csv"
    )
    rows = Path("private/ids.csv").read_text(encoding="utf-8").splitlines()
    assert [Path(row.partition(",")[2]).name for row in rows[1:]] == [
        "Doe_Jane_1.nii.gz",
        "Doe_Jane_2.nii.gz",
        "Roe_Jim.nii.gz",
    ]
    assert os.name != "posix" or Path("private/ids.csv").stat().st_mode & 0o777 == 0o600
    for more in (["--case-ids", "private/ids.csv"], []):  # evaluation.json names the table
        assert main(["report", "run", *more]) == 0
        check(place, capfd.readouterr())
        page = Path("run/report.html").read_text(encoding="utf-8")
        assert page.count("<figcaption><b>case_000") == 3 and "cannot be" not in page
        assert f"--case-ids {place / 'private/ids.csv'}" in page
    doctor = {"written_by": "atrous", "warnings": [{"kind": "x", "message": "Doe_Jane is dark", "count": 1}]}
    Path("run/doctor.json").write_text(json.dumps(doctor), encoding="utf-8")
    monkeypatch.chdir(place / "run")  # the table is found from every working folder
    assert main(["report", "."]) == 0
    monkeypatch.chdir(place)
    assert Path("run/report.html").read_text(encoding="utf-8").count("<figcaption><b>case_000") == 3
    Path("private/ids.csv").unlink()
    assert main(["report", "run"]) == 0
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "Doe_Jane" not in page
    Path("run/doctor.json").unlink()
    check(place, capfd.readouterr())
    assert "names case ids instead of files. Give --case-ids" in page and "<td>case_0003" in page
    with pytest.raises(AtrousError, match="was written with --case-ids and names no files"):
        compare(Path("run/evaluation.json"), Path("run/evaluation.json"), Path("data"))


def test_ids_change_no_score_and_a_report_of_named_results_names_no_patient(place, capfd):
    plain = evaluate(Path("run/best.safetensors"), Path("data"), json=Path("run/evaluation.json"), **OPTIONS)
    table = place / "private/ids.csv"
    with_ids = evaluate(Path("run/best.safetensors"), Path("data"), case_ids=table, **OPTIONS)
    for key in plain.keys() - {"per_image", "volumes"}:
        assert plain[key] == with_ids[key]
    assert plain["volumes"]["classes"] == with_ids["volumes"]["classes"]
    for key in ("miou", "counts", "mistakes"):
        assert [one[key] for one in plain["per_image"]] == [one[key] for one in with_ids["per_image"]]
    doctor = {"written_by": "atrous", "warnings": [{"kind": "x", "message": "Doe_Jane is dark", "count": 1}]}
    Path("run/doctor.json").write_text(json.dumps(doctor), encoding="utf-8")
    capfd.readouterr()
    report([Path("run")], out=Path("page/page.html"), case_ids=table)
    shutil.rmtree("run")
    check(place, capfd.readouterr())
    page = Path("page/page.html").read_text(encoding="utf-8")
    assert page.count("<figcaption><b>case_000") == 3 and "cannot be" not in page


@pytest.mark.parametrize("damage", ["volume", "mask", "grid", "list", "values"])
def test_errors_name_no_patient(place, capfd, damage):
    image, mask = Path("data/images/Roe_Jim.nii.gz"), Path("data/masks/Roe_Jim.nii.gz")
    if damage in ("volume", "mask"):
        file = image if damage == "volume" else mask
        file.write_bytes(file.read_bytes()[:-300])
    elif damage == "grid":
        nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9), np.uint8), np.eye(4)), mask)
    elif damage == "list":
        with Path("data/splits/val.txt").open("a", encoding="utf-8") as file:
            file.write("Doe_Jane_3\n")
    else:
        nibabel.save(nibabel.Nifti1Image(np.full((12, 16, 20), 77, np.uint8), np.eye(4)), mask)
    assert run_evaluate() == 2
    captured = capfd.readouterr()
    check(place, captured)
    assert captured.err.startswith("atrous: ")


def test_a_report_of_a_damaged_volume_names_no_patient(place, capfd):
    assert run_evaluate() == 0
    file = Path("data/images/Roe_Jim.nii.gz")
    file.write_bytes(file.read_bytes()[:-300])
    assert main(["report", "run"]) == 0
    check(place, capfd.readouterr())
    assert "case_0003 cannot be shown: case_0003" in Path("run/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("lists", [True, False])
def test_doctor_names_no_patient(place, capfd, lists):
    Path("data/masks/Roe_Jim.nii.gz").rename("data/masks/Jane_Roe_orphan.nii.gz")
    shutil.copy("data/images/Doe_Jane_1.nii.gz", "data/images/Doe_Jane_3.nii.gz")  # the same scan in two splits
    shutil.copy("data/masks/Doe_Jane_1.nii.gz", "data/masks/Doe_Jane_3.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9), np.uint8), np.eye(4)), "data/masks/Doe_Jane_2.nii.gz")
    Path("data/groups.csv").unlink()
    if lists:
        Path("data/splits/train.txt").write_text("Doe_Jane_3\nJane_Poe_gone\n", encoding="utf-8")
    else:
        shutil.rmtree("data/splits")
    words = ["doctor", "data", "--json", "run/doctor.json", "--case-ids", "private/ids.csv"]
    assert main(words) == 2
    captured = capfd.readouterr()
    check(place, captured)
    found = json.loads(Path("run/doctor.json").read_text(encoding="utf-8"))
    kinds = {one["kind"] for one in found["errors"] + found["warnings"]}
    assert "missing_mask" in kinds and ("near_identical" in kinds or not lists), kinds
    assert "case_000" in captured.out and "another file" in captured.out
    assert main([*words, "--pictures", "shown"]) == 2
    assert "pictures show the names of files" in capfd.readouterr().err


@pytest.mark.parametrize("lost", ["model", "data", "volume"])
def test_a_report_without_the_model_or_the_data_keeps_the_ids(place, capfd, lost):
    assert run_evaluate() == 0
    doctor = {"written_by": "atrous", "warnings": [{"kind": "x", "message": "Doe_Jane is dark", "count": 1}]}
    if lost == "model":
        Path("run/best.safetensors").unlink()
    elif lost == "data":
        shutil.rmtree("data")
    else:
        Path("data/images/Roe_Jim.nii.gz").rename("data/images/Roe_Jim.nii")
        Path("data/splits/val.txt").write_text("Jane_Poe_gone\n", encoding="utf-8")
    for more in (["--case-ids", "private/ids.csv"], []):
        Path("run/doctor.json").write_text(json.dumps(doctor), encoding="utf-8")
        assert main(["report", "run", *more]) == 0
        Path("run/doctor.json").unlink()
        check(place, capfd.readouterr())
        page = Path("run/report.html").read_text(encoding="utf-8")
        assert "cannot be drawn again" in page
        assert "<td>case_0003" in page


def test_a_wrong_table_is_refused_and_unchanged(place, capfd):
    assert run_evaluate() == 0
    rows = Path("private/ids.csv").read_text(encoding="utf-8").splitlines()
    Path("private/other.csv").write_text("\n".join(rows[:2]), encoding="utf-8")
    before = Path("private/other.csv").read_bytes()
    with pytest.raises(AtrousError, match="not those of the table"):
        report([Path("run")], case_ids=place / "private/other.csv", overwrite=True)
    assert Path("private/other.csv").read_bytes() == before


def test_a_report_finds_the_split_of_the_groups_that_the_model_was_trained_with(place, capfd):
    for number in range(3, 12):
        for part in ("images", "masks"):
            name = f"{NAMES[number % 2]}_{number}_{number // 2}"
            shutil.copy(f"data/{part}/Doe_Jane_1.nii.gz", f"data/{part}/{name}.nii.gz")
    Path("data/groups.csv").unlink()
    shutil.rmtree("data/splits")
    model = atrous.load("run/best.safetensors")
    model.info = replace(model.info, provenance={**model.info.provenance, "groups": r"(\d)$"})
    atrous.save(model, "run/best.safetensors")
    assert run_evaluate("--overwrite") == 0
    found = json.loads(Path("run/evaluation.json").read_text(encoding="utf-8"))
    assert main(["report", "run"]) == 0
    check(place, capfd.readouterr())
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert page.count("<figcaption><b>case_000") == min(6, len(found["volumes"]["cases"])) and "cannot be" not in page


@pytest.mark.parametrize("suffix", [".nii", ".mha"])
def test_doctor_write_split_shows_no_reason_with_names(place, capfd, suffix):
    shutil.copy("data/images/Roe_Jim.nii.gz", f"data/images/Roe_Jim{suffix}")
    words = ["doctor", "data", "--case-ids", "private/ids.csv", "--write-split"]
    assert main(words) == 2
    captured = capfd.readouterr()
    check(place, captured)
    assert "may name patients" in captured.err


@pytest.mark.parametrize("name", ["SMITH", "smith", "7", "Doe_Jane"])
@pytest.mark.parametrize("part", ["data", "run", "model", "config", "table", ""])
def test_report_refuses_paths_and_settings_that_name_a_patient(tmp_path, name, part):
    folder = tmp_path / (name if part == "data" else "data")
    for one in (name, "other"):
        (folder / one).mkdir(parents=True)
    records = [
        {
            "name": f"x_axial_{index:04d}",
            "image": str(folder / one / "axial/0000"),
            "mask": str(tmp_path / f"{one}.nii"),
        }
        for index, one in enumerate((name, "other"))
    ]
    table = tmp_path / (name if part == "table" else "private") / "ids.csv"
    config = f"data: {{root: '/scans/{name}'}}\nsteps: 7\n" if part == "config" else "steps: 7\nnote: 7 epochs"
    model = f"{name}.safetensors" if part == "model" else "best.safetensors"
    evaluation = {"per_image": records, "data": str(folder), "model": f"models/{model}"}
    run = Run(tmp_path / (name if part == "run" else "run"), config, [], [], evaluation, doctor={"warnings": [1]})
    if not part:
        found, cases = with_case_ids(run, table)
        assert found.doctor == {} and set(cases.volumes.values()) == {"case_0001", "case_0002"} and table.exists()
        return
    with pytest.raises(AtrousError, match="contains the name of a volume or of a group") as caught:
        with_case_ids(run, table)
    assert name not in str(caught.value) and not table.exists()


def test_a_path_that_names_a_patient_is_refused(place, capfd):
    Path("data").rename("Roe_Jim")
    with pytest.raises(AtrousError, match="the path of the data set contains the name") as caught:
        evaluate(Path("run/best.safetensors"), Path("Roe_Jim"), case_ids=place / "ids.csv", **OPTIONS)
    assert "Roe" not in str(caught.value)


def test_pictures_are_refused(place):
    predict(Path("run/best.safetensors"), [Path("data/images/Roe_Jim.nii.gz/axial/0001")], out=Path("x"), **OPTIONS)
    shutil.rmtree("data")
    Path("data/images").mkdir(parents=True)
    Path("data/masks").mkdir()
    TABLE.to_yaml(Path("data/classes.yaml"))
    for part in ("images", "masks"):
        for number in range(4):
            shutil.copy(next(Path("x").iterdir()), f"data/{part}/{number}.png")
    with pytest.raises(AtrousError, match="case ids are for volumes"):
        evaluate(Path("run/best.safetensors"), Path("data"), case_ids=place / "ids.csv", **OPTIONS)
