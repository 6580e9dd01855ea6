"""A recipe: everything a training run is, as frozen dataclasses that read from YAML and the command line.

One file, so that every field stands beside its default, its meaning and its range.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from atrous.atomic_write import write_text
from atrous.checked_arguments import checked
from atrous.data.layouts.known_layouts import LAYOUTS
from atrous.data.transforms import Augment
from atrous.errors import AtrousError, named, shown
from atrous.json_yaml import parse_yaml
from atrous.learning.shipped_recipes import find_recipe
from atrous.models import ARCHITECTURES
from atrous.models.paper_arguments import OUTPUT_STRIDES
from atrous.option_fields import described, section_of, setting, settings
from atrous.overwrite_checks import MARK, RECIPE_MARK

#: Numbers that YAML 1.2 and JSON know, and YAML 1.1, which is read here, takes for texts: 1e-3.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", re.ASCII)


@settings("data")
@dataclass(frozen=True)
class Data:
    """Which pictures."""

    root: str = setting("", "folder of the data set")
    layout: str | None = setting(None, "layout of the data set; guessed when not given", choices=tuple(LAYOUTS))
    groups: str | None = setting(
        None,
        "regular expression with one pair of brackets, searched in the names of pictures; what the brackets find, such "
        "as a patient or a recording, stays in one split where a seed makes the split. A groups.csv comes first",
    )
    train: str = setting("train", "split to learn from")
    val: str = setting("val", "split to choose the best weights on")
    workers: int = setting(1, "processes that decode and augment beside the training", ge=0)
    check: bool = setting(True, "examine every file before training, and refuse to start on errors")
    statistics: Literal["auto", "pretrained", "fit"] = setting(
        "auto",
        "mean and standard deviation: pretrained uses those that the backbone was trained with, fit measures them on "
        "the training pictures, auto measures only where pictures are not 8-bit",
    )
    pages: Literal["first", "channels"] = setting(
        "first", "pages of TIFFs with several: first reads the first page, channels the bands of all pages"
    )
    inputs: dict[str, str] = field(
        default_factory=dict,
        metadata=described(
            "folders of further inputs by name, such as {depth: depth/}, beside those of the data set's inputs.yaml"
        ),
    )


@settings("model")
@dataclass(frozen=True)
class Model:
    """Which network."""

    architecture: str = setting("deeplabv3plus", "paper to build", choices=tuple(ARCHITECTURES))
    backbone: str = setting(
        "tf_efficientnet_lite0",
        "any timm network that supports an output stride, vgg16, or google_mobilenetv2_100",
    )
    pretrained: bool = setting(True, "start from ImageNet weights of the backbone")
    output_stride: int = setting(16, "output stride of the features", choices=OUTPUT_STRIDES)
    in_channels: int | None = setting(
        None, "number of channels of the pictures; taken from the data when not given", ge=1
    )
    init: str | None = setting(
        None,
        "model file to start from instead of ImageNet's weights; its architecture, backbone, output stride and "
        "arguments then count over those here, but for what `arguments` names",
    )
    arguments: dict[str, Any] = field(
        default_factory=dict, metadata=described("further arguments of the architecture, by name")
    )


@settings("loss")
@dataclass(frozen=True)
class Loss:
    """What is minimised: a sum of terms, each by its weight, of which 0 leaves it out."""

    cross_entropy: float = setting(1.0, "weight of the cross-entropy over pixels", ge=0)
    dice: float = setting(0.0, "weight of the Dice loss over classes", ge=0)
    tversky: float = setting(0.0, "weight of the Tversky loss over classes", ge=0)
    lovasz: float = setting(0.0, "weight of the Lovász-softmax loss over classes, which stands for 1 − mean IoU", ge=0)
    class_weights: Literal[
        "none", "inverse_fourth_root", "inverse_sqrt", "median_frequency", "log", "effective_number", "inverse"
    ] = setting(
        "none",
        "weights of the classes: none, or by how often a class occurs: inverse_fourth_root (mild), inverse_sqrt, "
        "median_frequency, log, effective_number, inverse; of all terms",
    )
    label_smoothing: float = setting(0.0, "label smoothing of the cross-entropy", ge=0, lt=1)
    focal: float = setting(0.0, "gamma of the focal loss, in the cross-entropy; 0 is plain", ge=0)
    hardest: float = setting(
        0.0,
        "share of pixels that the cross-entropy keeps at least, besides all that are hard (OHEM); 0 keeps all",
        ge=0,
        le=1,
    )
    boundary: float = setting(0.0, "by how much more pixels beside another class count in the cross-entropy", ge=0)
    tversky_alpha: float = setting(0.3, "what a pixel too many costs; a missing one costs the rest", ge=0, le=1)
    auxiliary: float = setting(
        0.4,
        "weight of the auxiliary head's loss, for models that have one; 0.4 in mmsegmentation, 0.5 in torchvision",
        ge=0,
    )

    def __post_init__(self) -> None:
        if not any((self.cross_entropy, self.dice, self.tversky, self.lovasz)):
            raise AtrousError("the loss has no term: give loss.cross_entropy or another a weight above 0.")


@settings("crf")
@dataclass(frozen=True)
class Crf:
    """A fully connected CRF as the model's last layer, trained with it (arXiv:1502.03240)."""

    trainable: bool = setting(
        False, "the loss is taken after the CRF, whose weights learn too; without, there is no CRF in the training"
    )
    bilateral_weight: float = setting(4.0, "w1 of the kernel over position and colour to start from", ge=0)
    bilateral_xy: float = setting(67.0, "its extent", gt=0, unit="pixels")
    bilateral_rgb: float = setting(3.0, "its extent in colour; in steps of 8-bit pictures", gt=0)
    gaussian_weight: float = setting(3.0, "w2 of the kernel over position to start from", ge=0)
    gaussian_xy: float = setting(1.0, "its extent", gt=0, unit="pixels")
    compatibility: Literal["potts", "learned"] = setting(
        "learned", "potts, the same penalty between any two classes; or learned, which starts there"
    )
    iterations: int = setting(5, "mean-field steps in training; afterwards there are ten", ge=1)
    lr: float = setting(1.0, "factor on optim.lr for the CRF's weights", ge=0)

    def __post_init__(self) -> None:
        if not self.trainable and any(getattr(self, item.name) != item.default for item in dataclasses.fields(self)):
            raise AtrousError(
                "crf has settings, but is not in the training: set crf.trainable, or leave crf out and refine "
                "afterwards with `atrous evaluate --crf` or --crf-search."
            )


