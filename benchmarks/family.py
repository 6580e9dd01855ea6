"""Trains and measures the four DeepLabs on CamVid with the same backbone, data, recipe and number of steps.

    python benchmarks/family.py --data CAMVID --out RUNS [--epochs 6]

Each network is trained at output stride 16 by the recipe camvid_family. Then the same weights are measured at output
strides 16 and 8 (arXiv:1706.05587 §3.3), and at each stride at one scale and at the papers' six scales with mirror
images. Each measurement is made without and with the fully connected CRF. Results that RUNS already contains are not
computed again, so a second call continues where the first call ended. Prints Markdown tables for docs/results.md.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import atrous
from atrous.commands.evaluate import evaluate
from atrous.commands.train import train
from atrous.learning.checkpoint import checkpoint_of
from atrous.learning.recipe import read_recipe

RECIPE = "camvid_family"
PAPERS = {"deeplabv1": "V1", "deeplabv2": "V2", "deeplabv3": "V3", "deeplabv3plus": "V3+"}
STRIDES = (16, 8)
#: arXiv:1706.05587 §4.1.
SCALES = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]


def main() -> None:
    """Trains and measures the networks that RUNS does not contain, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CamVid in SegNet's layout")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--epochs", type=int, default=6, help="passes over the training pictures, for each network")
    parser.add_argument("--crf", default="deeplabv2", help="settings of the CRF, as for atrous evaluate")
    options = parser.parse_args()
    runs = {name: trained(name, options.data, options.out / name, options.epochs) for name in PAPERS}
    measured = {
        (name, stride, views): measure(runs[name], options.data, stride, views, options.crf)
        for name, stride, views in product(PAPERS, STRIDES, (False, True))
    }
    print_scores(measured)
    print_classes({name: measured[name, 16, False]["classes"] for name in PAPERS})


def trained(architecture: str, data: Path, run: Path, epochs: int) -> Path:
    """Trains a network to the end of its run, and returns the run's folder."""
    if (run / "evaluation.json").exists():
        return run
    if checkpoint_of(run).exists():
        return train(read_recipe(run / "config.yaml"), resume=run)
    overrides = {"data.root": str(data), "model.architecture": architecture, "train.epochs": epochs}
    return train(read_recipe(RECIPE, overrides), out=run)


def measure(run: Path, data: Path, stride: int, views: bool, crf: str) -> dict[str, Any]:
    """Returns the scores with the CRF, and under "without_crf" the scores of the network alone."""
    kept = run / f"os{stride}_{'six_scales' if views else 'one_scale'}.json"
    if not kept.exists():
        scales = SCALES if views else None
        options: dict[str, Any] = {"output_stride": stride, "scales": scales, "flip": views, "crf": crf}
        evaluate(run / "best.safetensors", data, **options, engine="auto", precision="auto", json=kept)
    return json.loads(kept.read_text(encoding="utf-8"))


def print_scores(measured: dict[tuple[str, int, bool], dict[str, Any]]) -> None:
    """Prints the mIoU of each paper at each output stride, at one and at six scales, as "without CRF → with CRF"."""
    columns = list(product(STRIDES, (False, True)))
    print("| | parameters | " + " | ".join(f"OS {stride}{', six scales + flip' * views}" for stride, views in columns))
    print("|---|---|" + "---|" * len(columns))
    for name, paper in PAPERS.items():
        model = atrous.create_model(name, backbone="tf_efficientnet_lite0", num_classes=11)
        cells = []
        for stride, views in columns:
            result = measured[name, stride, views]
            cells.append(f"{result['without_crf']['miou']:.3f} → {result['miou']:.3f}")
        parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        print(f"| {paper} | {parameters:.1f} M | " + " | ".join(cells) + " |")


def print_classes(classes: dict[str, list[dict[str, Any]]]) -> None:
    """Prints the IoU of each class with the CRF, at output stride 16 and one scale."""
    names = [entry["name"] for entry in next(iter(classes.values()))]
    print("\n| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for name, paper in PAPERS.items():
        print(f"| {paper} | " + " | ".join(f"{entry['iou'] or 0:.2f}" for entry in classes[name]) + " |")


if __name__ == "__main__":
    main()
