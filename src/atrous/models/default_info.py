"""What a freshly built model says about itself, before it is told its classes and pictures."""

from __future__ import annotations

from typing import Any

from atrous.models.backbones import Backbone
from atrous.models.info import Info, Preprocessing, placeholder_table, tuples
from atrous.models.task import Task
from atrous.models.vgg import VGG16


def first_info(architecture: str, arguments: dict[str, Any], backbone: Backbone | VGG16) -> Info:
    """What a freshly built model says about itself.

    Args:
        architecture: a paper's name.
        arguments: of its constructor, as `locals()` at its top gives them; lists become tuples.
        backbone: whose pretrained weights' preprocessing is recorded, in 0–255; grey and many-band pictures get the
            channels' mean.

    Raises:
        AtrousError: num_classes below 1 or above 255.
    """
    mean, std = [255 * value for value in backbone.mean], [255 * value for value in backbone.std]
    if backbone.in_channels != len(mean):
        mean = [sum(mean) / len(mean)] * backbone.in_channels
        std = [sum(std) / len(std)] * backbone.in_channels
    return Info(
        architecture=architecture,
        arguments={name: tuples(value) for name, value in arguments.items() if name not in ("self", "__class__")},
        preprocessing=Preprocessing.of_pictures(mean, std),
        tasks=(Task(placeholder_table(arguments["num_classes"])),),
    )
