"""Training on a Ray cluster: the weights of torchrun, also if a process is lost or the command is stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.commands.conftest import make_shapes

from atrous.cli import main
from atrous.cluster.news import Messages, last_training_line
from atrous.cluster.train_on_ray import Processes
from atrous.commands.train import train
from atrous.errors import AtrousError
from atrous.learning.checkpoint import checkpoint_of
from atrous.learning.recipe import Recipe, to_recipe, write_recipe
from atrous.learning.stop_signals import Interrupted

EPOCHS = 4


# Without a cluster


def node(cpus: int, gpus: int = 0) -> dict:
    return {"Alive": cpus > 0, "Resources": {"CPU": cpus, "GPU": gpus}}


@pytest.mark.parametrize(
    ("nodes", "most", "workers", "expected"),
    [
        ([node(8), node(8)], 4, 2, {"CPU": 4}),
        ([node(8), node(8)], 3, 2, {"CPU": 4}),  # with 5 cores, each node would have place for one process
        ([node(8), node(4)], 3, 0, {"CPU": 4}),
        ([node(0), node(1), node(1)], 2, 0, {"CPU": 1}),
        ([node(2)], 4, 0, {"CPU": 1}),
        ([node(32, 4), node(64)], 4, 2, {"GPU": 1, "CPU": 3}),
        ([node(8, 8)], 8, 4, {"GPU": 1, "CPU": 1}),
        ([], 2, 4, {"CPU": 1}),
    ],
)
def test_cores_and_gpus_of_a_process(nodes, most, workers, expected):
    assert Processes(1, most, "auto", workers).resources(nodes) == expected


def test_a_training_that_asks_for_gpus_waits_for_them():
    assert Processes(1, 2, "cuda", 2).resources([node(8)]) == {"GPU": 1, "CPU": 3}
    assert Processes(1, 2, "cpu", 2).resources([node(8, 2)]) == {"CPU": 4}


def test_the_first_error_counts_and_text_is_taken_once():
    messages = Messages()
    assert messages.report("one ", {"step": 1}) is False
    messages.report("two", None)
    messages.fail("bad data")
    messages.fail("the connection is lost")
    news = messages.take()
    assert (news.text, news.line, news.error) == ("one two", {"step": 1}, "bad data")
    assert messages.take().text == ""
    messages.stop()
    assert messages.report("", None) is True


def test_the_last_training_line_of_a_file_that_is_being_written(tmp_path):
    assert last_training_line(tmp_path) is None
    lines = '{"kind": "train", "step": 10}\n{"kind": "val", "step": 12}\n{"kind": "tra'
    (tmp_path / "metrics.jsonl").write_text("{}\n" * 9000 + lines)
    assert last_training_line(tmp_path) == {"kind": "train", "step": 10}


def test_options_of_a_cluster_need_one(tmp_path, capsys):
    recipe = str(written(tiny_recipe(tmp_path / "data"), tmp_path))
    assert main(["train", recipe, "--processes", "2"]) == 2
    assert "torchrun --nproc-per-node 2 -m atrous train" in capsys.readouterr().err
    assert main(["train", recipe, "--on", "ray", "--processes", "2", "--min-processes", "3"]) == 2
    assert "min_processes from 1 to 2, got 2 and 3" in capsys.readouterr().err
    assert main(["train", recipe, "--on", "slurm"]) == 2
    assert "--on is slurm: give ray" in capsys.readouterr().err
    assert main(["train", recipe, "--resume-existing"]) == 2
    assert "needs the folder of the run" in capsys.readouterr().err


def test_a_command_that_is_repeated_continues_its_run(tmp_path):
    make_shapes(tmp_path / "data")
    recipe = tiny_recipe(tmp_path / "data", frozen_norm=False)
    whole = train(recipe, out=tmp_path / "whole", resume_existing=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atrous.learning.trainer.stop_on_signal", StopAfter(3))
        with pytest.raises(Interrupted):
            train(recipe, out=tmp_path / "run", resume_existing=True)
    fewer = {name: value for name, value in recipe.model.arguments.items() if name != "low_channels"}
    for other in (replace(recipe, seed=1), replace(recipe, model=replace(recipe.model, arguments=fewer))):
        with pytest.raises(AtrousError, match="contains a run with another recipe"):
            train(other, out=tmp_path / "run", resume_existing=True)
    for _ in range(2):  # the second call finds a finished run
        assert train(recipe, out=tmp_path / "run", resume_existing=True) == tmp_path / "run"
        same_weights(tmp_path / "run", whole)


def test_a_repeated_command_that_starts_from_a_model(tmp_path, monkeypatch):
    """The recipe names the model by a relative path, and its own network is not used."""
    monkeypatch.chdir(tmp_path)
    make_shapes(tmp_path / "data")
    recipe = tiny_recipe(tmp_path / "data", epochs=1)
    train(recipe, out=tmp_path / "first")
    wide = replace(recipe.model, init="first/best.safetensors", arguments={})
    for _ in range(2):
        train(replace(recipe, model=wide), out=tmp_path / "run", resume_existing=True)
    with pytest.raises(AtrousError, match="contains a run with another recipe"):
        train(
            replace(recipe, model=replace(wide, arguments={"dropout": 0.3})), out=tmp_path / "run", resume_existing=True
        )


def test_a_resumed_run_takes_no_other_folder(tmp_path):
    recipe = tiny_recipe(tmp_path / "data")
    for more in ({"out": tmp_path / "b"}, {"init": tmp_path / "m.safetensors"}, {"out": tmp_path, "on": "ray"}):
        with pytest.raises(AtrousError, match=r"leave out --(out|init)"):
            train(recipe, resume=tmp_path / "a", **more)


class StopAfter:
    """In place of `stop_on_signal`: stops after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> StopAfter:
        return self

    def __enter__(self) -> Callable[[], bool]:
        return self._due

    def __exit__(self, *error: object) -> None:
        pass

    def _due(self) -> bool:
        self.left -= 1
        return self.left == 0


