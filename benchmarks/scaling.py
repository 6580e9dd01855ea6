"""Measures images per second of `atrous train` in one process and in two, compared with the bare training step.

    python benchmarks/scaling.py --data CAMVID [--epochs 1] [--batch 8] [--rounds 2]

Three sides take turns: the bare training step on one batch in memory, `atrous train` on all cores, and `atrous train`
under torchrun with two processes. The two processes share the batch and the cores. All sides train DeepLabV3+ over
EfficientNet-Lite0 on crops of 320×320. `atrous train` augments the pictures by the recipe, with one loader worker in
each process. The confusion matrix of the same weights must be the same in one process and in two. Evaluation uses the
same number of threads per process in both cases, because the order in which torch sums depends on this number.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPE = "camvid_family"
SIZE = 320


def main() -> None:
    """Prints the images per second of each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CamVid in SegNet's layout")
    parser.add_argument("--epochs", type=int, default=1, help="passes over the training pictures")
    parser.add_argument("--batch", type=int, default=8, help="number of pictures in a batch, over all processes")
    parser.add_argument("--rounds", type=int, default=2, help="number of turns of each side; the median is printed")
    options = parser.parse_args()
    rates: dict[str, list[float]] = {"the bare step": [], "atrous train": [], "two processes": []}
    with tempfile.TemporaryDirectory() as place:
        for turn in range(options.rounds):
            with multiprocessing.get_context("spawn").Pool(1) as alone:
                rates["the bare step"].append(alone.apply(bare_step, (options.batch,)))
            for name, processes in (("atrous train", 1), ("two processes", 2)):
                run = Path(place) / f"{processes}_{turn}"
                rates[name].append(trained(run, processes, options))
        model = Path(place) / "1_0" / "best.safetensors"
        scores = [measured(model, processes, options, Path(place)) for processes in (1, 2)]
    assert scores[0] == scores[1], "the scores of the same weights differ between one process and two"
    bare = statistics.median(rates["the bare step"])
    for name, each in rates.items():
        rate = statistics.median(each)
        print(f"{name:16} {rate:6.2f} images/s   {rate / bare:5.1%} of the bare step")


def bare_step(batch: int, steps: int = 12) -> float:
    """Returns the images per second of forward, backward and update on one batch in memory."""
    import torch

    from atrous import create_model
    from atrous.device import keep_freed_memory, pick_precision
    from atrous.learning.batch import Batch
    from atrous.learning.losses.pixel import CrossEntropy
    from atrous.learning.losses.terms import supervised_terms
    from atrous.learning.optimizer import make_optimizer, parameter_groups
    from atrous.learning.training_step import TrainingStep

    model = create_model("deeplabv3plus", backbone="tf_efficientnet_lite0", num_classes=11).train()
    model = model.to(memory_format=torch.channels_last)
    precision = pick_precision("auto", torch.device("cpu"))
    step = TrainingStep(model, supervised_terms(CrossEntropy(), model), precision)
    optimizer = make_optimizer("adamw", parameter_groups(model, lr=1e-3, weight_decay=0.01, backbone_lr=0.5))
    raw = torch.randint(0, 256, (batch, 3, SIZE, SIZE), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 11, (batch, SIZE, SIZE), dtype=torch.uint8)
    started = 0.0
    for number in range(steps + 2):
        if number == 2:
            started = time.perf_counter()
        step(Batch(raw, {"labels": labels})).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if number == 0:
            keep_freed_memory()
    return batch * steps / (time.perf_counter() - started)


def launcher(processes: int) -> tuple[list[str], dict[str, str]]:
    """Returns the command that starts the processes, and the environment that shares the cores among them."""
    if processes == 1:
        return [sys.executable, "-m", "atrous"], dict(os.environ)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "-m", "atrous"]
    return command, {**os.environ, "OMP_NUM_THREADS": threads_of(processes)}


def threads_of(processes: int) -> str:
    """Returns the number of threads of each process, as text."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return str(max(1, cores // processes))


def trained(run: Path, processes: int, options: argparse.Namespace) -> float:
    """Trains a run; returns the median of the images per second in its log, without the first entry."""
    command, environment = launcher(processes)
    settings: dict[str, Any] = {
        "data.root": options.data.resolve(),
        "data.check": "false",
        "augment.crop": f"[{SIZE}, {SIZE}]",
        "train.batch_size": options.batch,
        "train.epochs": options.epochs,
    }
    words = [f"--{name}={value}" for name, value in settings.items()]
    words = [*command, "train", RECIPE, *words, f"--out={run}"]
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rates = [line["images_per_second"] for line in lines if line["kind"] == "train"]
    return statistics.median(rates[1:])


def measured(model: Path, processes: int, options: argparse.Namespace, place: Path) -> list[list[int]]:
    """Returns the confusion matrix of the validation split, from `atrous evaluate`."""
    command, environment = launcher(processes)
    out = place / f"scores_{processes}.json"
    words = [*command, "evaluate", str(model), str(options.data.resolve()), f"--json={out}"]
    environment["OMP_NUM_THREADS"] = threads_of(2)
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text(encoding="utf-8"))["confusion"]


if __name__ == "__main__":
    main()
