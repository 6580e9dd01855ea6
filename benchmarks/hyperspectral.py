"""Measures 224 bands of a hyperspectral scene against its red, green and blue, by cross-validation over tiles.

    python benchmarks/hyperspectral.py --data FOLDER --out RUNS --arms all --seeds 0,1,2

FOLDER has images/ with GeoTIFFs of 32×32 pixels whose bands name their wavelengths, such as the tiles of EnMAP over
Potsdam that EnMAP-Box has as test data, and labels/ with GeoTIFFs of the classes 1–6; 0 is no class. Each tile is a
place. The network is that of the recipe water with output stride 8, and enlarges the tiles to 97×97 pixels. Runs that
RUNS contains are not repeated. Prints a Markdown table: the mean IoU of the classes over the pixels of all folds, its
95 % interval from a bootstrap over tiles, and the difference to the arm "recipe", paired by tile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import folds
import numpy as np
import rasterio
from PIL import Image

CLASSES = ("roof", "pavement", "low vegetation", "tree", "soil", "water")
#: Wavelengths of red, green and blue in nanometres; the nearest bands are taken.
RGB = ("665", "560", "490")
SETTINGS: dict[str, Any] = {"model.output_stride": 8, "augment.crop": [32, 32], "train.enlarge": 3}
#: Wavelengths, () for all bands, and changes of the recipe water, by the name of the arm.
ARMS: dict[str, tuple[Sequence[str], dict[str, Any]]] = {
    "recipe": ((), SETTINGS),
    "RGB only": (RGB, SETTINGS),
    "filters repeated": ((), {**SETTINGS, "model.first_layer": "repeat"}),
    "first layer at random": ((), {**SETTINGS, "model.first_layer": "random"}),
}


def main() -> None:
    """Trains and measures the arms that RUNS does not contain, and prints the table."""
    given = folds.options(__doc__, ARMS)
    names = sorted(path.stem for path in (given.data / "images").glob("*.tif"))
    places = {name: index for index, name in enumerate(names)}
    folds.print_table(
        given,
        ARMS,
        places,
        lambda root, fold, bands: make_dataset(given.data, root, places, fold, bands),
        classes=range(len(CLASSES)),
        score="mean IoU",
    )


def make_dataset(data: Path, root: Path, places: Mapping[str, int], fold: int, bands: Sequence[str]) -> None:
    """Makes a dataset whose split "val" is a fold of the tiles."""
    (root / "masks").mkdir(parents=True, exist_ok=True)
    if not (root / "images").exists():
        (root / "images").symlink_to((data / "images").resolve())
    for name in places:
        with rasterio.open(data / "labels" / f"{name}.tif") as file:
            labels = file.read(1)
        Image.fromarray(np.where(labels == 0, 255, labels - 1).astype(np.uint8)).save(root / "masks" / f"{name}.png")
    folds.split_lists(root, places, fold)
    if bands:
        text = f"inputs: {{image: {{wavelengths: [{', '.join(bands)}]}}}}\n"
        (root / "inputs.yaml").write_text(text, encoding="utf-8")
    (root / "classes.yaml").write_text(
        "ignore: [255]\nclasses:\n" + "".join(f"  - {{name: {name}}}\n" for name in CLASSES), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
