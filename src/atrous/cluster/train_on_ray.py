"""Trains in several processes on a Ray cluster; a lost process or node costs the steps since the last checkpoint.

Ray Train starts the processes and connects them, and each of them runs the same function as under torchrun. If a
process is lost, all are started again, and the run continues from its checkpoint, perhaps with another number of
processes. The run's folder must be on a disk that all nodes share.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from atrous.cluster.news import News, follow, in_folder, reporting, start_messages
from atrous.cluster.ray_cluster import connection, last_line
from atrous.console import console, note, progress_bar
from atrous.errors import AtrousError, counted, missing_extra
from atrous.learning.distributed import PATIENCE, current_group
from atrous.learning.stop_signals import Interrupted

#: Number of successive starts without a new training step after which the training is given up.
MOST_STARTS = 3
#: Seconds between two looks of Ray Train at new nodes, which may join a training with a variable number of processes.
RESIZE_EVERY = 60.0


@dataclass(frozen=True)
class Processes:
    """The processes of a training on a cluster.

    Args:
        least: smallest number of processes with which to train, ≥ 1.
        most: largest number of processes, ≥ `least`.
        device: the recipe's train.device; with auto, each process gets a GPU if the cluster has GPUs.
        data_workers: number of data workers of each process.
    """

    least: int
    most: int
    device: str
    data_workers: int

    def resources(self, nodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Returns the cores and GPUs that each process reserves.

        With a GPU, a process gets a core for itself and for each data worker. Without GPUs, the processes divide the
        cores of the cluster.

        Args:
            nodes: result of `ray.nodes()`.
        """
        alive = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        with_gpus = [node for node in alive if node.get("GPU", 0) >= 1]
        if self.device.startswith("cuda") or (self.device == "auto" and with_gpus):
            cores = [1 + self.data_workers, *(int(node["CPU"] // node["GPU"]) for node in with_gpus)]
            return {"GPU": 1, "CPU": max(1, min(cores))}
        cores = max((int(node["CPU"]) for node in alive), default=1)
        while cores > 1 and sum(int(node["CPU"]) // cores for node in alive) < self.most:
            cores -= 1
        return {"CPU": cores}


def train_on_ray(address: str, work: Callable[[], object], run: Path, processes: Processes, epochs: int) -> None:
    """Runs a training function in several processes of a Ray cluster, until it has ended in all of them.

    Args:
        address: as in `ray_cluster.connection`.
        work: function that trains in the folder `run`, or continues if the folder contains a checkpoint. Every process
            calls it, in the working directory of this process.
        run: folder of the run, which this machine and all nodes reach under the same path; it must exist.
        processes: numbers and resources of the processes.
        epochs: number of epochs of the training, for the progress bar.

    Raises:
        AtrousError: Ray is not installed, the cluster cannot be reached, the training fails, or it was started several
            times without a new step.
        Interrupted: Ctrl-C or SIGTERM stopped the training after its state was saved.
        KeyboardInterrupt: the same before any process had started, or a second Ctrl-C.
    """
    with connection(address) as ray, TemporaryDirectory(prefix=".ray-train-", dir=run.absolute()) as scratch:
        try:
            import ray.train as ray_train
        except ImportError as error:
            raise missing_extra("ray.train", "cluster") from error
        messages = start_messages(ray)
        settings = {"work": work, "messages": messages, "folder": Path.cwd(), "run": run.absolute()}
        # decided once, because another number of threads would change the weights
        resources = processes.resources(ray.nodes())
        if "GPU" not in resources and processes.device == "auto":
            note("the cluster has no GPU now, so the training uses CPUs; --train.device cuda waits for GPUs")
        starts, step = 0, -1
        while True:
            failure, news = _wait_for(ray, _trainer(settings, processes, resources, scratch), messages, epochs)
            if news.error:
                raise AtrousError(news.error)
            if failure is None and news.stopped:
                again = f"atrous train --resume {shlex.quote(str(run))} --on {address} --processes {processes.most}"
                least = "" if processes.least == processes.most else f" --min-processes {processes.least}"
                raise Interrupted(f"The run is saved; continue it with: {again}{least}")
            if failure is None:
                return
            # Ray Train's own controller may have been on the lost node
            if not isinstance(failure, ray_train.TrainingFailedError | ray.exceptions.RayError):
                raise AtrousError(f"Ray Train failed: {last_line(failure)}") from failure
            reached = int((news.line or {}).get("step", -1))
            starts, step = (1 if reached > step else starts + 1), max(reached, step)
            reason = _reason(failure)
            if starts >= MOST_STARTS:
                raise AtrousError(
                    f"the training was started {starts} times without a new step; the last reason: {reason}"
                ) from failure
            note(f"a process failed or was lost; the training continues from its last checkpoint. Reason: {reason}")


def _trainer(settings: dict[str, Any], processes: Processes, resources: dict[str, float], scratch: str) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    least, most, on_gpus = processes.least, processes.most, "GPU" in resources
    # GPUs exchange gradients, and CPUs counts and Python objects
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    return TorchTrainer(
        _train_in_process,
        train_loop_config=settings,
        torch_config=TorchConfig(backend=backend, timeout_s=int(PATIENCE.total_seconds())),
        scaling_config=ScalingConfig(
            num_workers=most if least == most else (least, most),
            use_gpu=on_gpus,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=RESIZE_EVERY,
        ),
        # Ray Train stores nothing that is needed: everything is in the run's own checkpoint. After a failure, it must
        # not start the processes again by itself, because errors of the data would then be repeated.
        run_config=RunConfig(storage_path=scratch, failure_config=FailureConfig(max_failures=0)),
    )


def _wait_for(ray: Any, trainer: Any, messages: Any, epochs: int) -> tuple[Exception | None, News]:
    """Trains, and shows the news of process 0; returns the error that ended the training, and the last news."""
    failures: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # the caller decides what follows
            failures.append(error)

    def ended(seconds: float) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    # In the main thread, Ctrl-C would make Ray Train end the processes without a checkpoint.
    thread = threading.Thread(target=fit, daemon=True, name="ray-train")
    thread.start()
    with progress_bar() as bar:
        task = bar.add_task("epochs", total=epochs, note="")

        def show(line: dict[str, Any]) -> None:
            words = f"step {line['step']}  loss {line['loss']:.3f}  {line['images_per_second']:.1f} images/s"
            bar.update(task, completed=line["epoch"] - 1, note=words)

        news = follow(ray, messages, ended, show)
    return (failures[0] if failures else None), news


def _train_in_process(settings: dict[str, Any]) -> None:
    """Trains in one process of the cluster; Ray Train calls this function."""
    import ray

    messages, processes = settings["messages"], current_group()
    try:
        in_folder(ray, settings["folder"])
        nodes = len(set(processes.gather(ray.get_runtime_context().get_node_id())))
        with reporting(ray, messages, settings["run"]) if processes.first else _silent():
            console.print(f"{counted(processes.world, 'process')} on {counted(nodes, 'node')}")
            settings["work"]()
    except Interrupted:
        ray.get(messages.end_stopped.remote())
    except AtrousError as error:
        ray.get(messages.fail.remote(str(error)))
        # Ray writes errors to its logs, and the message may contain names of pictures
        raise RuntimeError("the command printed the reason") from None


@contextmanager
def _silent() -> Iterator[None]:
    """Prints nothing in the processes after the first, as under torchrun."""
    console.quiet = True
    yield


def _reason(failure: BaseException) -> str:
    """Returns the reason of a failed training, if possible not that of a process that only lost its connection."""
    of_processes = [last_line(error) for error in getattr(failure, "worker_failures", {}).values()]
    own = [line for line in of_processes if not any(word in line.lower() for word in ("gloo", "nccl", "peer"))]
    return (own or of_processes or [last_line(failure)])[0]
