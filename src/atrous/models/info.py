"""What a model says about itself: enough to rebuild it, feed it and read its answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal

from atrous.checked_arguments import as_dict, as_float, checked, checked_field_names
from atrous.data.class_colors import Color
from atrous.data.mask_value_map import MAX_CLASSES, ClassTable
from atrous.errors import AtrousError, shown
from atrous.input_spec import IMAGE, LARGEST, SMALLEST, Input, joint_dtype, usual_colors
from atrous.models.task import SEMANTIC, Task

#: 2 since a record lists inputs and tasks; records of version 1 are of one picture and one table of classes.
FORMAT_VERSION = 2
#: Fields of a record without tasks, which are those of its class table.
_TABLE = {"classes": "names", "colors": "colors", "raw": "raw", "ignore": "ignore"}

#: How much pictures may be enlarged: a thumbnail of 32 px to 2048.
MOST_ENLARGED = 64


@checked_field_names
@dataclass(frozen=True)
class Preprocessing:
    """What happens to a scene before the network.

    Args:
        inputs: what the network sees, joined along the channels in this order; the first is the picture, "image".
        enlarge: factor by which pictures are enlarged before the network sees them, above 0, at most 64.
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
        tasks: what the model answers; the first is semantic, whose classes are two for a one-logit model.
        temperature: logits are divided by it before softmax.
        crf: parameters of the CRF that refines this model's masks, or None.
        scores: measured results, such as {"val": {"miou": 0.71}}.
        provenance: how it was made: data, command, versions.
        format_version: of this record.
    """

    architecture: str
    arguments: dict[str, Any]
    preprocessing: Preprocessing
    tasks: tuple[Task, ...]
    temperature: float = 1.0
    crf: dict[str, Any] | None = None
    scores: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        arguments = as_dict(self.arguments, "arguments")
        if not isinstance(self.preprocessing, Preprocessing) or arguments is None:
            given = f"{shown(self.preprocessing)} and {shown(self.arguments)}"
            raise AtrousError(f"preprocessing is a Preprocessing and arguments are a dict, got {given}.")
        object.__setattr__(self, "arguments", arguments)
        tasks = self.tasks
        if not isinstance(tasks, tuple) or not tasks or not all(isinstance(task, Task) for task in tasks):
            raise AtrousError(f"tasks must be a tuple of Task, got {shown(tasks)}.")
        if tasks[0].kind != SEMANTIC or len({task.name for task in tasks}) < len(tasks):
            names = ", ".join(task.name for task in tasks)
            raise AtrousError(f"the first task is {SEMANTIC} and no two have one name, got {names}.")
        outputs = self.arguments.get("num_classes")
        if outputs is not None and not isinstance(outputs, int):
            raise AtrousError(f"num_classes in arguments must be a whole number, got {shown(outputs)}.")
        if outputs is not None and len(self.table) != max(outputs, 2):
            raise AtrousError(
                f"a model with {outputs} outputs separates {max(outputs, 2)} classes, not {len(self.table)}."
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
        for name in ("crf", "scores", "provenance"):
            given, optional = getattr(self, name), name == "crf"
            if (value := as_dict(given, name)) is None and not (optional and given is None):
                raise AtrousError(f"{name} must be a dict{' or None' if optional else ''}, got {shown(given)}.")
            object.__setattr__(self, name, value)

    @property
    def table(self) -> ClassTable:
        """The classes that each pixel may have, with their colours and mask values: those of the semantic task."""
        return self.tasks[0].classes

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that each pixel may have."""
        return self.table.names

    @property
    def colors(self) -> tuple[Color, ...]:
        """RGB, 0–255, of these classes."""
        return self.table.colors

    @checked
    def with_table(self, table: ClassTable) -> Info:
        """The same with other classes of its semantic task.

        Args:
            table: of as many classes as the model separates.

        Raises:
            AtrousError: another number of classes.
        """
        return replace(self, tasks=(replace(self.tasks[0], classes=table), *self.tasks[1:]))

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
        others = {key: value for key, value in record.items() if not _is_flat(record) or key not in _TABLE}
        try:
            return cls(
                **{
                    **others,
                    "format_version": FORMAT_VERSION,
                    "preprocessing": _preprocessing(record["preprocessing"], version),
                    "arguments": {key: tuples(value) for key, value in record["arguments"].items()},
                    "tasks": _tasks(record),
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise AtrousError(f"the model's record is incomplete or altered: {error}.") from error


def _preprocessing(record: Mapping[str, Any], version: int) -> Preprocessing:
    """As a record of that format version has it."""
    if version == 1:
        return Preprocessing.of_pictures(**record)
    inputs = tuple(Input(**{field: tuples(value) for field, value in one.items()}) for one in record["inputs"])
    return Preprocessing(**{**record, "inputs": inputs})


def _is_flat(record: Mapping[str, Any]) -> bool:
    """Whether a record has its classes beside its other fields: in version 1, and in the first files of version 2."""
    return record["format_version"] == 1 or ("tasks" not in record and "classes" in record)


def _flat_table(record: Mapping[str, Any]) -> ClassTable:
    """The classes of a record without tasks, which were not checked as a table when it was written.

    A value of a class is not ignored, though it is in the default (255,); a name that stands twice gets a number.
    """
    fields = {new: tuples(record[old]) for old, new in _TABLE.items()}
    owned = {value for values in fields["raw"] for value in values}
    fields["ignore"] = tuple(value for value in fields["ignore"] if value not in owned)
    names: list[str] = []
    for name in fields["names"]:
        number = 1 + sum(taken == name or taken.startswith(f"{name} (") for taken in names)
        names.append(f"{name} ({number})" if name in names else name)
    return ClassTable(**{**fields, "names": tuple(names)})


def _tasks(record: Mapping[str, Any]) -> tuple[Task, ...]:
    """As a record of its format version has them."""
    if _is_flat(record):
        return (Task(_flat_table(record)),)
    return tuple(
        Task(**{**one, "outputs": tuples(one["outputs"]), "classes": ClassTable(**tuples(one["classes"]))})
        for one in record["tasks"]
    )


def placeholder_table(num_classes: int) -> ClassTable:
    """The classes of a model that was never told them: "class 0", "class 1" …, in shades of grey.

    Args:
        num_classes: outputs of the network, 1 (one logit, which separates two classes) to 255.

    Raises:
        AtrousError: another number.
    """
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or not 1 <= num_classes <= MAX_CLASSES:
        raise AtrousError(
            f"num_classes must be a whole number, 1 (binary, one logit) to {MAX_CLASSES} (a mask's pixel is one "
            f"byte), got {shown(num_classes)}."
        )
    count = max(num_classes, 2)  # one logit separates two classes
    return ClassTable(
        names=tuple(f"class {index}" for index in range(count)),
        colors=tuple((shade, shade, shade) for shade in (round(255 * i / (count - 1)) for i in range(count))),
        raw=tuple((index,) for index in range(count)),
        ignore=(255,),
    )


def tuples(value: Any) -> Any:
    """Lists, which is what JSON makes of tuples, as tuples, at any depth.

    Args:
        value: plain values.
    """
    if isinstance(value, Mapping):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value


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
