"""Training and evaluation in several processes that torchrun started."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from atrous.console import console
from atrous.errors import AtrousError, counted

T = TypeVar("T")
#: Longest time that processes wait for each other; process 0 may need hours to examine the data.
PATIENCE = timedelta(hours=6)
#: Environment variables that torchrun sets for each process.
BY_TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that work together, and the rank of this process among them; by default, a single process.

    Args:
        rank: index of this process, 0 … world − 1; process 0 writes the files and prints.
        world: number of processes, ≥ 1.
        local_rank: index of this process on its machine, which is also the index of its GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is process 0, which writes the files."""
        return self.rank == 0

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """Returns this process's part of the items; each item is in the part of exactly one process."""
        return items[self.rank :: self.world]

    def gather(self, value: T) -> list[T]:
        """Returns the values of all processes, in the order of their ranks; every process must call this method."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        """Runs `work` in process 0, and returns its result in every process; the others wait.

        Raises:
            AtrousError: `work` raised it; every process raises it again.
        """
        if self.world == 1:
            return work()
        box: list[Any] = [None, None]
        if self.first:
            try:
                box[0] = work()
            except AtrousError as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def sum(self, counts: np.ndarray) -> np.ndarray:
        """Returns the exact sum of the integer arrays of all processes."""
        if self.world == 1:
            return counts
        total = torch.from_numpy(counts.copy())
        dist.all_reduce(total)
        return total.numpy()

    def mean_of(self, value: Tensor) -> Tensor:
        """Returns the mean of the tensors of all processes, on their device and without a gradient."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.world

    def mean(self, value: float) -> float:
        """Returns the mean of the values of all processes."""
        return float(np.mean(self.gather(value)))

    def agree(self, *asked: bool) -> tuple[bool, ...]:
        """Returns, for each argument, whether it is True in any process; the result is the same in all processes."""
        if self.world == 1:
            return asked
        votes = torch.tensor(asked, dtype=torch.uint8)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return tuple(bool(vote) for vote in votes)

    def wrap(self, step: nn.Module) -> nn.Module:
        """Wraps a module so that its gradients are the mean over all processes; one process gets the module unchanged.

        Raises:
            AtrousError: the module is on a GPU, and there are more processes on this machine than GPUs.
        """
        if self.world == 1:
            return step
        on_gpu, gpus = next(step.parameters()).is_cuda, torch.cuda.device_count()
        if on_gpu and self.local_rank >= gpus:
            raise AtrousError(f"this machine has {gpus} GPUs and more processes: start at most {gpus} processes on it.")
        # Without the search for unused parameters, DDP regroups its sums after the first step, also in a resumed run.
        # With three or more processes, a resumed run would then round differently from a run that was never stopped.
        warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
        # torch gives this warning only for depthwise weights, which have few numbers per channel.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        return nn.parallel.DistributedDataParallel(
            step, device_ids=[self.local_rank] if on_gpu else None, find_unused_parameters=True
        )

    def share_norms(self, model: nn.Module) -> None:
        """Makes batch norms use the pictures of all processes; nothing changes on CPUs, where torch cannot do this."""
        if self.world == 1:
            return
        if not next(model.parameters()).is_cuda:
            console.print("batch norms use only the pictures of their own process")
            return
        from timm.layers import convert_sync_batchnorm  # torch's function does not handle timm's norms with activation

        convert_sync_batchnorm(model)
        console.print("batch norms use the pictures of all processes")

    def share_statistics(self, model: nn.Module) -> None:
        """Copies the running statistics of process 0 to all processes, so that all of them measure the same model."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


def current_group() -> ProcessGroup:
    """Returns the group that `process_group` has joined; outside of its context, a group of only this process."""
    if not (dist.is_available() and dist.is_initialized()):
        return ProcessGroup()
    return ProcessGroup(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """Joins the processes that torchrun started, until the context ends; without torchrun, it does nothing.

    Only process 0 prints on standard output.

    Raises:
        AtrousError: the processes cannot connect to each other.
    """
    # all variables are needed, because schedulers set some of them for other purposes
    started = all(name in os.environ for name in BY_TORCHRUN)
    asked = int(os.environ["WORLD_SIZE"]) if started else 1
    if asked == 1 or dist.is_initialized():
        yield current_group()
        return
    local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local < gpus:
        torch.cuda.set_device(local)
    try:
        on_gpus = gpus and dist.is_nccl_available()  # NCCL exists only on Linux
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise AtrousError(f"the {asked} processes cannot connect to each other: {error}") from error
    processes = current_group()
    try:
        if processes.world != asked:
            raise AtrousError(f"torchrun requested {asked} processes, but {processes.world} joined.")
        silent, console.quiet = console.quiet, not processes.first
        console.print(f"{counted(processes.world, 'process')}, {counted(torch.get_num_threads(), 'thread')} each")
        yield processes
        console.quiet = silent
    finally:
        dist.destroy_process_group()
