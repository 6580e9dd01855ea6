"""The benchmark of the recipe hippocampus: its arms, its CSV file of volumes and its tables."""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from atrous import AtrousError
from atrous.data.open_dataset import open_dataset
from atrous.model_file import read_info

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "hippocampus.py"


@pytest.fixture(scope="module")
def benchmark():
    found = importlib.util.spec_from_file_location("hippocampus", SCRIPT)
    assert found is not None and found.loader is not None
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    return script


def rows_of(benchmark, arm, fold, changes, dice=0.8):
    """Returns rows of four volumes of two subjects; each change is added to the Dice of one volume."""
    return [
        benchmark.Row(
            arm, fold, f"subject{fold}{index // 2}", f"v{fold}{index}", (dice + change, dice - change), 2.0 + fold
        )
        for index, change in enumerate(changes)
    ]


def cells_of(table, arm):
    """Returns the cells of the lines of an arm in Markdown tables."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return [line[1:] for line in lines if line[0] == arm]


def test_differences_are_paired_by_volume_on_the_folds_that_both_measured(benchmark):
    changes = (0.0, 0.02, 0.06, -0.04)
    rows = rows_of(benchmark, "recipe", 0, changes) + rows_of(benchmark, "recipe", 1, changes, dice=0.5)
    # the same volumes differ much between each other, and each of them differs by 0.01 between the arms
    rows += [row._replace(arm="2-D", dice=(row.dice[0] + 0.01, row.dice[1] - 0.01)) for row in reversed(rows[:4])]
    table = benchmark.tables(rows)
    assert cells_of(table, "2-D")[1] == [
        "1, 4 volumes",
        "+0.010 (+0.010 to +0.010)",
        "-0.010 (-0.010 to -0.010)",
    ]
    scores, *differences = cells_of(table, "recipe")
    assert scores[:2] == ["2, 8 volumes", "2.5"]
    assert scores[2].startswith("0.660 (")
    assert not differences


def test_the_interval_draws_subjects_and_not_volumes(benchmark):
    subjects, values = ["a", "a", "a", "b"], np.array([0.2, 0.3, 0.4, 0.9])
    # of the draws of two subjects, a quarter is twice a, a quarter is twice b
    assert benchmark.mean_in_words(subjects, values, "{:.3f}") == "0.450 (0.300 to 0.900)"
    values[3] = np.nan
    assert benchmark.mean_in_words(subjects, values, "{:.3f}") == "0.300"


def test_a_file_gives_the_same_tables_as_the_rows(benchmark, tmp_path, capsys):
    rows = [
        row
        for fold in (1, 0)
        for arm in ("recipe", "one plane")
        for row in rows_of(
            benchmark, arm, fold, np.random.default_rng(len(arm) + fold).normal(scale=0.1, size=4).tolist()
        )
    ]
    rows[0] = rows[0]._replace(dice=(float("nan"), rows[0].dice[1]))
    benchmark.write_rows(rows, tmp_path / "volumes.csv")
    benchmark.main(["--read", str(tmp_path / "volumes.csv")])
    again = benchmark.read_rows(tmp_path / "volumes.csv")
    assert capsys.readouterr().out.strip() == benchmark.tables(again)
    order = sorted(rows, key=lambda row: (row.arm != "recipe", row.fold, row.volume))
    assert repr(again) == repr(order)
    with (tmp_path / "volumes.csv").open() as file:
        assert next(csv.reader(file)) == [
            "arm", "fold", "subject", "volume", "dice_anterior", "dice_posterior", "minutes"
        ]  # fmt: skip


def test_a_file_of_something_else_is_neither_read_nor_replaced(benchmark, tmp_path):
    file = tmp_path / "other.csv"
    file.write_text("name,value\na,1\n")
    for command in (["--read", str(file)], ["--data", "d", "--out", str(tmp_path / "runs"), "--write", str(file)]):
        with pytest.raises(AtrousError, match="was not written by --write"):
            benchmark.main(command)
    assert file.read_text() == "name,value\na,1\n"
    assert not (tmp_path / "runs").exists()


def volumes(root):
    """Four volumes of two subjects, with a bright block of two classes; each volume has another unit."""
    nibabel = pytest.importorskip("nibabel")
    for number in range(1, 5):
        mask = np.zeros((16, 14, 6), np.uint8)
        mask[4:8, 4:10, 1:5], mask[8:12, 4:10, 1:5] = 1, 2
        scan = (number * (np.random.default_rng(number).normal(size=mask.shape) + 3 * mask + 10)).astype(np.float32)
        for folder, values in (("imagesTr", scan), ("labelsTr", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            image = nibabel.Nifti1Image(values, np.diag([-1.0, 1, 1, 1]))
            nibabel.save(image, root / folder / f"hippocampus_{number:03d}.nii.gz")
    return root


def test_only_the_arm_of_fixed_normalisation_has_a_dataset_with_inputs(benchmark, tmp_path):
    volumes(tmp_path / "msd")
    opened = {
        arm: open_dataset(benchmark.dataset(tmp_path / "msd", tmp_path / "data", 0, arm))
        for arm in ("recipe", "2-D", "fixed normalisation")
    }
    assert [dataset.inputs[0].normalize for dataset in opened.values()] == ["per_image", "per_image", "fixed"]
    assert opened["recipe"].root == opened["2-D"].root != opened["fixed normalisation"].root
    splits = [[item.name for item in dataset.split("val")] for dataset in opened.values()]
    assert splits[0] == splits[1] == splits[2]


@pytest.mark.slow
def test_folds_of_two_days_are_one_table(benchmark, tmp_path, capsys):
    """Trains with fixed normalisation: the model has the mean and deviation of the training volumes."""
    data, out, file = volumes(tmp_path / "msd"), tmp_path / "runs", tmp_path / "volumes.csv"
    arm = "fixed normalisation"
    common = ["--data", str(data), "--out", str(out), "--write", str(file), "--arms", arm]
    changes = {
        "model.pretrained": False,
        "model.backbone": "mobilenetv2_035",
        "model.arguments": {"aspp_channels": 8, "low_channels": 8},
        "augment.crop": [16, 16],
        "data.planes": ["axial"],
        "data.workers": 0,
        "train.epochs": 1,
        "train.enlarge": 1,
        "train.validate_every": 1,
        "train.device": "cpu",
    }
    for fold in ("1", "0"):
        capsys.readouterr()
        given = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
        benchmark.main([*common, "--folds", fold, "--set", *given])
    assert [cells[0] for cells in cells_of(capsys.readouterr().out, arm)] == ["2, 4 volumes"]
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["fold"], row["subject"], row["volume"]) for row in rows] == [
        (fold, subject, f"hippocampus_{number:03d}")
        for fold, subject, numbers in (("0", "subject001", (1, 2)), ("1", "subject002", (3, 4)))
        for number in numbers
    ]
    cases = json.loads((out / "fixed_normalisation_0/evaluation.json").read_text())["volumes"]["cases"]
    assert float(rows[0]["dice_anterior"]) == pytest.approx(cases[0]["classes"]["anterior"]["dice"])
    image = read_info(out / "fixed_normalisation_0/best.safetensors").preprocessing.image
    assert image.normalize == "fixed"
    nibabel = pytest.importorskip("nibabel")
    scans = [nibabel.load(data / f"imagesTr/hippocampus_{number:03d}.nii.gz").get_fdata() for number in (3, 4)]
    assert image.mean == pytest.approx([np.mean(scans)] * 3, rel=0.1)  # slices at the ends have no neighbour
    assert image.std == pytest.approx([np.std(scans)] * 3, rel=0.1)
