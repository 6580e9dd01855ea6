"""Measures a model on a split for `atrous evaluate`, and converts the scores to JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from atrous.console import console, print_notes, progress_bar
from atrous.data.dataset import Dataset, Item
from atrous.data.dataset_spec import DatasetSpec
from atrous.data.file_of_picture import file_of_picture
from atrous.data.prefetch import in_background
from atrous.data.sample import Sample
from atrous.data.volume_items import labelled_volumes
from atrous.data.volumes.slices import pictures_of, slice_place
from atrous.errors import AtrousError, counted
from atrous.inference.dataset_case_ids import without_reasons
from atrous.inference.exported_onnx_and_openvino import is_exported
from atrous.inference.model_spec import PRECISIONS, RUNTIMES, ModelSpec
from atrous.inference.picture_input import Found, doubt_of_alpha
from atrous.inference.segment_volume import check_crf
from atrous.inference.segmenter import Segmenter
from atrous.inference.slice_views import for_picture
from atrous.inference.whole_or_tiled import AnySize
from atrous.input_spec import Input
from atrous.learning.accuracy_by_size import SIZES, SizeScore
from atrous.learning.bootstrap import listed_counts
from atrous.learning.boundary_metrics import BoundaryIoU, BoundaryScore
from atrous.learning.class_matching import matching_classes
from atrous.learning.confusion_matrix import ConfusionMatrix, none_if_nan
from atrous.learning.distributed import ProcessGroup, current_group
from atrous.learning.splits_of_training import with_splits_of_training
from atrous.learning.volume_evaluation import VolumeScores, segment_case
from atrous.option_fields import given_to, setting, settings

#: Share of the labelled pixels, 0–1, above which a class that is never predicted causes a warning.
NOTABLE_SHARE = 0.001
#: Largest number of pairs of confused classes that are stored for each picture.
MISTAKES = 5


@dataclass(frozen=True)
class Measurement:
    """The scores of a model on a split.

    Args:
        confusion: confusion matrix of the whole split.
        boundary: boundary F-score of the whole split.
        seams: boundary IoU of the whole split; a seam is a strip along the outline of a class.
        sizes: accuracy by object size of the whole split.
        per_image: scores and file paths of each picture.
        without_crf: scores of the masks before the CRF; None if no CRF is used.
    """

    confusion: ConfusionMatrix
    boundary: BoundaryScore
    seams: BoundaryIoU
    sizes: SizeScore
    per_image: list[dict[str, Any]] = field(default_factory=list)
    without_crf: Measurement | None = None

    @classmethod
    def of(cls, classes: int, without_crf: Measurement | None = None) -> Measurement:
        """Returns an empty measurement for this number of classes; `without_crf` as in `Measurement`."""
        counts = ConfusionMatrix(classes), BoundaryScore(classes), BoundaryIoU(classes), SizeScore(classes)
        return cls(*counts, without_crf=without_crf)

    @property
    def counters(self) -> tuple[ConfusionMatrix | BoundaryScore | BoundaryIoU | SizeScore, ...]:
        """All counters of pixels; each has integer `counts`."""
        return self.confusion, self.boundary, self.seams, self.sizes

    def add(self, item: Item, truth: np.ndarray, mask: np.ndarray) -> None:
        """Adds the scores of a picture.

        Args:
            item: item of the picture.
            truth: H×W class indices of the model, 255 = ignore.
            mask: H×W predicted class indices.
        """
        one = ConfusionMatrix(len(self.confusion.counts))
        one.update(truth, mask)
        for counter in self.counters:
            counter.update(truth, mask)
        self.per_image.append(
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


@settings("")
@dataclass(frozen=True)
class Measuring:
    """Runtime and number format for evaluation; with the defaults, scores differ between machines only by rounding."""

    engine: str | None = setting(
        None,
        "runtime of the network: torch, openvino, onnxruntime for .onnx files, or auto for the fastest that is "
        "installed; the default is torch or, for an exported file, the runtime of its format",
        choices=RUNTIMES,
    )
    precision: str = setting(
        "float32",
        "number format to compute in: float32, bfloat16, or auto for the faster of the two",
        choices=PRECISIONS,
    )


def spec_to_measure(model: Path, options: Mapping[str, Any]) -> ModelSpec:
    """Returns the spec of a model to measure: the options of `predict`, with the defaults of `Measuring`.

    Args:
        model: path of a model file or an exported file.
        options: fields of `ModelSpec` and of `Measuring` by name; others are ignored.

    Raises:
        AtrousError: a value is out of range or has the wrong type.
    """
    measuring = Measuring(**given_to(Measuring, options))
    engine = measuring.engine or ("auto" if is_exported(model) else "torch")
    return ModelSpec(model, **{**given_to(ModelSpec, options), "engine": engine, "precision": measuring.precision})


def open_to_measure(
    spec: DatasetSpec,
    provenance: Mapping[str, Any],
    image: Input | None,
    *,
    resampled: bool = False,
    private: bool = False,
) -> Dataset:
    """Opens a dataset with the splits that a model was trained with, and prints the dataset's notes.

    Random splits depend on the groups: with other groups, the split would contain pictures that the model was trained
    on. So the model file stores the pattern of groups from training. The splits are drawn with this pattern if the
    dataset has random splits and no groups.csv. If `spec` has a pattern of its own, this pattern only sets the groups.

    Args:
        spec: spec of the dataset.
        provenance: provenance in the model's metadata.
        image: first input of the model, which sets the planes of volumes; None if it is unknown.
        resampled: as for `DatasetSpec.open`.
        private: whether notes and reasons of errors, which may name patients, are not shown.

    Raises:
        AtrousError: as for `DatasetSpec.open`.
    """
    with without_reasons(spec.root, private=private):
        dataset = _with_groups_of(spec, provenance, image, resampled)
    if private and dataset.notes:
        number = counted(len(dataset.notes), "note")
        console.print(f"{number} on the data set may name patients: the command without --case-ids shows them.")
    print_notes(() if private else dataset.notes)
    return dataset


def _with_groups_of(spec: DatasetSpec, provenance: Mapping[str, Any], image: Input | None, resampled: bool) -> Dataset:
    """Opens a dataset with random splits with the splits of the training, also if the user gives other groups."""
    dataset, trained = spec.open(image, resampled=resampled), provenance.get("groups")
    if not dataset.unlisted or dataset.groups_from == "file" or spec.groups == trained:
        return dataset
    spec_of_training = replace(spec, groups=None if trained is None else str(trained))
    if spec.groups is None:
        with suppress(AtrousError):  # the pattern does not fit the names of other data
            return spec_of_training.open(image, resampled=resampled)
        return dataset
    if "data" not in provenance:  # the model was not trained by `atrous train`
        return dataset
    return with_splits_of_training(dataset, spec_of_training, lambda: spec_of_training.open(image, resampled=resampled))


def measures_whole_volumes(segmenter: Segmenter, dataset: Dataset) -> bool:
    """Returns whether `measure` segments whole volumes: the model resamples volumes, and the dataset does not.

    Args:
        segmenter: segmenter to measure.
        dataset: dataset to measure on.
    """
    return segmenter.info.preprocessing.image.spacing is not None and dataset.inputs[0].spacing is None


def measure(
    segmenter: Segmenter, dataset: Dataset, items: Sequence[Item], volumes: VolumeScores | None = None
) -> Measurement:
    """Segments every picture, and compares the prediction with the labels; several processes share the pictures.

    If the model resamples volumes, and the dataset does not, whole volumes are segmented. Their slices are compared on
    the grid of the stored volume.

    Args:
        segmenter: segmenter to measure.
        dataset: dataset of the items.
        items: labelled pictures, at least one.
        volumes: collector, to which the scores of volumes are added if whole volumes are segmented; None for no scores
            of volumes.

    Raises:
        AtrousError: there are no items, the data has classes that the model does not have, a CRF is used with a
            model that resamples volumes, or the dataset resamples volumes to another voxel size than the model.
    """
    if not items:
        raise AtrousError("the split has no pictures to measure on.")
    remap = matching_classes(dataset.classes, segmenter.info.classes)
    if measures_whole_volumes(segmenter, dataset):
        return _of_resampled(segmenter, dataset, items, remap, volumes)
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
            run = for_picture(any_size, item.image)
            scores = None if without is None else run.scores(image, name=item.name)
            measured.add(item, truth, run(image, sample.valid, name=item.name, scores=scores))
            if without is not None:
                run = for_picture(plain, item.image)
                without.add(item, truth, run(image, sample.valid, name=item.name, scores=scores))
            progress.update(task, advance=1, note=f"mIoU {measured.confusion.miou:.3f}")
    return _summed(measured, processes)


def _of_resampled(
    segmenter: Segmenter,
    dataset: Dataset,
    items: Sequence[Item],
    remap: np.ndarray,
    volumes: VolumeScores | None,
) -> Measurement:
    """Measures the stored slices of volumes with a model that resamples whole volumes and segments them."""
    if segmenter.crf is not None:
        check_crf(segmenter.info.preprocessing.image)
    measured, processes = Measurement.of(len(segmenter.info.classes)), current_group()
    slices: dict[Path, list[Item]] = {}
    for item in items:
        slices.setdefault(file_of_picture(item.image), []).append(item)
    own = processes.part(list(labelled_volumes(items).items()))
    with progress_bar() as progress:
        task = progress.add_task("evaluating", total=len(own), note="")
        for file, (first, mask) in own:
            found = segment_case(segmenter, dataset, file, mask, remap)
            for item in slices[file]:
                place = slice_place(item.image)
                assert place is not None
                both = (pictures_of(labels, place.plane)[place.index] for labels in (found.truth, found.labels))
                measured.add(item, *both)
            if volumes is not None:
                volumes.add(file, mask, first.group, found)
            progress.update(task, advance=1, note=f"mIoU {measured.confusion.miou:.3f}")
    total = _summed(measured, processes)
    place_of = {item.name: index for index, item in enumerate(items)}
    return replace(total, per_image=sorted(total.per_image, key=lambda entry: place_of[entry["name"]]))


def silent(segmenter: Segmenter) -> AnySize:
    """Returns an `AnySize` of the segmenter that does not report how it tiles pictures."""
    return segmenter.any_size.looking(say=lambda line: None)


def reader_for(segmenter: Segmenter, dataset: Dataset) -> Callable[[Item], Sample]:
    """Returns a function that reads a dataset's items with the inputs of a model."""
    return dataset.taking_inputs(segmenter.info.preprocessing.inputs).read


