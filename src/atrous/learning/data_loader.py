"""Loads batches of augmented samples; the batches do not depend on the number of workers."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.markup import escape
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from atrous.console import error_console
from atrous.data.dataset import Dataset, Item
from atrous.data.pixels import fill_missing, to_channels
from atrous.data.raster_items import moved
from atrous.data.transforms import Augment, ColorChannels, augment
from atrous.data.volumes.slices import slice_place
from atrous.errors import AtrousError
from atrous.learning.batch import LABELS, Batch
from atrous.learning.epoch_sampler import EpochOrder

#: Number of batches that each worker prepares in advance.
PREFETCH = 4
#: Seconds between two checks that the workers are alive, while the loader waits for a batch.
POLL = 5.0
#: Folder in which Linux stores the batches that workers pass on; its size is limited. Only Linux has this folder.
SHARED_MEMORY = Path("/dev/shm")


class AugmentedSamples(TorchDataset):
    """Reads and augments samples by (epoch, index).

    Args:
        dataset: dataset that reads the items.
        items: items of the training split.
        config: settings of the augmentation.
        channels: number of channels of the model's input.
        seed: random seed of the augmentation.
        fill: raw value of each channel for pixels outside the picture and pixels without data.
        colors: channels whose colour is varied; None for all channels.
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
        #: Index of the item that each worker reads, −1 if idle; in shared memory, so the loader can name bad files.
        self.reading = torch.full((1,), -1)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, str]:
        epoch, index = key
        worker = get_worker_info()
        number = worker.id if worker is not None else 0
        place = index % len(self.items)  # larger indices are repetitions, see `EpochOrder`
        self.reading[number] = place
        item = moved(self.items[place], seed=self.seed, epoch=epoch, index=index)
        sample = self.dataset.read(item)
        image = fill_missing(to_channels(sample.image, self.channels), sample.valid, self.fill)
        image, label = augment(
            image,
            sample.label,
            self._settings_of(self.items[place]),
            seed=self.seed,
            epoch=epoch,
            index=index,
            fill=self.fill,
            colors=self.colors,
        )
        self.reading[number] = -1
        return to_tensor(image), torch.from_numpy(np.ascontiguousarray(label)), sample.name

    def _settings_of(self, item: Item) -> Augment:
        """Returns the settings for one item; sagittal slices do not show left and right, so they are not flipped."""
        place = slice_place(item.image)
        return replace(self.config, flip=0.0) if place is not None and place.plane == "sagittal" else self.config


