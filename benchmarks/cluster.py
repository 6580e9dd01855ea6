"""Measures the rate of `atrous predict` on Ray clusters of one and two nodes beside that of the local worker.

    python benchmarks/cluster.py zoo/camvid_fast.safetensors

Each node has one core of this machine, and the local worker has one thread, so the machine needs two free cores. The
pictures are noise of 480×360 pixels, written by this script. A rate counts the pictures after the first 16 of each
worker, because the first ones include the start of the worker. In the last run, one of two nodes is killed after half
of the pictures. Each run must write the same masks, byte for byte, and report each picture once. Prints a Markdown
table.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch, which is imported below

import numpy as np
import ray
from PIL import Image
from ray.cluster_utils import Cluster
from train import machine

from atrous.cluster.predict_on_ray import AT_ONCE, predict_on_ray
from atrous.inference.model_spec import ModelSpec
from atrous.inference.predict_jobs import Job, Worker, plan
from atrous.inference.predict_records import Record
from atrous.inference.predict_stages import do_in_stages

Done = Callable[[Sequence[tuple[Job, Record]]], object]


def main() -> None:
    """Measures all runs in turn, compares their masks, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model file")
    parser.add_argument("--pictures", type=int, default=480, help="number of pictures")
    parser.add_argument("--json", type=Path, help="JSON file for the results")
    given = parser.parse_args()
    spec = ModelSpec(given.model, device="cpu")
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_pictures(root / "pictures", given.pictures)
        expected, rows = None, []
        for name, nodes, killed in (("local worker", 0, 0), ("1 node", 1, 0), ("2 nodes", 2, 0), ("one killed", 2, 1)):
            jobs = plan([root / "pictures"], root / name, spec)
            rate = local_rate(spec, jobs) if nodes == 0 else ray_rate(spec, jobs, nodes, kill=bool(killed))
            masks = {path.name: path.read_bytes() for path in (root / name).glob("*.png")}
            expected = expected or masks
            assert masks == expected and len(masks) == given.pictures, f"{name}: other masks than the local worker"
            local = rows[0]["pictures_per_second"] if rows else rate
            rows.append({"run": name, "pictures_per_second": rate, "ratio": rate / local})
    print(f"{given.model.name}, {given.pictures} pictures of 480×360; {machine()}\n")
    print("| run | pictures/s | beside the local worker |\n|---|---|---|")
    for row in rows:
        print(f"| {row['run']} | {row['pictures_per_second']:.1f} | {row['ratio']:.2f} |")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_pictures(folder: Path, count: int) -> None:
    """Writes pictures of smooth noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((480, 360), Image.Resampling.BICUBIC).save(folder / f"{index:04d}.png")


def local_rate(spec: ModelSpec, jobs: Sequence[Job]) -> float:
    """Returns the pictures per second of the worker in this process, after the first ones."""
    worker, records = Worker(spec, print), list[Future[Record]]()
    do_in_stages(worker, jobs[:AT_ONCE], records)
    start = time.perf_counter()
    do_in_stages(worker, jobs[AT_ONCE:], records)
    seconds = time.perf_counter() - start
    assert all(record.result().error is None for record in records)
    return (len(jobs) - AT_ONCE) / seconds


def ray_rate(spec: ModelSpec, jobs: Sequence[Job], nodes: int, *, kill: bool) -> float:
    """Returns the pictures per second of a cluster, after the first ones of each node.

    Args:
        spec: specification of the model.
        jobs: the jobs.
        nodes: number of nodes with one core.
        kill: whether one node is killed after half of the jobs.
    """
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    started = [cluster.add_node(num_cpus=1) for _ in range(nodes)]
    ray.init(address=cluster.address, log_to_driver=False)
    counts, times = Counter[str](), list[tuple[float, int]]()

    def done(finished: Sequence[tuple[Job, Record]]) -> None:
        counts.update(job.name for job, _ in finished)
        times.append((time.perf_counter(), len(counts)))
        if kill and started and len(counts) >= len(jobs) // 2:
            cluster.remove_node(started.pop(), allow_graceful=False)
            started.clear()

    try:
        records = predict_on_ray("ray", spec, jobs, done)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert all(record.error is None for record in records) and set(counts.values()) == {1}
    (start, before), (end, after) = times[nodes - 1], times[-1]
    return (after - before) / (end - start)


if __name__ == "__main__":
    main()
