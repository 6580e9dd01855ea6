"""Does the jobs of `atrous predict` on a Ray cluster; a lost node loses no job, and no record is counted twice.

Each node has one worker, or one for each GPU. Workers read pictures and write masks themselves, through paths or URLs
that all nodes reach, and return only records. The driver sends a few jobs at a time. If a worker dies, its jobs are
sent to another one; masks are replaced atomically, so a job that is done twice leaves one mask. The file of the model
is sent to the workers.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from atrous.console import note
from atrous.errors import AtrousError, missing_extra
from atrous.inference.model_spec import ModelSpec
from atrous.inference.predict_jobs import Job, Worker
from atrous.inference.predict_records import Record
from atrous.inference.predict_stages import do_in_stages
from atrous.inference.volume_parts import VolumeParts
from atrous.overwrite_checks import model_inputs

#: Number of jobs that a worker gets at once: enough that its stages overlap, and few enough that little is repeated.
AT_ONCE = 16
#: Number of workers that may die during one job before the job counts as failed, and of attempts at a failed job.
MOST_DEATHS, ATTEMPTS = 3, 2
#: Seconds between looks at the nodes of the cluster, and until a cluster without workers is reported.
LOOK_EVERY, PATIENCE = 2.0, 20.0


class Place(NamedTuple):
    """A place for a worker: a node, or one of its GPUs.

    Attributes:
        node: id of the node.
        cpus: cores that the worker takes.
        gpus: GPUs that the worker takes, 0 or 1.
    """

    node: str
    cpus: int
    gpus: int


@dataclass(frozen=True)
class Task:
    """Some jobs for one worker.

    Args:
        numbers: positions of the jobs in the whole list.
        deaths: number of workers that died during these jobs.
        attempt: number of the attempt, from 1.
    """

    numbers: tuple[int, ...]
    deaths: int = 0
    attempt: int = 1


@dataclass
class Progress:
    """The tasks to do, and the records of the finished jobs.

    Args:
        jobs: all jobs.
        done: function that is called with the jobs and records of each finished task.
    """

    jobs: Sequence[Job]
    done: Callable[[Sequence[tuple[Job, Record]]], object]
    records: dict[int, Record] = field(default_factory=dict)
    tasks: deque[Task] = field(default_factory=deque)

    def __post_init__(self) -> None:
        starts = range(0, len(self.jobs), AT_ONCE)
        self.tasks.extend(Task(tuple(range(at, min(at + AT_ONCE, len(self.jobs))))) for at in starts)

    def finish(self, task: Task, found: Sequence[Record]) -> None:
        """Keeps the records of a task; failed jobs are done once more, because a store may have failed for a moment."""
        records = dict(zip(task.numbers, found, strict=True))
        last = task.attempt == ATTEMPTS
        self._keep({number: record for number, record in records.items() if last or record.error is None})
        if again := tuple(number for number in records if number not in self.records):
            self.tasks.append(replace(task, numbers=again, attempt=task.attempt + 1))

    def repeat(self, task: Task) -> None:
        """Plans the jobs of a worker that died again, one by one, so that a job that kills workers stops no other."""
        for number in task.numbers:
            if task.deaths + 1 < MOST_DEATHS:
                self.tasks.appendleft(Task((number,), task.deaths + 1, task.attempt))
            else:
                name = self.jobs[number].name
                record = Record(name, error=f"{name}: {MOST_DEATHS} workers died while they segmented it.")
                self._keep({number: record})

    def _keep(self, records: Mapping[int, Record]) -> None:
        self.records |= records
        self.done([(self.jobs[number], record) for number, record in records.items()])


class RayWorker:
    """A worker in a process of the cluster.

    Args:
        spec: specification of the model.
        files: content of the model's files by name; they are written to a folder of the worker.
        parts: as in `Worker`.
    """

    def __init__(self, spec: ModelSpec, files: Mapping[str, bytes], parts: VolumeParts | None) -> None:
        self._folder = TemporaryDirectory(prefix="atrous-", ignore_cleanup_errors=True)
        for name, content in files.items():
            (Path(self._folder.name) / name).write_bytes(content)
        self._spec = replace(spec, path=Path(self._folder.name) / Path(spec.path).name)
        self._parts, self._notes = parts, list[str]()
        self._worker: Worker | None = None

    def open(self) -> str:
        """Opens the model, and returns a sentence with the reason if that fails, else ""."""
        try:
            self._worker = Worker(self._spec, self._notes.append, self._parts)
        except AtrousError as error:
            return str(error)
        return ""

    def do(self, jobs: Sequence[Job]) -> tuple[list[Record], list[str]]:
        """Does jobs, and returns their records and the notes since the last call."""
        assert self._worker is not None, "open() comes first"
        futures: list[Future[Record]] = []
        do_in_stages(self._worker, jobs, futures)
        notes, self._notes[:] = list(self._notes), []
        return [future.result() for future in futures], notes


def predict_on_ray(
    address: str,
    spec: ModelSpec,
    jobs: Sequence[Job],
    done: Callable[[Sequence[tuple[Job, Record]]], object] = lambda finished: None,
    parts: VolumeParts | None = None,
) -> list[Record]:
    """Does jobs on a Ray cluster.

    Args:
        address: "ray" for the cluster that RAY_ADDRESS names, else for one on this machine; or the address
            ray://HOST:PORT of a head node.
        spec: specification of the model.
        jobs: jobs from `plan`; their places must be reachable from every node.
        done: function that is called with jobs and their records when they are finished.
        parts: as in `Worker`.

    Returns:
        The records, in the order of the jobs.

    Raises:
        AtrousError: Ray is not installed, the cluster cannot be reached or has no free node, or a node cannot open the
            model.
    """
    ray = connected(address)
    progress = Progress(jobs, done)
    pool = Pool(ray, spec, parts)
    try:
        while progress.tasks or pool.running:
            pool.grow(len(progress.tasks))
            pool.assign(progress)
            pool.collect(progress)
    finally:
        pool.close()
    return [progress.records[number] for number in range(len(jobs))]


class Pool:
    """The workers of a cluster, one at each place; nodes may come and go.

    Args:
        ray: the module ray, connected to the cluster.
        spec: specification of the model.
        parts: as in `Worker`.

    Attributes:
        running: task and place of each call that was sent, by its reference; None for the opening of a model.
    """

    def __init__(self, ray: Any, spec: ModelSpec, parts: VolumeParts | None) -> None:
        files = {path.name: path.read_bytes() for _, path in model_inputs(spec.path)}
        self._ray, self._given = ray, (spec, ray.put(files), parts)
        self._workers: dict[str, Any] = {}
        self._looked = -math.inf
        self._begun = time.monotonic()
        self.running: dict[Any, tuple[str, Task | None]] = {}

    def grow(self, waiting: int) -> None:
        """Starts a worker at each new place.

        Args:
            waiting: number of tasks that wait; with none, no worker is started.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY or not waiting:
            return
        self._looked = now
        places = places_of(self._ray.nodes())
        if not places and now - self._begun > PATIENCE:
            raise AtrousError(f"the cluster has no node with a free core after {PATIENCE:g} seconds: see `ray status`.")
        for name in places.keys() - self._workers.keys():
            self._workers[name] = worker = self._start(places[name])
            self.running[worker.open.remote()] = (name, None)

    def _start(self, place: Place) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(node_id=place.node, soft=False)
        options = {"num_cpus": place.cpus, "num_gpus": place.gpus, "scheduling_strategy": here, "max_restarts": 0}
        return self._ray.remote(RayWorker).options(**options).remote(*self._given)

    def assign(self, progress: Progress) -> None:
        """Sends a task to each idle worker."""
        busy = {name for name, _ in self.running.values()}
        for name in sorted(self._workers.keys() - busy):
            if not progress.tasks:
                return
            task = progress.tasks.popleft()
            jobs = [progress.jobs[number] for number in task.numbers]
            self.running[self._workers[name].do.remote(jobs)] = (name, task)

    def collect(self, progress: Progress) -> None:
        """Waits for a call to end, and keeps its records; the tasks of a worker that died are planned again."""
        if not self.running:
            time.sleep(LOOK_EVERY)
            return
        ready, _ = self._ray.wait(list(self.running), timeout=LOOK_EVERY)
        for reference in ready:
            name, task = self.running.pop(reference)
            try:
                answer = self._ray.get(reference)
            except (self._ray.exceptions.RayActorError, self._ray.exceptions.NodeDiedError):
                self._workers.pop(name, None)
                if task is not None:
                    progress.repeat(task)
                continue
            if task is None:
                if answer:
                    raise AtrousError(f"a node of the cluster cannot open the model: {answer}")
                continue
            records, notes = answer
            for sentence in notes:
                note(sentence)
            progress.finish(task, records)

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers.values():
            self._ray.kill(worker)


def connected(address: str) -> Any:
    """Returns the module ray, connected to a cluster.

    Args:
        address: as in `predict_on_ray`.

    Raises:
        AtrousError: Ray is not installed, or the cluster cannot be reached.
    """
    if address != "ray" and not address.startswith("ray://"):
        raise AtrousError(f"--on is {address}: give ray, or the address of a head node, ray://HOST:PORT.")
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "cluster") from error
    if not ray.is_initialized():
        try:
            ray.init(address=None if address == "ray" else address, logging_level=logging.WARNING, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise AtrousError(f"no Ray cluster at {address}: {error}") from error
    return ray


def places_of(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Place]:
    """Returns the places for workers by name: one for each GPU of a node, or one for a node without GPUs.

    Args:
        nodes: result of `ray.nodes()`.
    """
    found = {}
    for node in nodes:
        cpus, gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
        if not node["Alive"] or cpus < 1:
            continue
        workers = min(gpus, cpus) or 1
        for index in range(workers):
            found[f"{node['NodeID']}/{index}"] = Place(node["NodeID"], cpus // workers, 1 if gpus else 0)
    return found
