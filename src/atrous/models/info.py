"""What a model says about itself: enough to rebuild it, feed it and read its answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from atrous.arguments import checked, checked_field_names
from atrous.errors import AtrousError, shown

if TYPE_CHECKING:
    from atrous.models.backbones import Backbone
    from atrous.models.vgg import VGG16

FORMAT_VERSION = 1

#: Masks hold one byte for each pixel, in which 255 means that it is ignored.
MOST_CLASSES = 255

Color = tuple[int, int, int]
#: A raw value in a mask file: an index, or a colour in colour-coded masks.
Raw = int | Color


@checked_field_names
@dataclass(frozen=True)
class Preprocessing:
    """What happens to a picture before the network.

    Args:
        mean: one per channel, in raw units (0–255 for 8-bit pictures).
        std: one per channel, > 0, in raw units.
        enlarge: factor by which pictures are enlarged before the network sees them.
        aligned: whether the network sees sides of 32k + 1 pixels even where nothing is enlarged, which is what
            TensorFlow's SAME padding needs to sample crops and whole pictures alike (`layers.Normalize`).
        dtype: the pixel type the network was trained on; pictures of the other integer type are rescaled to it.
        pages: of TIFFs with several, "first" for the first page, "channels" for the bands of all of them.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    enlarge: float = 1.0
    aligned: bool = False
    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    pages: Literal["first", "channels"] = "first"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, tuple | list) or not all(isinstance(value, Real) for value in values):
                raise AtrousError(f"{name} must be one number per channel, got {shown(values)}.")
        if not isinstance(self.enlarge, Real):
            raise AtrousError(f"enlarge must be a number, got {shown(self.enlarge)}.")
        if len(self.mean) != len(self.std) or not self.mean:
            raise AtrousError(f"mean and std need one value per channel, got {len(self.mean)} and {len(self.std)}.")
        if not all(0 < value < math.inf for value in self.std):
            raise AtrousError(f"std must be positive and finite in every channel, got {self.std}.")
        if not all(-math.inf < value < math.inf for value in self.mean):
            raise AtrousError(f"mean must be finite in every channel, got {self.mean}.")
        if not 0 < self.enlarge < math.inf:
            raise AtrousError(f"enlarge must be positive and finite, got {self.enlarge}.")
        if not isinstance(self.aligned, bool):  # a text in an altered file would count as true
            raise AtrousError(f"aligned must be true or false, got {shown(self.aligned)}.")
        if not isinstance(self.pages, str) or self.pages not in ("first", "channels"):
            raise AtrousError(f"pages must be 'first' or 'channels', got {shown(self.pages)}.")


