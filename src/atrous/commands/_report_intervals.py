"""Confidence intervals of scores: their form in evaluation.json and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.data.splits.group_name_patterns import recognised_pattern
from atrous.errors import counted
from atrous.learning.bootstrap import (
    DRAWS,
    FEW,
    LEVEL,
    SEED,
    bootstrap_intervals,
    grouped_counts,
    groups_with_class,
)


def counts_by_group(per_image: Sequence[Mapping[str, Any]], classes: int) -> NDArray[np.int64]:
    """Returns the pixel counts of measured pictures summed by group; a picture without a group is its own group.

    Args:
        per_image: records of the pictures, as in evaluation.json.
        classes: number of classes K.

    Returns:
        G×3×K: for each of the G groups, the true positives, true pixels and predicted pixels of each class.
    """
    counts = np.zeros((len(per_image), 3, classes), np.int64)
    for row, entry in enumerate(per_image):
        for index, *numbers in entry["counts"]:
            counts[row, :, index] = numbers
    return grouped_counts(list(counts), [entry["group"] for entry in per_image])


def with_intervals(results: Mapping[str, Any], groups_from: str) -> dict[str, Any]:
    """Returns results with the intervals of their scores.

    Args:
        results: results of `summarise`; each picture has its counts and its group.
        groups_from: source of the groups, as `Dataset.groups_from`.

    Returns:
        The results with two additions. "intervals" contains the intervals of the mean IoU and of the pixel accuracy,
        and the settings of the bootstrap. Each class gets "iou_interval", and "interval_units", the number of groups
        that contain the class.
    """
    per_image = results["per_image"]
    counts = counts_by_group(per_image, len(results["classes"]))
    (miou, accuracy), of_classes = bootstrap_intervals(counts)
    units = len(counts)
    intervals = {
        "level": LEVEL,
        "over": over(per_image),
        "units": units,
        "groups_from": groups_from,
        "draws": DRAWS,
        "seed": SEED,
        "miou": miou and list(miou),
        "pixel_accuracy": accuracy and list(accuracy),
    }
    classes = [
        {**entry, "iou_interval": interval and list(interval), "interval_units": int(number)}
        for entry, interval, number in zip(results["classes"], of_classes, groups_with_class(counts), strict=True)
    ]
    return {**results, "classes": classes, "intervals": {**intervals, "remarks": cautions(per_image, units)}}


def over(per_image: Sequence[Mapping[str, Any]]) -> str:
    """Returns the units of the bootstrap: "groups" if some picture has a group, else "pictures"."""
    return "groups" if any(entry["group"] is not None for entry in per_image) else "pictures"


def cautions(per_image: Sequence[Mapping[str, Any]], units: int) -> list[str]:
    """Returns sentences about intervals that are missing or too narrow.

    A pattern of groups is proposed only if no groups are known. Windows of scenes always have groups: their places.

    Args:
        per_image: records of the measured pictures.
        units: number of groups, or of pictures if no groups are known.
    """
    kind, said = over(per_image)[:-1], []
    if units < 2:
        said.append(f"There are no intervals: the data has only one {kind}, and intervals need at least two.")
    elif units < FEW:
        said.append(f"Intervals over {counted(units, kind)} are too narrow to trust: measure on {FEW} or more.")
    if len({entry["group"] for entry in per_image if entry["group"] is not None}) < sum(
        entry["group"] is not None for entry in per_image
    ):
        return said
    names = {entry["name"] for entry in per_image}
    if kind == "picture" and (pattern := recognised_pattern(names)):
        said.append(
            "The file names suggest that several pictures show the same patient, scene or recording. If they do, these "
            f"intervals are too narrow: measure with --groups '{pattern}'."
        )
    elif kind == "picture":
        said.append(
            "No groups are known. If several pictures show the same patient, scene or recording, these intervals are "
            "too narrow: give the groups by groups.csv or --groups."
        )
    return said


def interval_in_words(interval: Sequence[float] | None, digits: int = 3) -> str:
    """Returns an interval as text, such as "0.612–0.701"; "–" for None.

    Args:
        interval: lower and upper end, 0–1.
        digits: number of decimals.
    """
    return "–" if interval is None else f"{interval[0]:.{digits}f}–{interval[1]:.{digits}f}"
