"""The teacher of a training run: a trained model whose scores the model learns besides the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atrous import model_file
from atrous.errors import AtrousError
from atrous.inference.fold_batch_norm import simplified_pipeline
from atrous.input_spec import Input
from atrous.learning.losses.distillation import ChannelDistillation, SoftLabels
from atrous.learning.losses.terms import Term
from atrous.learning.recipe_sections import Distill
from atrous.models import Info, SegmentationModel


class Teacher:
    """A trained model that maps the raw images of a batch to scores, as `Segmenter` does for whole pictures.

    It normalises the images by its own preprocessing. It is no module, so its weights are neither trained, averaged nor
    stored in checkpoints. A checkpoint stores the checksum of its file, and a run cannot be resumed with another one.

    Args:
        distill: recipe's section, with the file and its checksum.
        student: record of the model to train, with its classes and inputs.
        device: device of the images.
        precision: number format of the network: float32 or bfloat16.

    Attributes:
        info: record of the teacher.
        align_corners: whether its bilinear resizing aligns corners, as in `F.interpolate`.
        sha256: checksum of its file.

    Raises:
        AtrousError: the file is not a model file or has another checksum, or the teacher has other classes or inputs
            than the model, or cannot run at the output stride.
    """

    def __init__(self, distill: Distill, student: Info, device: torch.device, precision: torch.dtype) -> None:
        checked = with_checksum(distill)
        self.path, self.sha256 = Path(str(checked.teacher)), str(checked.sha256)
        with torch.random.fork_rng(devices=[]):  # so that the model starts with the same weights as without a teacher
            model = model_file.load(self.path, output_stride=distill.output_stride)
        check_teacher(model.info, student, self.path)
        self.info, self.align_corners, self.precision = model.info, model.align_corners, precision
        self._order = [model.info.classes.index(name) for name in student.classes]
        pipeline: Any = simplified_pipeline(model)
        self._pipeline = pipeline.to(memory_format=torch.channels_last).to(device)

    @torch.no_grad()
    def __call__(self, raw_images: Tensor) -> Tensor:
        """Returns the scores of the images.

        Args:
            raw_images: N×C×H×W raw values of any dtype.

        Returns:
            N×K×h×w scores in the order of the student's classes; K = 1 for a teacher with one logit.
        """
        mixed = self.precision != torch.float32
        with torch.autocast(raw_images.device.type, dtype=self.precision if mixed else None, enabled=mixed):
            scores = self._pipeline(raw_images)
        if scores.shape[1] == 1:
            return scores if self._order == [0, 1] else -scores
        return scores if self._order == sorted(self._order) else scores[:, self._order]

    @property
    def sentence(self) -> str:
        """A sentence about the teacher for the start of a run, with its recorded scores."""
        info, arguments = self.info, self.info.arguments
        found = [(split, one["miou"]) for split, one in info.scores.items() if isinstance(one, dict) and "miou" in one]
        scores = ", ".join(f"recorded mIoU {miou:.4f} on {split}" for split, miou in found) or "no recorded mIoU"
        return (
            f"teacher: {info.architecture} over {arguments.get('backbone')} at output stride "
            f"{arguments.get('output_stride')}, {scores}; {len(info.classes)} classes, the same as those of the data; "
            f"{self.path}, sha256 {self.sha256[:12]}…"
        )

    def state_dict(self) -> dict[str, str]:
        """Returns the checksum of the teacher's file, for checkpoints."""
        return {"sha256": self.sha256}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Checks that a run continues with its teacher.

        Raises:
            ValueError: the run was trained with another teacher.
        """
        if state_dict["sha256"] != self.sha256:
            raise ValueError(
                f"its teacher has the sha256 {state_dict['sha256']}, but {self.path} has {self.sha256}, and a resumed "
                "run keeps its teacher"
            )


def with_checksum(distill: Distill) -> Distill:
    """Returns the section with the full path of the teacher and the checksum of its file; unchanged without a teacher.

    Raises:
        AtrousError: the file is not a model file, or its checksum is not the one in the section.
    """
    if distill.teacher is None:
        return distill
    path = Path(distill.teacher).resolve()
    found = model_file.digest_of_file(path)
    if distill.sha256 not in (None, found):
        raise AtrousError(
            f"distill.teacher is {path}, a file with the sha256 {found}, but distill.sha256 is {distill.sha256}. Give "
            "the file with that checksum: a resumed run keeps its teacher. For a new run with this teacher, leave out "
            "distill.sha256."
        )
    return replace(distill, teacher=str(path), sha256=found)


def check_teacher(teacher: Info, student: Info, path: Path) -> None:
    """Checks that a teacher has the classes of a model, and can take its images.

    Mean, standard deviation, windows and enlargement may differ, because the teacher gets the raw values.

    Args:
        teacher: record of the teacher.
        student: record of the model to train.
        path: the teacher's file, for messages.

    Raises:
        AtrousError: the names of the classes differ, or an input differs in more than its normalisation.
    """
    if set(teacher.classes) != set(student.classes):
        raise AtrousError(
            f"the teacher {path} has other classes than the data. The teacher's classes are: "
            f"{', '.join(teacher.classes)}. The data's classes are: {', '.join(student.classes)}. Give a teacher with "
            "the same classes, or use the same names in the data's classes.yaml; their order may differ."
        )
    given, wanted = ([one.name for one in info.preprocessing.inputs] for info in (teacher, student))
    if given != wanted:
        raise AtrousError(
            f"the teacher {path} takes the inputs {', '.join(given)}, but the model takes {', '.join(wanted)}: give a "
            "teacher with the same inputs."
        )
    for own, other in zip(teacher.preprocessing.inputs, student.preprocessing.inputs, strict=True):
        for what, theirs, ours in _differences(own, other):
            raise AtrousError(
                f"the teacher {path} takes {own.name} with {what} {theirs}, but the model takes {ours}. Such values "
                "cannot be converted for the teacher: give a teacher that was trained on the same kind of files."
            )


def _differences(teacher: Input, student: Input) -> list[tuple[str, Any, Any]]:
    """Returns name, the teacher's value and the model's value of each field in which a teacher cannot take an input."""
    known = [
        (name, getattr(teacher, name), getattr(student, name))
        for name in ("bands", "wavelengths", "unit")
        if getattr(teacher, name) and getattr(student, name)  # an unknown name or unit is not a difference
    ]
    both = [(name, getattr(teacher, name), getattr(student, name)) for name in ("dtype", "slices", "spacing")]
    own = tuple("standardised per picture" if one else "raw" for one in teacher.standardised)
    other = tuple("standardised per picture" if one else "raw" for one in student.standardised)
    found = [("channels", teacher.channels, student.channels), *both, *known, ("values", own, other)]
    differing = [(name, theirs, ours) for name, theirs, ours in found if theirs != ours]
    unseen = set(student.planes) - set(teacher.planes) or bool(teacher.planes) != bool(student.planes)
    planes = [("planes", teacher.planes or "none", student.planes or "none")] if unseen else []
    return [*differing, *planes]


def distillation_terms(
    distill: Distill,
    model: SegmentationModel,
    teacher: Teacher | None,
    mean_of: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Term]:
    """Returns the terms of a recipe's distillation, for `TrainingStep`.

    Args:
        distill: weights and temperature; a weight of 0 leaves its term out.
        model: model to train.
        teacher: the teacher; None for no terms.
        mean_of: function that returns the mean of a tensor over all training processes; None for one process.
    """
    if teacher is None:
        return {}
    corners = (model.align_corners, teacher.align_corners)
    kinds = (("soft_labels", SoftLabels, distill.logits), ("channels", ChannelDistillation, distill.channel))
    return {
        name: kind(weight, distill.temperature, align_corners=corners, mean_of=mean_of)
        for name, kind, weight in kinds
        if weight
    }
