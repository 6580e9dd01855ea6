"""The record of a newly built model, before its classes and preprocessing are set."""

from __future__ import annotations

from typing import Any

from atrous.models.backbones import Backbone
from atrous.models.info import Info, Preprocessing, placeholder_table, tuples
from atrous.models.task import Task
from atrous.models.vgg import VGG16


def first_info(architecture: str, arguments: dict[str, Any], backbone: Backbone | VGG16) -> Info:
    """Returns the record of a newly built model.

    Args:
        architecture: a key of `atrous.models.ARCHITECTURES`.
        arguments: arguments of the model's constructor, as `locals()` returns them in the constructor; lists become
            tuples.
        backbone: backbone of the model. The record contains its means and standard deviations, in 0–255. If their
            number differs from the number of channels, every channel gets their average.

    Raises:
        AtrousError: num_classes is not a whole number from 1 to 255.
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
