"""Prediction on a Ray cluster: the masks of one machine, also if a node is killed or the call is stopped."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from atrous.cli import main
from atrous.cluster.finished_jobs import FOLDER, FinishedJobs
from atrous.cluster.predict_on_ray import AT_ONCE, Place, Pool, Progress, places_of, predict_on_ray
from atrous.cluster.ray_cluster import connected
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
    of_b = Place("b", 4, 1, 2, "b")
    assert places_of(nodes) == {"a/0": Place("a", 4, 0, 1, "a"), "b/0": of_b, "b/1": of_b}


def test_jobs_that_failed_at_a_place_go_to_another_one():
    progress = Progress([a_job(0), a_job(1)], lambda finished: None)
    task = progress.next_for("a", alone=False)
    assert task is not None and progress.next_for("a", alone=True) is None
    progress.finish(task, [Record("0.png", error="no disk"), Record("1.png", "masks/1.png")], "a")
    assert progress.next_for("a", alone=False) is None
    again = progress.next_for("b", alone=False)
    assert again is not None and again.numbers == (0,)


class FalseRay:
    """The calls of Ray that `Pool` uses, in this process; each node's worker does what `faults` says."""

    exceptions = SimpleNamespace(RayError=ConnectionError)

    def __init__(self, nodes, faults):
        self.alive, self.faults, self.started = nodes, faults, list[str]()

    def nodes(self):
        return [{"NodeID": name, "Alive": True, "Resources": {"CPU": 1}} for name in self.alive]

    def put(self, value):
        return value

    def remote(self, kind):
        return self

    def options(self, scheduling_strategy, **more):
        self.at = scheduling_strategy.node_id
        return self

    def __call__(self, *given):
        raise AssertionError("a class of workers is started by .remote()")

    def wait(self, references, num_returns=1, timeout=0.0):
        return references[:1], references[1:]

    def get(self, reference):
        return reference()

    def kill(self, worker):
        pass


class FalseWorker:
    def __init__(self, ray, name):
        self.ray, self.name = ray, name
        self.open, self.do, self.close = (Remote(call) for call in (self._open, self._do, lambda: None))

    def _fault(self, call):
        fault = self.ray.faults.get((self.name, call))
        if isinstance(fault, Exception):
            raise fault
        return fault

    def _open(self):
        return self._fault("open") or ""

    def _do(self, jobs):
        fault = self._fault("do")
        return [Record(job.name, None if fault else str(job.target), fault) for job in jobs], ["a note"]


class Remote:
    def __init__(self, call):
        self.call = call

    def remote(self, *given):
        return lambda: self.call(*given)


def pool_of(faults, nodes=("a", "b")):
    """A pool of false workers that do jobs as `faults` says, by (node, call)."""
    ray = FalseRay(nodes, faults)
    spec = ModelSpec(MODEL)
    pool = Pool(ray, spec, None)

    def start(place):
        ray.started.append(place.node)
        return FalseWorker(ray, place.node)

    pool._start = start  # type: ignore[method-assign]
    return ray, pool


def finish(pool, progress):
    for _ in range(200):
        pool._looked = -10.0
        pool.grow(len(progress.tasks))
        pool.assign(progress)
        pool.collect(progress)
        if progress.finished:
            return


LOST = ConnectionError("the node is lost")


@pytest.mark.parametrize("call", ["open", "do"])
def test_a_node_that_always_fails_is_left_out_and_the_others_do_its_jobs(call, capsys):
    faults = {("a", call): LOST if call == "do" else "no CUDA here"}
    ray, pool = pool_of(faults)
    progress = Progress([a_job(number) for number in range(40)], lambda finished: None)
    if call == "do":
        with pytest.MonkeyPatch.context() as patch:  # one death of a worker is no fault of the node
            patch.setitem(ray.faults, ("a", "do"), LOST)
            pool._looked = -10.0
            for _ in range(6):
                pool._looked = -10.0
                pool.grow(len(progress.tasks))
                pool.assign(progress)
                pool.collect(progress)
        ray.faults.clear()
    finish(pool, progress)
    assert progress.finished and all(record.error is None for record in progress.records.values())
    assert [record.image for record in (progress.records[n] for n in range(40))] == [f"{n}.png" for n in range(40)]
    if call == "open":
        assert ray.started.count("a") == 1
        assert "is left out: no CUDA here" in " ".join(capsys.readouterr().out.split())


