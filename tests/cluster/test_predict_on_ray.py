"""Prediction on a Ray cluster: the masks of one machine, also if a node is killed or the call is stopped."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from atrous.cli import main
from atrous.cluster.finished_jobs import FOLDER, FinishedJobs
from atrous.cluster.predict_on_ray import AT_ONCE, Place, Progress, connected, places_of, predict_on_ray
from atrous.errors import AtrousError
from atrous.inference.model_spec import ModelSpec
from atrous.inference.predict_jobs import Job, plan
from atrous.inference.predict_records import Record

MODEL = Path(__file__).parents[2] / "zoo/camvid.safetensors"
PICTURES = 50


def a_job(number: int) -> Job:
    return Job(Path(f"{number}.png"), Path(f"masks/{number}.png"))


# Without a cluster: what is done again, and what fails


def test_a_failed_picture_is_tried_once_more_and_then_reported():
    finished = []
    progress = Progress([a_job(0), a_job(1)], finished.extend)
    (task,) = progress.tasks
    progress.tasks.clear()
    progress.finish(task, [Record("0.png", "masks/0.png"), Record("1.png", error="no answer")])
    assert [job.picture.name for job, _ in finished] == ["0.png"]
    (again,) = progress.tasks
    assert (again.numbers, again.attempt) == ((1,), 2)
    progress.finish(again, [Record("1.png", error="no answer")])
    assert progress.records[1].error == "no answer" and len(finished) == 2


def test_jobs_of_a_dead_worker_are_done_again_one_by_one_and_one_that_kills_workers_fails():
    progress = Progress([a_job(number) for number in range(3)], lambda finished: None)
    progress.repeat(progress.tasks.popleft())
    assert sorted(task.numbers for task in progress.tasks) == [(0,), (1,), (2,)]
    for _ in range(2):
        fatal = next(task for task in progress.tasks if task.numbers == (1,))
        progress.tasks.remove(fatal)
        progress.repeat(fatal)
    assert sorted(task.numbers for task in progress.tasks) == [(0,), (2,)]
    assert "3 workers died" in str(progress.records[1].error)


def test_a_task_has_a_few_jobs():
    progress = Progress([a_job(number) for number in range(2 * AT_ONCE + 1)], lambda finished: None)
    assert [len(task.numbers) for task in progress.tasks] == [AT_ONCE, AT_ONCE, 1]
    assert [number for task in progress.tasks for number in task.numbers] == list(range(2 * AT_ONCE + 1))


def test_a_node_has_a_worker_or_one_for_each_gpu():
    def node(name, alive=True, **resources):
        return {"NodeID": name, "Alive": alive, "Resources": resources}

    nodes = [node("head", CPU=0), node("a", CPU=4), node("b", CPU=8, GPU=2), node("gone", alive=False, CPU=4)]
    assert places_of(nodes) == {"a/0": Place("a", 4, 0), "b/0": Place("b", 4, 1), "b/1": Place("b", 4, 1)}


def test_an_address_that_is_none_is_refused():
    with pytest.raises(AtrousError, match=r"--on is slurm: give ray, or the address of a head node"):
        connected("slurm")


def test_records_of_other_calls_and_of_lost_masks_are_not_used(tmp_path):
    jobs = [Job(Path(f"{number}.png"), tmp_path / f"{number}.png") for number in range(3)]
    finished = FinishedJobs(tmp_path, {"model": "one"})
    for job in jobs:
        job.target.write_bytes(b"a mask")
    finished.add([(job, Record(job.name, str(job.target), share={"road": 0.25})) for job in jobs[:2]])
    finished.add([(jobs[2], Record(jobs[2].name, error="no answer"))])
    again = FinishedJobs(tmp_path, {"model": "one"})
    assert again.of(jobs) == {n: Record(f"{n}.png", str(jobs[n].target), share={"road": 0.25}) for n in (0, 1)}
    assert FinishedJobs(tmp_path, {"model": "other"}).of(jobs) == {}
    jobs[0].target.unlink()
    assert again.of(jobs).keys() == {1}
    (file,) = (tmp_path / FOLDER).iterdir()
    file.write_text("{", encoding="utf-8")
    assert again.of(jobs) == {}
    again.remove()
    assert not (tmp_path / FOLDER).exists()


# On a cluster


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Noise with large spots, one damaged file, and names that sort unlike their sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(PICTURES):
        size = (int(rng.integers(40, 120)), int(rng.integers(40, 120)))
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size)
        coarse.save(folder / f"{index:02d}.png")
    (folder / "damaged.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def store() -> Iterator:
    """A file system of a server on this machine with the protocol of S3; processes that start later also reach it."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'atrous[dev]'")
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'atrous[remote]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    given = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        yield fsspec.filesystem("s3", skip_instance_cache=True)
    server.stop()


