"""Measures a model on whole volumes: Dice, distances in millimetres, volumes in millilitres, per case and per class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atrous.console import progress_bar
from atrous.data.dataset import Dataset, Item
from atrous.data.mask_value_map import BACKGROUND_NAMES, IGNORE_INDEX
from atrous.data.volume_items import labelled_volumes, volume_labels
from atrous.data.volumes.read_volume import read_volume
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError
from atrous.inference.segment_volume import segment_volume
from atrous.inference.segmenter import Segmenter
from atrous.inference.volume_parts import VolumeParts
from atrous.learning.class_matching import matching_classes
from atrous.learning.distributed import current_group
from atrous.learning.surface_metrics import SurfaceMetrics, case_metrics, summarise_cases


def check_tolerance(tolerance: float) -> None:
    """Checks the tolerance of the surface Dice before the work starts.

    Args:
        tolerance: tolerance to check, in millimetres.

    Raises:
        AtrousError: the tolerance is negative or not finite.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise AtrousError(f"tolerance must be a number of millimetres, 0 or more, got {tolerance}.")


class Segmented(NamedTuple):
    """A labelled volume and its prediction.

    Attributes:
        volume: the volume.
        truth: the mask as class indices of the model, X×Y×Z uint8, 255 where it is not labelled or the volume has no
            data.
        labels: the prediction, X×Y×Z uint8.
    """

    volume: Volume
    truth: np.ndarray
    labels: np.ndarray


class VolumeScores:
    """Collects the scores of whole volumes.

    Args:
        names: names of the model's classes.
        tolerance: as in `case_metrics`, in millimetres.
        parts: rule for the connected parts that the predictions keep; None to keep all parts.
    """

    def __init__(self, names: Sequence[str], tolerance: float | None, parts: VolumeParts | None = None) -> None:
        self._names, self._tolerance, self._parts = names, tolerance, parts
        self._measured = [index for index, name in enumerate(names) if name.casefold() not in BACKGROUND_NAMES]
        self._cases: list[tuple[Path, Path, str | None, Mapping[int, SurfaceMetrics]]] = []

    def add(self, file: Path, mask: Path, group: str | None, found: Segmented) -> None:
        """Adds the scores of a volume, after small parts are removed from a copy of its prediction.

        Args:
            file: file or DICOM series of the volume.
            mask: file of the volume's mask.
            group: group of the volume, such as its patient; None if it is a group by itself.
            found: result of `segment_case` without `parts`.

        Raises:
            AtrousError: scipy is needed and not installed.
        """
        labels = found.labels
        if self._parts is not None:
            labels = labels.copy()
            self._parts.clean(labels, found.volume.grid)
        directions = found.volume.grid.affine[:3, :3]
        scores = case_metrics(found.truth, labels, directions, self._measured, tolerance=self._tolerance)
        self._cases.append((file, mask, group, scores))

    def as_json(self) -> dict[str, Any]:
        """Returns the scores of the volumes of all processes.

        Returns:
            A dict for JSON: "tolerance_mm"; "classes" with the means over patients and their 95 % intervals; and
            "cases" with the scores of each volume. Scores that are not finite are None.
        """
        gathered = current_group().gather(self._cases)
        cases = sorted((case for part in gathered for case in part), key=lambda case: case[0])
        return _as_json(cases, self._names, self._tolerance)


def measure_volumes(segmenter: Segmenter, dataset: Dataset, items: Sequence[Item], scores: VolumeScores) -> None:
    """Segments the volumes of a split as `atrous predict` does, and compares each prediction with the volume's mask.

    Args:
        segmenter: segmenter of a model for volumes.
        dataset: dataset of the items.
        items: slices of labelled volumes, at least one.
        scores: collector, to which the scores of this process's volumes are added.

    Raises:
        AtrousError: the data has classes that the model does not have, or scipy is needed and not installed.
    """
    remap = matching_classes(dataset.classes, segmenter.info.classes)
    own = current_group().part(list(labelled_volumes(items).items()))
    with progress_bar() as progress:
        task = progress.add_task("evaluating volumes", total=len(own), note="")
        for file, (item, mask) in own:
            scores.add(file, mask, item.group, segment_case(segmenter, dataset, file, mask, remap))
            progress.update(task, advance=1)


def segment_case(
    segmenter: Segmenter,
    dataset: Dataset,
    file: Path,
    mask: Path,
    remap: np.ndarray,
    parts: VolumeParts | None = None,
) -> Segmented:
    """Reads a labelled volume and segments it.

    Args:
        segmenter: segmenter of a model for volumes.
        dataset: dataset of the volume.
        file: file or DICOM series of the volume.
        mask: file of the volume's mask.
        remap: result of `matching_classes` for the dataset and the model.
        parts: rule for the connected parts that the prediction keeps; None to keep all.

    Raises:
        AtrousError: a file cannot be read.
    """
    volume = read_volume(file)
    truth = remap[volume_labels(dataset, mask, file, volume.grid.shape)]
    truth[~volume.valid(segmenter.info.preprocessing.image.missing)] = IGNORE_INDEX
    labels = segment_volume(segmenter, volume)
    if parts is not None:
        parts.clean(labels, volume.grid)
    return Segmented(volume, truth, labels)


def _as_json(
    cases: Sequence[tuple[Path, Path, str | None, Mapping[int, SurfaceMetrics]]],
    names: Sequence[str],
    tolerance: float | None,
) -> dict[str, Any]:
    patients = [str(file) if group is None else group for file, _, group, _ in cases]
    summaries = summarise_cases([scores for *_, scores in cases], patients)
    classes = [
        {
            "name": names[index],
            "cases": summary.cases,
            "absent": summary.absent,
            "missed": summary.missed,
            "spurious": summary.spurious,
            "scores": {
                name: {"mean": _finite(score.mean), "interval": score.interval, "patients": score.patients}
                for name, score in summary.scores.items()
            },
        }
        for index, summary in summaries.items()
    ]
    listed = [
        {
            "volume": str(file),
            "mask": str(mask),
            "patient": group,
            "classes": {
                names[index]: {
                    **{name: _finite(value) for name, value in asdict(scores).items()},
                    "volume_difference_ml": scores.volume_difference_ml,
                }
                for index, scores in by_class.items()
            },
        }
        for file, mask, group, by_class in cases
    ]
    return {"tolerance_mm": tolerance, "classes": classes, "cases": listed}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
