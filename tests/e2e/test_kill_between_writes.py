"""Killed between any two files that it writes, a training goes on, or starts anew in the same folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.commands.conftest import make_shapes

from atrous.learning.recipe import to_recipe, write_recipe

#: Trains in forked processes that have nothing left to import. Each is killed before the n-th renaming of a finished
#: file to its name, and the command that should go on is run, for n = 0, 1 … until one is not killed.
DRIVER = """
import json, os, signal, sys
import atrous.commands.train, atrous.commands.report, atrous.learning.recipe
from atrous import atomic_write
from atrous.cli import main

recipe, runs = sys.argv[1:]
replace = atomic_write._replace

def in_child(words, kill_at=None):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    count = 0

    def count_and_kill(part, target, path):
        nonlocal count
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        replace(part, target, path)

    atomic_write._replace = count_and_kill
    os._exit(main(["train", *words]))

for number in range(40):
    run = os.path.join(runs, str(number))
    status = in_child([recipe, "--out", run], number)
    there = [os.path.join(folder, name) for folder, _, names in os.walk(run) for name in names]
    files = [os.path.relpath(file, run) for file in there]
    resumed = in_child(["--resume", run]) if status else None
    anew = in_child([recipe, "--out", run]) if resumed else None
    print(json.dumps({"status": status, "files": files, "resumed": resumed, "anew": anew}), flush=True)
    if not status:
        break
"""


def drive(tmp_path: Path) -> list[dict]:
    """What became of each training."""
    arguments = {"aspp_channels": 16, "low_channels": 8}
    recipe = to_recipe(
        {
            "data": {"root": str(make_shapes(tmp_path / "shapes")), "workers": 0},
            "model": {"backbone": "mobilenetv2_035", "pretrained": False, "arguments": arguments},
            "augment": {"crop": [40, 48]},
            "train": {"epochs": 2, "batch_size": 4, "device": "cpu"},
            "watch": {"tensorboard": False},
        }
    )
    write_recipe(recipe, tmp_path / "recipe.yaml")
    words = [sys.executable, "-c", DRIVER, tmp_path / "recipe.yaml", tmp_path / "runs"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
@pytest.mark.needs("fork")
def test_killed_between_any_two_files_it_goes_on_or_starts_anew(tmp_path):
    *killed, whole = drive(tmp_path)
    assert whole["status"] == 0 and len(killed) >= 9
    expected = load_file(tmp_path / "runs" / str(len(killed)) / "best.safetensors")
    names = {name for name in whole["files"] if not name.endswith("lock")}
    for number, one in enumerate(killed):
        assert one["status"] == 9
        begun = "checkpoints/last.safetensors" in one["files"]
        assert one["resumed"] == 0 if begun else one["anew"] == 0, (number, one)
        run = tmp_path / "runs" / str(number)
        found = load_file(run / "best.safetensors")
        assert all(torch.equal(found[name], expected[name]) for name in expected), number
        left = {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file() and file.name != "lock"}
        assert left == names, number
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = [(line["step"], line["kind"]) for line in lines]
        assert steps == sorted(set(steps)), number
