"""Measures random windows of large scenes, as training reads them, against rasterio; and the memory of a training.

    python benchmarks/scenes.py [SIDE]              # windows per second; SIDE pixels, 20000 by default
    python benchmarks/scenes.py [SIDE] --train      # also trains an epoch on a scene, and prints the peak memory

The values of all windows are compared. rasterio keeps its file open, with the same limit on its cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window as RasterioWindow

from atrous.data.pictures import read_pixels
from atrous.data.rasters.scene_windows import WindowPlace
from atrous.data.sources.geotiff import CACHE_MB
from atrous.data.sources.source import Window

CROP, WINDOWS, BANDS = 512, 60, 4
LAYOUTS = {
    "tiles of 512, deflate": {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"},
    "tiles of 512, raw": {"tiled": True, "blockxsize": 512, "blockysize": 512},
    "strips of 1 row, raw": {"tiled": False, "blockysize": 1},
    "strips of 16 rows, deflate": {"tiled": False, "blockysize": 16, "compress": "deflate"},
}
CHILD = """
import json, resource, sys
sys.path.insert(0, sys.argv[3])
from peak_memory import peak_of_process
from atrous.commands.train import train
from atrous.learning.recipe import read_recipe
small = {"model.backbone": "mobilenetv2_035", "model.pretrained": False, "data.check": False, "train.epochs": 1}
changes = {"data.root": sys.argv[1], "augment.crop": [257, 257], **small, **json.loads(sys.argv[4])}
train(read_recipe("quickstart", changes), out=sys.argv[2])
largest_child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
print("PEAKS", json.dumps([peak_of_process() / 1e9, largest_child]))
"""


#: Trainings whose memory is measured, by the words that describe them.
TRAININGS = {
    "as the recipe quickstart": {},
    "in float32": {"train.precision": "float32"},
    "in float32 with train.recompute": {"train.precision": "float32", "train.recompute": True},
}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", nargs="?", type=int, default=20_000, help="height and width of the scene in pixels")
    parser.add_argument("--train", action="store_true", help="also train on the scene")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print("| layout | atrous, windows/s | rasterio, windows/s | ratio |\n|---|---|---|---|")
        for name, layout in LAYOUTS.items():
            path = write(Path(folder) / "scene.tif", options.side, BANDS, np.uint16, layout)
            ours, theirs = rates(path, options.side)
            print(f"| {name} | {ours:.1f} | {theirs:.1f} | {ours / theirs:.2f} |", flush=True)
            path.unlink()
        if options.train:
            root = write_dataset(Path(folder) / "data", options.side)
            print(f"\n| one epoch on {options.side:,}×{options.side:,}×3 | main process, GB | largest worker, GB |")
            print("|---|---|---|")
            for number, (words, changes) in enumerate(TRAININGS.items()):
                own, worker = memory(root, Path(folder) / f"run{number}", changes)
                print(f"| {words} | {own:.2f} | {worker:.2f} |", flush=True)


def write(path: Path, side: int, bands: int, dtype: type, layout: dict) -> Path:
    """Writes a scene of noise that compresses by about a half, in parts."""
    rng = np.random.default_rng(0)
    kind = {"driver": "GTiff", "height": side, "width": side, "count": bands, "dtype": dtype, "BIGTIFF": "IF_SAFER"}
    with rasterio.open(path, "w", **kind, **layout) as file:
        for top in range(0, side, CROP):
            height = min(CROP, side - top)
            part = rng.integers(0, 256, (bands, height, side)).astype(dtype)
            file.write(part, window=part_of(0, top, side, height))
    return path


def part_of(left: int, top: int, width: int, height: int) -> RasterioWindow:
    """Returns a window of rasterio."""
    return RasterioWindow(left, top, width, height)  # type: ignore[call-arg]


def rates(path: Path, side: int) -> tuple[float, float]:
    """Returns windows per second of atrous and of rasterio, in turns; all values are compared."""
    rng = np.random.default_rng(1)
    seconds = np.zeros(2)
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB), rasterio.open(path) as file:
        for _ in range(WINDOWS):
            top, left = rng.integers(0, side - CROP, 2).tolist()
            start = time.perf_counter()
            ours = read_pixels(WindowPlace(path, Window(top, left, CROP, CROP)).path).values
            between = time.perf_counter()
            theirs = np.moveaxis(file.read(window=part_of(left, top, CROP, CROP)), 0, 2)
            seconds += between - start, time.perf_counter() - between
            assert np.array_equal(ours, theirs)
    return tuple((WINDOWS / seconds).tolist())


def write_dataset(root: Path, side: int) -> Path:
    """Writes a dataset of one scene with labels, and returns its folder."""
    for name in ("scenes", "labels"):
        (root / name).mkdir(parents=True)
    tiles = LAYOUTS["tiles of 512, deflate"]
    write(root / "scenes/a.tif", side, 3, np.uint8, tiles)
    with rasterio.open(
        root / "labels/a.tif", "w", driver="GTiff", height=side, width=side, count=1, dtype="uint8", **tiles
    ) as file:
        for top in range(0, side, CROP):
            height = min(CROP, side - top)
            file.write(np.full((1, height, side), top // CROP % 2, np.uint8), window=part_of(0, top, side, height))
    (root / "classes.yaml").write_text("classes:\n  - {name: even}\n  - {name: odd}\n", encoding="utf-8")
    return root


def memory(root: Path, run: Path, changes: dict) -> tuple[float, float]:
    """Trains one epoch in a child process, and returns the peak memory in GB of this process and of its workers."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root), str(run), str(Path(__file__).parent), json.dumps(changes)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    own, worker = json.loads(done.stdout.split("PEAKS")[1])
    return own, worker


if __name__ == "__main__":
    main()
