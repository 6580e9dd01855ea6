"""Does jobs in three stages at once: while the network runs, the next picture is read and earlier masks are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

from atrous.data.prefetch import in_background
from atrous.inference.predict_jobs import Job, Worker
from atrous.inference.predict_records import Record
from atrous.inference.whole_or_tiled import Progress

#: Largest number of masks that wait to be written; if more would wait, the network waits for the disk.
WRITES_WAITING = 8


def do_in_stages(
    worker: Worker,
    jobs: Sequence[Job],
    records: list[Future[Record]],
    segmenting: Callable[[Job], AbstractContextManager[Progress]] = lambda job: nullcontext(),
) -> None:
    """Does jobs; after an error or Ctrl-C, the masks of the jobs before are written.

    Args:
        worker: worker that does the jobs.
        jobs: the jobs.
        records: list to which the future record of each job is added, in the order of the jobs.
        segmenting: context in which the network runs on a job's picture; it provides the function that is called after
            each tile.
    """
    with ThreadPoolExecutor(1) as writer:
        for job, read in zip(jobs, in_background(worker.read, jobs, worker.stop), strict=True):
            with segmenting(job) as progress:
                segmented = worker.segment(job, read, progress)
            records.append(writer.submit(worker.write, job, segmented))
            if len(records) > WRITES_WAITING:  # masks that wait for a slow disk must not fill the memory
                records[-1 - WRITES_WAITING].result()
