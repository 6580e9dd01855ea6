"""`atrous report`: write an HTML page about a run, or compare several runs.

Examples:
    atrous report runs/quickstart
    atrous report runs/a runs/b --out comparison.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape

from atrous import charts
from atrous.atomic_write import write_text
from atrous.checked_arguments import checked
from atrous.commands._html_page import PER_CENT, css_color, duration, percent, percent_interval, template
from atrous.commands._recorded_options import (
    commands,
    missing,
    opened_again,
    options_in_words,
)
from atrous.commands._report_case_ids import with_case_ids
from atrous.commands._report_volumes import volumes_of
from atrous.console import console
from atrous.errors import AtrousError, counted
from atrous.inference.case_ids import CaseIdTable
from atrous.inference.dataset_case_ids import DatasetCaseIds
from atrous.option_fields import taking
from atrous.overwrite_checks import check_outputs, page_output
from atrous.run_folder import RUN_FILES, Record, Run, is_finite, points, read_run
from atrous.version import __version__

if TYPE_CHECKING:
    from atrous.data.dataset import Item
    from atrous.data.mask_value_map import ClassTable
    from atrous.data.sample import Sample
    from atrous.inference.prediction import Prediction

MOST_CLASSES = 30  # a larger confusion matrix is not readable: its rarest classes are merged into one
SHOWN = 3  # number of best pictures, and of worst pictures


@checked
@taking(CaseIdTable)
def report(runs: list[Path], *, out: Path | None = None, overwrite: bool = False, **options: Any) -> Path:
    """Write a self-contained HTML page that shows one run or compares several runs.

    The page of one run shows its curves, scores, confusion matrix, and best and worst pictures. For a model of volumes,
    it shows the scores of each volume, and the best and worst volumes in three planes with sliders. The page of several
    runs shows their scores, curves and classes side by side, and the differences between their recipes. The page can be
    read without a network connection, further files or scripts; the sliders need scripts. If a run lacks data, the page
    lists the missing data and the command that makes it.

    Args:
        runs: one or more folders of runs, as `atrous train` wrote them.
        out: HTML page to write; by default RUN/report.html for one run, and comparison.html for several runs.
        overwrite: also replace files that atrous did not write; inputs are never replaced.
        **options: the field of `CaseIdTable`. By default, the table that evaluation.json names is used. With a table,
            the page has no warnings on the data, which may name patients. A comparison of runs names no volumes.

    Returns:
        The path of the page.

    Raises:
        AtrousError: a folder is missing or has neither metrics.jsonl nor a readable evaluation.json, or the page cannot
            be written or would replace a file that atrous did not write.
    """
    folders = [Path(runs)] if isinstance(runs, str | Path) else [Path(run) for run in runs]
    if not folders:
        raise AtrousError("no run to report on: give one or more folders of runs, as `atrous train` wrote them.")
    page = Path(out) if out else (folders[0] / "report.html" if len(folders) == 1 else Path("comparison.html"))
    files = [read_run(folder) for folder in folders]
    read = [("a file of the run", run.folder / name) for run in files for name in RUN_FILES if name != "report.html"]
    read += [("the data set", Path(run.data)) for run in files if run.data]
    check_outputs("report", [page_output("out", page)], read, overwrite=overwrite)
    if len(files) == 1:
        run, cases = with_case_ids(files[0], options.get("case_ids"))
        cases.check_path(Path(out or ""), "the page")
        with cases.named():
            html = render(run, out, cases)
    else:
        from atrous.commands._run_comparison import render_comparison

        html = render_comparison(files)
    try:
        write_text(page, html)
    except OSError as error:
        raise AtrousError(f"cannot write the report to '{page}': {error.strerror}. Choose another --out.") from error
    console.print(f"written: {escape(str(page))}")
    return page


def render(run: Run, out: Path | None = None, cases: DatasetCaseIds | None = None) -> str:
    """Returns the HTML page of one run.

    Args:
        run: the run.
        out: path of the page; None for report.html in the run's folder.
        cases: ids that stand for names of volumes in notes; None to keep all names.
    """
    from markupsafe import Markup

    named = (cases or DatasetCaseIds()).without_names
    volumes = volumes_of(run)
    groups, picture_notes = pictures(run) if volumes is None else ([], [])
    if volumes is not None:
        volumes = {**volumes, "plot": Markup(volumes["plot"]), "notes": list(map(named, volumes["notes"]))}
    return template("report.html.j2").render(
        name=run.folder.resolve().name,
        headline=headline(run),
        remarks=remarks(run),
        warnings=run.evaluation.get("warnings", []),
        cautions=(run.evaluation.get("intervals") or {}).get("remarks", []),
        data_warnings=run.doctor.get("warnings", []),
        missing=missing(run, out),
        curves=[(title, note, Markup(svg)) for title, note, svg in curves(run)],
        classes=[row | {"trend": Markup(row["trend"])} for row in class_rows(run)],
        confusion=confusion_rows(run.evaluation),
        confused=most_confused(run.evaluation),
        groups=groups,
        picture_notes=list(map(named, picture_notes)),
        volumes=volumes,
        config=run.config,
        commands=commands(run, out),
        provenance=provenance(run),
        version=__version__,
    )


def headline(run: Run) -> Record:
    """Returns the mean IoU in the head of the page, with its interval, and the facts below it."""
    scores = run.evaluation or run.best_val or {}
    info = run.model_info
    model = {**run.settings("model"), **info, **info.get("arguments", {})}
    stride = model.get("output_stride") and f"stride\u00a0{model['output_stride']}"
    made = info.get("provenance", {})
    facts = {
        "Model": " · ".join(filter(None, [model.get("architecture"), model.get("backbone"), stride])),
        "Data": Path(run.data).name,
        "Images": run.evaluation.get("images"),
        "Pixel accuracy": percent(scores.get("pixel_accuracy"), PER_CENT),
        "Mean accuracy": percent(scores.get("mean_accuracy"), PER_CENT),
        "Frequency-weighted IoU": percent(scores.get("frequency_weighted_iou"), PER_CENT),
        "Dice": percent(scores.get("dice"), PER_CENT),
        "Training time": duration(run.seconds),
        "Training time to best": "" if run.seconds else duration(60 * made.get("training_minutes", 0)),
        "Date": f"{run.written.day} {run.written:%b %Y}",
    }
    intervals = run.evaluation.get("intervals") or {}
    kind = str(intervals.get("over", "pictures"))
    return {
        "miou": scores.get("miou"),
        "interval": percent_interval(intervals.get("miou")),
        "kind": kind,
        "over": f"over {counted(int(intervals.get('units', 0)), kind.removesuffix('s'))}",
        "split": run.evaluation.get("split") or "the best validation during training",
        "facts": {name: fact for name, fact in facts.items() if fact not in (None, "", "–")},
    }


def remarks(run: Run) -> list[str]:
    """Returns sentences on the best and worst class, the best epoch, and losses that are not finite."""
    said = []
    ranked = [row for row in class_rows(run) if is_finite(row["iou"])]
    if len(ranked) > 1:
        best, worst = ((row["name"], percent(row["iou"], PER_CENT)) for row in (ranked[0], ranked[-1]))
        said.append(f"The best class is {best[0]} (IoU {best[1]}), the worst class is {worst[0]} ({worst[1]}).")
    peak = run.best_val
    if peak and len(run.val) > 1:
        last, height = run.val[-1].get("epoch"), percent(peak["miou"], PER_CENT)
        said.append(
            f"During training, the mean IoU was highest in the last epoch ({height}): more epochs may help."
            if peak is run.val[-1]
            else f"During training, the mean IoU peaked at {height} in epoch {peak.get('epoch')} of {last}."
        )
    if any(not is_finite(line.get("loss")) for line in run.train):
        said.append("At some steps the loss was not a finite number; the curve does not show these steps.")
    return said


def curves(run: Run) -> list[tuple[str, str, str]]:
    """Returns (title, note, SVG) of the loss, validation scores and learning rate, if they were recorded."""
    loss = charts.binned_curve("loss", points(run.train, "loss"))
    rate = charts.binned_curve("learning rate", points(run.train, "lr"), bins=150)
    scores = [
        charts.Curve(name, points(run.val, key))
        for name, key in (("mean IoU", "miou"), ("pixel accuracy", "pixel_accuracy"))
        if points(run.val, key)
    ]
    mark = None
    if best := run.best_val:
        words = f"best {percent(best['miou'], PER_CENT)}, epoch {best.get('epoch')}"
        mark = (best["step"], best["miou"], words)
    drawn = []
    if loss.points:
        note = "line: mean; shaded: range" if loss.low != loss.high else ""
        drawn.append(("Loss", note, charts.line_chart("Training loss", [loss], "{:.3g}".format)))
    if scores:
        svg = charts.line_chart("Validation scores", scores, lambda y: f"{100 * y:.3g}{PER_CENT}", mark=mark)
        drawn.append(("Validation", "", svg))
    if rate.points:
        drawn.append(("Learning rate", "", charts.line_chart("Learning rate", [rate], "{:.3g}".format)))
    return drawn


def class_rows(run: Run) -> list[Record]:
    """Returns the classes in descending order of IoU, absent classes last, each with its IoU curve in training."""
    classes = run.evaluation.get("classes", [])
    labelled = sum(c["pixels_true"] for c in classes) or 1
    rows = [
        c
        | {
            "color": css_color(c["color"]),
            "share": c["pixels_true"] / labelled,
            "interval": percent_interval(c.get("iou_interval")) or "–",
            "trend": charts.sparkline([(v.get("per_class") or {}).get(c["name"]) for v in run.val]),
        }
        for c in classes
    ]
    return sorted(rows, key=lambda row: -row["iou"] if is_finite(row["iou"]) else 1.0)


def confusion_rows(evaluation: Record) -> list[Record]:
    """Returns the confusion matrix: a row per true class, with the number and share of its pixels per predicted class.

    If there are more than `MOST_CLASSES` classes, the rarest are merged into one.
    """
    if not evaluation:
        return []
    classes = [(c["name"], css_color(c["color"])) for c in evaluation["classes"]]
    matrix = np.asarray(evaluation["confusion"], np.int64)
    if len(classes) > MOST_CLASSES:
        order = np.argsort(-matrix.sum(1), kind="stable")  # frequent first
        kept, rare = np.sort(order[: MOST_CLASSES - 1]), order[MOST_CLASSES - 1 :]
        # one sum for each frequent class; the last sum is for all rare classes together
        starts = np.arange(MOST_CLASSES)
        order = np.concatenate([kept, rare])
        matrix = np.add.reduceat(np.add.reduceat(matrix[order][:, order], starts, 0), starts, 1)
        classes = [*(classes[i] for i in kept), (f"the {len(rare)} rarest", css_color((136, 136, 136)))]
    return [
        {
            "name": name,
            "color": color,
            "cells": [
                {"name": other, "pixels": int(n), "share": n / row.sum() if row.any() else None}
                for (other, _), n in zip(classes, row, strict=True)
            ],
        }
        for (name, color), row in zip(classes, matrix, strict=True)
    ]


def most_confused(evaluation: Record, most: int = 6) -> list[Record]:
    """Returns the pairs of classes with the largest share of the true class predicted as the other, at least 1 %.

    Args:
        evaluation: content of evaluation.json.
        most: largest number of pairs.
    """
    rows = confusion_rows(evaluation)
    pairs = [
        {"truth": row, "taken": cell, "back": rows[j]["cells"][i]["share"]}
        for i, row in enumerate(rows)
        for j, cell in enumerate(row["cells"])
        if i != j and is_finite(cell["share"]) and cell["share"] >= 0.01
    ]
    return sorted(pairs, key=lambda pair: -pair["taken"]["share"])[:most]


def pictures(run: Run) -> tuple[list[tuple[str, list[Record]]], list[str]]:
    """Returns the best and the worst pictures with new predictions, and the reasons why some cannot be shown."""
    best, worst = best_and_worst(run.evaluation.get("per_image", []))
    if not best:
        return [], []
    from atrous.inference.prediction import Prediction
    from atrous.inference.slice_views import for_picture
    from atrous.learning.evaluation import prepared, reader_for

    try:
        segmenter, dataset = opened_again(run, "pictures")
    except AtrousError as error:
        return [], [str(error)]
    if segmenter.info.preprocessing.image.spacing is not None:  # its whole volumes are shown
        return [], []

    def segment(item: Item, sample: Sample) -> Prediction:
        any_size = for_picture(segmenter.any_size, item.image)
        mask = any_size(prepared(segmenter, sample), sample.valid, name=sample.name)
        return Prediction(mask, sample.image, segmenter.info)

    read = reader_for(segmenter, dataset)
    groups, notes = [], []
    chosen = [("Best", best, None), ("Worst", worst, None)]
    chosen += [(title, [record], pair) for title, record, pair in most_confused_pictures(run.evaluation)]
    for title, records, pair in chosen:
        rows, failures = picture_rows(records, read, segment, dataset.classes, pair)
        groups.append((title, rows))
        notes += failures
    return [group for group in groups if group[1]], notes


def most_confused_pictures(evaluation: Record) -> list[tuple[str, Record, tuple[int, int]]]:
    """Returns (title, record, pair) for the most confused pairs of classes.

    The record is that of the picture with the most pixels of the pair's first class that are predicted as the second.
    """
    names = [entry["name"] for entry in evaluation["classes"]]
    found = []
    for confused in most_confused(evaluation, SHOWN):
        title = f"{confused['truth']['name']} predicted as {confused['taken']['name']}"
        if confused["truth"]["name"] not in names or confused["taken"]["name"] not in names:
            continue  # a row of merged rare classes has no class index
        pair = names.index(confused["truth"]["name"]), names.index(confused["taken"]["name"])
        pixels = {
            number: count
            for number, record in enumerate(evaluation["per_image"])
            for true, taken, count in record.get("mistakes", [])
            if (true, taken) == pair
        }
        if pixels:
            found.append((title, evaluation["per_image"][max(pixels, key=lambda number: pixels[number])], pair))
    return found


def best_and_worst(per_image: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Returns up to `SHOWN` best and worst pictures, in descending order of mean IoU; no picture is in both."""
    ranked = sorted((r for r in per_image if is_finite(r.get("miou"))), key=lambda r: -r["miou"])
    half = (len(ranked) + 1) // 2
    return ranked[: min(SHOWN, half)], ranked[max(half, len(ranked) - SHOWN) :]


