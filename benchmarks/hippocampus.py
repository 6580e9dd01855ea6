"""Trains and measures the recipe hippocampus on folds of the Medical Segmentation Decathlon's task 4.

    python benchmarks/hippocampus.py --data FOLDER --out RUNS                         # five folds of the recipe
    python benchmarks/hippocampus.py --data FOLDER --out RUNS --folds 0 --arms all    # the ablations, on fold 0
    python benchmarks/hippocampus.py --data FOLDER --out RUNS --folds 1 --write FILE  # adds a fold to the rows of FILE
    python benchmarks/hippocampus.py --read FILE                                      # prints the tables of FILE
    python benchmarks/hippocampus.py --data FOLDER --out RUNS --folds none            # RUNS/hippocampus.safetensors

FOLDER has images/ (or imagesTr/) and labels/ (or labelsTr/). The folds divide subjects: the volumes 2k − 1 and 2k are
very probably the two sides of one subject. Runs that RUNS contains already are continued or not repeated. Prints a
Markdown table: the mean Dice of each class over the volumes, with its 95 % interval from a bootstrap over subjects.
A second table compares each ablation with the arm "recipe" on the same volumes.
With `--folds none`, one model of all volumes is trained, and the model of the recipe is written to
RUNS/hippocampus.safetensors.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atrous import model_file
from atrous.atomic_write import write_text
from atrous.commands.train import train
from atrous.data.volumes.slices import volume_name
from atrous.errors import AtrousError, counted
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
    # Brightness and contrast are then not varied in training, because such values are taken as Hounsfield units.
    "fixed normalisation": {"data.statistics": "fit"},
}
#: Content of the data set's inputs.yaml, by the name of the arm; the data set of the other arms has no such file.
INPUTS = {"fixed normalisation": "inputs: {image: {normalize: fixed}}\n"}
#: Draws of the bootstrap over subjects.
DRAWS = 10_000


class Row(NamedTuple):
    """The Dice of a measured volume.

    Attributes:
        arm: name of the arm.
        fold: number of the fold.
        subject: subject of the volume.
        volume: name of the volume.
        dice: Dice of each of `CLASSES`, 0–1; NaN for a class that is neither in the mask nor in the prediction.
        minutes: time of training and evaluating the fold.
    """

    arm: str
    fold: int
    subject: str
    volume: str
    dice: tuple[float, ...]
    minutes: float


#: Names of the columns of the CSV files.
COLUMNS = ("arm", "fold", "subject", "volume", *(f"dice_{name}" for name in CLASSES), "minutes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and measures the arms and folds that RUNS does not contain, and prints the tables.

    Args:
        arguments: arguments of the command line; None for those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the volumes and labels")
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--folds", default="0,1,2,3,4", help="numbers of folds; none trains on all volumes")
    parser.add_argument("--arms", default="recipe", help=f"names of arms, or all: {', '.join(ARMS)}")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="further changes of the recipe")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="CSV file with a row per volume; its other arms and folds are kept"
    )
    parser.add_argument("--read", type=Path, metavar="FILE", help="print the tables of such a file, without training")
    options = parser.parse_args(arguments)
    if options.read is not None:
        print(tables(read_rows(options.read)))
        return
    if options.data is None or options.out is None:
        parser.error("--data and --out are needed to train, or --read to print a file")
    arms = ARMS if options.arms == "all" else {name: ARMS[name] for name in options.arms.split(",")}
    more = {name: json.loads(value) for name, value in (one.split("=", 1) for one in options.set)}
    if options.folds == "none":
        if options.write is not None:
            parser.error("--write is for folds: a model of all volumes is not measured")
        for name, changes in arms.items():
            run = trained(options, name, {**changes, **more}, None)
            if name == "recipe":
                write_model(run / "best.safetensors", options.out / "hippocampus.safetensors")
        return
    rows = [] if options.write is None or not options.write.exists() else read_rows(options.write)
    for name, changes in arms.items():
        for fold in map(int, options.folds.split(",")):
            new = measured(trained(options, name, {**changes, **more}, fold), name, fold)
            rows = [row for row in rows if (row.arm, row.fold) != (name, fold)] + new
            if options.write is not None:
                write_rows(rows, options.write)
    print(tables(rows))


def dataset(data: Path, out: Path, fold: int | None, arm: str = "recipe") -> Path:
    """Makes a dataset whose split "val" is a fold of the subjects, from links to the volumes, and returns its folder.

    Without a fold, all volumes are training volumes, and the first subjects are also the validation split. Arms in
    `INPUTS` have a folder of their own.
    """
    name = "all" if fold is None else f"fold{fold}"
    root = out / (f"{name}_{arm.replace(' ', '_')}" if arm in INPUTS else name)
    (root / "splits").mkdir(parents=True, exist_ok=True)
    for name, given in {"images": ("images", "imagesTr"), "masks": ("labels", "labelsTr")}.items():
        if not (root / name).exists():
            (root / name).symlink_to(next((data / one).resolve() for one in given if (data / one).is_dir()))
    lines = ["classes:", "  - {name: background, raw: [0], color: [0, 0, 0]}"]
    for index, (name, color) in enumerate(zip(CLASSES, ("[230, 159, 0]", "[86, 180, 233]"), strict=True), 1):
        lines.append(f"  - {{name: {name}, raw: [{index}], color: {color}}}")
    (root / "classes.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if arm in INPUTS:
        (root / "inputs.yaml").write_text(INPUTS[arm], encoding="utf-8")
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
    root = dataset(options.data, options.out / "data", fold, arm)
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


def measured(run: Path, arm: str, fold: int) -> list[Row]:
    """Returns the rows of a run: one for each volume of its fold."""
    cases = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["volumes"]["cases"]
    minutes = json.loads((run / "minutes.json").read_text(encoding="utf-8"))
    return [
        Row(
            arm,
            fold,
            case["patient"],
            volume_name(Path(case["volume"])),
            tuple(number(case["classes"][name]["dice"]) for name in CLASSES),
            minutes,
        )
        for case in cases
    ]


def number(dice: str | float | None) -> float:
    """Returns a Dice of a file as a number; NaN where the file has none."""
    return float("nan") if dice in (None, "") else float(dice)


def read_rows(path: Path) -> list[Row]:
    """Reads the rows of a CSV file that `--write` wrote.

    Raises:
        AtrousError: the file cannot be read, or has other columns.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.DictReader(file)
            if tuple(lines.fieldnames or ()) != COLUMNS:
                raise AtrousError(f"{path} was not written by --write: its columns must be {','.join(COLUMNS)}.")
            return [
                Row(
                    line["arm"],
                    int(line["fold"]),
                    line["subject"],
                    line["volume"],
                    tuple(number(line[f"dice_{name}"]) for name in CLASSES),
                    float(line["minutes"]),
                )
                for line in lines
            ]
    except (OSError, ValueError, TypeError) as error:
        raise AtrousError(f"{path} cannot be read: {error}") from error


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Writes rows to a CSV file, in the order of the arms and folds."""
    places = {name: place for place, name in enumerate(ARMS)}
    ordered = sorted(rows, key=lambda row: (places.get(row.arm, len(places)), row.arm, row.fold, row.volume))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for row in ordered:
        dice = ["" if np.isnan(value) else value for value in row.dice]
        lines.writerow([row.arm, row.fold, row.subject, row.volume, *dice, row.minutes])
    write_text(path, text.getvalue())


def tables(rows: Sequence[Row]) -> str:
    """Returns the Markdown tables of rows: the Dice of each arm, and the differences of the ablations."""
    by_arm: dict[str, list[Row]] = {}
    for row in rows:
        by_arm.setdefault(row.arm, []).append(row)
    head = "| arm | folds | minutes a fold | " + " | ".join(CLASSES) + " |\n|---|---|---|" + "---|" * len(CLASSES)
    lines = [head, *(scores_of(name, own) for name, own in by_arm.items())]
    recipe = {(row.fold, row.volume): row for row in by_arm.get("recipe", ())}
    pairs = {
        name: [(recipe[row.fold, row.volume], row) for row in own if (row.fold, row.volume) in recipe]
        for name, own in by_arm.items()
        if name != "recipe"
    }
    if any(pairs.values()):
        lines += ["", "Difference to the recipe on the same volumes:", ""]
        lines += [f"| arm | folds | {' | '.join(CLASSES)} |\n|---|---|" + "---|" * len(CLASSES)]
        lines += [differences_of(name, own) for name, own in pairs.items() if own]
    return "\n".join(lines)


def scores_of(arm: str, rows: Sequence[Row]) -> str:
    """Returns the line of an arm: the mean Dice of each class over its volumes."""
    minutes = np.mean(list({row.fold: row.minutes for row in rows}.values()))
    subjects, values = [row.subject for row in rows], np.array([row.dice for row in rows])
    cells = [mean_in_words(subjects, column, "{:.3f}") for column in values.T]
    return f"| {arm} | {folds_in_words(rows)} | {minutes:.1f} | " + " | ".join(cells) + " |"


def differences_of(arm: str, pairs: Sequence[tuple[Row, Row]]) -> str:
    """Returns the line of an ablation: the mean difference of its Dice to that of the recipe.

    Args:
        arm: name of the ablation.
        pairs: the rows of the recipe and of the ablation, for each volume that both measured.
    """
    values = np.array([np.subtract(row.dice, recipe.dice) for recipe, row in pairs])
    cells = [mean_in_words([row.subject for _, row in pairs], column, "{:+.3f}") for column in values.T]
    return f"| {arm} | {folds_in_words([row for _, row in pairs])} | " + " | ".join(cells) + " |"


def folds_in_words(rows: Sequence[Row]) -> str:
    """Returns the number of folds and of volumes of rows as text."""
    return f"{len({row.fold for row in rows})}, {counted(len(rows), 'volume')}"


def mean_in_words(subjects: Sequence[str], values: np.ndarray, form: str) -> str:
    """Returns the mean of the values that are not NaN, with its 95 % interval from a bootstrap over subjects.

    Args:
        subjects: subject of each value.
        values: one value for each volume.
        form: format of a value, such as "{:.3f}".
    """
    there = ~np.isnan(values)
    names, group = np.unique(np.asarray(subjects)[there], return_inverse=True)
    if not len(names):
        return "–"
    sums = np.stack([np.bincount(group, values[there]), np.bincount(group)], axis=1)
    mean = form.format(sums[:, 0].sum() / sums[:, 1].sum())
    if len(names) == 1:
        return mean
    drawn = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
    totals = sums[drawn].sum(axis=1)
    low, high = np.percentile(totals[:, 0] / totals[:, 1], (2.5, 97.5))
    return f"{mean} ({form.format(low)} to {form.format(high)})"


if __name__ == "__main__":
    main()
