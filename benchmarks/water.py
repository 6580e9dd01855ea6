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

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import folds
import numpy as np
import rasterio

BANDS = ("coastal", "blue", "green", "red", "nir", "swir1", "swir2")
#: Bands and changes of the recipe, by the name of the arm; "recipe" is the recipe itself.
ARMS: dict[str, tuple[Sequence[str], dict[str, Any]]] = {
    "recipe": (BANDS, {}),
    "RGB only": (("red", "green", "blue"), {}),
    "filters repeated": (BANDS, {"model.first_layer": "repeat"}),
    "first layer at random": (BANDS, {"model.first_layer": "random"}),
    "no pretrained weights": (BANDS, {"model.pretrained": False}),
}
#: Smallest correlation of two tiles of one place.
ALIKE = 0.8


def main() -> None:
    """Trains and measures the arms that RUNS does not contain, and prints the table."""
    given = folds.options(__doc__, ARMS)
    places = places_of(given.data)
    folds.print_table(
        given,
        ARMS,
        places,
        lambda root, fold, bands: make_dataset(given.data, root, places, fold, bands),
        classes=[1],
        score="IoU of water",
    )


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


def make_dataset(data: Path, root: Path, places: Mapping[str, int], fold: int, bands: Sequence[str]) -> None:
    """Makes a dataset whose split "val" is a fold of the places; its tiles name their bands."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in places:
        with rasterio.open(data / "images" / f"{name}.tif") as file:
            values, profile = file.read(range(1, len(BANDS) + 1)), {**file.profile, "count": len(BANDS)}
        with rasterio.open(root / "images" / f"{name}.tif", "w", **profile) as file:
            file.write(values)
            file.descriptions = BANDS
        mask = root / "masks" / f"{name}.png"
        mask.unlink(missing_ok=True)
        mask.symlink_to((data / "labels" / f"{name}.png").resolve())
    folds.split_lists(root, places, fold)
    (root / "inputs.yaml").write_text(f"inputs: {{image: {{bands: [{', '.join(bands)}]}}}}\n", encoding="utf-8")
    (root / "classes.yaml").write_text("classes:\n  - {name: land}\n  - {name: water}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