@checked_field_names
@dataclass(frozen=True)
class Info:
    """Everything about a model but its weights; JSON-serialisable. `dataclasses.replace` changes it.

    Args:
        architecture: a paper's name, a key of `atrous.models.ARCHITECTURES`.
        arguments: all arguments of its constructor, so that a file rebuilds the model.
        preprocessing: what happens to a picture before the network.
        classes: names, one per class (two for a one-logit model).
        colors: RGB, 0–255, one per class.
        raw: per class the raw values it has in mask files; the first is written back.
        ignore: raw values that mean "not labelled".
        temperature: logits are divided by it before softmax.
        crf: parameters of the CRF that refines this model's masks, or None.
        scores: measured results, such as {"val": {"miou": 0.71}}.
        provenance: how it was made: data, command, versions.
        format_version: of this record.
    """

    architecture: str
    arguments: dict[str, Any]
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    raw: tuple[tuple[Raw, ...], ...]
    ignore: tuple[Raw, ...] = (255,)
    temperature: float = 1.0
    crf: dict[str, Any] | None = None
    scores: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if not isinstance(self.preprocessing, Preprocessing) or not isinstance(self.arguments, Mapping):
            given = f"{shown(self.preprocessing)} and {shown(self.arguments)}"
            raise AtrousError(f"preprocessing is a Preprocessing and arguments are a dict, got {given}.")
        for name in ("classes", "colors", "raw"):
            if not isinstance(getattr(self, name), tuple | list):
                raise AtrousError(f"{name} must be a tuple, one entry per class, got {shown(getattr(self, name))}.")
        if not len(self.classes) == len(self.colors) == len(self.raw):
            raise AtrousError(
                f"classes, colours and raw values must be equally many, got {len(self.classes)}, "
                f"{len(self.colors)} and {len(self.raw)}."
            )
        if not all(isinstance(name, str) for name in self.classes):
            raise AtrousError(f"classes must be names, got {shown(self.classes)}.")
        if not all(_is_color(color) for color in self.colors):
            raise AtrousError(f"colors must be three whole numbers for each class, 0–255, got {shown(self.colors)}.")
        if len(self.classes) > MOST_CLASSES:
            raise AtrousError(
                f"a model has at most {MOST_CLASSES} classes, because masks hold one byte for each pixel; got "
                f"{len(self.classes)}."
            )
        outputs = self.arguments.get("num_classes")
        if outputs is not None and len(self.classes) != max(outputs, 2):
            raise AtrousError(
                f"a model with {outputs} outputs separates {max(outputs, 2)} classes, not {len(self.classes)}."
            )
        if not isinstance(self.temperature, int | float) or not 0 < self.temperature < math.inf:
            raise AtrousError(f"temperature must be positive and finite, got {shown(self.temperature)}.")
        channels = self.arguments.get("in_channels")
        if channels is not None and len(self.preprocessing.mean) != channels:
            raise AtrousError(
                f"a model of pictures with {channels} channels needs as many means, got {len(self.preprocessing.mean)}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return asdict(self)

    @classmethod
    @checked
    def from_dict(cls, record: dict[str, Any]) -> Info:
        """The inverse of `to_dict`, after a trip through JSON.

        Raises:
            AtrousError: fields missing or unknown, or a newer format.
        """
        if not isinstance(record, Mapping):
            raise AtrousError(f"a model's record is a dict, got {shown(record)}.")
        version = record.get("format_version")
        if version != FORMAT_VERSION:
            raise AtrousError(
                f"the model's record has format version {version!r}, this atrous reads {FORMAT_VERSION}: "
                "upgrade atrous, or convert the model again."
            )
        try:
            preprocessing = record["preprocessing"]
            return cls(
                **{
                    **record,
                    "preprocessing": Preprocessing(
                        **{
                            **preprocessing,
                            "mean": tuple(preprocessing["mean"]),
                            "std": tuple(preprocessing["std"]),
                        }
                    ),
                    "arguments": {key: _tuples(value) for key, value in record["arguments"].items()},
                    "classes": tuple(record["classes"]),
                    "colors": _tuples(record["colors"]),
                    "raw": _tuples(record["raw"]),
                    "ignore": _tuples(record["ignore"]),
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise AtrousError(f"the model's record is incomplete or altered: {error}.") from error


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
        arguments={name: _tuples(value) for name, value in arguments.items() if name not in ("self", "__class__")},
        preprocessing=Preprocessing(tuple(mean), tuple(std)),
        **placeholder_classes(arguments["num_classes"]),
    )


def placeholder_classes(num_classes: int) -> dict[str, Any]:
    """Names, colours and raw values of a model that was never told its classes."""
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or not 1 <= num_classes <= MOST_CLASSES:
        raise AtrousError(
            f"num_classes must be a whole number, 1 (binary, one logit) to {MOST_CLASSES} (a mask's pixel is one "
            f"byte), got {num_classes!r}."
        )
    count = max(num_classes, 2)  # one logit separates two classes
    return {
        "classes": tuple(f"class {index}" for index in range(count)),
        "colors": tuple((shade, shade, shade) for shade in (round(255 * i / (count - 1)) for i in range(count))),
        "raw": tuple((index,) for index in range(count)),
    }


def _is_color(value: Any) -> bool:
    sound = isinstance(value, tuple | list) and len(value) == 3
    return sound and all(isinstance(part, int) and 0 <= part <= 255 for part in value)


def _tuples(value: Any) -> Any:
    """Lists, which is what JSON makes of tuples, as tuples, at any depth."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def aligned_side(side: int, factor: float) -> int:
    """The number 32k + 1 ≥ 33 nearest to factor·side.

    There every map down to stride 32 has an odd side, so TensorFlow's SAME padding is even and training crops and whole
    pictures are sampled at the same places; elsewhere a map shifts by half its stride. Down to 32 also at output stride
    16, where the last layer keeps the padding of the stride it has lost: at 16k + 1 with an odd k, CamVid lost seven
    points of mean IoU (docs/results.md).
    """
    # `round`, to the even number halfway, in whole and positive numbers, which is all that exporters know of sizes.
    exact = Fraction(factor).limit_denominator(10**6)
    above, below = side * exact.numerator - exact.denominator, 32 * exact.denominator
    nearest = (2 * above + below) // (4 * below) + (2 * above + 3 * below - 1) // (4 * below)
    nearest = nearest + 1 // (nearest + 1)  # 33 at least
    return 32 * nearest + 1
