"""One training or measurement over many processes, started by torchrun: who I am, and what all of us found."""

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
#: How long processes wait for each other before they give up: as long as the first may take to examine the data.
PATIENCE = timedelta(hours=6)
#: What torchrun says to each process.
BY_TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that work together, seen from one of them; by default it is alone.

    Args:
        rank: its number, 0 … world − 1; the first writes the files and talks to the user.
        world: how many there are, ≥ 1.
        local_rank: its number on its machine, which is also that of its GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files."""
        return self.rank == 0

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """The items of this process: each item is in exactly one part."""
        return items[self.rank :: self.world]

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of the ranks; all must call it."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        """What the first process's `work` returns, in every process; the others wait.

        Raises:
            AtrousError: what `work` raised, in every process.
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
        """The sum of every process's whole numbers, exact."""
        if self.world == 1:
            return counts
        total = torch.from_numpy(counts.copy())
        dist.all_reduce(total)
        return total.numpy()

    def mean_of(self, value: Tensor) -> Tensor:
        """The mean of every process's tensor, on its device and without a gradient."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.world

    def mean(self, value: float) -> float:
        """The mean of every process's value."""
        return float(np.mean(self.gather(value)))

    def agree(self, *asked: bool) -> tuple[bool, ...]:
        """Which of the questions some process answers with yes; the same in all of them."""
        if self.world == 1:
            return asked
        votes = torch.tensor(asked, dtype=torch.uint8)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return tuple(bool(vote) for vote in votes)

    def wrap(self, step: nn.Module) -> nn.Module:
        """The module with gradients that are the mean over all processes; itself where there is one.

        Raises:
            AtrousError: more processes on this machine than GPUs.
        """
        if self.world == 1:
            return step
        on_gpu, gpus = next(step.parameters()).is_cuda, torch.cuda.device_count()
        if on_gpu and self.local_rank >= gpus:
            raise AtrousError(f"more processes on this machine than its {gpus} GPUs: start at most {gpus} of them.")
        # Without the search for unused parameters DDP would regroup its sums after the first step of every start, and
        # with three processes or more a resumed run would round otherwise than one that was never stopped.
        warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
        # Said of depthwise weights alone, of nine numbers a channel.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        return nn.parallel.DistributedDataParallel(
            step, device_ids=[self.local_rank] if on_gpu else None, find_unused_parameters=True
        )

    def share_norms(self, model: nn.Module) -> None:
        """Batch norms over the pictures of all processes; on CPUs, where torch has none, each takes its own."""
        if self.world == 1:
            return
        if not next(model.parameters()).is_cuda:
            console.print("batch norms over each process's own pictures")
            return
        from timm.layers import convert_sync_batchnorm  # knows timm's norms with an activation; torch's does not

        convert_sync_batchnorm(model)
        console.print("batch norms over the pictures of all processes")

    def share_statistics(self, model: nn.Module) -> None:
        """Gives every process the first one's running statistics, without which they would judge different models."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


def current_group() -> ProcessGroup:
    """The group that `process_group` has joined; one process alone outside of it."""
    if not (dist.is_available() and dist.is_initialized()):
        return ProcessGroup()
    return ProcessGroup(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """Joins the processes that torchrun started, for as long as the context lasts; alone, it does nothing.

    All but the first fall silent on standard output.

    Raises:
        AtrousError: they do not find each other.
    """
    started = all(name in os.environ for name in BY_TORCHRUN)  # schedulers set some of them for programs of their own
    asked = int(os.environ["WORLD_SIZE"]) if started else 1
    if asked == 1 or dist.is_initialized():
        yield current_group()
        return
    local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local < gpus:
        torch.cuda.set_device(local)
    try:
        on_gpus = gpus and dist.is_nccl_available()  # NCCL is Linux's alone
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise AtrousError(f"the {asked} processes did not find each other: {error}") from error
    processes = current_group()
    try:
        if processes.world != asked:
            raise AtrousError(f"{asked} processes were asked for, and {processes.world} came.")
        silent, console.quiet = console.quiet, not processes.first
        console.print(f"{counted(processes.world, 'process')}, {counted(torch.get_num_threads(), 'thread')} each")
        yield processes
        console.quiet = silent
    finally:
        dist.destroy_process_group()
