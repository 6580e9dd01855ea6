"""Killed with SIGKILL at random moments, a training ends as if it had never been."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.commands.conftest import make_shapes

from atrous.learning.recipe import to_recipe, write_recipe

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.needs("fork")]

KILLS = 24

#: Starts the training again and again, each in a forked process that has nothing left to import, and kills it.
DRIVER = """
import os, signal, sys, time
import atrous.commands.train, atrous.commands.report, atrous.learning.recipe
from atrous.cli import main
from atrous.learning import trainer

trainer.SAVE_EVERY = 0.05  # in the middle of epochs too
recipe, run, delays = sys.argv[1], sys.argv[2], [float(word) for word in sys.argv[3:]]

def train():
    started = os.path.exists(os.path.join(run, "checkpoints", "last.safetensors"))
    return main(["train", "--resume", run] if started else ["train", recipe, "--out", run])

for delay in delays:
    child = os.fork()
    if not child:
        os._exit(train())
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    print("status", os.waitpid(child, 0)[1], flush=True)
sys.exit(train())
"""


def drive(recipe: Path, run: Path, delays: list[float]) -> list[int]:
    """The exit status of each killed process; the last is left to finish."""
    words = [sys.executable, "-c", DRIVER, str(recipe), str(run), *map(str, delays)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("status")]


@pytest.mark.parametrize("workers", [0, 1])
def test_killed_at_random_moments_it_is_the_uninterrupted_run(workers, tmp_path):
    arguments = {"aspp_channels": 16, "low_channels": 8, "dropout": 0.5}
    recipe = to_recipe(
        {
            "data": {"root": str(make_shapes(tmp_path / "shapes")), "workers": workers, "check": False},
            "model": {"backbone": "mobilenetv2_035", "pretrained": False, "arguments": arguments},
            "augment": {"crop": [40, 48], "rotation": 10, "brightness": 0.3, "focus": 0.5},
            "optim": {"accumulate": 2},
            "train": {"epochs": 60, "batch_size": 2, "ema": 0.9, "device": "cpu", "validate_every": 3},
            "watch": {"tensorboard": False},
        }
    )
    write_recipe(recipe, tmp_path / "recipe.yaml")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    drive(tmp_path / "recipe.yaml", whole, [])
    moments = random.Random()
    statuses = drive(tmp_path / "recipe.yaml", killed, [moments.uniform(0.05, 1.2) for _ in range(KILLS)])
    assert sum(status == 9 for status in statuses) >= 20, "it was through before it was killed often enough"

    for file in ("checkpoints/last.safetensors", "best.safetensors"):
        one, other = (load_file(run / file) for run in (whole, killed))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), file
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (whole, killed)]
    for mine, theirs in zip(*lines, strict=True):
        for measured in ("seconds", "images_per_second", "loss"):  # the loss since the last line, or since the start
            mine.pop(measured, None)
            theirs.pop(measured, None)
        assert mine == theirs
    assert (killed / "report.html").is_file()
    assert not list(killed.rglob("*.part")), "half-written files stay behind"
