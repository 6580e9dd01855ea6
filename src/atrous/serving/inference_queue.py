"""The queue of pictures and volumes to segment, and the single thread that runs the networks.

A picture leaves the queue when its client disconnects.
"""

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

from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError
from atrous.inference.memory_estimate import limit_bytes, predict_bytes, surely_fits
from atrous.inference.segment_volume import segment_volume
from atrous.inference.segmenter import Segmenter
from atrous.memory_errors import is_out_of_memory
from atrous.serving.drop_tracebacks import drop_tracebacks

#: Largest batch of pictures, for networks that are faster with batches (`Segmenter.stacks`).
MOST_TOGETHER = 16
#: Replaces the picture of a finished job, to free its memory.
RELEASED = np.empty((0, 0, 0), np.uint8)


class Abandoned(Exception):
    """The client of this job has disconnected."""


@dataclass(eq=False)
class Job:
    """A picture or a volume in the queue.

    Args:
        segmenter: segmenter that runs on the picture.
        image: H×W×C picture, as the segmenter's `preparation` returns it; it is released when the job is finished.
            Empty if there is a volume.
        valid: H×W booleans, False for pixels without data; None if all pixels have data.
        volume: volume to segment in place of a picture; it is released when the job is finished.

    Attributes:
        mask: future of the H×W uint8 class indices; X×Y×Z for a volume.
        abandoned: event to set when the client has disconnected; the work stops after the current tile, or after the
            current slice of a volume.
        began: start of the computation, in seconds of the clock `perf_counter`.
        seconds: time of the computation of the whole batch, in seconds.
    """

    segmenter: Segmenter
    image: np.ndarray = field(default_factory=lambda: RELEASED)
    valid: np.ndarray | None = None
    volume: Volume | None = None
    mask: Future[np.ndarray] = field(default_factory=Future)
    abandoned: threading.Event = field(default_factory=threading.Event)
    began: float = 0.0
    seconds: float = 0.0


class InferenceQueue:
    """Runs jobs one after another; waiting jobs that fit into one batch run together.

    There is one thread for all models, because one picture already keeps all cores, or the GPU, busy.

    Args:
        ran: called after each batch with its number of pictures and its time in seconds.
    """

    def __init__(
        self,
        ran: Callable[[int, float], object] = lambda count, seconds: None,
    ) -> None:
        self._ran = ran
        self._jobs: deque[Job] = deque()
        # Largest number of pixels in a batch, for each segmenter that has run out of memory.
        self._stackable_pixels: WeakKeyDictionary[Segmenter, int] = WeakKeyDictionary()
        self._changed, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="network", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the queue accepts jobs."""
        return self._thread.is_alive() and not self._closing

    def submit(self, job: Job) -> Future[np.ndarray]:
        """Appends a job to the queue.

        Returns:
            The future of its mask.
        """
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()
        return job.mask

    async def segment(self, job: Job) -> np.ndarray:
        """Runs a job and returns its mask.

        If the caller is cancelled, the job is abandoned. The cancellation takes effect when the work of the job has
        stopped.
        """
        try:
            return await asyncio.wrap_future(self.submit(job))
        except asyncio.CancelledError:
            job.abandoned.set()
            with self._changed:
                if job in self._jobs:  # frees the memory of the job's picture now
                    self._jobs.remove(job)
            with suppress(Exception):
                await asyncio.wrap_future(job.mask)
            raise

    def close(self) -> None:
        """Stops the thread after the last job in the queue."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Runs the next batch and releases its pictures. Returns False when the queue is closed.

        The local variables of this method are freed at its end, so the thread keeps no mask while it waits.
        """
        jobs = self._next()
        if not jobs:
            return False
        jobs = [job for job in jobs if not job.abandoned.is_set() and job.mask.set_running_or_notify_cancel()]
        if not jobs:
            return True
        began = perf_counter()
        for job in jobs:
            job.began = began
        results = self._run(jobs)
        seconds = perf_counter() - began
        for job, result in zip(jobs, results, strict=True):
            job.seconds = seconds
            job.image, job.valid, job.volume = RELEASED, None, None
            job.mask.set_result(result) if isinstance(result, np.ndarray) else job.mask.set_exception(result)
        self._ran(len(jobs), seconds)
        return True

    def _next(self) -> list[Job]:
        """Waits for a job; returns it and the later jobs that fit into its batch, or [] when the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closing)
            if not self._jobs:
                return []
            first = self._jobs.popleft()
            most = self._most_together(first)
            if most < 2:
                return [first]
            alike = [
                job
                for job in self._jobs
                if job.segmenter is first.segmenter and job.image.shape == first.image.shape and _may_be_stacked(job)
            ]
            jobs = [first, *alike[: most - 1]]
            self._jobs = deque(job for job in self._jobs if job not in jobs)
            return jobs

    def _most_together(self, job: Job) -> int:
        """Returns the largest number of pictures of this job's size in a batch.

        If a batch of this segmenter ran out of memory, later batches have at most half as many pixels.
        """
        if not _may_be_stacked(job):
            return 1
        height, width = job.image.shape[:2]
        limits = [MOST_TOGETHER]
        if job.segmenter in self._stackable_pixels:
            limits.append(self._stackable_pixels[job.segmenter] // (height * width))
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
            except Exception as error:  # running each picture alone shows which pictures fail
                if is_out_of_memory(error):
                    self._stackable_pixels[segmenter] = pixels // 2
        return [self._run_one(job) for job in jobs]

    def _run_one(self, job: Job) -> np.ndarray | BaseException:
        def check(done: int, total: int) -> None:
            if job.abandoned.is_set():
                raise Abandoned

        try:
            if job.volume is not None:
                return segment_volume(job.segmenter, job.volume, check)
            return job.segmenter.any_size(job.image, job.valid, progress=check)
        except Exception as error:  # any error belongs to this job; the next job still runs
            if isinstance(error, (Abandoned, AtrousError)) or is_out_of_memory(error):
                drop_tracebacks(error)
            return error


def _may_be_stacked(job: Job) -> bool:
    if job.volume is not None:
        return False
    height, width = job.image.shape[:2]
    whole = job.segmenter.any_size.tile is None and surely_fits(job.segmenter.whole, height, width)
    return whole and job.valid is None and job.segmenter.stacks
