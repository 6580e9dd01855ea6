"""Batches of augmented samples, the same whatever the number of workers."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.markup import escape
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from atrous.console import error_console
from atrous.data.dataset import Dataset, Item
from atrous.data.pixels import fill_missing, to_channels
from atrous.data.transforms import Augment, ColorChannels, augment
from atrous.errors import AtrousError, counted
from atrous.learning.batch import LABELS, Batch

#: Batches that each worker prepares ahead.
PREFETCH = 4
#: Seconds between two looks at whether the workers are alive, while a batch is waited for.
POLL = 5.0
#: Where Linux keeps what workers hand over; other systems have no such folder, and no limit on it.
SHARED_MEMORY = Path("/dev/shm")


class EpochOrder(Sampler[list[tuple[int, int]]]):
    """Yields batches of (epoch, index), in an order that is a pure function of (seed, epoch).

    Args:
        size: number of samples.
        batch_size: ≥ 1; the last batch of an epoch may be shorter, but where a process would get a single
            picture, which batch norm learns nothing from, the rest joins the batch before it.
        seed: of the order.
        rank: of this process; each batch is dealt out to all of them, and this one gets its part.
        world: number of processes, ≥ 1.

    Raises:
        AtrousError: a process would get nothing.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if min(size, batch_size) < world:
            raise AtrousError(
                f"{world} processes share batches of {min(size, batch_size)} pictures: start fewer processes, or raise "
                "train.batch_size, which counts the pictures of all of them."
            )
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world = rank, world
        self.epoch = 0
        self.first = 0

    def start(self, epoch: int, first: int = 0) -> None:
        """Sets what the next iteration yields: an epoch, from one of its pictures on.

        Args:
            epoch: its number, ≥ 0.
            first: pictures of it that are done, 0 … size, by batches of any size.

        Raises:
            AtrousError: fewer pictures are left than there are processes.
        """
        if 0 < self.size - first < self.world:
            raise AtrousError(
                f"{counted(self.size - first, 'picture')} of epoch {epoch + 1} are left for {self.world} processes: go "
                f"on with {self.size - first} processes until the epoch is done."
            )
        self.epoch, self.first = epoch, first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        start = self.first
        for count in self.counts(start):
            part = order[start : start + count][self.rank :: self.world]
            start += count
            yield [(self.epoch, int(index)) for index in part]

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return len(self.counts())

    def counts(self, first: int = 0) -> list[int]:
        """How many pictures each batch has, of all processes: those of an epoch from one of its pictures on.

        Args:
            first: pictures of the epoch that are done, 0 … size.
        """
        left = self.size - first
        if not left:
            return []
        whole, rest = divmod(left, self.batch_size)
        batches = max(1, whole + (rest >= 2 * self.world))
        return [self.batch_size] * (batches - 1) + [left - (batches - 1) * self.batch_size]


class AugmentedSamples(TorchDataset):
    """Samples by (epoch, index), read and augmented.

    Args:
        dataset: where to read.
        items: the split's.
        config: of the augmentation.
        channels: C of the pictures the model takes.
        seed: of the augmentation.
        fill: raw value per channel outside the picture, and where it has no data.
        colors: the channels whose colour is varied; None for all.
    """

    def __init__(
        self,
        dataset: Dataset,
        items: Sequence[Item],
        config: Augment,
        *,
        channels: int,
        seed: int,
        fill: Sequence[float],
        colors: Sequence[ColorChannels] | None = None,
    ) -> None:
        self.dataset, self.items, self.config = dataset, items, config
        self.channels, self.seed, self.fill, self.colors = channels, seed, fill, colors
        #: The index that each worker is reading, −1 when none, where the loader can look it up after a worker's death.
        self.reading = torch.full((1,), -1)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, str]:
        epoch, index = key
        worker = get_worker_info()
        number = worker.id if worker is not None else 0
        self.reading[number] = index
        sample = self.dataset.read(self.items[index])
        image = fill_missing(to_channels(sample.image, self.channels), sample.valid, self.fill)
        image, label = augment(
            image,
            sample.label,
            self.config,
            seed=self.seed,
            epoch=epoch,
            index=index,
            fill=self.fill,
            colors=self.colors,
        )
        self.reading[number] = -1
        return to_tensor(image), torch.from_numpy(np.ascontiguousarray(label)), sample.name


