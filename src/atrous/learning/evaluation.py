"""What `atrous evaluate` measures on a split, and how it is written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape

from atrous.console import console, progress_bar
from atrous.data.dataset import Dataset, Item
from atrous.data.dataset_spec import DatasetSpec
from atrous.data.label_map import IGNORE_INDEX, ClassTable
from atrous.data.prefetch import in_background
from atrous.data.sample import Sample
from atrous.errors import AtrousError
from atrous.inference.any_size import AnySize
from atrous.inference.exported_runner import is_exported
from atrous.inference.model_spec import PRECISIONS, RUNTIMES, ModelSpec
from atrous.inference.picture_input import Found, doubt_of_alpha
from atrous.inference.segmenter import Segmenter
from atrous.learning.accuracy_by_size import SIZES, SizeScore
from atrous.learning.bootstrap import listed_counts
from atrous.learning.boundary_metrics import BoundaryIoU, BoundaryScore
from atrous.learning.confusion_matrix import ConfusionMatrix, none_if_nan
from atrous.learning.distributed import ProcessGroup, current_group
from atrous.option_fields import given_to, setting, settings

#: A class holding less than this share of the truth may go unpredicted without a warning.
NOTABLE_SHARE = 0.001
#: Pairs of confused classes that are kept of each picture.
MISTAKES = 5


@dataclass(frozen=True)
class Measurement:
    """What a model scored on a split.

    Args:
        confusion: of the whole split.
        boundary: of the whole split.
        seams: of the whole split.
        sizes: of the whole split.
        per_image: scores and files of each picture.
        without_crf: what the network's own masks scored, where a CRF refined them.
    """

    confusion: ConfusionMatrix
    boundary: BoundaryScore
    seams: BoundaryIoU
    sizes: SizeScore
    per_image: list[dict[str, Any]] = field(default_factory=list)
    without_crf: Measurement | None = None

    @classmethod
    def of(cls, classes: int, without_crf: Measurement | None = None) -> Measurement:
        """Nothing counted yet, of so many classes."""
        counts = ConfusionMatrix(classes), BoundaryScore(classes), BoundaryIoU(classes), SizeScore(classes)
        return cls(*counts, without_crf=without_crf)

    @property
    def counters(self) -> tuple[ConfusionMatrix | BoundaryScore | BoundaryIoU | SizeScore, ...]:
        """All that counts pixels, each in its whole-numbered `counts`."""
        return self.confusion, self.boundary, self.seams, self.sizes


@settings("")
@dataclass(frozen=True)
class Measuring:
    """What computes the masks that are measured, with defaults that give the same scores on every machine."""

    engine: str | None = setting(
        None,
        "runtime of the network: torch, openvino, onnxruntime for .onnx files, or auto for the faster of those "
        "installed; by default torch, and for an exported file its own",
        choices=RUNTIMES,
    )
    precision: str = setting(
        "float32",
        "number format to compute in: float32, bfloat16, or auto for the faster of the two",
        choices=PRECISIONS,
    )


def spec_to_measure(model: Path, options: Mapping[str, Any]) -> ModelSpec:
    """How a model is opened to be measured: as `predict` opens it, but for the defaults of `Measuring`.

    Args:
        model: a model file or an exported file.
        options: fields of `ModelSpec` and of `Measuring`; others are passed over.

    Raises:
        AtrousError: a value out of its range, or of another type.
    """
    by = Measuring(**given_to(Measuring, options))
    engine = by.engine or ("auto" if is_exported(model) else "torch")
    return ModelSpec(model, **{**given_to(ModelSpec, options), "engine": engine, "precision": by.precision})


def open_to_measure(spec: DatasetSpec, provenance: Mapping[str, Any]) -> Dataset:
    """Opens a dataset in the split that a model was trained in, and tells the dataset's notes.

    A split that a seed makes depends on the groups: with others, pictures that the model has learned from would be
    measured. So a training's pattern of groups is kept in the model file, and taken where none is given.

    Args:
        spec: which dataset.
        provenance: the model's.
    """
    dataset, trained = spec.open(), provenance.get("groups")
    if spec.groups is None and trained and dataset.unlisted and dataset.groups_from != "file":
        with suppress(AtrousError):  # other data, whose names the pattern does not fit
            dataset = replace(spec, groups=str(trained)).open()
    for note in dataset.notes:
        console.print(escape(note))
    return dataset


def measure(segmenter: Segmenter, dataset: Dataset, items: Sequence[Item]) -> Measurement:
    """Segments every picture and counts it against its mask; several processes share the pictures.

    Args:
        segmenter: the model.
        dataset: where to read.
        items: the labelled pictures, at least one.

    Raises:
        AtrousError: nothing to measure, or classes that do not match.
    """
    if not items:
        raise AtrousError("the split has no pictures: nothing to measure.")
    remap = matching_classes(dataset.classes, segmenter.info.classes)
    classes = len(segmenter.info.classes)
    without = None if segmenter.crf is None else Measurement.of(classes)
    measured = Measurement.of(classes, without)
    read = reader_for(segmenter, dataset)
    any_size, plain = segmenter.any_size, silent(segmenter.with_crf(None))
    with progress_bar() as progress:
        processes = current_group()
        own = processes.part(items)
        task = progress.add_task("evaluating", total=len(own), note="")
        for item, sample in zip(own, in_background(read, own), strict=True):
            truth, image = remap[sample.label], prepared(segmenter, sample)
            one = ConfusionMatrix(classes)
            scores = None if without is None else any_size.scores(image, name=item.name)
            mask = any_size(image, sample.valid, name=item.name, scores=scores)
            one.update(truth, mask)
            for counter in measured.counters:
                counter.update(truth, mask)
            if without is not None:
                unrefined = plain(image, sample.valid, name=item.name, scores=scores)
                for counter in without.counters:
                    counter.update(truth, unrefined)
            measured.per_image.append(
                {
                    "name": item.name,
                    "group": item.group,
                    "image": str(item.image.resolve()),
                    "mask": str(item.mask.resolve()) if item.mask else None,
                    **({"more": [str(path.resolve()) for path in item.more]} if item.more else {}),
                    "miou": none_if_nan(one.miou),
                    "pixel_accuracy": none_if_nan(one.pixel_accuracy),
                    "mistakes": largest_mistakes(one.counts),
                    "counts": listed_counts(one.counts),
                }
            )
            progress.update(task, advance=1, note=f"mIoU {measured.confusion.miou:.3f}")
    return _of_all(measured, processes)


def silent(segmenter: Segmenter) -> AnySize:
    """Runs a segmenter on pictures whose tiles were told already."""
    return segmenter.any_size.looking(say=lambda line: None)


def reader_for(segmenter: Segmenter, dataset: Dataset) -> Callable[[Item], Sample]:
    """Reads a dataset's items with the inputs that a model takes."""
    return dataset.taking_inputs(segmenter.info.preprocessing.inputs).read


