"""HTML page that compares several runs: scores, curves, classes, and differences between the recipes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from atrous import charts
from atrous.commands._html_page import PER_CENT, duration, percent, template
from atrous.commands._recorded_options import evaluate_command, options_in_words
from atrous.commands._report_paired_test import compared
from atrous.errors import AtrousError
from atrous.json_yaml import parse_yaml
from atrous.run_folder import Record, Run, is_finite, points
from atrous.version import __version__

#: Largest number of curves that can be distinguished in one chart.
MOST_CURVES = 6
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
COLORS = ("--right", "--second", "--third", "--fourth", "--fifth", "--wrong")
#: Recipe fields that are not listed as differences, because they cannot explain why one run is better.
BESIDE = ("name", "data.workers", "data.check", "watch.")


def render_comparison(runs: Sequence[Run]) -> str:
    """Returns the HTML page that compares runs, the best run first.

    Args:
        runs: two or more runs, in any order.
    """
    from markupsafe import Markup

    ranked = sorted(runs, key=lambda run: -(score(run, "miou") or -1.0))
    rows = [
        run_row(run) | {"letter": LETTERS[number % 26], "color": COLORS[min(number, MOST_CURVES - 1)]}
        for number, run in enumerate(ranked)
    ]
    return template("comparison.html.j2").render(
        runs=rows,
        remarks=remarks(ranked),
        curves=[(title, Markup(svg)) for title, svg in curves(ranked)],
        classes=class_rows(ranked),
        differences=differences(ranked),
        version=__version__,
    )


def run_row(run: Run) -> Record:
    """Returns a run's row of the table of scores, as texts and numbers for the template."""
    best, speeds = run.best_val or {}, [rate for _, rate in points(run.train, "images_per_second")]
    model = {**run.settings("model"), **run.model_info, **run.model_info.get("arguments", {})}
    return {
        "name": run.folder.resolve().name,
        "model": " · ".join(str(model[key]) for key in ("architecture", "backbone") if model.get(key)),
        "miou": score(run, "miou"),
        "pixel_accuracy": score(run, "pixel_accuracy"),
        "dice": score(run, "dice"),
        "boundary_f": score(run, "boundary_f"),
        "epoch": best.get("epoch"),
        "time": duration(run.seconds) if run.seconds else "–",
        "speed": f"{median(speeds):.1f}" if speeds else "–",
    }


def score(run: Run, key: str) -> float | None:
    """Returns a score (0–1) of the best weights: from the evaluation if it exists, else from validation in training.

    Args:
        run: the run.
        key: key of the score, such as miou.
    """
    value = (run.evaluation or run.best_val or {}).get(key)
    return value if is_finite(value) else None


def remarks(runs: Sequence[Run]) -> list[str]:
    """Returns sentences about the best run, the size of its lead, and whether the scores may be compared."""
    said = []
    first, second = (score(run, "miou") for run in runs[:2])
    if first is not None and second is not None:
        names = [run.folder.resolve().name for run in runs[:2]]
        ahead = 100 * (first - second)
        said.append(f"{names[0]} is best, {ahead:.1f} points of mean IoU ahead of {names[1]}.")
        said += tested(*runs[:2])
        if ahead < 1:
            said.append("A difference below 1 point may be chance: train each recipe with several seeds to find out.")
    if len({(str(run.data), run.evaluation.get("split")) for run in runs}) > 1:
        said.append("These runs were measured on different data or splits: their scores cannot be compared.")
    if len({options_in_words(run.evaluation) for run in runs if run.evaluation}) > 1:
        how = "; ".join(
            f"{run.folder.resolve().name}: {options_in_words(run.evaluation)}" for run in runs if run.evaluation
        )
        said.append(f"These runs were measured in different ways ({how}), which also changes the scores.")
    said += [run.damaged for run in runs if run.damaged]
    return said


def tested(best: Run, second: Run) -> list[str]:
    """Returns the result of the paired test of two runs' mean IoU (as in `atrous compare`), or why it is impossible.

    Args:
        best: the run with the higher score.
        second: the other run.
    """
    try:
        before, after = (_counted(run) for run in (second, best))
        if set(before) != set(after):
            raise AtrousError("the two runs were measured on different pictures.")
        classes = [[entry["name"] for entry in run.evaluation["classes"]] for run in (second, best)]
        if classes[0] != classes[1]:
            raise AtrousError("the two runs have different classes.")
        after_in_order = [{**after[image], "group": entry["group"]} for image, entry in before.items()]
        names = second.folder.resolve().name, best.folder.resolve().name
        return compared(list(before.values()), after_in_order, classes[0], names)["verdict"]
    except AtrousError as reason:
        return [f"The difference was not tested for chance: {reason}"]
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):  # someone edited the file
        return ["The difference was not tested for chance: the counts in evaluation.json are damaged."]


def _counted(run: Run) -> dict[str, Record]:
    """Returns the records of a run's measured pictures by path, each with its counts and its group.

    Raises:
        AtrousError: there are no records, or they have no counts.
    """
    per_image = run.evaluation.get("per_image", [])
    if not per_image or not all({"counts", "group"} <= entry.keys() for entry in per_image):
        raise AtrousError(
            f"{run.folder.resolve().name} has no pixel counts per picture. Measure again: "
            f"{evaluate_command(run, overwrite=bool(run.evaluation or run.damaged))}"
        )
    return {str(entry["image"]): entry for entry in per_image}


def curves(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Returns (title, SVG) of the validation scores and of the loss, each chart with a curve for each run."""
    drawn = []
    for title, lines, key, write in (
        ("Mean IoU on validation", "val", "miou", lambda y: f"{100 * y:.3g}{PER_CENT}"),
        ("Training loss", "train", "loss", "{:.3g}".format),
    ):
        found = [points(getattr(run, lines), key) for run in runs[:MOST_CURVES]]
        named = [(letter, values) for letter, values in zip(LETTERS, found, strict=False) if values]
        if named:
            smooth = [charts.binned_curve(letter, values, bins=40) for letter, values in named]
            plain = [charts.Curve(curve.name, curve.points) for curve in smooth]
            drawn.append((title, charts.line_chart(title, plain, write)))
    return drawn


def class_rows(runs: Sequence[Run]) -> list[Record]:
    """Returns each class with its IoU in every run; the best IoU is marked."""
    of_run = [{entry["name"]: entry for entry in run.evaluation.get("classes", [])} for run in runs]
    names = list(dict.fromkeys(name for entries in of_run for name in entries))
    rows = []
    for name in names:
        values = [entries.get(name, {}).get("iou") for entries in of_run]
        best = max((value for value in values if is_finite(value)), default=None)
        cells = [{"text": percent(value), "best": value is not None and value == best} for value in values]
        rows.append({"name": name, "cells": cells})
    return rows


def differences(runs: Sequence[Run]) -> list[Record]:
    """Returns the recipe fields that differ between runs."""
    recipes = [_flat(_recipe(run)) for run in runs]
    names = list(dict.fromkeys(name for recipe in recipes for name in recipe))
    rows = []
    for name in names:
        values = [recipe.get(name, "–") for recipe in recipes]
        if any(value != values[0] for value in values) and not name.startswith(BESIDE):
            rows.append({"name": name, "cells": [str(value) for value in values]})
    return rows


def _recipe(run: Run) -> Record:
    try:
        record = parse_yaml(run.config, "config.yaml")
    except AtrousError:
        return {}
    return record if isinstance(record, dict) else {}


def _flat(record: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(record, dict):
        return {prefix.rstrip("."): record}
    return {name: value for key, item in record.items() for name, value in _flat(item, f"{prefix}{key}.").items()}
