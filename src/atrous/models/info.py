"""A model's record: everything needed to rebuild it, to prepare its input and to interpret its output."""

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

#: Version of the record's format. Version 2 lists inputs and tasks; version 1 has one picture and one class table.
FORMAT_VERSION = 2
#: Fields of a record without tasks → fields of `ClassTable`.
_TABLE = {"classes": "names", "colors": "colors", "raw": "raw", "ignore": "ignore"}

#: Largest factor by which pictures may be enlarged; it makes 2048 px of 32 px.
MOST_ENLARGED = 64


@checked_field_names
@dataclass(frozen=True)
class Preprocessing:
    """The inputs of a network and their preprocessing.

    Args:
        inputs: inputs of the network, joined along the channels in this order; the first is the picture, "image".
        enlarge: factor by which the input is enlarged before the network, above 0, at most 64.
        aligned: whether the input is resized to sides of 32k + 1 pixels even if `enlarge` is 1. With TensorFlow's SAME
            padding, crops and whole pictures are then sampled at the same positions (`layers.Normalize`).

    Raises:
        AtrousError: a value is out of range, the first input is not "image", or two inputs have the same name.
    """

    inputs: tuple[Input, ...]
    enlarge: float = 1.0
    aligned: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, tuple) or not self.inputs or not all(isinstance(i, Input) for i in self.inputs):
            raise AtrousError(
                f"inputs must be a tuple of Input, got {shown(self.inputs)}. For pictures alone use "
                "Preprocessing.of_pictures(mean, std)."
            )
        names = [one.name for one in self.inputs]
        if names[0] != IMAGE or len(set(names)) < len(names):
            raise AtrousError(
                f"the first input must be {IMAGE!r}, and the names of all inputs must differ, got {', '.join(names)}."
            )
        if (enlarge := as_float(self.enlarge, "enlarge")) is None:
            raise AtrousError(f"enlarge must be a number, got {shown(self.enlarge)}.")
        if not 0 < enlarge <= MOST_ENLARGED:
            raise AtrousError(f"enlarge must be positive and finite, at most {MOST_ENLARGED:,}, got {enlarge}.")
        object.__setattr__(self, "enlarge", enlarge)
        if not isinstance(self.aligned, bool):  # a string in an altered file would count as true
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
        """Returns the preprocessing of a network whose only input is a picture.

        Args:
            mean: mean of each channel, in raw units.
            std: standard deviation of each channel, > 0, in raw units.
            dtype: type of the values: uint8, uint16 or float32.
            pages: as in `Input`.
            enlarge: as in `Preprocessing`.
            aligned: as in `Preprocessing`.

        Raises:
            AtrousError: a value is out of range.
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
        """The mean of each channel of all inputs, in raw units."""
        return tuple(value for one in self.inputs for value in one.mean)

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation of each channel of all inputs, in raw units."""
        return tuple(value for one in self.inputs for value in one.std)

    @property
    def channels(self) -> int:
        """The number of channels C of all inputs together."""
        return sum(one.channels for one in self.inputs)

    @property
    def dtype(self) -> Literal["uint8", "uint16", "float32"]:
        """The dtype of an array that contains all inputs."""
        return joint_dtype(self.inputs)

    @property
    def windows(self) -> tuple[tuple[float, float], ...] | None:
        """The range (lowest, highest) to which each channel is clipped; None if no channel is clipped."""
        windows = [window for one in self.inputs for window in one.windows]
        if not any(windows):
            return None
        return tuple(window or (-math.inf, math.inf) for window in windows)

    @checked
    def normalized_by(self, mean: Sequence[float], std: Sequence[float]) -> Preprocessing:
        """Returns a copy with another mean and standard deviation of all channels.

        Args:
            mean: mean of each channel of all inputs together, in raw units.
            std: standard deviation of each channel, > 0, in raw units.

        Raises:
            AtrousError: the number of values is not the number of channels, or a value is out of range.
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
        """Returns a copy in which fields of the first input are changed.

        Args:
            changes: new values of fields of `Input`, such as dtype="uint16".

        Raises:
            AtrousError: a value is out of range.
        """
        return replace(self, inputs=(replace(self.image, **changes), *self.inputs[1:]))


@checked_field_names
@dataclass(frozen=True)
class Info:
    """A model's record: all data except the weights. It can be stored as JSON; `replace` returns a changed copy.

    Args:
        architecture: the paper, a key of `atrous.models.ARCHITECTURES`.
        arguments: all arguments of the model's constructor, by name, so that a file can rebuild the model.
        preprocessing: the inputs of the network and their preprocessing.
        tasks: the tasks of the model. The first task is semantic segmentation; with one logit, it has two classes.
        temperature: number > 0 by which the logits are divided before softmax.
        crf: settings of the CRF that refines this model's masks, or None.
        scores: measured results, such as {"val": {"miou": 0.71}}.
        provenance: origin of the model: data, command, versions.
        format_version: version of this record's format.

    Raises:
        AtrousError: a field has a wrong type or is out of range, or the fields do not agree.
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
            raise AtrousError(f"preprocessing must be a Preprocessing and arguments a dict, got {given}.")
        object.__setattr__(self, "arguments", arguments)
        tasks = self.tasks
        if not isinstance(tasks, tuple) or not tasks or not all(isinstance(task, Task) for task in tasks):
            raise AtrousError(f"tasks must be a tuple of Task, got {shown(tasks)}.")
        if tasks[0].kind != SEMANTIC or len({task.name for task in tasks}) < len(tasks):
            names = ", ".join(task.name for task in tasks)
            raise AtrousError(
                f"the first task must be {SEMANTIC}, and the names of all tasks must differ, got {names}."
            )
        outputs = self.arguments.get("num_classes")
        if outputs is not None and not isinstance(outputs, int):
            raise AtrousError(f"num_classes in arguments must be a whole number, got {shown(outputs)}.")
        if outputs is not None and len(self.table) != max(outputs, 2):
            raise AtrousError(
                f"a model with {outputs} outputs separates {max(outputs, 2)} classes, not {len(self.table)}."
            )
        temperature = as_float(self.temperature, "temperature")
        if temperature is None or not SMALLEST <= temperature <= LARGEST:
            raise AtrousError(f"temperature must be positive and finite in float32, got {shown(self.temperature)}.")
        object.__setattr__(self, "temperature", temperature)
        channels = self.arguments.get("in_channels")
        if channels is not None and self.preprocessing.channels != channels:
            raise AtrousError(
                f"a model for pictures with {channels} channels needs {channels} means, got "
                f"{self.preprocessing.channels}."
            )
        for name in ("crf", "scores", "provenance"):
            given, optional = getattr(self, name), name == "crf"
            if (value := as_dict(given, name)) is None and not (optional and given is None):
                raise AtrousError(f"{name} must be a dict{' or None' if optional else ''}, got {shown(given)}.")
            object.__setattr__(self, name, value)

    @property
    def table(self) -> ClassTable:
        """The classes of the semantic task, with their colours and mask values."""
        return self.tasks[0].classes

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes of the semantic task."""
        return self.table.names

    @property
    def colors(self) -> tuple[Color, ...]:
        """The colours of the classes of the semantic task, RGB in 0–255."""
        return self.table.colors

    @checked
    def with_table(self, table: ClassTable) -> Info:
        """Returns a copy with other classes of the semantic task.

        Args:
            table: class table with as many classes as the model separates.

        Raises:
            AtrousError: the number of classes differs.
        """
        return replace(self, tasks=(replace(self.tasks[0], classes=table), *self.tasks[1:]))

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as plain dicts, lists, strings and numbers."""
        return asdict(self)

    @classmethod
    @checked
    def from_dict(cls, record: dict[str, Any]) -> Info:
        """Builds a record from the dict that `to_dict` returns; the dict may have been stored as JSON.

        Args:
            record: the dict, of format version 1 or 2.

        Raises:
            AtrousError: a field is missing or unknown, or the format version is not supported.
        """
        if not isinstance(record, Mapping):
            raise AtrousError(f"a model's record must be a dict, got {shown(record)}.")
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
    """Reads the preprocessing from a record, which has the given version of the format."""
    if version == 1:
        return Preprocessing.of_pictures(**record)
    inputs = tuple(Input(**{field: tuples(value) for field, value in one.items()}) for one in record["inputs"])
    return Preprocessing(**{**record, "inputs": inputs})


