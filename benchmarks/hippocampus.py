"""Trains and measures the recipe hippocampus on folds of the Medical Segmentation Decathlon's task 4.

    python benchmarks/hippocampus.py --data FOLDER --out RUNS                         # five folds of the recipe
    python benchmarks/hippocampus.py --data FOLDER --out RUNS --folds 0 --arms all    # the ablations, on fold 0
    python benchmarks/hippocampus.py --data FOLDER --out RUNS --folds none            # RUNS/hippocampus.safetensors

FOLDER has images/ (or imagesTr/) and labels/ (or labelsTr/). The folds divide subjects: the volumes 2k − 1 and 2k are
very probably the two sides of one subject. Runs that RUNS contains already are continued or not repeated. Prints a
Markdown table: the mean Dice of each class over the volumes, with its 95 % interval from a bootstrap over subjects.
With `--folds none`, one model of all volumes is trained, and the model of the recipe is written to
RUNS/hippocampus.safetensors.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from atrous import model_file
from atrous.commands.train import train
from atrous.learning.checkpoint import checkpoint_of
from atrous.learning.recipe import read_recipe

RECIPE, FOLDS, CLASSES = "hippocampus", 5, ("anterior", "posterior")
#: Changes of the recipe, by the name of the arm; "recipe" is the recipe itself.
ARMS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "one plane": {"data.planes": ["axial"]},
    "2-D": {"data.slices": 1},
    "resolution ×1": {"train.enlarge": 1},
    "resolution ×2": {"train.enlarge": 2},
    "resolution ×4": {"train.enlarge": 4},
}
#: Draws of the bootstrap over subjects.
DRAWS = 10_000


def main() -> None:
    """Trains and measures the arms and folds that RUNS does not contain, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the volumes and labels")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--folds", default="0,1,2,3,4", help="numbers of folds; none trains on all volumes")
    parser.add_argument("--arms", default="recipe", help=f"names of arms, or all: {', '.join(ARMS)}")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="further changes of the recipe")
    options = parser.parse_args()
    arms = ARMS if options.arms == "all" else {name: ARMS[name] for name in options.arms.split(",")}
    more = {name: json.loads(value) for name, value in (one.split("=", 1) for one in options.set)}
    folds = [None] if options.folds == "none" else [int(fold) for fold in options.folds.split(",")]
    print("| arm | folds | minutes a fold | " + " | ".join(CLASSES) + " |\n|---|---|---|" + "---|" * len(CLASSES))
    for name, changes in arms.items():
        runs = [trained(options, name, {**changes, **more}, fold) for fold in folds]
        if None not in folds:
            print(row(name, runs, [measured(run) for run in runs]))
        elif name == "recipe":
            write_model(runs[0] / "best.safetensors", options.out / "hippocampus.safetensors")


def dataset(data: Path, out: Path, fold: int | None) -> Path:
    """Makes a dataset whose split "val" is a fold of the subjects, from links to the volumes, and returns its folder.

    Without a fold, all volumes are training volumes, and the first subjects are also the validation split.
    """
    root = out / ("all" if fold is None else f"fold{fold}")
    (root / "splits").mkdir(parents=True, exist_ok=True)
    for name, given in {"images": ("images", "imagesTr"), "masks": ("labels", "labelsTr")}.items():
        if not (root / name).exists():
            (root / name).symlink_to(next((data / one).resolve() for one in given if (data / one).is_dir()))
    lines = ["classes:", "  - {name: background, raw: [0], color: [0, 0, 0]}"]
    for index, (name, color) in enumerate(zip(CLASSES, ("[230, 159, 0]", "[86, 180, 233]"), strict=True), 1):
        lines.append(f"  - {{name: {name}, raw: [{index}], color: {color}}}")
    (root / "classes.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = sorted(path.name.removesuffix(".nii.gz") for path in (root / "images").glob("*.nii.gz"))
    subjects = {name: subject_of(name) for name in names}
    with (root / "groups.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("picture", "group"), *subjects.items()])
    order = sorted(set(subjects.values()))
    held_out = set(order[fold or 0 :: FOLDS])
    parts = {
        "train": [name for name in names if fold is None or subjects[name] not in held_out],
        "val": [name for name in names if subjects[name] in held_out],
    }
    for part, listed in parts.items():
        (root / "splits" / f"{part}.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")
    return root


def subject_of(name: str) -> str:
    """Returns the subject of a volume: 2k − 1 and 2k are subject k."""
    number = re.search(r"(\d+)$", name)
    assert number is not None, name
    return f"subject{(int(number[1]) + 1) // 2:03d}"


def trained(options: argparse.Namespace, arm: str, changes: dict[str, Any], fold: int | None) -> Path:
    """Trains and evaluates an arm on a fold, and returns the run's folder; minutes.json has the time of both."""
    root = dataset(options.data, options.out / "data", fold)
    run = options.out / f"{arm.replace(' ', '_')}_{'all' if fold is None else fold}"
    if not (run / "evaluation.json").exists():
        start = time.perf_counter()
        if checkpoint_of(run).exists():
            train(read_recipe(run / "config.yaml"), resume=run)
        else:
            train(read_recipe(RECIPE, {"data.root": str(root), **changes}), out=run)
        before = (
            json.loads((run / "minutes.json").read_text(encoding="utf-8")) if (run / "minutes.json").exists() else 0.0
        )
        (run / "minutes.json").write_text(json.dumps(before + (time.perf_counter() - start) / 60), encoding="utf-8")
    return run


def write_model(trained: Path, out: Path) -> None:
    """Writes a model of all volumes in 16 bits and without scores, because they were measured on training volumes."""
    model = model_file.load(trained)
    model.info = replace(model.info, scores={})
    model_file.save(model, out, half=True)


def measured(run: Path) -> list[dict[str, Any]]:
    """Returns the scores of each volume of the run's fold: its subject, and the Dice of each class."""
    cases = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["volumes"]["cases"]
    return [{"subject": case["patient"], **{name: case["classes"][name]["dice"] for name in CLASSES}} for case in cases]


def row(name: str, runs: list[Path], folds: list[list[dict[str, Any]]]) -> str:
    """Returns the row of an arm."""
    cases = [case for fold in folds for case in fold]
    minutes = np.mean([json.loads((run / "minutes.json").read_text(encoding="utf-8")) for run in runs])
    cells = []
    for one in CLASSES:
        by_subject: dict[str, list[float]] = {}
        for case in cases:
            by_subject.setdefault(case["subject"], []).append(case[one])
        sums = np.array([[sum(values), len(values)] for values in by_subject.values()])
        drawn = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
        totals = sums[drawn].sum(axis=1)
        low, high = np.percentile(totals[:, 0] / totals[:, 1], (2.5, 97.5))
        cells.append(f"{sums[:, 0].sum() / sums[:, 1].sum():.3f} ({low:.3f}–{high:.3f})")
    return f"| {name} | {len(folds)}, {len(cases)} volumes | {minutes:.1f} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