def picture_rows(
    records: Sequence[Record],
    read: Callable[[Item], Sample],
    segment: Callable[[Item, Sample], Prediction],
    classes: ClassTable,
    pair: tuple[int, int] | None = None,
) -> tuple[list[Record], list[str]]:
    """Returns the picture, label, prediction and error map of each record as data URIs.

    Args:
        records: entries of `per_image` of an evaluation.
        read: function that reads a picture and its mask.
        segment: function that predicts the mask of a picture.
        classes: class table of the data set.
        pair: two class indices; the error map shows only pixels of the first class that were predicted as the second.
            None shows all errors.

    Returns:
        The rows, and a sentence for each picture that could not be read.
    """
    from atrous.data.dataset import Item
    from atrous.learning.class_matching import matching_classes

    rows, notes = [], []
    for record in records:
        try:
            files = (Path(record["image"]), Path(record["mask"]))
            item = Item(record["name"], *files, more=tuple(map(Path, record.get("more", ()))))
            prediction = segment(item, sample := read(item))
            truth = matching_classes(classes, prediction.info.classes)[sample.label]
        except (AtrousError, OSError) as error:
            notes.append(f"{record['name']} cannot be shown: {error}")
            continue
        visible = np.asarray(prediction.overlay(opacity=0))
        picture, truth, answer = (charts.shrink(array) for array in (visible, truth, prediction.mask))
        shown = answer if pair is None else np.where((truth == pair[0]) & (answer == pair[1]), answer, truth)
        errors = charts.error_map(picture, truth, shown)
        rows.append(
            {
                "name": record["name"],
                "miou": record["miou"],
                "pixel_accuracy": record.get("pixel_accuracy"),
                "image": charts.photo_uri(picture),
                "truth": charts.mask_uri(truth, prediction.info.colors),
                "prediction": charts.mask_uri(answer, prediction.info.colors),
                "errors": charts.photo_uri(errors, sharp_colors=True),
            }
        )
    return rows, notes


def provenance(run: Run) -> dict[str, str]:
    """Returns the origin of the scores: model, data, options, date, and the model's provenance."""
    measured = run.evaluation
    lines = {
        "Measured model": str(measured.get("model", "")),
        "Data": run.data,
        "Measured with": options_in_words(measured),
        "Measured on": run.written.strftime("%Y-%m-%d %H:%M") if measured else "",
    }
    for name, value in run.model_info.get("provenance", {}).items():
        lines[name.replace("_", " ").capitalize()] = value if isinstance(value, str) else json.dumps(value)
    return {name: line for name, line in lines.items() if line}
