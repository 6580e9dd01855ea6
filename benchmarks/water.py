"""Measures the recipe water by cross-validation over places, with other bands and other first layers.

    python benchmarks/water.py --data FOLDER --out RUNS                # the recipe
    python benchmarks/water.py --data FOLDER --out RUNS --arms all     # all arms

FOLDER has images/ with GeoTIFFs of 12 bands, of which the first seven are reflectances (coastal, blue, green, red, near
and short-wave infrared), and labels/ with PNGs of 0 and 1. Tiles of one place, seen at other dates, are in one fold;
they are found by the correlation of their near-infrared band in all eight orientations. Runs that RUNS contains already
are not repeated. Prints a Markdown table: the IoU of water over the pixels of all folds, with its 95 % interval from a
bootstrap over places, and the difference to the recipe, paired by place.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from atrous.commands.train import train
from atrous.learning.recipe import read_recipe

FOLDS = 5
BANDS = ("coastal", "blue", "green", "red", "nir", "swir1", "swir2")
#: Bands and changes of the recipe, by the name of the arm; "recipe" is the recipe itself.
ARMS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "recipe": (BANDS, {}),
    "RGB only": (("red", "green", "blue"), {}),
    "filters repeated": (BANDS, {"model.first_layer": "repeat"}),
    "first layer at random": (BANDS, {"model.first_layer": "random"}),
    "no pretrained weights": (BANDS, {"model.pretrained": False}),
}
#: Smallest correlation of two tiles of one place.
ALIKE = 0.8
#: Draws of the bootstrap over places.
DRAWS = 10_000


def main() -> None:
    """Trains and measures the arms that RUNS does not contain, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the tiles and labels")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--arms", default="recipe", help=f"names of arms, or all: {', '.join(ARMS)}")
    parser.add_argument("--seeds", default="0", help="seeds, such as 0,1,2")
    options = parser.parse_args()
    names = list(ARMS) if options.arms == "all" else options.arms.split(",")
    places = places_of(options.data)
    print(f"{len(places)} tiles of {len(set(places.values()))} places")
    print("| arm | seeds | minutes a fold | IoU of water | minus the recipe |\n|---|---|---|---|---|")
    base: np.ndarray | None = None
    for name in names:
        counts, minutes, seeds = [], [], [int(seed) for seed in options.seeds.split(",")]
        for seed in seeds:
            one, spent = measured(options, name, seed, places)
            counts.append(one)
            minutes += spent
        summed = np.sum(counts, axis=0)
        base = summed if name == "recipe" else base
        print(row(name, [iou(one) for one in counts], float(np.mean(minutes)), summed, base))


def places_of(data: Path) -> dict[str, int]:
    """Returns the place of each tile, a number."""
    names = sorted(path.stem for path in (data / "images").glob("*.tif"))
    place = {name: index for index, name in enumerate(names)}
    near = {name: standardised(band(data, name)) for name in names}
    for index, one in enumerate(names):
        for other in names[:index]:
            turns = [np.rot90(flipped, turn) for flipped in (near[other], near[other].T) for turn in range(4)]
            if max(float((near[one] * turned).mean()) for turned in turns) > ALIKE:
                old, new = place[one], place[other]
                place = {name: new if number == old else number for name, number in place.items()}
    return place


def band(data: Path, name: str) -> np.ndarray:
    """Returns the near-infrared band of a tile."""
    with rasterio.open(data / "images" / f"{name}.tif") as file:
        return file.read(BANDS.index("nir") + 1).astype(np.float64)


def standardised(values: np.ndarray) -> np.ndarray:
    """Returns values with mean 0 and standard deviation 1."""
    return (values - values.mean()) / max(values.std(), 1e-9)


def dataset(data: Path, out: Path, fold: int, bands: tuple[str, ...], places: dict[str, int]) -> Path:
    """Makes a dataset whose split "val" is a fold of the places; its tiles name their bands."""
    root = out / f"{'-'.join(bands)}_{fold}"
    if (root / "classes.yaml").exists():
        return root
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in places:
        with rasterio.open(data / "images" / f"{name}.tif") as file:
            values, profile = file.read(range(1, len(BANDS) + 1)), {**file.profile, "count": len(BANDS)}
        with rasterio.open(root / "images" / f"{name}.tif", "w", **profile) as file:
            file.write(values)
            file.descriptions = BANDS
        (root / "masks" / f"{name}.png").symlink_to((data / "labels" / f"{name}.png").resolve())
    order = sorted(set(places.values()))
    held_out = set(order[fold::FOLDS])
    for part, own in (("train", False), ("val", True)):
        listed = [name for name, place in places.items() if (place in held_out) == own]
        (root / "splits" / f"{part}.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")
    (root / "inputs.yaml").write_text(f"inputs: {{image: {{bands: [{', '.join(bands)}]}}}}\n", encoding="utf-8")
    (root / "classes.yaml").write_text("classes:\n  - {name: land}\n  - {name: water}\n", encoding="utf-8")
    return root


def measured(
    options: argparse.Namespace, arm: str, seed: int, places: dict[str, int]
) -> tuple[np.ndarray, list[float]]:
    """Trains an arm on all folds; returns hits, true and predicted pixels of water by place, and minutes by fold."""
    bands, changes = ARMS[arm]
    order = {place: index for index, place in enumerate(sorted(set(places.values())))}
    counts, minutes = np.zeros((len(order), 3)), []
    for fold in range(FOLDS):
        root = dataset(options.data, options.out / "data", fold, bands, places)
        run = options.out / f"{arm.replace(' ', '_')}_{seed}_{fold}"
        if not (run / "minutes.json").exists():
            start = time.perf_counter()
            train(read_recipe("water", {"data.root": str(root), "seed": seed, **changes}), out=run)
            (run / "minutes.json").write_text(json.dumps((time.perf_counter() - start) / 60), encoding="utf-8")
        minutes.append(json.loads((run / "minutes.json").read_text(encoding="utf-8")))
        for entry in json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["per_image"]:
            for index, *found in entry["counts"]:
                if index == 1:
                    counts[order[places[entry["name"]]]] += found
    return counts, minutes


def iou(counts: np.ndarray) -> np.ndarray:
    """Returns the IoU from hits, true and predicted pixels of places, summed over the last axis but one."""
    hits, true, predicted = np.moveaxis(counts.sum(axis=-2), -1, 0)
    return hits / np.maximum(true + predicted - hits, 1)


def row(arm: str, of_seeds: list[np.ndarray], minutes: float, counts: np.ndarray, base: np.ndarray | None) -> str:
    """Returns the row of an arm."""
    drawn = np.random.default_rng(0).integers(len(counts), size=(DRAWS, len(counts)))
    low, high = np.percentile(iou(counts[drawn]), (2.5, 97.5))
    spread = f", seeds {min(of_seeds):.3f} to {max(of_seeds):.3f}" if len(of_seeds) > 1 else ""
    difference = ""
    if base is not None and arm != "recipe":
        less, more = np.percentile(iou(counts[drawn]) - iou(base[drawn]), (2.5, 97.5))
        difference = f"{iou(counts) - iou(base):+.3f} ({less:+.3f} to {more:+.3f})"
    value = f"{iou(counts):.3f} ({low:.3f}–{high:.3f}{spread})"
    return f"| {arm} | {len(of_seeds)} | {minutes:.1f} | {value} | {difference} |"


if __name__ == "__main__":
    main()