@pytest.fixture(scope="module")
def cluster(store) -> Iterator:
    """A real cluster: a head node without cores, and two nodes with one core each."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'atrous[cluster]'")
    from ray.cluster_utils import Cluster

    one = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        one.add_node(num_cpus=1)
    ray.init(address=one.address, log_to_driver=False)
    yield one
    ray.shutdown()
    one.shutdown()


@pytest.fixture(scope="module")
def alone(pictures, tmp_path_factory) -> Path:
    """The masks and results of the same call on this machine."""
    out = tmp_path_factory.mktemp("alone")
    assert main(words(pictures, out / "masks", out / "found.json")) == 1
    return out


def words(pictures: object, out: object, found: Path, *more: str) -> list[str]:
    fixed = ["--output-stride", "32", "--precision", "float32", "--engine", "torch", "--device", "cpu"]
    return ["predict", str(MODEL), str(pictures), "--out", str(out), "--json", str(found), *fixed, *more]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def results(found: Path) -> list[dict]:
    entries = json.loads(found.read_text(encoding="utf-8"))["pictures"]
    return [{**one, "mask": Path(one.get("mask", "")).name, "image": Path(one["image"]).name} for one in entries]


def same_as_alone(out: Path, alone: Path) -> None:
    assert files(out / "masks") == files(alone / "masks") and len(files(out / "masks")) == PICTURES
    assert results(out / "found.json") == results(alone / "found.json")


@pytest.mark.slow
@pytest.mark.cluster
def test_two_nodes_write_the_masks_of_one_machine(cluster, pictures, alone, tmp_path):
    assert main(words(pictures, tmp_path / "masks", tmp_path / "found.json", "--on", "ray")) == 1
    # the records of the finished jobs stay, because a picture failed: the same call tries only this picture again
    records = list((tmp_path / "masks" / FOLDER).iterdir())
    assert records
    for file in records:
        file.unlink()
    (tmp_path / "masks" / FOLDER).rmdir()
    same_as_alone(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_node_that_is_killed_loses_nothing_and_doubles_nothing(cluster, pictures, alone, tmp_path):
    lost = cluster.add_node(num_cpus=1)
    killed = threading.Event()
    spec = ModelSpec(MODEL, output_stride=32, precision="float32", engine="torch", device="cpu")
    jobs = plan([pictures], tmp_path / "masks", spec)
    counts: dict[str, int] = {}

    def kill_after_the_first(finished) -> None:
        for job, _ in finished:
            counts[job.name] = counts.get(job.name, 0) + 1
        if not killed.is_set():
            cluster.remove_node(lost, allow_graceful=False)
            killed.set()

    records = predict_on_ray("ray", spec, jobs, kill_after_the_first)
    assert killed.is_set() and set(counts.values()) == {1} and len(counts) == PICTURES + 1
    assert files(tmp_path / "masks") == files(alone / "masks")
    expected = {one["image"]: one.get("share") for one in results(alone / "found.json")}
    assert {Path(record.image).name: record.share for record in records} == expected


@pytest.mark.slow
@pytest.mark.cluster
def test_a_stopped_call_goes_on_with_what_is_left(cluster, pictures, alone, tmp_path, monkeypatch, capsys):
    add, calls = FinishedJobs.add, []

    def stopping(self, finished):
        add(self, finished)
        calls.append(len(finished))
        if len(calls) == 2:
            raise KeyboardInterrupt

    call = words(pictures, tmp_path / "masks", tmp_path / "found.json", "--on", "ray")
    with monkeypatch.context() as patch:
        patch.setattr(FinishedJobs, "add", stopping)
        assert main(call) == 130
    before = files_with_times(tmp_path / "masks")
    capsys.readouterr()
    assert main(call) == 1
    assert f"{sum(calls)} masks of an earlier call" in " ".join(capsys.readouterr().out.split())
    after = files_with_times(tmp_path / "masks")
    assert sum(after[name] == time for name, time in before.items()) >= sum(calls)
    for file in (tmp_path / "masks" / FOLDER).iterdir():
        file.unlink()
    (tmp_path / "masks" / FOLDER).rmdir()
    same_as_alone(tmp_path, alone)


def files_with_times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}


@pytest.mark.slow
@pytest.mark.cluster
def test_pictures_and_masks_in_an_object_store(cluster, store, pictures, alone, tmp_path):
    store.mkdir("bucket")
    for path in pictures.glob("*.png"):
        store.put_file(str(path), f"bucket/pictures/{path.name}")
    call = words("s3://bucket/pictures", "s3://bucket/masks", tmp_path / "found.json", "--on", "ray")
    assert main(call) == 1
    masks = {Path(name).name: store.cat_file(name) for name in store.ls("bucket/masks") if name.endswith(".png")}
    assert masks == files(alone / "masks")
    shares = [[one.get("share") for one in results(folder / "found.json")] for folder in (tmp_path, alone)]
    assert shares[0] == shares[1]
    assert store.ls(f"bucket/masks/{FOLDER}")  # of the pictures that did not fail
    store.put_file(str(pictures / "00.png"), "bucket/pictures/damaged.png")
    store.invalidate_cache()
    assert main(call) == 0
    store.invalidate_cache()
    assert not store.exists(f"bucket/masks/{FOLDER}")