def prepared(segmenter: Segmenter, sample: Sample) -> np.ndarray:
    """Converts a sample's picture to an input of the model; pixels without data get the training mean.

    Args:
        segmenter: segmenter of the model.
        sample: sample with the picture. If it is not certain whether the last band is alpha, a warning is issued.
    """
    if sample.doubtful_alpha:
        segmenter.preparation.warn_of([doubt_of_alpha(sample.name)])
    return segmenter.preparation.filled(Found(sample.image, sample.image, sample.valid, sample.name))


def _summed(measured: Measurement, processes: ProcessGroup) -> Measurement:
    """Returns the measurement over the pictures of all processes; sums are exact because counts are integers."""
    for one in (measured, measured.without_crf):
        for counter in () if one is None else one.counters:
            counter.counts = processes.sum(counter.counts)
    dealt = zip_longest(*processes.gather(measured.per_image))
    return replace(measured, per_image=[entry for turn in dealt for entry in turn if entry is not None])


def largest_mistakes(counts: np.ndarray) -> list[list[int]]:
    """Returns the most confused pairs of classes of a picture, as [truth, prediction, pixels], the largest first.

    There are at most `MISTAKES` pairs.

    Args:
        counts: K×K confusion matrix of the picture, row = truth, column = prediction.
    """
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MISTAKES]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [[int(true), int(taken), int(wrong[true, taken])] for true, taken in pairs if wrong[true, taken]]


def summarise(measured: Measurement, info: Any) -> dict[str, Any]:
    """Converts a measurement to plain JSON values; docs/architecture.md describes the fields."""
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
    """Returns warnings about classes that the model never predicts; a high pixel accuracy can hide this problem."""
    true, predicted = confusion.counts.sum(1), confusion.counts.sum(0)
    present = true > NOTABLE_SHARE * max(true.sum(), 1)
    missing = [names[index] for index in np.flatnonzero(present & (predicted == 0)).tolist()]
    if not missing:
        return []
    remaining = int((present & (predicted > 0)).sum())
    sentence = f"never predicted, though present in the truth: {', '.join(missing)}."
    if remaining <= max(1, int(present.sum()) // 2):
        sentence = (
            f"the model has collapsed to {remaining} of {int(present.sum())} classes; {sentence} "
            "Train longer, lower the learning rate, or weight the classes (loss.class_weights)."
        )
    return [sentence]
