"""A task: one output of a model, with its classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atrous.checked_arguments import checked_fields
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError, shown

#: Kind of the first task of every model: the class of each pixel.
SEMANTIC = "semantic"


@checked_fields
@dataclass(frozen=True)
class Task:
    """One task that a model performs on every picture.

    Args:
        classes: classes of the task, with their colours and mask values.
        kind: kind of the task: "semantic", the class of each pixel.
        name: name of the task, which distinguishes it from other tasks of the model.
        outputs: names of the two output arrays, also in exported files: the class of each pixel, and the scores
            (logits) of all classes.

    Raises:
        AtrousError: a field has a wrong type, a name is empty, or both outputs have the same name.
    """

    classes: ClassTable
    kind: Literal["semantic"] = SEMANTIC
    name: str = SEMANTIC
    outputs: tuple[str, str] = ("labels", "scores")

    def __post_init__(self) -> None:
        if not isinstance(self.classes, ClassTable):
            raise AtrousError(f"a task's classes must be a ClassTable, got {shown(self.classes)}.")
        if not self.name or not all(self.outputs) or len(set(self.outputs)) != 2:
            raise AtrousError(
                f"a {self.kind} task must have a name and two outputs with different names, got {shown(self.name)} and "
                f"{shown(self.outputs)}."
            )
