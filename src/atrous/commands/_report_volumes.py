"""The volumes in a report: scores of the classes, scores of the cases, and pictures of the best and worst cases."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFilter

from atrous import charts
from atrous.commands._html_page import css_color
from atrous.commands._recorded_options import measured_parts, opened_again
from atrous.console import progress_bar
from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.data.volumes.slices import AXES, pictures_of, volume_name
from atrous.data.volumes.volume_view import LETTERS, Box, VolumeView, view_of
from atrous.errors import AtrousError
from atrous.run_folder import Record, Run, is_finite

if TYPE_CHECKING:
    from atrous.data.volumes.volume import Volume

#: Number of best cases, and of worst cases.
SHOWN = 3
#: Largest number of voxels of a case on the page: less than 1 MB for each of the six cases.
VOXELS = 400_000
#: Margin, in mm, of the shown box around the voxels of all classes but the first.
MARGIN = 15.0
#: Longest side of a picture, in pixels.
SIDE = 480
#: Colours of the contours of reference and prediction, which colour-blind people can distinguish: blue and orange of
#: Okabe and Ito, "Color Universal Design" (2008).
CONTOURS = {"reference": (86, 180, 233), "prediction": (230, 159, 0)}
#: Thickness of the contours, in pixels. The prediction lies on the reference, so both are visible where they agree.
THICKNESS = {"reference": 7, "prediction": 3}
#: The scores in the table of classes: head, key, format.
SCORES = (
    ("Dice", "dice", "{:.3f}"),
    ("Surface Dice", "surface_dice", "{:.3f}"),
    ("HD95, mm", "hd95_mm", "{:.2f}"),
    ("Mean distance, mm", "mean_distance_mm", "{:.2f}"),
    ("Volume difference, ml", "volume_difference_ml", "{:+.2f}"),
)


def volumes_of(run: Run) -> Record | None:
    """Returns what the template shows of the measured volumes; None for a run of pictures.

    Args:
        run: the run of the page.
    """
    measured = run.evaluation.get("volumes")
    if not measured:
        return None
    colors = {entry["name"]: css_color(entry["color"]) for entry in run.evaluation["classes"]}
    groups, failures = pictures(run, measured["cases"])
    return {
        "tolerance": measured.get("tolerance_mm"),
        "heads": [head for head, *_ in SCORES],
        "classes": [class_row(entry, colors) for entry in measured["classes"]],
        "cases": [case_row(case) for case in reversed(ranked(measured["cases"]))],
        "plot": charts.dot_plot(
            "Dice of each volume",
            [
                (entry["name"], [(case_name(case), dice_of(case, entry["name"])) for case in measured["cases"]])
                for entry in measured["classes"]
            ],
        ),
        "names": [entry["name"] for entry in measured["classes"]],
        "groups": groups,
        "notes": failures,
        "contours": {name: css_color(color) for name, color in CONTOURS.items()},
        "margin": MARGIN,
    }


def class_row(entry: Record, colors: Record) -> Record:
    """Returns the row of a class: its cases, and each score as text with its interval.

    Args:
        entry: a class of "volumes" in evaluation.json.
        colors: CSS colours of the classes by name.
    """
    cells = []
    for _, key, form in SCORES:
        score = entry["scores"].get(key) or {}
        interval = score.get("interval")
        cells.append((written(score.get("mean"), form), "" if interval is None else words_of(interval, form)))
    return {**entry, "color": colors.get(entry["name"], "gray"), "cells": cells}


def case_row(case: Record) -> Record:
    """Returns the row of a volume: its name and patient, and the Dice and HD95 of each class as text."""
    cells = [
        (written(scores.get("dice"), "{:.3f}"), written(scores.get("hd95_mm"), "{:.1f}\u00a0mm"))
        for scores in case["classes"].values()
    ]
    name, patient = case_name(case), case.get("patient")
    # a volume without a patient is a separate group with the name of the volume
    return {
        "name": name,
        "patient": None if patient == name else patient,
        "dice": written(mean_dice(case)),
        "cells": cells,
    }


def written(value: Any, form: str = "{:.3f}") -> str:
    """Returns a score as text; "–" for a score that is missing or not finite."""
    return form.format(value) if is_finite(value) else "–"


def words_of(interval: Sequence[float], form: str) -> str:
    """Returns an interval as text, such as "0.812 to 0.846"."""
    return " to ".join(written(end, form) for end in interval)


def case_name(case: Record) -> str:
    """Returns the name of a volume: its case id, its file name without suffix, or the name of its DICOM series."""
    return case.get("name") or volume_name(Path(case["volume"]))


def dice_of(case: Record, name: str) -> float | None:
    """Returns the Dice of a class in a volume; None if the class is in neither mask."""
    value = case["classes"].get(name, {}).get("dice")
    return value if is_finite(value) else None


def mean_dice(case: Record) -> float | None:
    """Returns the mean Dice of the classes that are in the volume; None if there are none."""
    known = [value for name in case["classes"] if (value := dice_of(case, name)) is not None]
    return fmean(known) if known else None


def ranked(cases: Sequence[Record]) -> list[Record]:
    """Returns the volumes in descending order of their mean Dice; volumes without a class are last."""
    return sorted(cases, key=lambda case: -1.0 if (value := mean_dice(case)) is None else value, reverse=True)


def best_and_worst(cases: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Returns up to `SHOWN` best volumes, the best first, and worst volumes, the worst first; no volume is in both."""
    order = [case for case in ranked(cases) if mean_dice(case) is not None]
    half = (len(order) + 1) // 2
    return order[: min(SHOWN, half)], order[max(half, len(order) - SHOWN) :][::-1]


