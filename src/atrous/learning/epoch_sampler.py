"""A sampler that yields the batches of an epoch, in an order that depends only on the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from atrous.errors import AtrousError, counted


class EpochOrder(Sampler[list[tuple[int, int]]]):
    """Yields batches of (epoch, index), in an order that is a pure function of (seed, epoch).

    Args:
        size: number of samples.
        batch_size: number of pictures per batch, over all processes, ≥ 1. The last batch of an epoch may be smaller.
            If the last batch would have fewer than two pictures per process, which is too few for batch norm, it is
            joined to the batch before it.
        seed: random seed of the order.
        rank: rank of this process; each batch is divided among all processes, and this process gets its part.
        world: number of processes, ≥ 1.
        balance: share of the pictures that are drawn by class, 0–1: first a class is drawn, with equal probabilities,
            then a picture that contains this class. So a picture may occur several times in an epoch. Occurrence n = 0,
            1, … of picture i in an epoch has the index i + n·size, and therefore a different augmentation.
        classes: for each class, the indices of the samples that contain it; needed for a balance above 0. Classes
            without samples are not drawn.

    Raises:
        AtrousError: there are fewer pictures per batch than processes.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        *,
        balance: float = 0.0,
        classes: Sequence[np.ndarray] = (),
    ) -> None:
        if min(size, batch_size) < world:
            raise AtrousError(
                f"{world} processes share batches of {min(size, batch_size)} pictures: start fewer processes, or raise "
                "train.batch_size, which counts the pictures of all of them."
            )
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world = rank, world
        self.balance, self.classes = balance, [pictures for pictures in classes if len(pictures)]
        self.epoch = 0
        self.first = 0

    def start(self, epoch: int, first: int = 0) -> None:
        """Sets the epoch that the next iteration yields, and the picture at which it starts.

        Args:
            epoch: index of the epoch, ≥ 0.
            first: number of pictures of the epoch that are done already, 0 … size.

        Raises:
            AtrousError: the number of remaining pictures is above 0 and below the number of processes.
        """
        if 0 < self.size - first < self.world:
            raise AtrousError(
                f"{counted(self.size - first, 'picture')} of epoch {epoch + 1} are left for {self.world} processes: "
                f"continue with {self.size - first} processes until the epoch is done."
            )
        self.epoch, self.first = epoch, first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order()
        start = self.first
        for count in self.counts(start):
            part = order[start : start + count][self.rank :: self.world]
            start += count
            yield [(self.epoch, int(index)) for index in part]

    def _order(self) -> np.ndarray:
        """Returns the indices of the epoch's samples in their order."""
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.size)
        if not (self.balance and self.classes):
            return order
        for place in np.flatnonzero(rng.random(self.size) < self.balance):
            pictures = self.classes[rng.integers(len(self.classes))]
            order[place] = pictures[rng.integers(len(pictures))]
        by_index = np.argsort(order, kind="stable")
        grouped = order[by_index]
        occurrence = np.empty(self.size, np.int64)
        occurrence[by_index] = np.arange(self.size) - np.searchsorted(grouped, grouped)
        return order + occurrence * self.size

    def __len__(self) -> int:
        """Returns the number of batches in a whole epoch."""
        return len(self.counts())

    def counts(self, first: int = 0) -> list[int]:
        """Returns the number of pictures, over all processes, in each remaining batch of an epoch.

        Args:
            first: number of pictures of the epoch that are done already, 0 … size.
        """
        left = self.size - first
        if not left:
            return []
        whole, rest = divmod(left, self.batch_size)
        batches = max(1, whole + (rest >= 2 * self.world))
        return [self.batch_size] * (batches - 1) + [left - (batches - 1) * self.batch_size]
