"""The input of one training step: pictures, their targets, and further data for terms of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

#: Name of the target of the semantic task.
LABELS = "labels"
#: Name in `Batch.more` of the scores of the teacher, for the terms of distillation.
TEACHER = "teacher"


@dataclass(frozen=True)
class Batch:
    """The input of one training step.

    Args:
        images: N×C×H×W, raw values; uint8, or float32 for pictures of more than 8 bits.
        targets: targets by name; "labels" are N×H×W uint8 class indices, 255 = ignore.
        more: further data for terms of the loss, by name, such as pictures without labels. `to` and `pin_memory` also
            copy the values that are tensors.
        names: names of the N samples, for messages.
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
        """Copies the batch to a device.

        Args:
            device: target device; the copy is asynchronous if the batch is in page-locked memory.
            channels_last: True to store the images in channels_last memory order, which makes convolutions faster.
        """
        moved = self._each(lambda tensor: tensor.to(device, non_blocking=True))
        if not channels_last:
            return moved
        images = moved.images.contiguous(memory_format=torch.channels_last)
        return Batch(images, moved.targets, moved.more, moved.names)

    def pin_memory(self) -> Batch:
        """Copies the batch to page-locked memory, from which copies to a GPU are asynchronous.

        torch's DataLoader calls this method.
        """
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        targets = {name: change(target) for name, target in self.targets.items()}
        more = {name: change(value) if isinstance(value, Tensor) else value for name, value in self.more.items()}
        return Batch(change(self.images), targets, more, self.names)
