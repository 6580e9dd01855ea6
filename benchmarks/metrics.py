"""Times counting a confusion matrix with atrous and with torchmetrics, and asserts that the counts are equal.

python benchmarks/metrics.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# By default, idle OpenMP threads spin for a long time. If another program runs, this slows torchmetrics tenfold.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from atrous.learning.confusion_matrix import ConfusionMatrix

IGNORE = 255


def pair(height: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a truth of squares with 5 % ignored pixels, and a prediction in which 10 % of the pixels are random."""
    rng = np.random.default_rng(0)
    truth = np.kron(rng.integers(0, classes, (height // 32, width // 32)), np.ones((32, 32))).astype(np.uint8)
    prediction, wrong = truth.copy(), rng.random(truth.shape) < 0.1
    prediction[wrong] = rng.integers(0, classes, int(wrong.sum()))
    truth[rng.random(truth.shape) < 0.05] = IGNORE
    return truth, prediction


def fastest(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns the shortest time of each side in seconds; the sides take turns."""
    least = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def main() -> None:
    """Prints the milliseconds of each side and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), help="height and width of the masks")
    parser.add_argument("--classes", type=int, default=19, help="number of classes")
    parser.add_argument("--rounds", type=int, default=15, help="number of turns of each side; the fastest counts")
    parser.add_argument("--json", type=Path, help="JSON file for the seconds")
    options = parser.parse_args()
    truth, prediction = pair(options.size[0], options.size[1], options.classes)
    # int64, because torchmetrics usually gets tensors of this type
    predicted, true = (torch.from_numpy(mask).long() for mask in (prediction, truth))
    checked = MulticlassConfusionMatrix(options.classes, ignore_index=IGNORE)
    unchecked = MulticlassConfusionMatrix(options.classes, ignore_index=IGNORE, validate_args=False)
    ours = ConfusionMatrix(options.classes)
    sides = {
        "atrous": lambda: ours.update(truth, prediction),
        "torchmetrics": lambda: checked.update(predicted, true),
        "torchmetrics, unchecked": lambda: unchecked.update(predicted, true),
    }
    seconds = fastest(sides, options.rounds)
    assert (ours.counts == checked.compute().numpy()).all() and (ours.counts == unchecked.compute().numpy()).all()
    for name, value in seconds.items():
        print(f"{name:24} {1e3 * value:7.2f} ms   {value / seconds['atrous']:5.1f}×")
    if options.json:
        options.json.write_text(json.dumps(seconds, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
