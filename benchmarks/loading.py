"""Times reading and augmenting pictures: atrous's loader and torchvision's reference transforms, in turns.

Both sides decode the same pictures and masks in two workers. They scale them so that the shorter side is 0.5–2 times
520 pixels, mirror them with a probability of 0.5, and cut crops of 480×480 for batches of eight. This is the
preprocessing of torchvision's reference training for segmentation (references/segmentation/presets.py), with its
transforms v2 on tensors. Torchvision's side also normalises the pictures. atrous normalises in the training step, so
its workers send uint8 pictures. The last printed row is atrous with colour, blur and rotation, too. The script asserts
the shapes and the number of pictures.

    python benchmarks/loading.py DATA [--split train] [--pictures 200] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from atrous.data.dataset import Dataset, Item
from atrous.data.open_dataset import open_dataset
from atrous.data.transforms import Augment
from atrous.learning.data_loader import AugmentedSamples, Loader
from atrous.learning.epoch_sampler import EpochOrder

BASE, CROP, BATCH, WORKERS = 520, 480, 8, 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Reference(TorchDataset):
    """A dataset that applies torchvision's reference transforms."""

    def __init__(self, dataset: Dataset, items: list[Item]) -> None:
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        self.dataset, self.items = dataset, items
        self.image, self.mask = tv_tensors.Image, tv_tensors.Mask
        self.transform = v2.Compose(
            [
                v2.RandomResize(BASE // 2, BASE * 2, antialias=True),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomCrop((CROP, CROP), pad_if_needed=True, fill={tv_tensors.Mask: 255, "others": 0}),
                v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
                v2.Normalize(MEAN, STD),
                v2.ToPureTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        sample = self.dataset.read(self.items[index])
        image = self.image(torch.from_numpy(np.ascontiguousarray(sample.image.transpose(2, 0, 1))))
        return self.transform(image, self.mask(torch.from_numpy(sample.label)))


def epoch(batches: Iterable[Any], parts: Callable[[Any], tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, int]:
    """Returns the seconds from the first batch to the last, and the number of pictures after the first batch."""
    started, count = 0.0, 0
    for number, batch in enumerate(batches):
        images, labels = parts(batch)
        assert images.shape[1:] == (3, CROP, CROP) and labels.shape[1:] == (CROP, CROP)
        if number:
            count += len(images)
        else:
            started = time.perf_counter()
    return time.perf_counter() - started, count


def main() -> None:
    """Prints the images per second of each side, and the ratio to torchvision's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of a dataset, in any layout")
    parser.add_argument("--split", default="train", help="split whose pictures are read")
    parser.add_argument("--pictures", type=int, default=200, help="largest number of pictures")
    parser.add_argument("--rounds", type=int, default=3, help="number of turns of each side; the median is printed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = open_dataset(options.data)
    items = list(dataset.split(options.split))[: options.pictures]
    shorter = min(dataset.read(items[0]).image.shape[:2])
    plain = Augment(crop=(CROP, CROP), scale=(0.5 * BASE / shorter, 2.0 * BASE / shorter), flip=0.5)
    full = replace(plain, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1, blur=0.5, rotation=10.0)
    ours = {"atrous": plain, "atrous, colour, blur and rotation too": full}
    seconds: dict[str, list[float]] = {}
    reference = DataLoader(
        Reference(dataset, items), BATCH, shuffle=True, num_workers=WORKERS, drop_last=True, persistent_workers=True
    )
    order = EpochOrder(len(items) // BATCH * BATCH, BATCH, seed=0)
    loaders = {
        name: Loader(AugmentedSamples(dataset, items, config, channels=3, seed=0, fill=(0.0,) * 3), order, WORKERS)
        for name, config in ours.items()
    }
    for turn in range(options.rounds):
        order.start(turn)
        taken, count = epoch(reference, lambda batch: (batch[0], batch[1]))
        seconds.setdefault("torchvision's reference", []).append(taken / count)
        for name, loader in loaders.items():
            order.start(turn)
            taken, again = epoch(loader, lambda batch: (batch.images, batch.labels))
            assert again == count
            seconds.setdefault(name, []).append(taken / count)
    theirs = statistics.median(seconds["torchvision's reference"])
    for name, turns in seconds.items():
        each = statistics.median(turns)
        print(f"{name:40} {1 / each:7.1f} images/s   {theirs / each:5.2f}×")


if __name__ == "__main__":
    main()