@settings("optim")
@dataclass(frozen=True)
class Optim:
    """How it is minimised."""

    name: Literal["sgd", "adam", "adamw"] = setting("adamw", "optimiser")
    lr: float = setting(1e-3, "learning rate of the head", gt=0)
    backbone_lr: float = setting(1.0, "factor on lr for the backbone", ge=0)
    weight_decay: float = setting(0.01, "weight decay of convolution weights; norms and biases are never decayed", ge=0)
    momentum: float = setting(0.9, "momentum of SGD, and Adam's first beta", ge=0, lt=1)
    clip: float = setting(1.0, "largest norm of the gradient; 0 does not clip", ge=0)
    accumulate: int = setting(1, "batches per optimiser step", ge=1)


@settings("schedule")
@dataclass(frozen=True)
class Schedule:
    """The learning rate over time: linear warm-up, then a curve from 1 down."""

    name: Literal["poly", "cosine", "step"] = setting(
        "poly",
        "curve: poly is (1 − t)^power, the papers'; cosine is half a wave; step falls at each of `steps`. t is the "
        "share of the training done",
    )
    power: float = setting(0.9, "exponent of poly; 0.9 in the papers", ge=0)
    steps: tuple[float, ...] = setting(
        (0.6, 0.85), "shares of the training, epoch / train.epochs, at which step falls, rising", gt=0, lt=1
    )
    fall: float = setting(0.1, "factor at each of `steps`", ge=0, le=1)
    warmup: float = setting(0.03, "share of all steps spent warming up", ge=0, lt=1)
    floor: float = setting(0.0, "the factor on lr never falls below it after the warm-up", ge=0, le=1)

    def __post_init__(self) -> None:
        if list(self.steps) != sorted(self.steps):
            raise AtrousError(f"schedule.steps must be shares of the training that rise, got {list(self.steps)}.")


