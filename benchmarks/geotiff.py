"""Times reading a large raster in windows with `GeoTiffSource` and rasterio, and asserts that the pixels are equal.

See docs/big-pictures.md.

    python benchmarks/geotiff.py 20000                  # side in pixels; a file of that size is written temporarily
    python benchmarks/geotiff.py 20000 "strips, raw"    # only this layout
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import rasterio
from peak_memory import peak_of_process
from rasterio.windows import Window

from atrous.data.sources.geotiff import CACHE_MB, GeoTiffSource

TILE, OVERLAP = 768, 128
LAYOUTS = {
    "strips, LZW": {"compress": "lzw"},
    "tiles, deflate": {"compress": "deflate", "tiled": True, "blockxsize": 512, "blockysize": 512},
    "tiles, planar, deflate": {"compress": "deflate", "tiled": True, "interleave": "band"},
    "strips, raw": {},
}


def write(path: Path, side: int, layout: dict) -> None:
    """Writes a raster of smooth colours with noise in their lowest bits, which compresses like a photograph."""
    rng, stripe = np.random.default_rng(0), 512
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": side, "width": side, "BIGTIFF": "IF_SAFER"}
    noise = rng.integers(0, 8, (3, stripe, side), dtype=np.uint8)
    with rasterio.open(
        path, "w", **profile, crs="EPSG:32633", transform=rasterio.Affine(1, 0, 0, 0, -1, 0), **layout
    ) as to:
        for top in range(0, side, stripe):
            rows = min(stripe, side - top)
            slope = (np.arange(top, top + rows)[:, None] // 97 + np.arange(side)[None] // 61).astype(np.uint8)
            at = Window(0, top, side, rows)  # type: ignore[call-arg]
            to.write(slope[None] + noise[:, :rows], window=at)


def read(path: Path, reader: str) -> dict[str, float]:
    """Reads all windows in this process; returns the seconds, the peak memory and a checksum."""
    total, before = 0, time.perf_counter()
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB), rasterio.open(path) as file:
        source = GeoTiffSource(path, 3) if reader == "atrous" else None
        for top, left, height, width in windows(file.height, file.width):
            if source is not None:
                pixels = source.read((top, left, height, width)).values
            else:
                at = Window(left, top, width, height)  # type: ignore[call-arg]
                pixels = file.read(window=at).transpose(1, 2, 0)
            total = zlib.crc32(pixels.tobytes(), total)
    seconds = time.perf_counter() - before
    return {"seconds": seconds, "GB": peak_of_process() / 1e9, "sum": total}


def windows(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Returns overlapping windows in rows from the top, in the order in which tiles are read."""
    step = TILE - OVERLAP
    tops, lefts = (range(0, max(side - OVERLAP, 1), step) for side in (height, width))
    return [(top, left, min(TILE, height - top), min(TILE, width - left)) for top in tops for left in lefts]


def main(side: int, names: list[str], rounds: int = 3) -> None:
    """Prints the shortest time and the peak memory of both readers, for each layout."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = Path(folder) / "a.tif"
            write(path, side, LAYOUTS[name])
            best: dict[str, dict[str, float]] = {}
            for _ in range(rounds):
                for reader in ("atrous", "rasterio"):
                    command = [sys.executable, __file__, "--read", str(path), reader]
                    found = json.loads(
                        subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
                    )
                    best[reader] = min(best.get(reader, found), found, key=lambda one: one["seconds"])
            ours, theirs = best["atrous"], best["rasterio"]
            assert ours["sum"] == theirs["sum"], "the readers disagree"
            print(
                f"{name}: {ours['seconds']:.1f} s and {ours['GB']:.2f} GB; rasterio {theirs['seconds']:.1f} s and "
                f"{theirs['GB']:.2f} GB: {theirs['seconds'] / ours['seconds']:.2f}×",
                flush=True,
            )
            path.unlink()


if __name__ == "__main__":
    if sys.argv[1] == "--read":
        print(json.dumps(read(Path(sys.argv[2]), sys.argv[3])))
    else:
        main(int(sys.argv[1]), sys.argv[2:] or list(LAYOUTS))