class Loader:
    """Loads batches with worker processes; if a worker dies or hangs, training continues with one worker fewer.

    The batches do not depend on the number of workers, because a sample depends only on (epoch, index).

    Args:
        samples: samples to read.
        order: order of the samples; its `start` sets the epoch and the first picture of the next iteration.
        workers: number of worker processes, ≥ 0; 0 reads in this process.
        pin_memory: True to put batches into page-locked memory, for training on a GPU.
        patience: seconds to wait for a batch; after this time, the worker of the batch is regarded as stuck.
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
        """Returns the number of pictures in each remaining batch of an epoch; see `EpochOrder.counts`."""
        return self.order.counts(first)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Returns an iterator over this process's remaining batches of an epoch; arguments as in `EpochOrder.start`."""
        self.order.start(epoch, first)
        return iter(self)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the remaining batches of the epoch that `order.start` set.

        Raises:
            AtrousError: a file cannot be read, or pictures of one batch differ in size.
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
            except AtrousError as error:  # the message of an error from a worker contains the traceback
                message = str(error).rpartition(f"{AtrousError.__module__}.AtrousError: ")[2].strip()
                raise AtrousError(message) from error
            except RuntimeError as error:
                if not (self.workers and _is_about_a_worker(error)):
                    raise
                self._go_on_with_fewer(str(error).split(". ")[0].rstrip("."))

    def _begin(self) -> Any:
        """Returns an iterator over the remaining batches; starts the workers if none are running."""
        new = self._loader is None
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
                # starting an iteration draws a random number, which must not change torch's random state
                generator=torch.Generator(),
            )
        # torch's signal handler would raise an error for a dead worker at any place in the program. It is not needed:
        # the iterator detects a dead worker within POLL seconds while it waits for a batch. Windows has no such signal.
        child_ended = getattr(signal, "SIGCHLD", None)
        if child_ended is None or threading.current_thread() is not threading.main_thread():
            iterator = iter(self._loader)
        else:
            before = signal.getsignal(child_ended)
            iterator = iter(self._loader)
            signal.signal(child_ended, before)
        if new:
            atexit.register(_end_workers, weakref.ref(iterator))
        return iterator

    def _next(self, iterator: Any) -> Batch | None:
        """Returns the next batch, None at the end; while it waits, it checks regularly that the workers are alive."""
        waited = 0.0
        while True:
            try:
                return next(iterator, None)
            except (EOFError, ConnectionError) as error:
                if not self.workers:
                    raise
                # The data of a queued batch are fetched from the worker that made the batch; that worker may be dead.
                raise RuntimeError("DataLoader worker exited unexpectedly") from error
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out"):
                    raise
                waited += min(POLL, self.patience)
                if waited >= self.patience:
                    raise RuntimeError(f"DataLoader timed out after {waited:.0f} seconds") from error

    def _go_on_with_fewer(self, what: str) -> None:
        """Ends all workers, and prints `what` as the reason; the next iteration starts one worker fewer."""
        workers = list(getattr(getattr(self._loader, "_iterator", None), "_workers", ()))
        dead = [number for number, worker in enumerate(workers) if not worker.is_alive()]
        read = [self.samples.reading[number].item() for number in dead or range(len(workers))]
        names = sorted({self.samples.items[int(index)].name for index in read if index >= 0})
        for worker in workers:
            worker.kill()
        self._loader = None
        self.workers -= 1
        shared = " and of free shared memory: df -h /dev/shm" if SHARED_MEMORY.is_dir() else ""
        error_console.print(
            escape(
                f"{what}; it was reading {', '.join(names) or 'nothing'}. Continuing with {self.workers} workers. If "
                f"this happens again, check that file and the amount of free memory{shared}."
            )
        )

    def _workers_that_fit(self) -> int:
        """Returns the number of workers to start: fewer than requested if shared memory is too small for them."""
        if not self.workers or not SHARED_MEMORY.is_dir():
            return self.workers
        image, label, _ = self.samples[(0, 0)]
        # The size is not taken from a sample, because a crop that grows during training is smaller at first.
        height, width = self.samples.config.crop or label.shape
        needed = (image.nbytes + label.nbytes) * height * width // label.numel()
        needed *= self.order.batch_size * (PREFETCH + 1)
        free = shutil.disk_usage(SHARED_MEMORY).free
        fitting = int(min(self.workers, free // needed))
        if fitting < self.workers:
            error_console.print(
                f"/dev/shm has {free / 1e6:.0f} MB free, and a worker needs {needed / 1e6:.0f} MB: continuing "
                f"with {fitting} of {self.workers} workers. In Docker, --shm-size or --ipc=host gives more space."
            )
        return fitting


def _end_workers(reference: weakref.ref[Any]) -> None:
    """Ends the workers of an iterator when the main process exits.

    If the main process exits because of an error, the error still refers to the iterator, so the workers of the
    iterator still run. torch and multiprocessing would send them SIGTERM, which these workers ignore, and would wait
    for them forever.
    """
    for worker in getattr(reference(), "_workers", ()):
        worker.kill()


def _is_about_a_worker(error: RuntimeError) -> bool:
    """Returns whether torch's loader reports a dead or stuck worker, and not an error raised in a worker."""
    return str(error).startswith(("DataLoader worker", "DataLoader timed out", "Pin memory thread"))


def to_tensor(image: np.ndarray) -> Tensor:
    """Converts an H×W×C array to a C×H×W tensor; uint16 becomes float32, because torch does not compute in uint16."""
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
    # these signals are sent to the whole process group; the main process handles them
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # The main process's threads need the cores, and OpenCV's thread pool does not work after a fork.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_the_main_process, name="end with the main process", daemon=True).start()


def _end_with_the_main_process() -> None:
    """Ends this worker when the main process no longer exists.

    torch's own check compares the parent's process number with the number when the worker started. If the main process
    is killed just after the fork, that number is already the number of init. Then the worker would wait for work
    forever and keep the main process's output open.
    """
    parent = multiprocessing.parent_process()
    # After a fork, `is_alive` can be late, because workers that were forked later hold the pipe that it watches. With
    # the start method forkserver, the parent is the fork server.
    forked = multiprocessing.get_start_method() == "fork"
    while parent is not None and parent.is_alive() and (not forked or os.getppid() == parent.pid):
        time.sleep(1)
    os._exit(1)
