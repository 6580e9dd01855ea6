"""torchrun with a variable number of machines: a training goes on when one is lost, and uses it when it is back.

Each machine is a network namespace of Linux with its own address.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cluster.test_train_on_ray import tiny_recipe
from tests.commands.conftest import make_shapes

from atrous.learning.recipe import write_recipe

ADDRESSES = ("10.77.0.1", "10.77.0.2")
EPOCHS = 60


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """The names of two network namespaces that a cable connects."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the program ip (Debian package iproute2)")
    names = (f"atrous-{os.getpid()}-a", f"atrous-{os.getpid()}-b")
    try:
        ip("netns", "add", names[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine allows no network namespaces: {error.stderr.strip()}")
    try:
        ip("netns", "add", names[1])
        ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            kill(name)
            ip("netns", "del", name)


def kill(machine: str) -> None:
    """Kills all processes in a namespace, as if the machine had lost its power."""
    listed = subprocess.run(["ip", "netns", "pids", machine], check=True, capture_output=True, text=True).stdout
    for pid in listed.split():
        os.kill(int(pid), signal.SIGKILL)


def start(machine: str, address: str, folder: Path, log: Path) -> subprocess.Popen:
    command = ["ip", "netns", "exec", machine, sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2"]
    command += ["--nproc-per-node", "1", "--max-restarts", "5", "--rdzv-backend", "c10d", "--rdzv-id", "test"]
    command += ["--rdzv-endpoint", f"{ADDRESSES[0]}:29500", "--local-addr", address]
    command += ["--rdzv-conf", "last_call_timeout=2,keep_alive_interval=1,is_host=" + str(int(address == ADDRESSES[0]))]
    command += ["-m", "atrous", "train", str(folder / "recipe.yaml"), "--out", str(folder / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable"}
    # else a machine that joins later waits for an address that the others have stored in the first round only
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with log.open("w", encoding="utf-8") as file:
        return subprocess.Popen([*command, "--resume-existing"], env=environment, stdout=file, stderr=file)


def wait_until(true: Callable[[], bool], processes: list[subprocess.Popen], log: Path, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert all(process.poll() is None for process in processes), log.read_text(encoding="utf-8")[-3000:]
        assert time.monotonic() < until, log.read_text(encoding="utf-8")[-3000:]
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_machine_is_lost_and_joins_again(machines, tmp_path):
    write_recipe(tiny_recipe(make_shapes(tmp_path / "data"), epochs=EPOCHS), tmp_path / "recipe.yaml")
    logs, metrics = (tmp_path / "a.log", tmp_path / "b.log"), tmp_path / "run/metrics.jsonl"

    def validations() -> int:
        return metrics.read_text(encoding="utf-8").count('"val"') if metrics.is_file() else 0

    first, second = (start(*given, tmp_path, log) for *given, log in zip(machines, ADDRESSES, logs, strict=True))
    wait_until(lambda: validations() >= 2, [first, second], logs[0])
    before = logs[0].read_text(encoding="utf-8")
    assert "2 processes, 1 thread each" in before
    kill(machines[1])
    second.wait()
    lost_at = validations()
    wait_until(lambda: validations() >= lost_at + 3, [first], logs[0])
    assert logs[0].read_text(encoding="utf-8").count("2 processes, 1 thread each") == 1
    second = start(machines[1], ADDRESSES[1], tmp_path, tmp_path / "b2.log")
    wait_until(
        lambda: logs[0].read_text(encoding="utf-8").count("2 processes, 1 thread each") == 2, [first, second], logs[0]
    )
    assert first.wait(timeout=240) == 0, logs[0].read_text(encoding="utf-8")[-3000:]
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    assert {line["epoch"] for line in lines if line["kind"] == "val"} == set(range(1, EPOCHS + 1))
    assert (tmp_path / "run/evaluation.json").is_file()
