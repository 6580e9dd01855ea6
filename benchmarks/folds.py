"""Trains a recipe on folds of places, and compares arms by the IoU over the pixels of all folds.

`water.py` and `hyperspectral.py` use it; it is no program.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atrous.commands.train import train
from atrous.learning.recipe import read_recipe

FOLDS = 5
#: Draws of the bootstrap over places.
DRAWS = 10_000

#: Function of (folder to fill, fold, names of bands) that makes a dataset whose split "val" is the fold.
MakeDataset = Callable[[Path, int, Sequence[str]], None]


def options(description: str | None, arms: Iterable[str]) -> argparse.Namespace:
    """Returns the options of the command line.

    Args:
        description: text of --help.
        arms: names of the arms.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the tiles and labels")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--arms", default="recipe", help=f"names of arms, or all: {', '.join(arms)}")
    parser.add_argument("--seeds", default="0", help="seeds, such as 0,1,2")
    given = parser.parse_args()
    given.arms = list(arms) if given.arms == "all" else given.arms.split(",")
    given.seeds = [int(seed) for seed in given.seeds.split(",")]
    return given


def split_lists(root: Path, places: Mapping[str, int], fold: int) -> None:
    """Writes the split lists of a fold: every fifth place is in "val".

    Args:
        root: folder of the dataset.
        places: number of the place of each tile.
        fold: number of the fold, 0–4.
    """
    held_out = set(sorted(set(places.values()))[fold::FOLDS])
    (root / "splits").mkdir(parents=True, exist_ok=True)
    for part, own in (("train", False), ("val", True)):
        listed = [name for name, place in places.items() if (place in held_out) == own]
        (root / "splits" / f"{part}.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")


def print_table(
    given: argparse.Namespace,
    arms: Mapping[str, tuple[Sequence[str], Mapping[str, Any]]],
    places: Mapping[str, int],
    make_dataset: MakeDataset,
    classes: Sequence[int],
    score: str,
) -> None:
    """Trains and measures the arms of all folds and seeds, and prints a Markdown table.

    Args:
        given: what `options` returned. Runs that `given.out` contains are not repeated.
        arms: bands and changes of the recipe `water`, by the name of the arm; "recipe" is the arm to compare with.
        places: number of the place of each tile.
        make_dataset: fills the folder of a dataset.
        classes: indices of the classes whose IoU is averaged.
        score: name of the score, for the head of the table.
    """
    print(f"{len(places)} tiles of {len(set(places.values()))} places")
    print(f"| arm | seeds | minutes a fold | {score} | minus the recipe |\n|---|---|---|---|---|", flush=True)
    base: np.ndarray | None = None
    for name in given.arms:
        bands, changes = arms[name]
        counts, minutes = [], []
        for seed in given.seeds:
            counts.append(np.zeros((len(set(places.values())), len(classes), 3)))
            for fold in range(FOLDS):
                root = given.out / "data" / f"{name.replace(' ', '_')}_{fold}"
                if not (root / "classes.yaml").exists():
                    make_dataset(root, fold, bands)
                run = given.out / f"{name.replace(' ', '_')}_{seed}_{fold}"
                minutes.append(trained(run, {"data.root": str(root), "seed": seed, **changes}))
                add_counts(counts[-1], run, places, classes)
        summed = np.sum(counts, axis=0)
        base = summed if name == "recipe" else base
        print(row(name, [iou(one) for one in counts], float(np.mean(minutes)), summed, base), flush=True)


def trained(run: Path, changes: dict[str, Any]) -> float:
    """Trains and evaluates a run unless it exists, and returns the minutes that this took."""
    if not (run / "minutes.json").exists():
        start = time.perf_counter()
        train(read_recipe("water", changes), out=run, overwrite=True)
        (run / "minutes.json").write_text(json.dumps((time.perf_counter() - start) / 60), encoding="utf-8")
    return json.loads((run / "minutes.json").read_text(encoding="utf-8"))


def add_counts(counts: np.ndarray, run: Path, places: Mapping[str, int], classes: Sequence[int]) -> None:
    """Adds the hits, true and predicted pixels of a run's classes to counts of places × classes × 3."""
    order = {place: index for index, place in enumerate(sorted(set(places.values())))}
    for entry in json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["per_image"]:
        for index, *found in entry["counts"]:
            if index in classes:
                counts[order[places[entry["name"]]], classes.index(index)] += found


def iou(counts: np.ndarray) -> np.ndarray:
    """Returns the mean IoU over classes, from hits, true and predicted pixels (… × places × classes × 3).

    A class that occurs neither in the labels nor in the predictions does not count.
    """
    hits, true, predicted = np.moveaxis(counts.sum(axis=-3), -1, 0)
    union = true + predicted - hits
    return np.nanmean(np.where(union > 0, hits / np.maximum(union, 1), np.nan), axis=-1)


def row(arm: str, of_seeds: list[np.ndarray], minutes: float, counts: np.ndarray, base: np.ndarray | None) -> str:
    """Returns the row of an arm, with 95 % intervals from a bootstrap over places."""
    drawn = np.random.default_rng(0).integers(len(counts), size=(DRAWS, len(counts)))
    low, high = np.nanpercentile(iou(counts[drawn]), (2.5, 97.5))
    spread = f", seeds {min(of_seeds):.3f} to {max(of_seeds):.3f}" if len(of_seeds) > 1 else ""
    difference = ""
    if base is not None and arm != "recipe":
        less, more = np.nanpercentile(iou(counts[drawn]) - iou(base[drawn]), (2.5, 97.5))
        difference = f"{iou(counts) - iou(base):+.3f} ({less:+.3f} to {more:+.3f})"
    value = f"{iou(counts):.3f} ({low:.3f}–{high:.3f}{spread})"
    return f"| {arm} | {len(of_seeds)} | {minutes:.1f} | {value} | {difference} |"