class Loader:
    """Batches from workers; one that dies or hangs costs a worker and some seconds, not the training.

    What comes is the same with any number of workers, because a sample depends on (epoch, index) alone.

    Args:
        samples: what is read.
        order: which, when; its `start` sets what the next iteration yields.
        workers: processes, ≥ 0; 0 reads in this process.
        pin_memory: for training on a GPU.
        patience: seconds to wait for a batch before its worker counts as stuck.
    """

    def __init__(
        self,
        samples: AugmentedSamples,
        order: EpochOrder,
        workers: int,
        *,
        pin_memory: bool = False,
        patience: float = 600.0,
    ) -> None:
        self.samples, self.order, self.workers = samples, order, workers
        self.pin_memory, self.patience = pin_memory, patience
        self._loader: DataLoader | None = None

    def counts(self, first: int = 0) -> list[int]:
        """As `EpochOrder.counts`."""
        return self.order.counts(first)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of this process, of an epoch from one of its pictures on; see `EpochOrder.start`."""
        self.order.start(epoch, first)
        return iter(self)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the rest of an epoch.

        Raises:
            AtrousError: a file that cannot be read, or pictures of one batch that differ in size.
        """
        epoch, done = self.order.epoch, self.order.first
        if self._loader is None:
            self.workers = self._workers_that_fit()
        while done < self.order.size:
            self.order.start(epoch, done)
            counts = iter(self.order.counts(done))
            try:
                iterator = self._begin()
                while (found := self._next(iterator)) is not None:
                    done += next(counts)
                    yield found
            except AtrousError as error:  # a worker's comes with its traceback written into the message
                told = str(error).rpartition(f"{AtrousError.__module__}.AtrousError: ")[2].strip()
                raise AtrousError(told) from error
            except RuntimeError as error:
                if not (self.workers and _is_about_a_worker(error)):
                    raise
                self._go_on_with_fewer(str(error).split(". ")[0].rstrip("."))

    def _begin(self) -> Any:
        if self._loader is None:
            self.samples.reading = torch.full((max(1, self.workers),), -1).share_memory_()
            self._loader = DataLoader(
                self.samples,
                batch_sampler=self.order,
                num_workers=self.workers,
                collate_fn=_collate,
                worker_init_fn=_start_worker,
                persistent_workers=self.workers > 0,
                prefetch_factor=PREFETCH if self.workers else None,
                pin_memory=self.pin_memory,
                timeout=min(POLL, self.patience) if self.workers else 0,
                generator=torch.Generator(),  # its own: each iteration draws a number, which dropout must not feel
            )
        # torch would have the death of a worker raise wherever the training happens to be; the iterator finds it too,
        # within POLL seconds of waiting for a batch, and needs no signal, which Windows does not have.
        child_ended = getattr(signal, "SIGCHLD", None)
        if child_ended is None or threading.current_thread() is not threading.main_thread():
            return iter(self._loader)
        before = signal.getsignal(child_ended)
        iterator = iter(self._loader)
        signal.signal(child_ended, before)
        return iterator

    def _next(self, iterator: Any) -> Batch | None:
        """The next batch, for which dead workers are looked for every few seconds; None at the end."""
        waited = 0.0
        while True:
            try:
                return next(iterator, None)
            except (EOFError, ConnectionError) as error:
                if not self.workers:
                    raise
                # A batch in the queue is fetched from the worker that made it, which may be dead by then.
                raise RuntimeError("DataLoader worker exited unexpectedly") from error
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out"):
                    raise
                waited += min(POLL, self.patience)
                if waited >= self.patience:
                    raise RuntimeError(f"DataLoader timed out after {waited:.0f} seconds") from error

    def _go_on_with_fewer(self, what: str) -> None:
        workers = list(getattr(getattr(self._loader, "_iterator", None), "_workers", ()))
        fallen = [number for number, worker in enumerate(workers) if not worker.is_alive()]
        read = [self.samples.reading[number].item() for number in fallen or range(len(workers))]
        names = sorted({self.samples.items[int(index)].name for index in read if index >= 0})
        for worker in workers:
            worker.kill()
        self._loader = None
        self.workers -= 1
        shared = ", and of shared memory: df -h /dev/shm" if SHARED_MEMORY.is_dir() else ""
        error_console.print(
            escape(
                f"{what}; it was reading {', '.join(names) or 'nothing'}. Going on with {self.workers} workers. If it "
                f"happens again, look at that file, and at how much memory is free{shared}."
            )
        )

    def _workers_that_fit(self) -> int:
        """As many as asked for, or as many as the shared memory holds the batches of."""
        if not self.workers or not SHARED_MEMORY.is_dir():
            return self.workers
        image, label, _ = self.samples[(0, 0)]
        height, width = self.samples.config.crop or label.shape  # crops that grow begin smaller
        needed = (image.nbytes + label.nbytes) * height * width // label.numel()
        needed *= self.order.batch_size * (PREFETCH + 1)
        free = shutil.disk_usage(SHARED_MEMORY).free
        fitting = int(min(self.workers, free // needed))
        if fitting < self.workers:
            error_console.print(
                f"/dev/shm has {free / 1e6:.0f} MB free, and a worker needs {needed / 1e6:.0f} MB: going on "
                f"with {fitting} of {self.workers} workers. In Docker, --shm-size or --ipc=host gives more."
            )
        return fitting


def _is_about_a_worker(error: RuntimeError) -> bool:
    """Whether torch's loader reports a worker that died or hangs, and not an error within one."""
    return str(error).startswith(("DataLoader worker", "DataLoader timed out", "Pin memory thread"))


def to_tensor(image: np.ndarray) -> Tensor:
    """H×W×C of any supported dtype → C×H×W; 16-bit becomes float32, which torch computes with."""
    if image.dtype == np.uint16:
        image = image.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _collate(samples: list[tuple[Tensor, Tensor, str]]) -> Batch:
    images, labels, names = zip(*samples, strict=True)
    sizes = {image.shape[1:]: name for image, name in zip(images, names, strict=True)}
    if len(sizes) > 1:
        listed = ", ".join(f"{name} {height}×{width}" for (height, width), name in sizes.items())
        raise AtrousError(
            f"pictures of one batch differ in size ({listed}): set augment.crop to [height, width], or "
            "train.batch_size to 1."
        )
    return Batch(torch.stack(images), {LABELS: torch.stack(labels)}, names=names)


def _start_worker(_: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole process group; the training decides
        signal.signal(number, signal.SIG_IGN)
    # The training's own threads need the cores, and OpenCV's pool does not survive a fork.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