def pictures(run: Run, cases: Sequence[Record]) -> tuple[list[tuple[str, list[Record]]], list[str]]:
    """Returns the best and the worst volumes, segmented again, and the reasons why some cannot be shown.

    Args:
        run: the run of the page.
        cases: cases of "volumes" in its evaluation.json.
    """
    best, worst = best_and_worst(cases)
    if not best:
        return [], []
    from atrous.learning.class_matching import matching_classes
    from atrous.learning.volume_evaluation import segment_case

    try:
        segmenter, dataset = opened_again(run, "volumes")
        parts = measured_parts(run, segmenter.info)
        remap = matching_classes(dataset.classes, segmenter.info.classes)
    except AtrousError as error:
        return [], [str(error)]
    window, names = segmenter.info.preprocessing.image.windows[0], segmenter.info.classes
    groups: dict[str, list[Record]] = {"Best": [], "Worst": []}
    failures = []
    with progress_bar() as progress:
        task = progress.add_task("segmenting volumes", total=len(best) + len(worst), note="")
        for title, chosen in (("Best", best), ("Worst", worst)):
            for case in chosen:
                try:
                    if "mask" not in case:
                        raise AtrousError("evaluation.json does not name its mask. Evaluate the model again.")
                    files = Path(case["volume"]), Path(case["mask"])
                    found = segment_case(segmenter, dataset, *files, remap, parts)
                    groups[title].append({**case_row(case), **picture(*found, window=window, names=names)})
                except (AtrousError, OSError) as error:
                    failures.append(f"{case_name(case)} cannot be shown: {error}")
                progress.update(task, advance=1)
    return [(title, rows) for title, rows in groups.items() if rows], failures