def prepared(segmenter: Segmenter, sample: Sample) -> np.ndarray:
    """A sample's picture as the model takes it, with the training mean where there is no data.

    Args:
        segmenter: of the model; warns of an alpha band that looks like a channel.
        sample: the picture.
    """
    if sample.doubtful_alpha:
        segmenter.preparation.warn_of([doubt_of_alpha(sample.name)])
    return segmenter.preparation.filled(Found(sample.image, sample.image, sample.valid, sample.name))


def _of_all(measured: Measurement, processes: ProcessGroup) -> Measurement:
    """The sum of what the processes measured, each on its part of the pictures; exact, because counts are whole."""
    for one in (measured, measured.without_crf):
        for counter in () if one is None else one.counters:
            counter.counts = processes.sum(counter.counts)
    dealt = zip_longest(*processes.gather(measured.per_image))
    return replace(measured, per_image=[entry for turn in dealt for entry in turn if entry is not None])


def largest_mistakes(counts: np.ndarray) -> list[list[int]]:
    """The pairs of classes that a picture's mask confuses most: [truth, prediction, pixels] each, most first.

    Args:
        counts: K×K, row = truth, column = prediction.
    """
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MISTAKES]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [[int(true), int(taken), int(wrong[true, taken])] for true, taken in pairs if wrong[true, taken]]


def summarise(measured: Measurement, info: Any) -> dict[str, Any]:
    """A measurement as plain JSON values; see docs/architecture.md for the fields."""
    confusion = measured.confusion
    true, predicted = confusion.counts.sum(1), confusion.counts.sum(0)
    by_size = measured.sizes.accuracy()
    classes = [
        {
            "name": name,
            "color": list(info.colors[index]),
            "iou": none_if_nan(confusion.iou[index]),
            "dice": none_if_nan(confusion.dice[index]),
            "accuracy": none_if_nan(confusion.accuracy[index]),
            "boundary_f": none_if_nan(measured.boundary.f_score[index]),
            "boundary_iou": none_if_nan(measured.seams.iou[index]),
            "accuracy_by_size": dict(zip(SIZES, map(none_if_nan, by_size[index]), strict=True)),
            "pixels_true": int(true[index]),
            "pixels_predicted": int(predicted[index]),
        }
        for index, name in enumerate(info.classes)
    ]
    return {
        **_headline(measured),
        "classes": classes,
        "absent": [entry["name"] for entry in classes if entry["iou"] is None],
        "confusion": confusion.counts.tolist(),
        **({} if measured.without_crf is None else {"without_crf": _headline(measured.without_crf)}),
        "warnings": class_warnings(confusion, info.classes),
        "per_image": measured.per_image,
    }


def _headline(measured: Measurement) -> dict[str, Any]:
    return {
        **measured.confusion.summary(),
        "boundary_f": none_if_nan(measured.boundary.mean),
        "boundary_iou": none_if_nan(measured.seams.mean),
        "accuracy_by_size": dict(zip(SIZES, map(none_if_nan, measured.sizes.mean), strict=True)),
    }


def class_warnings(confusion: ConfusionMatrix, names: Sequence[str]) -> list[str]:
    """Sentences about a model that answers with too few classes, which a good pixel accuracy can hide."""
    true, predicted = confusion.counts.sum(1), confusion.counts.sum(0)
    present = true > NOTABLE_SHARE * max(true.sum(), 1)
    silent = [names[index] for index in np.flatnonzero(present & (predicted == 0)).tolist()]
    if not silent:
        return []
    answered = int((present & (predicted > 0)).sum())
    sentence = f"never predicted, though present in the truth: {', '.join(silent)}."
    if answered <= max(1, int(present.sum()) // 2):
        sentence = (
            f"the model has collapsed to {answered} of {int(present.sum())} classes; {sentence} "
            "Train longer, lower the learning rate, or weight the classes (loss.class_weights)."
        )
    return [sentence]


def matching_classes(table: ClassTable, names: Sequence[str]) -> np.ndarray:
    """Look-up from the data's class indices to the model's, by name, whatever the order.

    Args:
        table: of the dataset.
        names: of the model's classes.

    Returns:
        256 uint8 entries; 255 stays 255.

    Raises:
        AtrousError: the data has classes that the model does not know.
    """
    unknown = [name for name in table.names if name not in names]
    if unknown:
        raise AtrousError(
            f"the data has classes this model does not know: {', '.join(unknown)}. The model's are: {', '.join(names)}."
        )
    remap = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    remap[: len(table.names)] = [list(names).index(name) for name in table.names]
    return remap