def _is_flat(record: Mapping[str, Any]) -> bool:
    """Returns whether a record has its classes at the top level, as in version 1 and the first files of version 2."""
    return record["format_version"] == 1 or ("tasks" not in record and "classes" in record)


def _flat_table(record: Mapping[str, Any]) -> ClassTable:
    """Reads the class table from a record without tasks, whose classes were not checked when it was written.

    An ignored value (by default 255) that is also the mask value of a class is no longer ignored. A repeated name
    gets a number.
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
    """Reads the tasks from a record of any format version."""
    if _is_flat(record):
        return (Task(_flat_table(record)),)
    return tuple(
        Task(**{**one, "outputs": tuples(one["outputs"]), "classes": ClassTable(**tuples(one["classes"]))})
        for one in record["tasks"]
    )


def placeholder_table(num_classes: int) -> ClassTable:
    """Returns a class table for a model without class names: "class 0", "class 1" …, in shades of grey.

    Args:
        num_classes: number of outputs of the network, 1 (one logit, which separates two classes) to 255.

    Raises:
        AtrousError: num_classes is out of range.
    """
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or not 1 <= num_classes <= MAX_CLASSES:
        raise AtrousError(
            f"num_classes must be a whole number, 1 (binary, one logit) to {MAX_CLASSES} (a mask has one byte per "
            f"pixel), got {shown(num_classes)}."
        )
    count = max(num_classes, 2)  # one logit separates two classes
    return ClassTable(
        names=tuple(f"class {index}" for index in range(count)),
        colors=tuple((shade, shade, shade) for shade in (round(255 * i / (count - 1)) for i in range(count))),
        raw=tuple((index,) for index in range(count)),
        ignore=(255,),
    )


def tuples(value: Any) -> Any:
    """Replaces lists by tuples at any depth, because JSON stores tuples as lists.

    Args:
        value: a plain value; lists and dicts may be nested.
    """
    if isinstance(value, Mapping):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value


def aligned_side(side: int, factor: float) -> int:
    """Returns the number 32k + 1 ≥ 33 nearest to factor·side.

    With such a side every feature map down to stride 32 has an odd side, so TensorFlow's SAME padding is symmetric.
    Training crops and whole pictures are then sampled at the same positions; with other sides, a map is shifted by half
    its stride. Sides of 16k + 1 are not enough at output stride 16, because the last stage is padded as at stride 32.
    With sides of 16k + 1 that are not 32m + 1, mean IoU on CamVid fell by 7 to 20 points (docs/results.md).

    Args:
        side: height or width in pixels, ≥ 1.
        factor: factor by which the picture is enlarged, > 0.
    """
    # `nearest` is rounded half to even, as by `round`. It is computed with positive integers only, because exporters
    # support nothing else for sizes.
    exact = Fraction(factor).limit_denominator(10**6)
    above, below = side * exact.numerator - exact.denominator, 32 * exact.denominator
    nearest = (2 * above + below) // (4 * below) + (2 * above + 3 * below - 1) // (4 * below)
    nearest = nearest + 1 // (nearest + 1)  # k is at least 1, so the side is at least 33
    return 32 * nearest + 1
