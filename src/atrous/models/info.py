"""What a model says about itself: enough to rebuild it, feed it and read its answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from atrous.arguments import as_float, checked, checked_field_names
from atrous.errors import AtrousError, shown
from atrous.inputs import IMAGE, LARGEST, SMALLEST, Input, joint_dtype, usual_colors

if TYPE_CHECKING:
    from atrous.models.backbones import Backbone
    from atrous.models.vgg import VGG16

#: 2 since a record says of each input what it is; records of version 1 are of one picture.
FORMAT_VERSION = 2

#: The largest factor by which a network sees pictures enlarged; more fills any memory.
MOST_ENLARGED = 1000

#: Masks hold one byte for each pixel, in which 255 means that it is ignored.
MOST_CLASSES = 255

Color = tuple[int, int, int]
#: A raw value in a mask file: an index, or a colour in colour-coded masks.
Raw = int | Color


@checked_field_names
@dataclass(frozen=True)
class Preprocessing:
    """What happens to a scene before the network.

    Args:
        inputs: what the network sees, joined along the channels in this order; the first is the picture, "image".
        enlarge: factor by which pictures are enlarged before the network sees them, above 0, at most 1,000.
        aligned: whether the network sees sides of 32k + 1 pixels even where nothing is enlarged, which is what
            TensorFlow's SAME padding needs to sample crops and whole pictures alike (`layers.Normalize`).
    """

    inputs: tuple[Input, ...]
    enlarge: float = 1.0
    aligned: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, tuple) or not self.inputs or not all(isinstance(i, Input) for i in self.inputs):
            raise AtrousError(
                f"inputs must be a tuple of Input, got {shown(self.inputs)}; of pictures alone, "
                "Preprocessing.of_pictures(mean, std)."
            )
        names = [one.name for one in self.inputs]
        if names[0] != IMAGE or len(set(names)) < len(names):
            raise AtrousError(f"the first input is {IMAGE!r} and no two have one name, got {', '.join(names)}.")
        if (enlarge := as_float(self.enlarge, "enlarge")) is None:
            raise AtrousError(f"enlarge must be a number, got {shown(self.enlarge)}.")
        if not 0 < enlarge <= MOST_ENLARGED:
            raise AtrousError(f"enlarge must be positive and finite, at most {MOST_ENLARGED:,}, got {enlarge}.")
        object.__setattr__(self, "enlarge", enlarge)
        if not isinstance(self.aligned, bool):  # a text in an altered file would count as true
            raise AtrousError(f"aligned must be true or false, got {shown(self.aligned)}.")

    @classmethod
    @checked
    def of_pictures(
        cls,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        dtype: str = "uint8",
        pages: str = "first",
        enlarge: float = 1.0,
        aligned: bool = False,
    ) -> Preprocessing:
        """Of a network that sees one picture and nothing beside it.

        Args:
            mean: one per channel, in raw units.
            std: one per channel, > 0, in raw units.
            dtype: uint8, uint16 or float32.
            pages: as of `Input`.
            enlarge: as of `Preprocessing`.
            aligned: as of `Preprocessing`.

        Raises:
            AtrousError: values out of range.
        """
        colors = usual_colors(len(mean), dtype)
        image = Input(tuple(mean), tuple(std), dtype=dtype, pages=pages, colors=colors)  # pyright: ignore[reportArgumentType]
        return cls((image,), enlarge, aligned)

    @property
    def image(self) -> Input:
        """The first input, the picture."""
        return self.inputs[0]

    @property
    def mean(self) -> tuple[float, ...]:
        """Of all channels, in raw units."""
        return tuple(value for one in self.inputs for value in one.mean)

    @property
    def std(self) -> tuple[float, ...]:
        """Of all channels, in raw units."""
        return tuple(value for one in self.inputs for value in one.std)

    @property
    def channels(self) -> int:
        """C of all inputs together."""
        return sum(one.channels for one in self.inputs)

    @property
    def dtype(self) -> Literal["uint8", "uint16", "float32"]:
        """The type of the values of all inputs in one array."""
        return joint_dtype(self.inputs)

    @property
    def windows(self) -> tuple[tuple[float, float], ...] | None:
        """(lowest, highest) value of each channel that is not clipped; None where no value is clipped."""
        if all(one.window is None for one in self.inputs):
            return None
        return tuple(one.window or (-math.inf, math.inf) for one in self.inputs for _ in one.mean)

    @checked
    def normalized_by(self, mean: Sequence[float], std: Sequence[float]) -> Preprocessing:
        """The same with another mean and deviation of all channels.

        Args:
            mean: one per channel of all inputs together, in raw units.
            std: one per channel, > 0, in raw units.

        Raises:
            AtrousError: another number of values than channels, or values out of range.
        """
        if not len(mean) == len(std) == self.channels:
            raise AtrousError(
                f"mean and std need one value per channel, {self.channels}, got {len(mean)} and {len(std)}."
            )
        inputs, first = [], 0
        for one in self.inputs:
            own = slice(first, first + one.channels)
            inputs.append(replace(one, mean=tuple(mean[own]), std=tuple(std[own])))
            first += one.channels
        return replace(self, inputs=tuple(inputs))

    @checked
    def with_image(self, **changes: Any) -> Preprocessing:
        """The same with other fields of its first input.

        Args:
            changes: fields of `Input`, such as dtype="uint16".
        """
        return replace(self, inputs=(replace(self.image, **changes), *self.inputs[1:]))


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
        if outputs is not None and not isinstance(outputs, int):
            raise AtrousError(f"num_classes in arguments must be a whole number, got {shown(outputs)}.")
        if outputs is not None and len(self.classes) != max(outputs, 2):
            raise AtrousError(
                f"a model with {outputs} outputs separates {max(outputs, 2)} classes, not {len(self.classes)}."
            )
        temperature = as_float(self.temperature, "temperature")
        if temperature is None or not SMALLEST <= temperature <= LARGEST:
            raise AtrousError(f"temperature must be positive and finite, in float32, got {shown(self.temperature)}.")
        object.__setattr__(self, "temperature", temperature)
        channels = self.arguments.get("in_channels")
        if channels is not None and self.preprocessing.channels != channels:
            raise AtrousError(
                f"a model of pictures with {channels} channels needs as many means, got {self.preprocessing.channels}."
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
        if isinstance(version, bool) or version not in (1, FORMAT_VERSION):
            raise AtrousError(
                f"the model's record has format version {shown(version)}, this atrous reads 1 to {FORMAT_VERSION}: "
                "upgrade atrous, or convert the model again."
            )
        try:
            return cls(
                **{
                    **record,
                    "format_version": FORMAT_VERSION,
                    "preprocessing": _preprocessing(record["preprocessing"], version),
                    "arguments": {key: _tuples(value) for key, value in record["arguments"].items()},
                    "classes": tuple(record["classes"]),
                    "colors": _tuples(record["colors"]),
                    "raw": _tuples(record["raw"]),
                    "ignore": _tuples(record["ignore"]),
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise AtrousError(f"the model's record is incomplete or altered: {error}.") from error


def _preprocessing(record: Mapping[str, Any], version: int) -> Preprocessing:
    """As a record of that format version has it."""
    if version == 1:
        return Preprocessing.of_pictures(**record)
    inputs = tuple(Input(**{field: _tuples(value) for field, value in one.items()}) for one in record["inputs"])
    return Preprocessing(**{**record, "inputs": inputs})


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
        preprocessing=Preprocessing.of_pictures(mean, std),
        **placeholder_classes(arguments["num_classes"]),
    )


def placeholder_classes(num_classes: int) -> dict[str, Any]:
    """Names, colours and raw values of a model that was never told its classes."""
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or not 1 <= num_classes <= MOST_CLASSES:
        raise AtrousError(
            f"num_classes must be a whole number, 1 (binary, one logit) to {MOST_CLASSES} (a mask's pixel is one "
            f"byte), got {shown(num_classes)}."
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
