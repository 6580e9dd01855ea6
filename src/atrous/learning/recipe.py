"""A recipe: everything a training run is, as frozen dataclasses that read from YAML and the command line.

One long file, so that every field stands beside its range, its meaning and its default.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from atrous.arguments import checked, checked_fields
from atrous.atomic_write import write_text
from atrous.data.transforms import Augment
from atrous.errors import AtrousError, shown
from atrous.json_yaml import parse_yaml
from atrous.learning.shipped_recipes import find_recipe
from atrous.outputs import MARK, RECIPE_MARK

#: Smallest and largest value of each number; SMALL is the least above 0, ALMOST 1 the most below it, FINITE the largest
#: of all.
SMALL, ALMOST, FINITE = 1e-12, 1 - 1e-9, sys.float_info.max
LIMITS = {
    "seed": (0, math.inf),
    "data.workers": (0, math.inf),
    "loss.cross_entropy": (0, FINITE),
    "loss.dice": (0, FINITE),
    "loss.tversky": (0, FINITE),
    "loss.lovasz": (0, FINITE),
    "loss.label_smoothing": (0, ALMOST),
    "loss.focal": (0, FINITE),
    "loss.hardest": (0, 1),
    "loss.boundary": (0, FINITE),
    "loss.tversky_alpha": (0, 1),
    "loss.auxiliary": (0, math.inf),
    "optim.lr": (SMALL, math.inf),
    "optim.backbone_lr": (0, math.inf),
    "optim.weight_decay": (0, math.inf),
    "optim.momentum": (0, ALMOST),
    "optim.clip": (0, math.inf),
    "optim.accumulate": (1, math.inf),
    "crf.bilateral_weight": (0, FINITE),
    "crf.bilateral_xy": (SMALL, FINITE),
    "crf.bilateral_rgb": (SMALL, FINITE),
    "crf.gaussian_weight": (0, FINITE),
    "crf.gaussian_xy": (SMALL, FINITE),
    "crf.iterations": (1, math.inf),
    "crf.lr": (0, math.inf),
    "schedule.power": (0, math.inf),
    "schedule.fall": (0, 1),
    "schedule.warmup": (0, ALMOST),
    "schedule.floor": (0, 1),
    "train.epochs": (1, math.inf),
    "train.batch_size": (1, math.inf),
    "train.enlarge": (SMALL, math.inf),
    "train.ema": (0, ALMOST),
    "train.validate_every": (1, math.inf),
    "train.patience": (0, math.inf),
    "train.minutes": (0, math.inf),
}


@checked_fields
@dataclass(frozen=True)
class Data:
    """Which pictures.

    Args:
        root: folder of the data set.
        layout: layout of the data set: folder, split_folders, side_by_side, camvid, voc, cityscapes, ade20k, coco_stuff
            or nnunet; guessed when not given.
        groups: regular expression with one pair of brackets, searched in the names of pictures; what the brackets find,
            such as a patient or a recording, stays in one split where a seed makes the split. A groups.csv comes first.
        train: split to learn from.
        val: split to choose the best weights on.
        workers: processes that decode and augment beside the training, ≥ 0.
        check: examine every file before training, and refuse to start on errors.
        statistics: mean and standard deviation: pretrained uses those that the backbone was trained with, fit measures
            them on the training pictures, auto measures only where pictures are not 8-bit.
        pages: pages of TIFFs with several: first reads the first page, channels the bands of all pages.
        inputs: folders of further inputs by name, such as {depth: depth/}, beside those of the data set's inputs.yaml.
    """

    root: str = ""
    layout: str | None = None
    groups: str | None = None
    train: str = "train"
    val: str = "val"
    workers: int = 1
    check: bool = True
    statistics: Literal["auto", "pretrained", "fit"] = "auto"
    pages: Literal["first", "channels"] = "first"
    inputs: dict[str, str] = field(default_factory=dict)


@checked_fields
@dataclass(frozen=True)
class Model:
    """Which network.

    Args:
        architecture: paper to build: deeplabv1, deeplabv2, deeplabv3 or deeplabv3plus.
        backbone: any timm network that supports an output stride, vgg16, or google_mobilenetv2_100.
        pretrained: start from ImageNet weights of the backbone.
        output_stride: output stride of the features, 8, 16 or 32.
        in_channels: number of channels of the pictures; taken from the data when not given.
        init: model file to start from instead of ImageNet's weights; its architecture, backbone, output stride and
            arguments then count over those here, but for what `arguments` names.
        arguments: further arguments of the architecture, by name.
    """

    architecture: str = "deeplabv3plus"
    backbone: str = "tf_efficientnet_lite0"
    pretrained: bool = True
    output_stride: int = 16
    in_channels: int | None = None
    init: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@checked_fields
@dataclass(frozen=True)
class Loss:
    """What is minimised: a sum of terms, each by its weight, of which 0 leaves it out.

    Args:
        cross_entropy: weight of the cross-entropy over pixels.
        dice: weight of the Dice loss over classes.
        tversky: weight of the Tversky loss over classes.
        lovasz: weight of the Lovász-softmax loss over classes, which stands for 1 − mean IoU.
        class_weights: weights of the classes: none, or by how often a class occurs: inverse_fourth_root (mild),
            inverse_sqrt, median_frequency, log, effective_number, inverse; of all terms.
        label_smoothing: label smoothing of the cross-entropy, 0–1.
        focal: gamma of the focal loss, in the cross-entropy; 0 is plain.
        hardest: share of pixels that the cross-entropy keeps at least, besides all that are hard (OHEM); 0 keeps all.
        boundary: by how much more pixels beside another class count in the cross-entropy, ≥ 0.
        tversky_alpha: what a pixel too many costs, 0–1; a missing one costs the rest.
        auxiliary: weight of the auxiliary head's loss, for models that have one, ≥ 0; 0.4 in mmsegmentation, 0.5 in
            torchvision.
    """

    cross_entropy: float = 1.0
    dice: float = 0.0
    tversky: float = 0.0
    lovasz: float = 0.0
    class_weights: Literal[
        "none", "inverse_fourth_root", "inverse_sqrt", "median_frequency", "log", "effective_number", "inverse"
    ] = "none"
    label_smoothing: float = 0.0
    focal: float = 0.0
    hardest: float = 0.0
    boundary: float = 0.0
    tversky_alpha: float = 0.3
    auxiliary: float = 0.4


@checked_fields
@dataclass(frozen=True)
class Crf:
    """A fully connected CRF as the model's last layer, trained with it (arXiv:1502.03240).

    Args:
        trainable: the loss is taken after the CRF, whose weights learn too; without, there is no CRF in the training.
        bilateral_weight: w1 of the kernel over position and colour to start from, ≥ 0.
        bilateral_xy: its extent in pixels, > 0.
        bilateral_rgb: its extent in colour, > 0, in steps of 8-bit pictures.
        gaussian_weight: w2 of the kernel over position to start from, ≥ 0.
        gaussian_xy: its extent in pixels, > 0.
        compatibility: potts, the same penalty between any two classes; or learned, which starts there.
        iterations: mean-field steps in training, ≥ 1; afterwards there are ten.
        lr: factor on optim.lr for the CRF's weights, ≥ 0.
    """

    trainable: bool = False
    bilateral_weight: float = 4.0
    bilateral_xy: float = 67.0
    bilateral_rgb: float = 3.0
    gaussian_weight: float = 3.0
    gaussian_xy: float = 1.0
    compatibility: Literal["potts", "learned"] = "learned"
    iterations: int = 5
    lr: float = 1.0


@checked_fields
@dataclass(frozen=True)
class Optim:
    """How it is minimised.

    Args:
        name: optimiser: sgd, adam or adamw.
        lr: learning rate of the head, > 0.
        backbone_lr: factor on lr for the backbone, ≥ 0.
        weight_decay: weight decay of convolution weights; norms and biases are never decayed.
        momentum: momentum of SGD, and Adam's first beta, 0–1.
        clip: largest norm of the gradient; 0 does not clip.
        accumulate: batches per optimiser step, ≥ 1.
    """

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: float = 1e-3
    backbone_lr: float = 1.0
    weight_decay: float = 0.01
    momentum: float = 0.9
    clip: float = 1.0
    accumulate: int = 1


@checked_fields
@dataclass(frozen=True)
class Schedule:
    """The learning rate over time: linear warm-up, then a curve from 1 down.

    Args:
        name: curve: poly is (1 − t)^power, the papers'; cosine is half a wave; step falls at each of `steps`. t is the
            share of the training done.
        power: exponent of poly, 0.9 in the papers.
        steps: shares of the training at which step falls, rising, 0–1.
        fall: factor at each of `steps`, 0–1.
        warmup: share of all steps spent warming up, 0–1.
        floor: the factor on lr never falls below it after the warm-up, 0–1.
    """

    name: Literal["poly", "cosine", "step"] = "poly"
    power: float = 0.9
    steps: tuple[float, ...] = (0.6, 0.85)
    fall: float = 0.1
    warmup: float = 0.03
    floor: float = 0.0


@checked_fields
@dataclass(frozen=True)
class Train:
    """How long and on what.

    Args:
        epochs: passes over the training pictures, ≥ 1.
        batch_size: pictures per batch, ≥ 1.
        enlarge: factor by which the network sees pictures enlarged, in training and ever after; their sides are rounded
            to 32k + 1, also at 1 with backbones that pad as TensorFlow does.
        learn: what learns: all; head, everything but the backbone; norms, scales and shifts of batch norms and the last
            layer.
        frozen: names of modules that do not learn either, such as backbone.net.layer1.
        ema: decay, 0–1, of the running average of the weights that is validated and kept; 0 keeps the weights.
        validate_every: epochs between validations, ≥ 1.
        patience: validations without a better mIoU before stopping early; 0 never stops. With ema, those of the first
            2 / (1 − ema) steps do not count.
        minutes: stop after this many minutes of training; 0 is no limit.
        device: device to run on: auto, cpu, cuda, cuda:N or mps.
        precision: number format: auto takes bfloat16 where the processor computes in it, else float32.
        channels_last: keep numbers in the order that is faster for convolutions.
        recompute: keep only what goes into each block, and compute the rest again in the backward pass: a quarter less
            memory in all, a quarter slower, the same weights.
    """

    epochs: int = 30
    batch_size: int = 8
    enlarge: float = 1.0
    learn: Literal["all", "head", "norms"] = "all"
    frozen: tuple[str, ...] = ()
    ema: float = 0.0
    validate_every: int = 1
    patience: int = 0
    minutes: float = 0.0
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool = True
    recompute: bool = False


@checked_fields
@dataclass(frozen=True)
class Watch:
    """Where the run is told while it goes on, besides metrics.jsonl.

    Args:
        tensorboard: write curves for TensorBoard into the run's folder.
        wandb: send curves to Weights & Biases, offline where WANDB_MODE=offline says so.
        project: project at Weights & Biases.
    """

    tensorboard: bool = True
    wandb: bool = False
    project: str = "atrous"


@checked_fields
@dataclass(frozen=True)
class Recipe:
    """A training run.

    Args:
        name: name of the run's folder, where no other is given.
        seed: seed of weights, order and augmentation, ≥ 0.
        data: which pictures.
        model: which network.
        augment: how pictures are varied.
        loss: what is minimised.
        crf: a CRF as the model's last layer.
        optim: how it is minimised.
        schedule: the learning rate over time.
        train: how long and on what.
        watch: where the run is told while it goes on.
    """

    name: str = "run"
    seed: int = 0
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    loss: Loss = field(default_factory=Loss)
    crf: Crf = field(default_factory=Crf)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    train: Train = field(default_factory=Train)
    watch: Watch = field(default_factory=Watch)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            kind, part = item.default_factory, getattr(self, item.name)
            if isinstance(kind, type) and not isinstance(part, kind):
                raise AtrousError(f"{item.name} of a recipe is a {kind.__name__}, got {shown(part)}; see to_recipe.")
        for name, (low, high) in LIMITS.items():
            part, _, field_name = name.rpartition(".")
            value = getattr(getattr(self, part) if part else self, field_name)
            if not low <= value <= high:
                allowed = f"{low:g} or more" if high >= FINITE else f"{low:g} to {high:g}"
                raise AtrousError(f"{name} must be {allowed}, got {value}.")
        steps = self.schedule.steps
        if any(not 0 < step < 1 for step in steps) or list(steps) != sorted(steps):
            raise AtrousError(
                f"schedule.steps must be shares of the training between 0 and 1, rising, got {list(steps)}; epochs are "
                f"divided by train.epochs, {self.train.epochs} here."
            )
        if not any((self.loss.cross_entropy, self.loss.dice, self.loss.tversky, self.loss.lovasz)):
            raise AtrousError("the loss has no term: give loss.cross_entropy or another a weight above 0.")
        if not self.crf.trainable and self.crf != Crf():
            raise AtrousError(
                "crf has settings, but is not in the training: set crf.trainable, or leave crf out and refine "
                "afterwards with `atrous evaluate --crf` or --crf-search."
            )


@checked
def read_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Reads a recipe's YAML file.

    Args:
        path: the file, or the name of a recipe that ships, such as quickstart; a file of that name wins.
        overrides: values by dotted name that win over the file, such as {"optim.lr": 0.007}.

    Raises:
        AtrousError: no such file, no YAML, an unknown field (with the nearest match) or a value of the wrong type.
    """
    try:
        record = parse_yaml(find_recipe(path).read_text(encoding="utf-8-sig"), str(path)) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise AtrousError(f"{path} cannot be read as YAML: {error}") from error
    for name, value in (overrides or {}).items():
        if not isinstance(name, str) or not isinstance(record, dict):
            raise AtrousError(f"overrides are values by dotted names, over a mapping of fields; got {shown(name)}.")
        _put(record, name.split("."), value)
    return to_recipe(record)


