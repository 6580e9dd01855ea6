"""Does the jobs of `atrous predict` on a Ray cluster; a lost node loses no job, and no record is counted twice.

Each node has one worker, or one for each GPU. Workers read pictures and write masks themselves, through paths or URLs
that all nodes reach, and return only records. The driver sends a few jobs at a time. If a worker dies, its jobs are
sent to another one; masks are replaced atomically, so a job that is done twice leaves one mask. The file of the model
is sent to the workers.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from atrous.cluster.ray_cluster import connected
from atrous.console import each_once, note
from atrous.errors import AtrousError
from atrous.inference.model_spec import ModelSpec
from atrous.inference.predict_jobs import Job, Worker
from atrous.inference.predict_records import Record
from atrous.inference.predict_stages import do_in_stages
from atrous.inference.volume_parts import VolumeParts
from atrous.overwrite_checks import model_inputs
from atrous.paths import Place as FilePlace
from atrous.paths import shown_place

#: Number of jobs that a worker gets at once: enough that its stages overlap, and few enough that little is repeated.
AT_ONCE = 16
#: Number of workers that may die during one job before the job counts as failed, and of attempts at a failed job.
MOST_DEATHS, ATTEMPTS = 3, 2
#: Number of times that a place may fail to open the model, or may fail in all jobs of a task, before it is left out.
MOST_FAILURES = 2
#: Seconds between looks at the nodes of the cluster, until a cluster without a free node is reported, and until a
#: cluster without any node is an error; an autoscaler may need minutes to start one.
LOOK_EVERY, PATIENCE, LONGEST_START = 2.0, 20.0, 900.0


class Place(NamedTuple):
    """A place for a worker: a node, or one of its GPUs.

    Attributes:
        node: id of the node.
        cpus: cores that the worker takes.
        gpus: GPUs that the worker takes, 0 or 1.
        workers: number of workers on the node.
        name: name of the node in messages.
    """

    node: str
    cpus: int
    gpus: int
    workers: int = 1
    name: str = ""


@dataclass(frozen=True)
class Task:
    """Some jobs for one worker.

    Args:
        numbers: positions of the jobs in the whole list.
        deaths: number of workers that died during these jobs.
        attempt: number of the attempt, from 1.
        failed_at: place at which the jobs failed, which another place should try; "" for none.
    """

    numbers: tuple[int, ...]
    deaths: int = 0
    attempt: int = 1
    failed_at: str = ""


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

    @property
    def finished(self) -> bool:
        """Whether every job has a record."""
        return len(self.records) == len(self.jobs)

    def next_for(self, place: str, alone: bool) -> Task | None:
        """Takes the next task for a place; None if there is none that it should do.

        Args:
            place: name of the place.
            alone: whether there is no other place, which could do the jobs that failed at this one.
        """
        for task in self.tasks:
            if alone or task.failed_at != place:
                self.tasks.remove(task)
                return task
        return None

    def finish(self, task: Task, found: Sequence[Record], place: str = "") -> None:
        """Keeps the records of a task; failed jobs are done once more, because a store may have failed for a moment."""
        records = dict(zip(task.numbers, found, strict=True))
        last = task.attempt == ATTEMPTS
        self._keep({number: record for number, record in records.items() if last or record.error is None})
        if again := tuple(number for number in records if number not in self.records):
            self.tasks.append(replace(task, numbers=again, attempt=task.attempt + 1, failed_at=place))

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
        own = {number: _with_own_names(record, self.jobs[number]) for number, record in records.items()}
        self.records |= own
        self.done([(self.jobs[number], record) for number, record in own.items()])


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
        """Does jobs, and returns their records, and the notes and warnings since the last call."""
        assert self._worker is not None, "open() comes first"
        futures: list[Future[Record]] = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            do_in_stages(self._worker, jobs, futures)
        notes, self._notes[:] = [*self._notes, *(str(one.message) for one in caught)], []
        return [future.result() for future in futures], notes

    def close(self) -> None:
        """Removes the copy of the model, because Ray ends processes without cleaning up."""
        self._folder.cleanup()


def predict_on_ray(
    address: str,
    spec: ModelSpec,
    jobs: Sequence[Job],
    done: Callable[[Sequence[tuple[Job, Record]]], object] = lambda finished: None,
    parts: VolumeParts | None = None,
) -> list[Record]:
    """Does jobs on a Ray cluster.

    Args:
        address: "ray" for the cluster that RAY_ADDRESS names, else the one of this machine, which is started if there
            is none; or the address ray://HOST:PORT of a head node.
        spec: specification of the model.
        jobs: jobs from `plan`; their places must be reachable from every node. Relative paths are those of this
            process.
        done: function that is called with jobs and their records when they are finished.
        parts: as in `Worker`.

    Returns:
        The records, in the order of the jobs.

    Raises:
        AtrousError: Ray is not installed, the cluster cannot be reached or has no node with a core, or no node can open
            the model.
    """
    progress = Progress(jobs, done)
    pool = Pool(connected(address), spec, parts)
    try:
        while not progress.finished:
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
    """

    def __init__(self, ray: Any, spec: ModelSpec, parts: VolumeParts | None) -> None:
        self._ray, self._spec, self._parts = ray, spec, parts
        self._files = ray.put({path.name: path.read_bytes() for _, path in model_inputs(spec.path)})
        self._places: dict[str, Place] = {}
        self._workers: dict[str, Any] = {}
        self._ready: set[str] = set()
        self._failures: Counter[str] = Counter()
        self._cause = ""
        self._running: dict[Any, tuple[str, Task | None]] = {}  # by reference of the call; None while a model is opened
        self._looked, self._idle_since = -LOOK_EVERY, time.monotonic()
        self._note, self._requested = each_once(note), 0

    def grow(self, tasks: int) -> None:
        """Starts a worker at each new place, and asks a cluster that grows by itself for a core for each waiting task.

        Args:
            tasks: number of tasks that wait for a worker.

        Raises:
            AtrousError: there is no place for a worker.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        self._request(tasks)
        self._places = places_of(self._ray.nodes())
        usable = [name for name in self._places if self._failures[name] < MOST_FAILURES]
        if self._ready or any(task is not None for _, task in self._running.values()):
            self._idle_since = now
        late = now - self._idle_since > PATIENCE
        if self._places and not usable:
            raise AtrousError(f"no node of the cluster can do the jobs. The last reason: {self._cause}")
        if not self._places and now - self._idle_since > LONGEST_START:
            raise AtrousError(
                f"the cluster had no node with a core for {LONGEST_START / 60:g} minutes: see `ray status`."
            )
        if late and not self._places:
            self._note(f"the cluster has no node with a core yet; waiting {LONGEST_START / 60:g} minutes for one")
        elif late:
            self._note("no worker has started yet: all cores of the cluster may be in use, see `ray status`")
        for name in usable:
            if name not in self._workers:
                self._workers[name] = worker = self._start(self._places[name])
                self._running[worker.open.remote()] = (name, None)

    def _request(self, cores: int) -> None:
        """Asks Ray's autoscaler, if the cluster has one, to have at least a number of cores; 0 ends the request."""
        if cores == self._requested:
            return
        self._requested = cores
        with suppress(Exception):  # the nodes that are there do the jobs
            self._ray.remote(_request_cores).options(num_cpus=0, max_retries=0).remote(cores)

    def _start(self, place: Place) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        memory = self._spec.memory
        spec = self._spec if memory is None else replace(self._spec, memory=memory / place.workers)
        here = NodeAffinitySchedulingStrategy(node_id=place.node, soft=False)
        options = {"num_cpus": place.cpus, "num_gpus": place.gpus, "scheduling_strategy": here, "max_restarts": 0}
        return self._ray.remote(RayWorker).options(**options).remote(spec, self._files, self._parts)

    def assign(self, progress: Progress) -> None:
        """Sends a task to each idle worker that has opened its model."""
        busy = {name for name, _ in self._running.values()}
        for name in sorted(self._ready - busy):
            task = progress.next_for(name, alone=len(self._ready) == 1)
            if task is not None:
                jobs = [_absolute(progress.jobs[number]) for number in task.numbers]
                self._running[self._workers[name].do.remote(jobs)] = (name, task)

    def collect(self, progress: Progress) -> None:
        """Waits for a call to end, and keeps its records; the tasks of a worker that died are planned again."""
        if not self._running:
            time.sleep(LOOK_EVERY / 4)
            return
        ready, _ = self._ray.wait(list(self._running), timeout=LOOK_EVERY)
        for reference in ready:
            name, task = self._running.pop(reference)
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:  # the worker or its node is lost, or its code failed
                self._lose(name)
                if task is None:
                    self._fail(name, str(error).strip().splitlines()[-1])
                else:
                    progress.repeat(task)
                continue
            if task is not None:
                self._finish(progress, task, name, *answer)
            elif answer:
                self._lose(name)
                self._failures[name] = MOST_FAILURES - 1  # the model does not become openable
                self._fail(name, answer)
            else:
                self._ready.add(name)

    def _finish(self, progress: Progress, task: Task, name: str, records: list[Record], notes: list[str]) -> None:
        for sentence in notes:
            self._note(sentence)
        failed = [record for record in records if record.error is not None]
        if len(failed) == len(records) > 1 and len(self._ready) > 1:
            self._fail(name, str(failed[0].error))
            if self._failures[name] >= MOST_FAILURES:
                self._lose(name)
        progress.finish(task, records, name)

    def _lose(self, name: str) -> None:
        worker = self._workers.pop(name, None)
        self._ready.discard(name)
        if worker is not None:
            with suppress(Exception):  # it is dead already, or its node is
                self._ray.kill(worker)

    def _fail(self, name: str, cause: str) -> None:
        self._failures[name] += 1
        self._cause = cause
        if self._failures[name] >= MOST_FAILURES:
            place = self._places.get(name)
            self._note(f"the node {place.name if place else name} is left out: {cause}")

    def close(self) -> None:
        """Ends the workers; those without a task first remove their copy of the model."""
        self._request(0)
        busy = {name for name, _ in self._running.values()}
        with suppress(Exception):  # an error here would hide the one that ended the work
            closing = [self._workers[name].close.remote() for name in self._ready - busy]
            self._ray.wait(closing, num_returns=len(closing), timeout=5.0) if closing else None
        for name in list(self._workers):
            self._lose(name)


def _request_cores(cores: int) -> None:
    """Asks the autoscaler; it runs in the cluster, because a process outside the cluster cannot ask."""
    from ray.autoscaler.sdk import request_resources

    request_resources(num_cpus=cores)


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
        workers, name = min(gpus, cpus) or 1, str(node.get("NodeManagerAddress", node["NodeID"]))
        for index in range(workers):
            place = Place(node["NodeID"], cpus // workers, 1 if gpus else 0, workers, name)
            found[f"{node['NodeID']}/{index}"] = place
    return found


def _absolute(job: Job) -> Job:
    """Returns a job with absolute paths, because a worker has another working directory."""
    more = tuple(_absolute_place(place) for place in job.more)
    return replace(job, picture=_absolute_place(job.picture), target=_absolute_place(job.target), more=more)


def _absolute_place(place: FilePlace) -> FilePlace:
    return place.absolute() if isinstance(place, Path) else place


def _with_own_names(record: Record, job: Job) -> Record:
    """Returns the record of a worker with the names that the job has on this machine."""
    return replace(record, image=job.name, mask=None if record.mask is None else shown_place(job.target))
