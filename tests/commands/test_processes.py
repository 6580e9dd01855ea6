"""Several processes: who gets what, and that together they do what one does."""

import json
import os
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.commands.conftest import CLASSES

import atrous
from atrous.errors import AtrousError
from atrous.learning.distributed import ProcessGroup, current_group, process_group
from atrous.learning.epoch_sampler import EpochOrder
from atrous.learning.recipe import write_recipe


def torchrun(count, *words, **environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=500)


# Who gets what


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize(("size", "batch"), [(10, 4), (9, 4), (12, 4), (5, 4), (4, 4), (367, 16), (17, 16), (23, 16)])
def test_every_picture_is_in_one_batch_of_one_process(world, size, batch):
    orders = [EpochOrder(size, batch, 7, rank, world) for rank in range(world)]
    for order in orders:
        order.start(3)
    parts = [list(order) for order in orders]
    assert {len(part) for part in parts} == {len(orders[0])}
    assert sorted(index for part in parts for one in part for _, index in one) == list(range(size))
    assert all(one for part in parts for one in part)
    if size >= 2 * world and batch >= 2 * world:
        assert min(len(one) for part in parts for one in part) >= 2
    for index in range(len(orders[0])):
        assert sum(len(part[index]) for part in parts) == orders[0].counts()[index]


def test_the_batches_of_all_are_those_of_one():
    alone = [sorted(batch) for batch in EpochOrder(33, 8, 1)]
    parts = [list(EpochOrder(33, 8, 1, rank, 4)) for rank in range(4)]
    assert [sorted(chain(*pieces)) for pieces in zip(*parts, strict=True)] == alone


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("before", "after"), [(4, 4), (4, 6), (6, 4), (5, 16), (16, 3)])
def test_an_epoch_goes_on_with_batches_of_another_size(world, before, after):
    size = 37
    for done in range(len(EpochOrder(size, before, 7, 0, world)) + 1):
        found = []
        for rank in range(world):
            first, second = (EpochOrder(size, batch, 7, rank, world) for batch in (before, after))
            pictures = sum(first.counts()[:done])
            first.start(2)
            second.start(2, pictures)
            parts = [*list(first)[:done], *second]
            assert all(parts) and len(parts) == done + len(second.counts(pictures))
            found += [index for part in parts for _, index in part]
        assert sorted(found) == list(range(size))


def test_an_epoch_of_which_fewer_pictures_are_left_than_there_are_processes():
    with pytest.raises(AtrousError, match="2 pictures of epoch 1 are left for 3 processes: continue with 2 processes"):
        EpochOrder(20, 6, 0, 0, 3).start(0, 18)


def test_fewer_pictures_than_processes():
    with pytest.raises(AtrousError, match="4 processes share batches of 3 pictures"):
        EpochOrder(100, 3, 0, 0, 4)


def test_alone():
    processes = current_group()
    assert processes == ProcessGroup(0, 1, 0) and processes.first
    with process_group() as joined:
        assert joined == processes
    counts = np.arange(4)
    assert processes.sum(counts) is counts
    assert (processes.gather(3), processes.mean(0.5), processes.agree(True, False)) == ([3], 0.5, (True, False))
    assert processes.on_rank_zero(lambda: "done") == "done"
    layer = torch.nn.Linear(2, 2)
    value = torch.tensor(3.0)
    assert processes.mean_of(value) is value
    assert processes.wrap(layer) is layer


# Together


