"""Compares ways of fine-tuning at equal minutes: all weights, head, norms, and low-rank changes (LoRA).

    python benchmarks/fine_tuning.py --base zoo/camvid.safetensors --data FOLDER --out RUNS [--minutes 2]

FOLDER has images/ and masks/ with the values 0 and 1. Every third picture is measured, and the others are trained on;
the measured pictures choose nothing, because the last weights are measured. First, each arm trains one epoch, which
sets the number of epochs that take the given minutes. Each run is a process of its own, so that its peak memory is
measured. Runs that RUNS contains already are not repeated. Prints a Markdown table: the IoU of the second class, the
parameters that are trained, the memory of the training process, and the size of the file to keep.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from peak_memory import peak_of_process

from atrous.commands.train import train
from atrous.learning.recipe import read_recipe
from atrous.learning.trainer import Trainer

ARMS: dict[str, dict[str, Any]] = {
    "all": {},
    "head": {"train.learn": "head"},
    "norms": {"train.learn": "norms"},
    "lora, rank 8": {"train.learn": "lora", "train.rank": 8},
}
#: Settings of all arms: crops of the size that both data sets allow, and one validation at the end.
SETTINGS: dict[str, Any] = {
    "data.workers": 1,
    "model.arguments": {"output_stride": 16},
    "augment.crop": [256, 256],
    "train.enlarge": 1.0,
    "train.batch_size": 8,
    "train.ema": 0.98,
    "train.validate_every": 100_000,
    "loss.dice": 1.0,
}


def main() -> None:
    """Trains and measures the arms that RUNS does not contain, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="model file to start from")
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and masks/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--minutes", type=float, default=2.0, help="minutes of training, for each run")
    parser.add_argument("--seeds", default="0,1,2", help="seeds, such as 0,1,2")
    parser.add_argument("--run", nargs=3, metavar=("ARM", "SEED", "EPOCHS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.run is not None:
        arm, seed, epochs = given.run
        train_one(given.base, given.out, arm, int(seed), int(epochs))
        return
    make_dataset(given.data, given.out / "data")
    print("| what is trained | IoU, mean and range of the seeds | parameters | epochs | minutes | memory | file |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for arm in ARMS:
        per_epoch = one(given, arm, 0, 1)["minutes"]
        epochs = max(2, round(given.minutes / per_epoch))
        print(row(arm, [one(given, arm, int(seed), epochs) for seed in given.seeds.split(",")], epochs), flush=True)


def make_dataset(data: Path, root: Path) -> None:
    """Makes a dataset whose split "val" is every third picture."""
    (root / "splits").mkdir(parents=True, exist_ok=True)
    for name in ("images", "masks"):
        if not (root / name).exists():
            (root / name).symlink_to((data / name).resolve())
    names = sorted(path.stem for path in (data / "images").iterdir())
    for part, own in (("train", False), ("val", True)):
        listed = [name for index, name in enumerate(names) if (index % 3 == 0) == own]
        (root / "splits" / f"{part}.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")
    classes = "classes:\n  - {name: background, color: [0, 0, 0]}\n  - {name: object, color: [255, 255, 255]}\n"
    (root / "classes.yaml").write_text(classes, encoding="utf-8")


def one(given: argparse.Namespace, arm: str, seed: int, epochs: int) -> dict[str, Any]:
    """Returns the result of a run, which is trained in a process of its own unless it exists."""
    result = folder(given.out, arm, seed, epochs) / "result.json"
    if not result.exists():
        words = ["--base", given.base, "--data", given.data, "--out", given.out, "--run", arm, seed, epochs]
        subprocess.run([sys.executable, __file__, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return json.loads(result.read_text(encoding="utf-8"))


def folder(out: Path, arm: str, seed: int, epochs: int) -> Path:
    """Returns the folder of a run."""
    return out / f"{arm.replace(', ', '_').replace(' ', '_')}_{seed}_{epochs}"


def train_one(base: Path, out: Path, arm: str, seed: int, epochs: int) -> None:
    """Trains one run, and writes its result into its folder."""
    run, memory = folder(out, arm, seed, epochs), list[int]()
    plain = Trainer.train

    def measured(self: Trainer, epochs_now: int | None = None) -> Any:
        ended = plain(self, epochs_now)
        memory.extend([peak_of_process(), round(1000 * self.progress.seconds)])
        memory.append(sum(one.numel() for group in self.optimizer.param_groups for one in group["params"]))
        return ended

    Trainer.train = measured  # the evaluation after the training takes memory and time of its own
    changes = {**SETTINGS, **ARMS[arm], "data.root": str(out / "data"), "seed": seed, "train.epochs": epochs}
    train(read_recipe("quickstart", changes), out=run, init=base, overwrite=True)
    scores = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    kept = run / ("adapter.safetensors" if "lora" in arm else "best.safetensors")
    peak, milliseconds, parameters = memory
    result = {
        "iou": scores["classes"][1]["iou"],
        "memory": peak,
        "minutes": milliseconds / 60_000,
        "parameters": parameters,
        "bytes": kept.stat().st_size,
    }
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")


def row(arm: str, found: list[dict[str, Any]], epochs: int) -> str:
    """Returns the row of an arm."""
    scores = [result["iou"] for result in found]
    first, minutes = found[0], sum(result["minutes"] for result in found) / len(found)
    value = f"{sum(scores) / len(scores):.3f} ({min(scores):.3f}–{max(scores):.3f})"
    memory = max(result["memory"] for result in found) / 1e9
    return (
        f"| {arm} | {value} | {first['parameters']:,} | {epochs} | {minutes:.1f} | {memory:.2f} GB | "
        f"{first['bytes'] / 1e6:.1f} MB |"
    )


if __name__ == "__main__":
    main()