# On a cluster


def tiny_recipe(root: Path, frozen_norm: bool = True, epochs: int = EPOCHS) -> Recipe:
    arguments = {"aspp_channels": 16, "low_channels": 8, "frozen_norm": frozen_norm}
    return to_recipe(
        {
            "name": "tiny",
            "data": {"root": str(root), "workers": 0, "check": False},
            "model": {"backbone": "mobilenetv2_035", "pretrained": False, "arguments": arguments},
            "augment": {"crop": [40, 48], "scale": [0.8, 1.2]},
            "train": {"epochs": epochs, "batch_size": 4, "device": "cpu", "precision": "float32"},
        }
    )


def written(recipe: Recipe, folder: Path) -> Path:
    write_recipe(recipe, folder / "recipe.yaml")
    return folder / "recipe.yaml"


def same_weights(run: Path, other: Path) -> None:
    first, second = (load_file(checkpoint_of(folder)) for folder in (run, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first if not name.startswith("random."))
    assert (run / "best.safetensors").is_file() and (run / "evaluation.json").is_file()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def by_torchrun(data, tmp_path_factory) -> Path:
    """A run of two processes of torchrun that nothing disturbed."""
    folder = tmp_path_factory.mktemp("torchrun")
    recipe = written(tiny_recipe(data), folder)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "atrous"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command += ["train", str(recipe), "--out", str(folder / "run")]
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=500)
    return folder / "run"


def call(folder: Path, *more: str) -> list[str]:
    recipe, out = str(folder / "recipe.yaml"), str(folder / "run")
    return ["train", recipe, "--out", out, "--on", "ray", "--processes", "2", *more]