def test_a_node_whose_jobs_all_fail_is_left_out(capsys):
    _, pool = pool_of({("a", "do"): "no such folder"})
    progress = Progress([a_job(number) for number in range(100)], lambda finished: None)
    finish(pool, progress)
    assert all(record.error is None for record in progress.records.values())
    said = " ".join(capsys.readouterr().out.split())
    assert "the node a is left out: no such folder" in said and said.count("a note") == 1


def test_a_model_that_no_node_opens_ends_the_call():
    _, pool = pool_of({("a", "open"): "no CUDA here", ("b", "open"): LOST})
    progress = Progress([a_job(0)], lambda finished: None)
    with pytest.raises(AtrousError, match=r"no node of the cluster can do the jobs. The last reason: "):
        finish(pool, progress)


def test_on_is_not_for_torchrun(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(words(tmp_path, tmp_path / "masks", tmp_path / "found.json", "--on", "ray")) == 2
    assert "without torchrun" in capsys.readouterr().err


def test_an_address_that_is_none_is_refused():
    with pytest.raises(AtrousError, match=r"--on is slurm: give ray, or the address of a head node"):
        connected("slurm")


def test_records_of_other_calls_and_of_lost_masks_are_not_used(tmp_path):
    jobs = [Job(tmp_path / f"{number}.jpg", tmp_path / f"{number}.png") for number in range(3)]
    finished = FinishedJobs(tmp_path, {"model": "one"})
    for job in jobs:
        job.picture.write_bytes(b"a picture")
        job.target.write_bytes(b"a mask")
    finished.add([(job, Record(job.name, str(job.target), share={"road": 0.25})) for job in jobs[:2]])
    finished.add([(jobs[2], Record(jobs[2].name, error="no answer"))])
    finished.flush()
    again = FinishedJobs(tmp_path, {"model": "one"})
    expected = {n: Record(jobs[n].name, str(jobs[n].target), share={"road": 0.25}) for n in (0, 1)}
    assert again.of(jobs) == expected
    jobs[0].target.unlink()
    assert again.of(jobs).keys() == {1}
    jobs[1].picture.write_bytes(b"another picture")
    assert again.of(jobs) == {}
    (file,) = (tmp_path / FOLDER).iterdir()
    assert FinishedJobs(tmp_path, {"model": "other"}).of(jobs) == {} and not file.exists()
    file.parent.mkdir(exist_ok=True)
    (file.parent / file.name).write_text("{", encoding="utf-8")
    assert again.of(jobs) == {}
    again.remove()
    assert not (tmp_path / FOLDER).exists()


def test_records_contain_neither_names_nor_passwords(tmp_path):
    job = Job("https://user:word@host/smith.png?key=secret", tmp_path / "case_0001.png", case_id="case_0001")
    finished = FinishedJobs(tmp_path, {})
    finished.add([(job, Record("smith.png", str(job.target)))])
    finished.flush()
    (file,) = (tmp_path / FOLDER).iterdir()
    assert not any(word in file.read_text("utf-8") for word in ("smith", "word", "secret", "user", "host"))


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
    named = ("mask", "image")
    return [
        {**one, "error": "error" in one, **{name: Path(one.get(name, "")).name for name in named}} for one in entries
    ]


def same_as_alone(out: Path, alone: Path) -> None:
    assert files(out / "masks") == files(alone / "masks") and len(files(out / "masks")) == PICTURES
    assert results(out / "found.json") == results(alone / "found.json")


@pytest.mark.slow
@pytest.mark.cluster
def test_two_nodes_write_the_masks_of_one_machine(cluster, pictures, alone, tmp_path, monkeypatch):
    """Also with relative paths, which the nodes would look up in another folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(pictures)
    assert main(words("photos", "masks", tmp_path / "found.json", "--on", "ray")) == 1
    entries = json.loads((tmp_path / "found.json").read_text("utf-8"))["pictures"]
    expected = {f"masks/{path.name}" for path in pictures.glob("[0-9]*.png")}
    assert {one["mask"] for one in entries if "mask" in one} == expected
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
            self.flush()
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
    store.invalidate_cache()
    assert not store.exists(f"bucket/masks/{FOLDER}")
