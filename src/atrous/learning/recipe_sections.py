"""The sections of a recipe: each field is defined once, with its default, its meaning and its range.

The section `augment` is `atrous.data.transforms.Augment`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from atrous.data.layouts.known_layouts import LAYOUTS
from atrous.errors import AtrousError
from atrous.models import ARCHITECTURES
from atrous.models.paper_arguments import OUTPUT_STRIDES
from atrous.option_fields import described, setting, settings


@settings("data")
@dataclass(frozen=True)
class Data:
    """Data set, and settings for reading it."""

    root: str = setting("", "folder of the data set")
    layout: str | None = setting(None, "layout of the data set; guessed when not given", choices=tuple(LAYOUTS))
    groups: str | None = setting(
        None,
        "pattern: a regular expression with one capture group, searched in the names of pictures; pictures with the "
        "same captured text, such as the id of a patient, stay in one split when the splits are drawn at random. A "
        "groups.csv file takes precedence",
    )
    train: str = setting("train", "name of the split to train on")
    val: str = setting("val", "name of the split on which the best weights are chosen")
    workers: int = setting(1, "number of worker processes that decode and augment pictures", ge=0)
    check: bool = setting(True, "examine every file before training; the training does not start if there are errors")
    statistics: Literal["auto", "pretrained", "fit"] = setting(
        "auto",
        "mean and standard deviation that normalise the pictures: pretrained uses those of the backbone's pretraining, "
        "fit measures them on the training pictures, auto measures them only for pictures that are not 8-bit",
    )
    pages: Literal["first", "channels"] = setting(
        "first", "pages to read from multi-page TIFFs: first is the first page, channels is the bands of all pages"
    )
    planes: tuple[str, ...] = setting(
        (),
        "planes whose slices are the pictures of a data set of volumes: axial, coronal, sagittal; when not given, the "
        "planes in the data set's inputs.yaml, or axial if it has none",
    )
    slices: int | None = setting(
        None,
        "number of adjacent slices of a volume that are the channels of one picture; an odd number. When not given, "
        "the number in the data set's inputs.yaml, or 1 if it has none",
        ge=1,
    )
    spacing: tuple[float, float, float] | Literal["median"] | None = setting(
        None,
        "voxel sides to which volumes are resampled, to the right, anterior and superior; median takes the median "
        "voxel side of the training volumes along each axis, and a smaller side along the coarse axis of anisotropic "
        "volumes. When not given, volumes are not resampled",
        gt=0,
        unit="millimetres",
    )
    window: int | None = setting(
        None,
        "largest height and width of the windows in which the scenes of the layout rasters are read; best at least the "
        "crop divided by the smallest scale. 512 when not given",
        ge=1,
        unit="pixels",
    )
    balance: float = setting(
        0.0,
        "share of an epoch's pictures that are drawn by class: first a class, all equally probable, then a picture "
        "that contains it; the other pictures are drawn from all without repetition. 0 takes each picture once",
        ge=0,
        le=1,
    )
    inputs: dict[str, str] = field(
        default_factory=dict,
        metadata=described(
            "folders of further inputs by name, such as {depth: depth/}, added to those of the data set's inputs.yaml"
        ),
    )


@settings("model")
@dataclass(frozen=True)
class Model:
    """Network: architecture, backbone and initial weights."""

    architecture: str = setting(
        "deeplabv3plus", "architecture to build, named after its paper", choices=tuple(ARCHITECTURES)
    )
    backbone: str = setting(
        "tf_efficientnet_lite0",
        "name of the backbone: any timm network that supports an output stride, vgg16, or google_mobilenetv2_100",
    )
    pretrained: bool = setting(True, "start with ImageNet weights in the backbone")
    output_stride: int = setting(
        16,
        "output stride of the backbone; the side of the input divided by the side of the last feature map",
        choices=OUTPUT_STRIDES,
    )
    in_channels: int | None = setting(
        None, "number of channels of the pictures; read from the data when not given", ge=1
    )
    first_layer: Literal["bands", "repeat", "random"] = setting(
        "bands",
        "how the ImageNet filters of red, green and blue are spread over more than three bands: bands gives them to "
        "the bands of these colours, found by name or wavelength, and their mean to the others; repeat repeats them "
        "over all bands, which bands also does if a colour is not found; random starts the first layer without them",
    )
    init: str | None = setting(
        None,
        "model file to start from instead of ImageNet weights; its architecture, backbone, output stride and arguments "
        "then replace those of the recipe, except arguments that the recipe sets in `arguments`",
    )
    arguments: dict[str, Any] = field(
        default_factory=dict, metadata=described("further arguments of the architecture by name")
    )


@settings("loss")
@dataclass(frozen=True)
class Loss:
    """Loss: a weighted sum of terms; a weight of 0 turns its term off."""

    cross_entropy: float = setting(1.0, "weight of the cross-entropy over pixels", ge=0)
    dice: float = setting(0.0, "weight of the Dice loss over classes", ge=0)
    tversky: float = setting(0.0, "weight of the Tversky loss over classes", ge=0)
    lovasz: float = setting(0.0, "weight of the Lovász-softmax loss over classes, a surrogate of 1 − mean IoU", ge=0)
    class_weights: Literal[
        "none", "inverse_fourth_root", "inverse_sqrt", "median_frequency", "log", "effective_number", "inverse"
    ] = setting(
        "none",
        "formula for the class weights, from the frequencies of the classes: none (all 1), inverse_fourth_root (mild), "
        "inverse_sqrt, median_frequency, log, effective_number, inverse; used in all terms of the loss",
    )
    label_smoothing: float = setting(0.0, "label smoothing of the cross-entropy", ge=0, lt=1)
    focal: float = setting(0.0, "gamma of the focal loss, applied to the cross-entropy; 0 is plain cross-entropy", ge=0)
    hardest: float = setting(
        0.0,
        "smallest share of pixels that online hard example mining (OHEM) keeps in the cross-entropy; pixels whose true "
        "class has a probability below 0.7 are always kept. 0 keeps all pixels",
        ge=0,
        le=1,
    )
    boundary: float = setting(0.0, "extra cross-entropy weight of pixels up to 2 pixels away from another class", ge=0)
    tversky_alpha: float = setting(
        0.3, "cost of a false positive pixel in the Tversky loss; a false negative costs 1 − tversky_alpha", ge=0, le=1
    )
    auxiliary: float = setting(
        0.4,
        "weight of the auxiliary head's loss, in models with such a head; 0.4 in mmsegmentation, 0.5 in torchvision",
        ge=0,
    )

    def __post_init__(self) -> None:
        if not any((self.cross_entropy, self.dice, self.tversky, self.lovasz)):
            raise AtrousError("the loss has no term: give loss.cross_entropy or another term a weight above 0.")


@settings("distill")
@dataclass(frozen=True)
class Distill:
    """Distillation: a trained model, the teacher, whose scores the model learns besides the labels."""

    teacher: str | None = setting(
        None,
        "model file of the teacher: a trained model of any architecture, with the same classes and the same inputs; "
        "no distillation when not given",
    )
    logits: float = setting(
        1.0,
        "weight of the soft labels, the divergence between the class probabilities of model and teacher at each pixel",
        ge=0,
    )
    channel: float = setting(
        3.0,
        "weight of the channel-wise distillation (arXiv:2011.13256), the divergence between the score maps of model "
        "and teacher, where a softmax over the pixels of a crop turns each class's map into probabilities",
        ge=0,
    )
    temperature: float = setting(
        4.0,
        "number by which the scores of model and teacher are divided before each softmax; 4 in arXiv:2011.13256",
        gt=0,
    )
    output_stride: int | None = setting(
        None,
        "output stride at which the teacher runs, with the same weights: 8, 16 or 32; a larger one takes less time. "
        "The teacher's own when not given",
        choices=OUTPUT_STRIDES,
    )
    sha256: str | None = setting(
        None, "SHA-256 of the teacher's file; a new run fills it in, and a file with another checksum is refused"
    )

    def __post_init__(self) -> None:
        if self.teacher is None and any(getattr(self, item.name) != item.default for item in dataclasses.fields(self)):
            raise AtrousError(
                "distill has settings, but no teacher: set distill.teacher to a model file, or leave distill out."
            )
        if self.teacher is not None and not self.logits and not self.channel:
            raise AtrousError(
                "distill.teacher is given, but distill.logits and distill.channel are 0: give one of them a weight "
                "above 0, or leave distill out."
            )


@settings("crf")
@dataclass(frozen=True)
class Crf:
    """Fully connected CRF as the last layer of the model, trained with the model (arXiv:1502.03240)."""

    trainable: bool = setting(
        False, "train a CRF after the network: the loss is computed on its output, and its weights are learned"
    )
    bilateral_weight: float = setting(4.0, "initial weight w1 of the kernel over position and colour", ge=0)
    bilateral_xy: float = setting(67.0, "extent in space of the kernel over position and colour", gt=0, unit="pixels")
    bilateral_rgb: float = setting(
        3.0, "extent in colour of the kernel over position and colour, in 8-bit colour levels", gt=0
    )
    gaussian_weight: float = setting(3.0, "initial weight w2 of the kernel over position", ge=0)
    gaussian_xy: float = setting(1.0, "extent of the kernel over position", gt=0, unit="pixels")
    compatibility: Literal["potts", "learned"] = setting(
        "learned", "penalties between classes: potts, the same for any two classes, or learned, which starts from potts"
    )
    iterations: int = setting(5, "number of mean-field iterations in training; a trained model uses 10", ge=1)
    lr: float = setting(1.0, "factor on optim.lr for the CRF's weights", ge=0)

    def __post_init__(self) -> None:
        if not self.trainable and any(getattr(self, item.name) != item.default for item in dataclasses.fields(self)):
            raise AtrousError(
                "crf has settings, but crf.trainable is false: set crf.trainable to true, or leave crf out and refine "
                "after the training with `atrous evaluate --crf` or --crf-search."
            )


@settings("optim")
@dataclass(frozen=True)
class Optim:
    """Optimiser and its settings."""

    name: Literal["sgd", "adam", "adamw"] = setting("adamw", "optimiser")
    lr: float = setting(1e-3, "learning rate of the head", gt=0)
    backbone_lr: float = setting(1.0, "factor on `lr` for the backbone", ge=0)
    weight_decay: float = setting(
        0.01, "weight decay of convolution weights; norm parameters and biases are never decayed", ge=0
    )
    momentum: float = setting(0.9, "momentum of SGD, or first beta of Adam and AdamW", ge=0, lt=1)
    clip: float = setting(
        1.0, "largest norm of the gradient; larger gradients are scaled down, and 0 turns clipping off", ge=0
    )
    accumulate: int = setting(1, "number of batches per optimiser step", ge=1)


@settings("schedule")
@dataclass(frozen=True)
class Schedule:
    """Learning rate schedule: linear warm-up, then a falling curve."""

    name: Literal["poly", "cosine", "step"] = setting(
        "poly",
        "curve of the learning rate after the warm-up: poly is (1 − t)^power, as in the papers; cosine is half a "
        "cosine wave; step falls at each of `steps`. t is the share of the training that is done",
    )
    power: float = setting(0.9, "exponent of poly; 0.9 in the papers", ge=0)
    steps: tuple[float, ...] = setting(
        (0.6, 0.85),
        "shares of the training, in rising order, at which the step curve falls; 0.5 is half of train.epochs",
        gt=0,
        lt=1,
    )
    fall: float = setting(0.1, "factor on the learning rate at each of `steps`", ge=0, le=1)
    warmup: float = setting(0.03, "share of all optimiser steps that is warm-up", ge=0, lt=1)
    floor: float = setting(0.0, "smallest factor on the learning rate after the warm-up", ge=0, le=1)

    def __post_init__(self) -> None:
        if list(self.steps) != sorted(self.steps):
            raise AtrousError(f"schedule.steps must be shares of the training in rising order, got {list(self.steps)}.")


@settings("train")
@dataclass(frozen=True)
class Train:
    """Length of the training, batches, and hardware."""

    epochs: int = setting(30, "passes over the training pictures", ge=1)
    batch_size: int = setting(8, "number of pictures per batch", ge=1)
    enlarge: float = setting(
        1.0,
        "factor by which pictures are enlarged before the network, in training and inference; the enlarged sides are "
        "rounded to 32k + 1 pixels. If the backbone pads as TensorFlow does, sides are rounded for a factor of 1, too",
        gt=0,
    )
    learn: Literal["all", "head", "norms", "lora"] = setting(
        "all",
        "parameters to train: all; head, which is everything except the backbone; norms, which is the last layer and "
        "the scales and shifts of batch norms; lora, which is low-rank changes of the weights of a trained model "
        "(arXiv:2106.09685), and its norms, depthwise convolutions and last layer in full",
    )
    rank: int = setting(8, "rank of the low-rank changes of the weights with learn lora", ge=1)
    frozen: tuple[str, ...] = setting((), "names of further modules to freeze, such as backbone.net.layer1")
    ema: float = setting(
        0.0,
        "decay per step of the exponential moving average (EMA) of the weights, which is validated and saved; 0 turns "
        "averaging off",
        ge=0,
        lt=1,
    )
    validate_every: int = setting(1, "number of epochs between validations", ge=1)
    patience: int = setting(
        0,
        "number of validations without a better mIoU after which the training stops early; 0 never stops early. With "
        "`ema`, validations in the first 2 / (1 − ema) steps do not count",
        ge=0,
    )
    minutes: float = setting(0.0, "longest training time, in minutes; 0 is no limit", ge=0)
    device: str = setting("auto", "device to run on: auto, cpu, cuda, cuda:N or mps")
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "number format to compute in: auto is bfloat16 if the hardware supports it, else float32"
    )
    channels_last: bool = setting(True, "store tensors in channels_last memory order, which makes convolutions faster")
    recompute: bool = setting(
        False,
        "activation checkpointing: keep only the inputs of each block and recompute the rest in the backward pass. "
        "This takes a quarter less memory and is a quarter slower; the weights are the same",
    )


@settings("watch")
@dataclass(frozen=True)
class Watch:
    """Monitoring of the run, besides metrics.jsonl."""

    tensorboard: bool = setting(True, "write TensorBoard logs into the run's folder")
    wandb: bool = setting(
        False, "log to Weights & Biases; with WANDB_MODE=offline, the log stays on this machine and can be sent later"
    )
    project: str = setting("atrous", "name of the project at Weights & Biases")
