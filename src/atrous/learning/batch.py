"""What one training step takes: pictures, their targets, and what else a term of the loss needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

#: Name of the target that the semantic task learns from.
LABELS = "labels"


@dataclass(frozen=True)
class Batch:
    """What one training step takes.

    Args:
        images: N×C×H×W, raw values; uint8, or float32 for deeper pictures.
        targets: by name; "labels" are N×H×W uint8 class indices, 255 = ignore.
        more: what else a term needs, by name, such as pictures without labels; its tensors move with the batch.
        names: of the N samples, for messages.
    """

    images: Tensor
    targets: Mapping[str, Tensor]
    more: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    @property
    def labels(self) -> Tensor:
        """N×H×W class indices, 255 = ignore: the target of the semantic task."""
        return self.targets[LABELS]

    def to(self, device: torch.device, *, channels_last: bool = False) -> Batch:
        """The same on a device.

        Args:
            device: to copy to, in the background where the batch is in page-locked memory.
            channels_last: the order of the images' numbers that is faster for convolutions.
        """
        moved = self._each(lambda tensor: tensor.to(device, non_blocking=True))
        if not channels_last:
            return moved
        images = moved.images.contiguous(memory_format=torch.channels_last)
        return Batch(images, moved.targets, moved.more, moved.names)

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which a GPU copies in the background; the loader calls it."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        targets = {name: change(target) for name, target in self.targets.items()}
        more = {name: change(value) if isinstance(value, Tensor) else value for name, value in self.more.items()}
        return Batch(change(self.images), targets, more, self.names)
