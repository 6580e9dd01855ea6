"""A recipe's model over a data set: its channels, classes and statistics, and the weights that it starts from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from rich.markup import escape

from atrous import model_file
from atrous.console import console
from atrous.create import create_model
from atrous.data.dataset import Dataset
from atrous.data.statistics import channel_statistics, kind_of_pictures
from atrous.errors import AtrousError
from atrous.learning.recipe import Recipe
from atrous.learning.transfer import start_from
from atrous.models import SegmentationModel, build
from atrous.models.same_padding import pads_unevenly


def create_for(recipe: Recipe, dataset: Dataset, *, fresh: bool = True) -> SegmentationModel:
    """The recipe's model over a dataset's classes and kind of pictures.

    A network with TensorFlow's SAME padding sees sides of 32k + 1, where a feature lies exactly on the pixel that it is
    centred on: unless the recipe says otherwise, it resizes with aligned corners.

    Args:
        recipe: which model, and what it starts from.
        dataset: whose training pictures tell channels and depth.
        fresh: False for a model that gets weights and preprocessing later, from a checkpoint.

    Raises:
        AtrousError: as `create_model`, or arguments that the recipe or the data contradict.
    """
    kind, notes = kind_of_pictures(
        dataset,
        recipe.data.train,
        recipe.data.pages,
        val=recipe.data.val,
        in_channels=recipe.model.in_channels,
    )
    table, init = dataset.classes, recipe.model.init
    channels = recipe.model.in_channels or kind.channels
    for note in () if recipe.data.check or not fresh else notes:  # the doctor has told them
        console.print(f"[yellow]note[/] {escape(note)}")
    owned: dict[str, Any] = {
        "backbone": recipe.model.backbone,
        "output_stride": recipe.model.output_stride,
        "in_channels": channels,
        "num_classes": 1 if recipe.model.arguments.get("num_classes") == 1 and len(table) == 2 else len(table),
    }
    arguments = {**recipe.model.arguments, **owned}
    for name, value in recipe.model.arguments.items():
        if name in owned and owned[name] != value:
            raise AtrousError(f"model.arguments.{name} is {value}, but the recipe and the data make it {owned[name]}.")
    pretrained = recipe.model.pretrained and fresh and init is None
    if fresh and "align_corners" not in arguments:
        arguments["align_corners"] = _pads_unevenly(recipe.model.architecture, arguments)
    model = create_model(recipe.model.architecture, pretrained=pretrained, **arguments)
    seen: dict[str, Any] = {"enlarge": recipe.train.enlarge, "aligned": pads_unevenly(model), "dtype": kind.dtype}
    seen["pages"] = recipe.data.pages
    model.info = replace(
        model.info,
        preprocessing=replace(model.info.preprocessing, **seen),
        classes=table.names,
        colors=table.colors,
        raw=table.raw,
        ignore=table.ignore,
    )
    if fresh and init is not None:
        console.print(escape(start_from(model, model_file.load(init))))
    statistics = recipe.data.statistics
    if fresh and statistics == "pretrained" and kind.dtype != "uint8":
        raise AtrousError(
            f"data.statistics is pretrained, whose means are for 8-bit pictures, 0–255, and these hold {kind.dtype}: "
            "use fit, which measures them, or auto."
        )
    if fresh and (statistics == "fit" or (statistics == "auto" and kind.dtype != "uint8")):
        mean, std = channel_statistics(dataset, recipe.data.train, channels, recipe.data.pages)
        model.info = replace(model.info, preprocessing=replace(model.info.preprocessing, mean=mean, std=std))
    return model


def _pads_unevenly(architecture: str, arguments: dict[str, Any]) -> bool:
    """Whether a network of these arguments does, by building one and throwing it away."""
    with torch.random.fork_rng(devices=[]):
        return pads_unevenly(build(architecture, arguments))