@checked
def to_recipe(record: Any) -> Recipe:
    """A recipe from nested dicts, checked field by field.

    Raises:
        AtrousError: an unknown field (with the nearest match) or a value of the wrong type.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    _check_fields(record, Recipe, "")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe)
    try:
        return Recipe(**vars(parser.instantiate(parser.parse_object(record))))
    except ArgumentError as error:
        raise AtrousError(f"the recipe does not fit: {error}") from error


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Writes the resolved recipe, every field with its value, atomically: a kill must not cost the run its recipe."""
    write_text(path, recipe_text(recipe))


def recipe_text(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every field with its value."""
    text = yaml.safe_dump(_plain(asdict(recipe)), sort_keys=False, allow_unicode=True)
    return f"{RECIPE_MARK}, with every field; `{MARK} train` takes this file.\n{text}"


def field_names(kind: type = Recipe, prefix: str = "") -> list[str]:
    """Every field of a recipe by its dotted name."""
    names = []
    for item in dataclasses.fields(kind):
        nested = item.default_factory
        if isinstance(nested, type) and dataclasses.is_dataclass(nested):
            names += field_names(nested, f"{prefix}{item.name}.")
        else:
            names.append(prefix + item.name)
    return names


def nearest_field(name: str) -> str:
    """A hint for a misspelt field, or nothing."""
    near = difflib.get_close_matches(name, field_names(), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def _check_fields(record: Any, kind: type, prefix: str) -> None:
    if not isinstance(record, dict):
        part = prefix.rstrip(".") or "a recipe"
        raise AtrousError(f"{part} must be a mapping of fields to values, got {shown(record)}.")
    known = {item.name: item.default_factory for item in dataclasses.fields(kind)}
    optional = {item.name for item in dataclasses.fields(kind) if item.default is None}
    for name, value in record.items():
        if name not in known:
            raise AtrousError(f"unknown recipe field '{prefix}{name}'.{nearest_field(prefix + str(name))}")
        nested = known[name]
        if isinstance(nested, type) and dataclasses.is_dataclass(nested):
            _check_fields(value, nested, f"{prefix}{name}.")
        elif value is None and name not in optional:
            raise AtrousError(f"{prefix}{name} has no value: give one, or leave the line out for the default.")


def _put(record: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        part = record.setdefault(name, {})
        if not isinstance(part, dict):
            raise AtrousError(f"'{'.'.join(path)}' is no field: '{name}' holds {shown(part)}, not further fields.")
        record = part
    record[path[-1]] = value


def _plain(value: Any) -> Any:
    """Tuples to lists, which YAML writes without tags."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