def trained(recipe, out, count, *more):
    write_recipe(recipe, out.parent / "recipe.yaml")
    done = torchrun(count, "-m", "atrous", "train", str(out.parent / "recipe.yaml"), "--out", str(out), *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def frozen(tiny, **changes):
    """A training whose result must not depend on who holds which picture: no batch norm learns its statistics."""
    arguments = {"aspp_channels": 16, "low_channels": 8, "frozen_norm": True, "dropout": 0.0}
    return tiny(model__arguments=arguments, train__epochs=2, optim__name="sgd", **changes)


@pytest.mark.slow
def test_three_processes_learn_what_one_does(tiny, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    # Of each batch of 4 one process has 2, the others 1, and of some crops a part lies outside the picture.
    weighted = {"loss__class_weights": "inverse", "loss__boundary": 2.0, "loss__hardest": 0.3}
    torch.manual_seed(0)
    teacher = atrous.create_model("deeplabv3", backbone="mobilenetv2_035", num_classes=3, pretrained=False)
    teacher.classifier.weight.data *= 100
    teacher.info = teacher.info.with_table(CLASSES)
    atrous.save(teacher, tmp_path / "teacher.safetensors")
    taught = {"distill__teacher": str(tmp_path / "teacher.safetensors")}
    recipe = frozen(tiny, train__batch_size=4, **weighted, **taught)
    said = trained(recipe, tmp_path / "b" / "run", 3)
    assert "3 processes, 1 thread each\n" in said
    assert "batch norms use only the pictures of their own process" in said
    assert said.count("epoch 2/2") == 1  # the second is silent
    trained(recipe, tmp_path / "a" / "run", 1)
    one, three = (load_file(tmp_path / name / "run" / "checkpoints" / "last.safetensors") for name in "ab")
    learnt = [name for name in one if name.startswith("weights.")]
    assert max((one[name] - three[name]).abs().max().item() for name in learnt) < 1e-6
    assert {path.name for path in (tmp_path / "b" / "run").iterdir()} == {
        path.name for path in (tmp_path / "a" / "run").iterdir()
    }


@pytest.mark.slow
def test_a_resumed_run_of_three_is_the_uninterrupted_one(tiny, tmp_path):
    """Of three, because the sum of two is the same in any order."""
    for name in ("whole", "halved"):
        (tmp_path / name).mkdir()
    arguments = {"aspp_channels": 16, "low_channels": 8, "dropout": 0.5}
    changes = {"model__arguments": arguments, "train__batch_size": 4, "train__ema": 0.9}
    trained(tiny(**changes, train__epochs=2, schedule__power=0), tmp_path / "whole" / "run", 3)
    out = tmp_path / "halved" / "run"
    trained(tiny(**changes, train__epochs=1, schedule__power=0), out, 3)
    done = torchrun(3, "-m", "atrous", "train", "--resume", str(out), "--train.epochs", "2")
    assert done.returncode == 0, done.stderr
    files = [tmp_path / name / "run" / "checkpoints" / "last.safetensors" for name in ("whole", "halved")]
    tensors = [load_file(path) for path in files]
    assert tensors[0].keys() == tensors[1].keys()
    assert {"random.0.cpu", "random.1.cpu"} <= tensors[0].keys()
    assert not torch.equal(tensors[0]["random.0.cpu"], tensors[0]["random.1.cpu"])
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


@pytest.mark.slow
def test_an_error_of_the_first_is_everyones(tiny, tmp_path):
    write_recipe(tiny(data__root=str(tmp_path / "absent")), tmp_path / "recipe.yaml")
    done = torchrun(2, "-m", "atrous", "train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "absent" in done.stderr
    assert "Connection closed" not in done.stderr and "RuntimeError" not in done.stderr


def test_a_schedulers_variables_alone_start_nothing(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with process_group() as joined:
        assert joined == ProcessGroup()


@pytest.mark.slow
def test_the_scores_are_the_same_on_one_process_and_on_four(model, shapes, tmp_path):
    found = []
    for count in (1, 4):  # there are 3 pictures: with 4, one process has none
        file = tmp_path / f"{count}.json"
        words = ["-m", "atrous", "evaluate", str(model), str(shapes), "--json", str(file), "--device", "cpu"]
        done = torchrun(count, *words)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(file.read_text()))
    assert found[0] == found[1]
    assert found[0]["images"] == len(found[0]["per_image"]) == 3
