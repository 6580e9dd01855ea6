"""Batches of augmented samples, the same whatever the number of workers."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from atrous.data.dataset import Dataset, Item
from atrous.data.pictures import to_channels
from atrous.data.transforms import Augment, augment
from atrous.errors import AtrousError


@dataclass(frozen=True)
class Batch:
    """What one training step takes.

    Args:
        images: N×C×H×W, raw values; uint8, or float32 for deeper pictures.
        labels: N×H×W uint8 class indices, 255 = ignore.
        names: of the N samples, for messages.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which a GPU copies in the background; the loader calls it."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.names)


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
        self.first_batch = 0

    def start(self, epoch: int, first_batch: int = 0) -> None:
        """Sets what the next iteration yields: an epoch, from one of its batches on."""
        self.epoch, self.first_batch = epoch, first_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        for batch in range(self.first_batch, len(self)):
            start = batch * self.batch_size
            part = order[start : start + self.pictures(batch)][self.rank :: self.world]
            yield [(self.epoch, int(index)) for index in part]

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        whole, rest = divmod(self.size, self.batch_size)
        return max(1, whole + (rest >= 2 * self.world))

    def pictures(self, batch: int) -> int:
        """Pictures in one of an epoch's batches, of all processes."""
        return self.batch_size if batch < len(self) - 1 else self.size - batch * self.batch_size


class AugmentedSamples(TorchDataset):
    """Samples by (epoch, index), read and augmented.

    Args:
        dataset: where to read.
        items: the split's.
        config: of the augmentation.
        channels: C of the pictures the model takes.
        seed: of the augmentation.
        fill: raw value per channel outside the picture.
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
    ) -> None:
        self.dataset, self.items, self.config = dataset, items, config
        self.channels, self.seed, self.fill = channels, seed, fill

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, str]:
        epoch, index = key
        sample = self.dataset.read(self.items[index])
        image = to_channels(sample.image, self.channels)
        image, label = augment(
            image, sample.label, self.config, seed=self.seed, epoch=epoch, index=index, fill=self.fill
        )
        return to_tensor(image), torch.from_numpy(np.ascontiguousarray(label)), sample.name


def make_loader(samples: AugmentedSamples, order: EpochOrder, workers: int, pin_memory: bool = False) -> DataLoader:
    """A loader of `Batch`es.

    Args:
        samples: what is read.
        order: which, when.
        workers: processes, ≥ 0; 0 reads in this process.
        pin_memory: for training on a GPU.
    """
    return _Loader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its own: each iteration draws a number, which dropout must not feel
    )


class _Loader(DataLoader):
    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            yield from super().__iter__()
        except AtrousError as error:  # a worker's comes with its traceback written into the message
            raise AtrousError(str(error).rpartition(f"{AtrousError.__module__}.AtrousError: ")[2].strip()) from error


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
    return Batch(torch.stack(images), torch.stack(labels), names)


def _start_worker(_: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole process group; the training decides
        signal.signal(number, signal.SIG_IGN)
    # The training's own threads need the cores, and OpenCV's pool does not survive a fork.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
