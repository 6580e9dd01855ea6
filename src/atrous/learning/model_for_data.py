"""Creates a recipe's model with the channels, classes and statistics of a data set, and with its initial weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.markup import escape

from atrous import model_file
from atrous.build_model import create_model
from atrous.console import console
from atrous.data.dataset import Dataset
from atrous.data.foreground_intensities import with_foreground_windows
from atrous.data.input_files import FOREGROUND, InputFiles
from atrous.data.pixels import PictureKind
from atrous.data.rasters.band_names import wavelengths_in
from atrous.data.statistics import channel_statistics, kind_of_input, kind_of_pictures
from atrous.errors import AtrousError
from atrous.input_spec import IMAGE, Input, usual_colors
from atrous.learning.recipe import Recipe
from atrous.learning.transfer_weights import start_from
from atrous.models import SegmentationModel, build
from atrous.models.first_layer import spread_over_bands, start_first_layer_at_random
from atrous.models.info import Preprocessing
from atrous.models.task import Task
from atrous.models.tensorflow_same_padding import pads_unevenly


def create_for(recipe: Recipe, dataset: Dataset, *, fresh: bool = True) -> SegmentationModel:
    """Creates the recipe's model for a dataset's classes and kind of pictures.

    A network with TensorFlow's SAME padding gets pictures with sides of 32k + 1 pixels. At such sizes each position of
    a feature map is centred exactly on a pixel. So the network resizes with aligned corners, unless the recipe sets
    align_corners.

    Args:
        recipe: recipe with the model's settings.
        dataset: data set; its training pictures determine the number of channels and the bit depth.
        fresh: False for a model that gets its weights and preprocessing later, from a checkpoint.

    Raises:
        AtrousError: as for `create_model`; or model.arguments contradicts the rest of the recipe or the data; or
            data.statistics is pretrained, and the pictures are not 8-bit.
    """
    kind, notes = kind_of_pictures(
        dataset,
        recipe.data.train,
        recipe.data.pages,
        val=recipe.data.val,
        # for volumes, in_channels also counts the channels of neighbouring slices; `read_slice` checks the number
        in_channels=None if dataset.inputs[0].planes else recipe.model.in_channels,
    )
    table, init = dataset.classes, recipe.model.init
    splits = (recipe.data.train, recipe.data.val)
    further = [kind_of_input(dataset, one.name, splits) for one in dataset.inputs[1:]]
    image_channels = recipe.model.in_channels or kind.channels * dataset.inputs[0].slices
    if kind.names or dataset.inputs[0].wavelengths:
        # the bands are chosen by name or wavelength, so their number is known
        image_channels = kind.channels * dataset.inputs[0].slices
    channels = image_channels + sum(one.channels for one in further)
    for note in () if recipe.data.check or not fresh else notes:  # the doctor has printed them
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
            raise AtrousError(
                f"model.arguments.{name} is {value}, but the recipe and the data require {owned[name]}: leave it out."
            )
    pretrained = recipe.model.pretrained and fresh and init is None
    if fresh and "align_corners" not in arguments:
        arguments["align_corners"] = _pads_unevenly(recipe.model.architecture, arguments)
    model = create_model(recipe.model.architecture, pretrained=pretrained, **arguments)
    given = model.info.preprocessing
    kinds = [replace(kind, channels=image_channels), *further]
    inputs = _inputs(dataset.inputs, kinds, given.mean, given.std, recipe.data.pages)
    model.info = replace(
        model.info,
        preprocessing=Preprocessing(inputs, enlarge=recipe.train.enlarge, aligned=pads_unevenly(model)),
        tasks=(Task(table),),
    )
    if pretrained:
        _adapt_first_layer(model, recipe.model.first_layer)
    if fresh and init is not None:
        console.print(escape(start_from(model, model_file.load(init))))
    statistics = recipe.data.statistics
    if fresh and statistics == "pretrained" and kind.dtype != "uint8":
        raise AtrousError(
            f"data.statistics is pretrained, which is for 8-bit pictures (0–255), but these pictures are {kind.dtype}: "
            "use fit, which measures the statistics of the pictures, or auto."
        )
    if fresh:
        fitted = statistics == "fit" or (statistics == "auto" and kind.dtype != "uint8")
        measured = [
            _measured(dataset, recipe.data.train, one, files)
            if one.normalize != "per_image" and (fitted or one.window or one is not inputs[0])
            else one
            for one, files in zip(model.info.preprocessing.inputs, dataset.inputs, strict=True)
        ]
        model.info = replace(model.info, preprocessing=replace(model.info.preprocessing, inputs=tuple(measured)))
    return model


def _adapt_first_layer(model: SegmentationModel, how: str) -> None:
    """Spreads the pretrained filters of the first layer over the bands, as `model.first_layer` of the recipe says."""
    image = model.info.preprocessing.image
    further = model.info.preprocessing.channels - image.channels
    if how == "random":
        start_first_layer_at_random(model)
    elif how == "bands" and not further and spread_over_bands(model, image.bands, image.wavelengths):
        console.print("the pretrained filters of red, green and blue start at the bands of these colours")


def _inputs(
    described: Sequence[InputFiles],
    kinds: Sequence[PictureKind],
    mean: Sequence[float],
    std: Sequence[float],
    pages: Any,
) -> tuple[Input, ...]:
    """Returns the model's inputs, from the dataset's descriptions and the kinds of files.

    Args:
        described: the dataset's description of each input.
        kinds: kind of the files of each input.
        mean: mean of each channel, over all inputs.
        std: standard deviation of each channel, over all inputs.
        pages: pages to read from TIFFs of the image.
    """
    found, first = [], 0
    for one, kind in zip(described, kinds, strict=True):
        own, contrasts = slice(first, first + kind.channels), kind.channels // one.slices
        first += kind.channels
        keeps = one.keeps_scale(contrasts) * one.slices
        # the window "foreground" is replaced by a placeholder until it is measured
        windows = [(0.0, 1.0) if window == FOREGROUND else window for window in one.windows_of(contrasts)]
        image = one.name == IMAGE
        usual = usual_colors(kind.channels, kind.dtype) if image and not one.planes else 0
        found.append(
            Input(
                tuple(value if kept else 0.0 for value, kept in zip(mean[own], keeps, strict=True)),
                tuple(value if kept else 1.0 for value, kept in zip(std[own], keeps, strict=True)),
                name=one.name,
                dtype=kind.dtype if all(keeps) else "float32",  # pyright: ignore[reportArgumentType] (read from a file header)
                pages=pages if image else "first",
                bands=one.bands or kind.names,
                wavelengths=one.wavelengths or wavelengths_in(kind.names),
                unit=one.unit,
                missing=one.missing_values,
                colors=usual if one.colors is None else one.colors,
                normalize=one.normalize or "fixed",  # pyright: ignore[reportArgumentType] (`Input` checks it)
                window=windows[0] if len(set(windows)) == 1 else tuple(windows),
                slices=one.slices,
                planes=one.planes,
                spacing=one.spacing,
            )
        )
    return tuple(found)


def _measured(dataset: Dataset, split: str, one: Input, files: InputFiles) -> Input:
    """Returns the input with the mean and standard deviation of its training files, and with its measured windows.

    The slices are read only if a contrast needs the statistics of whole slices, because reading all slices takes long.
    """
    windows = {*files.windows_of(one.channels // one.slices)}
    if FOREGROUND not in windows or windows - {FOREGROUND, None}:
        mean, std = channel_statistics(dataset, split, one)
        one = replace(one, mean=mean, std=std)
    return with_foreground_windows(dataset, split, one, files)


def _pads_unevenly(architecture: str, arguments: dict[str, Any]) -> bool:
    """Returns whether a network with these arguments pads unevenly; builds the network to find out, and discards it."""
    with torch.random.fork_rng(devices=[]):
        return pads_unevenly(build(architecture, arguments))
