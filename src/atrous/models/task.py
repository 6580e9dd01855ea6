"""What a model answers about a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atrous.checked_arguments import checked_fields
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError, shown

#: The task that every model has first: the class of each pixel.
SEMANTIC = "semantic"


@checked_fields
@dataclass(frozen=True)
class Task:
    """One question that a model answers about every picture.

    Args:
        classes: the possible answers, with the colours and the mask values that stand for them.
        kind: "semantic", the class of each pixel.
        name: of the task, which tells it from others of one model.
        outputs: names of the arrays that hold the answer, in exported files too: the class of each pixel, and the
            scores (logits) of all classes.
    """

    classes: ClassTable
    kind: Literal["semantic"] = SEMANTIC
    name: str = SEMANTIC
    outputs: tuple[str, str] = ("labels", "scores")

    def __post_init__(self) -> None:
        if not isinstance(self.classes, ClassTable):
            raise AtrousError(f"a task's classes are a ClassTable, got {shown(self.classes)}.")
        if not self.name or not all(self.outputs) or len(set(self.outputs)) != 2:
            raise AtrousError(
                f"a {self.kind} task has a name and two outputs of different names, got {shown(self.name)} and "
                f"{shown(self.outputs)}."
            )