@settings("train")
@dataclass(frozen=True)
class Train:
    """How long and on what."""

    epochs: int = setting(30, "passes over the training pictures", ge=1)
    batch_size: int = setting(8, "pictures per batch", ge=1)
    enlarge: float = setting(
        1.0,
        "factor by which the network sees pictures enlarged, in training and ever after; their sides are rounded to "
        "32k + 1, also at 1 with backbones that pad as TensorFlow does",
        gt=0,
    )
    learn: Literal["all", "head", "norms"] = setting(
        "all",
        "what learns: all; head, everything but the backbone; norms, scales and shifts of batch norms and the last "
        "layer",
    )
    frozen: tuple[str, ...] = setting((), "names of modules that do not learn either, such as backbone.net.layer1")
    ema: float = setting(
        0.0, "decay of the running average of the weights that is validated and kept; 0 keeps the weights", ge=0, lt=1
    )
    validate_every: int = setting(1, "epochs between validations", ge=1)
    patience: int = setting(
        0,
        "validations without a better mIoU before stopping early; 0 never stops. With ema, those of the first "
        "2 / (1 − ema) steps do not count",
        ge=0,
    )
    minutes: float = setting(0.0, "stop after this many minutes of training; 0 is no limit", ge=0)
    device: str = setting("auto", "device to run on: auto, cpu, cuda, cuda:N or mps")
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "number format: auto takes bfloat16 where the processor computes in it, else float32"
    )
    channels_last: bool = setting(True, "keep numbers in the order that is faster for convolutions")
    recompute: bool = setting(
        False,
        "keep only what goes into each block, and compute the rest again in the backward pass: a quarter less memory "
        "in all, a quarter slower, the same weights",
    )


@settings("watch")
@dataclass(frozen=True)
class Watch:
    """Where the run is told while it goes on, besides metrics.jsonl."""

    tensorboard: bool = setting(True, "write curves for TensorBoard into the run's folder")
    wandb: bool = setting(False, "send curves to Weights & Biases, offline where WANDB_MODE=offline says so")
    project: str = setting("atrous", "project at Weights & Biases")


@settings("")
@dataclass(frozen=True)
class Recipe:
    """A training run."""

    name: str = setting("run", "name of the run's folder, where no other is given")
    seed: int = setting(0, "seed of weights, order and augmentation", ge=0, le=2**32 - 1)
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
            kind, part = section_of(item), getattr(self, item.name)
            if kind is not None and not isinstance(part, kind):
                raise AtrousError(f"{item.name} of a recipe is a {kind.__name__}, got {shown(part)}; see to_recipe.")


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
    return _section(record, Recipe, "")


def _section(record: Any, kind: type, prefix: str) -> Any:
    """A dataclass of a recipe from a dict; `prefix` names it in messages."""
    if not isinstance(record, dict):
        part = prefix.rstrip(".") or "a recipe"
        raise AtrousError(f"{part} must be a mapping of fields to values, got {shown(record)}.")
    known, hints = {item.name: item for item in dataclasses.fields(kind)}, typing.get_type_hints(kind)
    values = {}
    for name, value in record.items():
        if name not in known:
            field_name = f"{prefix}{named(name)}"
            raise AtrousError(f"unknown recipe field '{field_name}'.{nearest_field(field_name)}")
        if (nested := section_of(known[name])) is not None:
            value = _section(value, nested, f"{prefix}{name}.")
        elif value is None and known[name].default is not None:
            raise AtrousError(f"{prefix}{name} has no value: give one, or leave the line out for the default.")
        elif hints[name] is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
            value = float(value)
        values[name] = value
    return kind(**values)


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
        if (nested := section_of(item)) is not None:
            names += field_names(nested, f"{prefix}{item.name}.")
        else:
            names.append(prefix + item.name)
    return names


def nearest_field(name: str) -> str:
    """A hint for a misspelt field, or nothing."""
    near = difflib.get_close_matches(name, field_names(), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


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
