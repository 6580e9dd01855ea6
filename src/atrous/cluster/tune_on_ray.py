"""Searches on a Ray cluster: several processes share the trials of one study, as if the command ran several times.

If a node is lost, Ray starts its process again on another one, which continues the unfinished trial from its
checkpoint. The study's folder must be on a disk that all nodes share.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from atrous.cluster.news import follow, in_folder, reporting, start_messages
from atrous.cluster.ray_cluster import connection, last_line
from atrous.cluster.train_on_ray import Processes
from atrous.errors import AtrousError
from atrous.file_lock import lock_file
from atrous.learning.stop_signals import Interrupted

#: Number of times that the process of a search may be lost, for example because a node is lost, before an error.
MOST_LOSSES = 10
#: File in the study's folder with which locks are checked.
LOCK = "cluster.lock"


def tune_on_ray(address: str, work: Callable[[], object], out: Path, processes: Processes) -> None:
    """Runs a search in several processes of a Ray cluster, until no trial is left.

    Args:
        address: as in `ray_cluster.connection`.
        work: function that runs trials of the study until none is left; every process calls it, in the working
            directory of this process.
        out: folder of the study, which this machine and all nodes reach under the same path.
        processes: number and resources of the processes.

    Raises:
        AtrousError: Ray is not installed, the cluster cannot be reached, the disk does not support locks, or the search
            fails.
        Interrupted: Ctrl-C or SIGTERM stopped the search after the states of the trials were saved.
        KeyboardInterrupt: the same before any process had started, or a second Ctrl-C.
    """
    with connection(address) as ray:
        _check_locks(ray, out.absolute())
        messages, resources = start_messages(ray), processes.resources(ray.nodes())
        options = {"num_cpus": resources["CPU"], "num_gpus": resources.get("GPU", 0), "scheduling_strategy": "SPREAD"}
        # Ray repeats a task whose process is lost, but not one that raises an error.
        search = ray.remote(max_calls=1)(_search).options(**options, max_retries=MOST_LOSSES)
        running = [search.remote(messages, work, Path.cwd()) for _ in range(processes.most)]
        failures: list[Exception] = []

        def ended(seconds: float) -> bool:
            ready, running[:] = ray.wait(running, timeout=seconds)
            for reference in ready:
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:  # the other processes stop, and the first reason is reported
                    failures.append(error)
                    ray.get(messages.stop.remote())
            return not running

        news = follow(ray, messages, ended)
        if news.error:
            raise AtrousError(news.error)
        if failures:
            raise AtrousError(f"the search failed on the cluster: {last_line(failures[0])}") from failures[0]
        if news.stopped:
            raise Interrupted


def _check_locks(ray: Any, out: Path) -> None:
    """Checks that a lock of this process is seen by another process of the cluster.

    Raises:
        AtrousError: it is not, so that several processes would train the same trial.
    """
    with lock_file(out / LOCK):
        if ray.get(ray.remote(_can_lock).options(num_cpus=0, scheduling_strategy="SPREAD").remote(out / LOCK)):
            raise AtrousError(
                f"processes of the cluster do not see locks of other machines in {out}: choose a folder of --out on a "
                "shared disk that supports locks."
            )


def _can_lock(path: Path) -> bool:
    with lock_file(path) as locked:
        return locked


def _search(messages: Any, work: Callable[[], object], folder: Path) -> None:
    """Runs trials in one process of the cluster."""
    import ray

    try:
        in_folder(ray, folder)
        with reporting(ray, messages):
            work()
    except Interrupted:
        ray.get(messages.end_stopped.remote())
    except AtrousError as error:
        ray.get(messages.fail.remote(str(error)))
        # Ray writes errors to its logs, and the message may contain names of pictures
        raise RuntimeError("the command printed the reason") from None