def picture(
    volume: Volume,
    truth: np.ndarray,
    labels: np.ndarray,
    *,
    window: tuple[float, float] | None,
    names: Sequence[str],
) -> Record:
    """Returns the pictures of a volume: three planes through its thickest error, and the data of the slice viewer.

    Args:
        volume: the volume.
        truth: reference mask, X×Y×Z uint8 class indices, 255 = ignore.
        labels: prediction, X×Y×Z uint8.
        window: values that become black and white; None for percentiles.
        names: names of the classes.
    """
    spacing = volume.grid.spacing
    labels = np.where(truth == IGNORE_INDEX, 0, labels).astype(np.uint8)
    truth = np.where(truth == IGNORE_INDEX, 0, truth).astype(np.uint8)
    point, depth = thickest_error(truth != labels, spacing)
    if point is None:
        words = "The prediction has no error; the planes cross the middle of the reference."
        point = middle_of(truth > 0)
    else:
        words = (
            f"The planes cross the thickest error, {depth:.1f} mm from the nearest right voxel: "
            f"{names[truth[point]]} is predicted as {names[labels[point]]}."
        )
    view = view_of(volume, (truth, labels), window=window, voxels=VOXELS, box=box_of(truth, labels, point, spacing))
    at = [(index - first) // step for index, first, step in zip(point, view.first, view.step, strict=True)]
    wrong = int(np.count_nonzero(truth != labels))
    return {
        "words": words,
        "wrong": f"{wrong * abs(float(np.linalg.det(volume.grid.affine[:3, :3]))) / 1000:.2f} ml",
        "size": size_in_words(view, spacing),
        "planes": [
            {"name": plane, "letters": LETTERS[plane], "index": point[axis], **drawn(view, plane, at[axis])}
            for plane, axis in AXES.items()
        ],
        "at": at,
        "data": base64.b64encode(view.packed(level=9)).decode(),
    }


def thickest_error(wrong: np.ndarray, spacing: Sequence[float]) -> tuple[tuple[int, int, int] | None, float]:
    """Returns the wrong voxel that is farthest from all right voxels, and this distance in mm; None without an error.

    This is the middle of the thickest error. The largest connected error would often be a thin shell around an organ.

    Args:
        wrong: X×Y×Z booleans.
        spacing: distance of voxels along each axis, in mm.
    """
    from scipy import ndimage

    if not wrong.any():
        return None, 0.0
    box = around(wrong, [1, 1, 1])
    depth: Any = ndimage.distance_transform_edt(wrong[box], sampling=spacing)
    x, y, z = np.unravel_index(int(depth.argmax()), depth.shape)
    starts = [part.start for part in box]
    return (int(x) + starts[0], int(y) + starts[1], int(z) + starts[2]), float(depth.max())


def middle_of(there: np.ndarray) -> tuple[int, int, int]:
    """Returns the middle of the box around all True voxels; the middle of the array if there are no True voxels."""
    x, y, z = ((part.start + part.stop) // 2 for part in around(there, [0, 0, 0]))
    return x, y, z


def around(there: np.ndarray, margin: Sequence[int]) -> Box:
    """Returns the box around all True voxels with a margin in voxels per axis; the whole array if there are none."""
    box = []
    for axis, side in enumerate(there.shape):
        along = np.flatnonzero(there.any(axis=tuple(other for other in range(3) if other != axis)))
        first, last = (int(along[0]), int(along[-1])) if len(along) else (0, side - 1)
        box.append(slice(max(0, first - margin[axis]), min(side, last + 1 + margin[axis])))
    return box[0], box[1], box[2]


def box_of(truth: np.ndarray, labels: np.ndarray, point: Sequence[int], spacing: Sequence[float]) -> Box:
    """Returns the box that the page shows: all classes but the first, and the point, with a margin of `MARGIN` mm."""
    there = (truth > 0) | (labels > 0)
    there[tuple(point)] = True
    return around(there, [round(MARGIN / side) for side in spacing])


def size_in_words(view: VolumeView, spacing: Sequence[float]) -> str:
    """Returns the size of a volume and of its shown part as text."""
    sides = "×".join(f"{side:.3g}" for side in spacing)
    words = f"The volume has {'×'.join(map(str, view.full))} voxels of {sides} mm. "
    if view.scan.shape == view.full:
        return words + "All of them are shown."
    shown = "×".join(map(str, view.scan.shape))
    thinned = "×".join(map(str, view.step))
    return words + (
        f"The page shows {shown} voxels: one of each {thinned} voxels around the classes."
        if max(view.step) > 1
        else f"The page shows the {shown} voxels around the classes."
    )


def drawn(view: VolumeView, plane: str, index: int) -> Record:
    """Returns the "width" of a slice in mm, and the slice with the contours of both masks as "uri", a JPEG data URI.

    Args:
        view: the shown part of the volume, with the masks reference and prediction.
        plane: plane of the slice.
        index: number of the slice in the view.
    """
    across, down = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}[plane]
    sides = [count * side for count, side in zip(view.scan.shape, view.spacing, strict=True)]
    width, height = (max(1, round(sides[axis] * SIDE / max(sides))) for axis in (across, down))

    def enlarged(values: np.ndarray) -> np.ndarray:
        return np.asarray(
            Image.fromarray(pictures_of(values, plane)[index]).resize((width, height), Image.Resampling.NEAREST)
        )

    shown = np.repeat(enlarged(view.scan)[..., None], 3, axis=2)
    for (name, color), mask in zip(CONTOURS.items(), view.masks, strict=True):
        labels = np.pad(enlarged(mask), 1)
        edge = np.zeros(labels.shape, bool)
        edge[1:] |= labels[1:] != labels[:-1]
        edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        thick = Image.fromarray(edge[1:-1, 1:-1].astype(np.uint8)).filter(ImageFilter.MaxFilter(THICKNESS[name]))
        shown[np.asarray(thick) > 0] = color
    return {"width": round(sides[across], 1), "uri": charts.photo_uri(shown, sharp_colors=True)}
