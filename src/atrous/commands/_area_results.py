"""The results of `atrous area`: estimates, intervals and remarks, in the form of its JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.commands._report_intervals import cautions, over
from atrous.data.dataset import Item
from atrous.errors import counted
from atrous.learning.area_estimate import area_intervals, estimate_areas
from atrous.learning.bootstrap import DRAWS, LEVEL, SEED, Interval
from atrous.learning.confusion_matrix import none_if_nan

#: The condition under which all estimates are right. No computation can check it.
CONDITION = (
    "The split is no random sample of the mapped area. The estimates and intervals are right only if the model makes "
    "the same errors in the mapped area as in the split. If the pictures of the split were chosen by hand, or show "
    "other places, the true areas may lie outside the intervals."
)
#: Square metres per hectare.
HECTARE = 10_000.0


def area_results(
    mapped: NDArray[np.float64],
    groups: NDArray[np.int64],
    names: Sequence[str],
    items: Sequence[Item],
    split: str,
    groups_from: str,
) -> dict[str, Any]:
    """Returns the estimated areas, their intervals, and the remarks on both, as plain values.

    If a class on the map is never predicted in the split, nothing is known about its errors, so the class is left out.

    Args:
        mapped: K, area of each class on the map, in m²; not all 0.
        groups: G×K×K confusion matrices of the groups of the split; row = truth, column = prediction.
        names: names of the K classes.
        items: items of the split.
        split: name of the split.
        groups_from: source of the groups, as `Dataset.groups_from`.
    """
    errors = groups.transpose(0, 2, 1)  # row = class on the map
    matrix = errors.sum(0)
    unsampled = (matrix.sum(1) == 0) & (mapped > 0)
    known = np.where(unsampled, 0, mapped) / HECTARE
    remarks = [CONDITION]
    if split == "train":
        remarks.append("The split train is used for training, so the accuracies are too high.")
    if not known.any():
        found, intervals = None, None
    else:
        found, intervals = estimate_areas(matrix, known), area_intervals(errors, known)
    in_groups = ((errors.sum(1) + errors.sum(2)) > 0).sum(0)
    classes = []
    for index, name in enumerate(names):
        entry: dict[str, Any] = {
            "name": name,
            "mapped_ha": float(mapped[index] / HECTARE),
            **dict.fromkeys(FIELDS),
            "groups": int(in_groups[index]),
            "pixels_true": int(matrix[:, index].sum()),
            "pixels_predicted": int(matrix[index].sum()),
        }
        if found is not None and intervals is not None:
            estimated = entry["pixels_true"] > 0 and not unsampled[index]
            enough = in_groups[index] > 1
            entry["users_accuracy"] = none_if_nan(found.users[index])
            entry["users_accuracy_interval"] = _listed(intervals.users[index]) if enough else None
            if estimated:
                entry["estimated_ha"] = float(found.area[index])
                entry["producers_accuracy"] = none_if_nan(found.producers[index])
            if estimated and enough:
                entry["interval_ha"] = _listed(intervals.area[index])
                entry["producers_accuracy_interval"] = _listed(intervals.producers[index])
                entry["standard_error_ha"] = none_if_nan(intervals.error[index])
                entry["design_effect"] = _ratio(intervals.error[index] ** 2, found.pixel_error[index] ** 2)
        classes.append(entry)
    per_image = [{"name": item.name, "group": item.group} for item in items]
    kind, units = over(per_image)[:-1], len(groups)
    remarks += cautions(per_image, units)
    remarks += _remarks_on_classes(classes, unsampled, matrix, (errors.sum(2) > 0).sum(0), kind)
    if intervals is not None and intervals.undefined:
        remarks.append(
            f"In {intervals.undefined:.1%} of the draws of the bootstrap, a class of the map has no pixel. These draws "
            "are left out, so the intervals may be too narrow."
        )
    return {
        "total_ha": float(mapped.sum() / HECTARE),
        "left_out_ha": float(mapped[unsampled].sum() / HECTARE),
        "overall_accuracy": None if found is None else none_if_nan(float(found.overall)),
        "overall_accuracy_interval": None if intervals is None else _listed(intervals.overall),
        "classes": classes,
        "error_matrix": matrix.tolist(),
        "intervals": {
            "level": LEVEL,
            "over": f"{kind}s",
            "units": units,
            "groups_from": groups_from,
            "draws": DRAWS,
            "seed": SEED,
            "undefined_draws": None if intervals is None else intervals.undefined,
        },
        "remarks": remarks,
    }


#: Fields of a class that are None if nothing is known.
FIELDS = (
    "estimated_ha", "interval_ha", "standard_error_ha", "design_effect", "users_accuracy", "users_accuracy_interval",
    "producers_accuracy", "producers_accuracy_interval",
)  # fmt: skip


def _remarks_on_classes(
    classes: Sequence[dict[str, Any]],
    unsampled: NDArray[np.bool_],
    matrix: NDArray[np.int64],
    predicted_in: NDArray[np.int64],
    kind: str,
) -> list[str]:
    """Returns sentences about classes whose area is not estimated, or estimated from too little."""
    said = []
    for entry in (entry for entry, without in zip(classes, unsampled, strict=True) if without):
        said.append(
            f"No pixel of the split is predicted as {entry['name']}, so nothing is known about the errors on the "
            f"{hectares(entry['mapped_ha'])} ha that are mapped as {entry['name']}. They are left out, so the "
            "estimates of all classes together are too low by this area."
        )
    if absent := [entry["name"] for entry, true in zip(classes, matrix.sum(0), strict=True) if not true]:
        said.append(f"The split has no labelled pixel of {', '.join(absent)}: these areas are not estimated.")
    lone = [
        entry["name"]
        for entry, number in zip(classes, predicted_in, strict=True)
        if number == 1 and entry["mapped_ha"] > 0
    ]
    if lone:
        said.append(
            f"Only one {kind} of the split has pixels that are predicted as {', '.join(lone)}. The intervals cannot "
            "contain how much the errors on this part of the map vary, so they are too narrow."
        )
    return said


def hectares(value: float | None) -> str:
    """Returns an area as text, such as "12,345", "123.4" or "0.0123"; "–" for None.

    Args:
        value: area in hectares, ≥ 0.
    """
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.3g}"


def units_in_words(results: dict[str, Any]) -> str:
    """Returns the number of groups or pictures of the bootstrap, such as "12 groups"."""
    return counted(results["intervals"]["units"], results["intervals"]["over"][:-1])


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _ratio(value: float, by: float) -> float | None:
    """Returns a ratio; None if it is undefined."""
    return float(value / by) if by > 0 else None
