"""Times models from picture file to mask, in turns, and measures their mIoU on CamVid.

    python benchmarks/fast_model.py --data CAMVID zoo/camvid_fast.safetensors zoo/camvid.safetensors

The pictures are those of the split val, 480×360. A time is that of `Segmenter(MODEL)(PATH)`: reading the PNG, running
the network in OpenVINO (in bfloat16 if the processor supports it), and making the mask of 480×360 class indices. The
models take turns. The masks must equal those of the same model in torch and float32 in at least 99 % of the pixels.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from train import machine

import atrous

#: Number of pictures that are timed in each turn, and of turns.
PICTURES, TURNS = 20, 3
SAME_MASK = 0.99


def main() -> None:
    """Times every model, checks its masks, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="model files")
    parser.add_argument("--data", type=Path, required=True, help="folder of the CamVid dataset")
    parser.add_argument("--json", type=Path, help="JSON file for the results")
    given = parser.parse_args()
    dataset = atrous.open_dataset(given.data)
    pictures = [item.image for item in dataset.split("val")]
    timed = pictures[:: max(1, len(pictures) // PICTURES)][:PICTURES]
    segmenters = {path: atrous.Segmenter(path) for path in given.models}
    for segmenter in segmenters.values():
        segmenter(timed[0])
    times: dict[Path, list[float]] = {path: [] for path in given.models}
    for _ in range(TURNS):
        for path, segmenter in segmenters.items():
            for picture in timed:
                start = time.perf_counter()
                segmenter(picture)
                times[path].append(1000 * (time.perf_counter() - start))
    results = []
    for path, segmenter in segmenters.items():
        plain = atrous.Segmenter(path, engine="torch", precision="float32")
        same = float(np.mean([np.mean(segmenter(one).mask == plain(one).mask) for one in timed]))
        assert same >= SAME_MASK, f"{path}: only {same:.2%} of the pixels are equal to those in float32"
        found = atrous.evaluate(path, given.data)
        results.append(
            {
                "model": path.name,
                "ms": statistics.median(times[path]),
                "slowest_ms": float(np.quantile(times[path], 0.95)),
                "megabytes": path.stat().st_size / 1e6,
                "same": same,
                "miou": found["miou"],
                "engine": f"{segmenter.engine.name} {segmenter.engine.precision}",
            }
        )
    print(f"{machine()}; {len(timed)} pictures in {TURNS} turns\n")
    print(
        "| model | ms, median | ms, 95th percentile | MB | val mIoU | pixels as in float32 |\n|---|---|---|---|---|---|"
    )
    for one in results:
        print(
            f"| {one['model']} | {one['ms']:.1f} | {one['slowest_ms']:.1f} | {one['megabytes']:.1f} | "
            f"{one['miou']:.4f} | {one['same']:.2%} |"
        )
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
