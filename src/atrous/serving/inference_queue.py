"""The one thread that runs networks: pictures wait for it in line, and leave the line where nobody waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from weakref import WeakKeyDictionary

import numpy as np

from atrous.inference.memory_estimate import limit_bytes, predict_bytes, surely_fits
from atrous.inference.segmenter import Segmenter
from atrous.memory_errors import is_out_of_memory

#: Pictures that are stacked at most where a network is faster so (`Segmenter.stacks`).
MOST_TOGETHER = 16


class Abandoned(Exception):
    """Nobody waits for this mask any more."""


@dataclass(eq=False)
class Job:
    """A picture in line.

    Args:
        segmenter: that is to look at it.
        image: H×W×C as its `preparation` makes it.
        valid: H×W booleans, False where there is no data; None for data everywhere.

    Attributes:
        mask: H×W uint8 class indices, once it is done.
        abandoned: to be set where nobody waits any more; work ends between two tiles.
        began: when the network turned to it.
        seconds: that it took, with all that were stacked with it.
    """

    segmenter: Segmenter
    image: np.ndarray
    valid: np.ndarray | None = None
    mask: Future[np.ndarray] = field(default_factory=Future)
    abandoned: threading.Event = field(default_factory=threading.Event)
    began: float = 0.0
    seconds: float = 0.0


class InferenceQueue:
    """Runs jobs one after another, and those that may be stacked together.

    One thread for all models: a picture keeps every core, or the GPU, busy, and two at a time would only share them.

    Args:
        ran: told after each run how many pictures it held and the seconds it took.
    """

    def __init__(
        self,
        ran: Callable[[int, float], object] = lambda count, seconds: None,
    ) -> None:
        self._ran = ran
        self._line: deque[Job] = deque()
        self._ran_out: WeakKeyDictionary[Segmenter, int] = WeakKeyDictionary()  # pixels that may be stacked since
        self._changed, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="network", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it takes jobs."""
        return self._thread.is_alive() and not self._closing

    def submit(self, job: Job) -> Future[np.ndarray]:
        """Puts a job at the end of the line.

        Returns:
            Its mask, in the future.
        """
        with self._changed:
            self._line.append(job)
            self._changed.notify()
        return job.mask

    async def segment(self, job: Job) -> np.ndarray:
        """Its mask; where the one who waits is cancelled, the job is abandoned, and what runs of it ends first."""
        try:
            return await asyncio.wrap_future(self.submit(job))
        except asyncio.CancelledError:
            job.abandoned.set()
            with self._changed:
                if job in self._line:  # its picture is not to wait in memory for its turn
                    self._line.remove(job)
            with suppress(Exception):
                await asyncio.wrap_future(job.mask)
            raise

    def close(self) -> None:
        """Ends when the line is empty."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            jobs = [job for job in jobs if not job.abandoned.is_set() and job.mask.set_running_or_notify_cancel()]
            if not jobs:
                continue
            began = perf_counter()
            for job in jobs:
                job.began = began
            results = self._run(jobs)
            seconds = perf_counter() - began
            for job, result in zip(jobs, results, strict=True):
                job.seconds = seconds
                job.mask.set_result(result) if isinstance(result, np.ndarray) else job.mask.set_exception(result)
            self._ran(len(jobs), seconds)

    def _next(self) -> list[Job]:
        """The first in line, and those behind it that may be stacked with it; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._line or self._closing)
            if not self._line:
                return []
            first = self._line.popleft()
            most = self._most_together(first)
            if most < 2:
                return [first]
            alike = [
                job
                for job in self._line
                if job.segmenter is first.segmenter and job.image.shape == first.image.shape and _may_be_stacked(job)
            ]
            jobs = [first, *alike[: most - 1]]
            self._line = deque(job for job in self._line if job not in jobs)
            return jobs

    def _most_together(self, job: Job) -> int:
        """How many pictures like this one may be stacked: no more than fit, and fewer than ran out of memory before."""
        if not _may_be_stacked(job):
            return 1
        height, width = job.image.shape[:2]
        limits = [MOST_TOGETHER]
        if job.segmenter in self._ran_out:
            limits.append(self._ran_out[job.segmenter] // (height * width))
        if (memory := job.segmenter.any_size.memory) is not None:
            fixed = predict_bytes(job.segmenter.info, 0, 0)
            of_each = predict_bytes(job.segmenter.info, height, width) - fixed
            limits.append(int((limit_bytes(memory) - fixed) // of_each))
        return max(1, min(limits))

    def _run(self, jobs: list[Job]) -> Sequence[np.ndarray | BaseException]:
        if len(jobs) > 1:
            segmenter, pixels = jobs[0].segmenter, sum(job.image.shape[0] * job.image.shape[1] for job in jobs)
            try:
                return segmenter.segment_together([job.image for job in jobs])
            except Exception as error:  # one of them, or all together: each alone shows whose fault it is
                if is_out_of_memory(error):
                    self._ran_out[segmenter] = pixels // 2
        return [self._run_one(job) for job in jobs]

    def _run_one(self, job: Job) -> np.ndarray | BaseException:
        def check(done: int, total: int) -> None:
            if job.abandoned.is_set():
                raise Abandoned

        try:
            return job.segmenter.any_size(job.image, job.valid, progress=check)
        except Exception as error:  # whatever it is, the next picture is not to suffer from it
            return error


def _may_be_stacked(job: Job) -> bool:
    height, width = job.image.shape[:2]
    whole = job.segmenter.any_size.tile is None and surely_fits(job.segmenter.whole, height, width)
    return whole and job.valid is None and job.segmenter.stacks