def training_processes() -> list[int]:
    """The processes of Ray Train on this machine that train."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"RayTrainWorker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


@contextmanager
def after_validations(run: Path, count: int, disturb: Callable[[], object]) -> Iterator[None]:
    """Calls a function once, as soon as a run has a number of validations."""
    ended = threading.Event()

    def wait() -> None:
        while not ended.wait(0.05):
            file = run / "metrics.jsonl"
            if file.is_file() and file.read_text().count('"val"') >= count:
                disturb()
                return

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.mark.slow
@pytest.mark.cluster
def test_two_processes_on_ray_learn_what_torchrun_does(cluster, data, by_torchrun, tmp_path, monkeypatch, capsys):
    """Also with relative paths, which the processes would look up in another folder, and after one was killed."""
    monkeypatch.chdir(tmp_path)
    written(tiny_recipe(data), tmp_path)

    def kill() -> None:
        os.kill(min(training_processes()), signal.SIGKILL)

    with after_validations(tmp_path / "run", 2, kill):
        assert main(["train", "recipe.yaml", "--out", "run", "--on", "ray", "--processes", "2"]) == 0
    same_weights(tmp_path / "run", by_torchrun)
    said = " ".join(capsys.readouterr().out.split())
    assert "2 processes on 2 nodes" in said and "a process failed or was lost; the training continues" in said
    assert "1 thread" in said and "report.html" in said
    assert not list((tmp_path / "run").glob(".ray-train-*"))


@pytest.mark.slow
@pytest.mark.cluster
def test_a_training_continues_with_fewer_processes_if_a_node_is_lost(cluster, data, tmp_path, capsys):
    large = [cluster.add_node(num_cpus=2) for _ in range(2)]  # each process gets two cores, so only these have place
    recipe = written(tiny_recipe(data, epochs=6), tmp_path)
    command = ["train", str(recipe), "--out", str(tmp_path / "run"), "--on", "ray", "--processes", "2"]

    def lose_one() -> None:
        used = {parent_of(pid) for pid in training_processes()}
        lost = next(node for node in large if node.all_processes["raylet"][0].process.pid in used)
        cluster.remove_node(lost, allow_graceful=False)
        large.remove(lost)

    with after_validations(tmp_path / "run", 2, lose_one):
        assert main([*command, "--min-processes", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    starts = re.findall(r"\d process(?:es)? on \d nodes?", said)
    assert len(starts) >= 2 and starts[-1] == "1 process on 1 node"
    assert "a process failed or was lost" in said
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "val"] == [*range(1, 7)]
    assert (tmp_path / "run/evaluation.json").is_file()
    cluster.remove_node(large[0])


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


@pytest.mark.slow
@pytest.mark.cluster
def test_an_interrupted_training_is_saved_and_continued(cluster, data, by_torchrun, tmp_path):
    written(tiny_recipe(data), tmp_path)
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    command = [sys.executable, "-m", "atrous", *call(tmp_path)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    with after_validations(tmp_path / "run", 1, lambda: process.send_signal(signal.SIGINT)):
        _, said = process.communicate(timeout=500)
    assert process.returncode == 130
    assert f"atrous train --resume {tmp_path / 'run'} --on ray --processes 2" in said
    assert main(["train", "--resume", str(tmp_path / "run"), "--on", "ray", "--processes", "2"]) == 0
    same_weights(tmp_path / "run", by_torchrun)


@pytest.mark.slow
@pytest.mark.cluster
def test_unusable_data_are_reported_once_and_leave_no_folder(cluster, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = make_shapes(tmp_path / "data")
    (root / "masks" / "train_0.png").unlink()
    recipe = tiny_recipe(root)
    written(replace(recipe, name="spoilt", data=replace(recipe.data, check=True)), tmp_path)
    assert main(["train", "recipe.yaml", "--on", "ray", "--processes", "2"]) == 2
    said = capsys.readouterr()
    assert said.err.count("train_0") == 1 and "continues" not in said.out
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.slow
@pytest.mark.cluster
def test_a_search_on_two_nodes_is_that_of_one_machine(cluster, data, tmp_path, capsys):
    """The values of a trial depend only on the seed and the earlier trials, so a study of two trials has no order."""
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'atrous[tune]'")
    (tmp_path / "space.yaml").write_text("optim.lr: {choices: [0.01, 0.02]}\n", encoding="utf-8")
    recipe = str(written(tiny_recipe(data, epochs=1), tmp_path))
    command = ["tune", recipe, "--optim.lr", "0.01", "--search", str(tmp_path / "space.yaml"), "--trials", "2", "--out"]
    assert main([*command, str(tmp_path / "alone"), "--json", str(tmp_path / "alone.json")]) == 0
    capsys.readouterr()
    on_ray = ["--on", "ray", "--processes", "2", "--json", str(tmp_path / "ray.json")]
    assert main([*command, str(tmp_path / "ray"), *on_ray]) == 0
    said = capsys.readouterr().out
    assert "trial 0: mean IoU" in said and "trial 1: mean IoU" in said and "2 trials: 2 complete" in said
    scores = []
    for name in ("alone", "ray"):
        found = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        scores.append(sorted((trial["values"]["optim.lr"], trial["miou"]) for trial in found["trials"]))
        assert (tmp_path / name / "tune.html").is_file() and (tmp_path / name / "best.yaml").is_file()
    assert scores[0] == scores[1]
