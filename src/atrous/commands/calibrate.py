"""`atrous calibrate`: fit a temperature that calibrates a model's probabilities.

Examples:
    atrous calibrate model.safetensors data/ --out calibrated.safetensors
    atrous calibrate model.safetensors data/ --chart reliability.png
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from atrous import charts, model_file
from atrous.checked_arguments import checked
from atrous.console import console, note, print_table, progress_bar, warn_if_fresh, write_json
from atrous.data.dataset import Dataset, Item
from atrous.data.dataset_spec import DatasetSpec
from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.data.prefetch import in_background
from atrous.errors import AtrousError, counted
from atrous.inference.exported_onnx_and_openvino import is_exported
from atrous.inference.model_spec import ModelSpec
from atrous.inference.segmenter import Segmenter
from atrous.learning.class_matching import matching_classes
from atrous.learning.evaluation import open_to_measure, prepared, reader_for
from atrous.learning.temperature_scaling import Reliability, fit_temperature, reliability
from atrous.option_fields import given_to, taking
from atrous.overwrite_checks import (
    JSON_KEY,
    MARK,
    check_outputs,
    json_output,
    model_inputs,
    model_output,
    picture_output,
    save_picture,
)

#: Approximate largest number of logits in memory; it limits the number of pixels that are drawn from each picture.
MOST_VALUES = 5_000_000


@checked
@taking(DatasetSpec)
@taking(ModelSpec, "device")
def calibrate(
    model: Path,
    data: Path,
    *,
    split: str = "val",
    out: Path | None = None,
    chart: Path | None = None,
    json: Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Measure how well a model's probabilities match its accuracy, and fit a temperature that calibrates them.

    The logits are divided by the temperature before they become probabilities. The temperature does not change masks
    that are predicted at one scale without flip and without a CRF. It does change masks that are predicted at several
    scales, with flip or with a CRF, and the maps of `atrous explain`. Choose a split that was not used for training.
    With --out, the fitted temperature is stored in a model file.

    Args:
        model: model file to calibrate.
        data: folder of the dataset, in any layout.
        split: split to measure on.
        out: model file to write: a copy of the model with the fitted temperature; without it, calibrate only measures.
        chart: picture to write, .png, with the reliability diagrams before and after calibration.
        json: JSON file to write the results to.
        overwrite: also replace files that atrous did not write; inputs are never replaced.
        **options: fields of `DatasetSpec`, and device of `ModelSpec`.

    Returns:
        The results, as written by --json. "stored" contains the measurements at the temperature that the model file
        stores, and "fitted" those at the fitted temperature. Each contains "temperature", "ece" (expected calibration
        error), "nll" (mean −log p) and, per bin of confidence, "pixels", "confidence" and "accuracy".

    Raises:
        AtrousError: the model, dataset or split does not exist, the classes do not match, or an output may not be
            written.
    """
    if is_exported(model):
        raise AtrousError(f"{model} is an exported file, which cannot be changed: calibrate the model file.")
    if out is not None:
        model_file.check_name(out, "out")
    if chart is not None and chart.suffix != ".png":
        raise AtrousError(f"chart is {chart}; its name must end in .png.")
    spec = ModelSpec(model, engine="torch", precision="float32", **given_to(ModelSpec, options))
    reading = DatasetSpec(data, **given_to(DatasetSpec, options))
    info = spec.read_info()
    dataset = open_to_measure(reading, info.provenance, info.preprocessing.image, resampled=True)
    items = dataset.split(split)
    check_outputs(
        "calibrate",
        [model_output("out", out), picture_output("chart", chart), json_output("json", json)],
        [*model_inputs(model), ("the data set", data), *_files_of(items)],
        overwrite=overwrite,
    )
    segmenter = spec.open(note)
    warn_if_fresh(segmenter.info.provenance)
    logits, labels = drawn_pixels(segmenter, dataset, items)
    fitted = fit_temperature(logits, labels)
    found = {
        name: (temperature, reliability(logits, labels, temperature))
        for name, temperature in (("stored", segmenter.info.temperature), ("fitted", fitted))
    }
    results = {
        JSON_KEY: MARK,
        "model": str(model),
        "data": str(Path(data).resolve()),
        "split": split,
        "images": len(items),
        "pixels": len(labels),
        **{name: _plain(*each) for name, each in found.items()},
    }
    _print(results, dataset.nouns[0])
    if chart is not None:
        panels = [
            (f"T = {heat:.3f} ({name}), error {100 * one.ece:.1f} points", one.pixels, one.confidence, one.accuracy)
            for name, (heat, one) in found.items()
        ]
        save_picture(charts.reliability_picture(panels), chart)
        console.print(f"written: {escape(str(chart))}")
    if out is not None:
        loaded = model_file.load(model)
        loaded.info = replace(loaded.info, temperature=fitted)
        model_file.save_built(loaded, out)
        console.print(f"written: {escape(str(out))}")
    if json is not None:
        write_json(results, json)
    return results


def _files_of(items: Sequence[Item]) -> Iterator[tuple[str, Path | None]]:
    """Yields the pictures and masks as protected inputs.

    A chart may replace any file that has the mark of atrous. Masks that `atrous predict` wrote also have this mark. So
    without this protection, a chart could replace a mask of the dataset.
    """
    for item in items:
        yield "a picture of the split", item.image
        yield "a mask of the split", item.mask


def drawn_pixels(segmenter: Segmenter, dataset: Dataset, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits (at full size) and class indices of labelled pixels, drawn with a fixed seed from each picture.

    Args:
        segmenter: the model, at one scale, in torch.
        dataset: the dataset of the pictures.
        items: the labelled pictures, at least one.

    Returns:
        n×K float32 logits (two columns for a model with one logit) and n class indices.

    Raises:
        AtrousError: there are no pictures, or the classes do not match.
    """
    if not items:
        raise AtrousError("the split has no pictures: nothing to measure.")
    remap = matching_classes(dataset.classes, segmenter.info.classes)
    most = max(1, MOST_VALUES // (len(items) * len(segmenter.info.classes)))
    draw = np.random.default_rng(0)
    logits, labels = [], []
    with progress_bar() as progress:
        task = progress.add_task("measuring", total=len(items), note="")
        for sample in in_background(reader_for(segmenter, dataset), items):
            truth = remap[sample.label]
            places = np.flatnonzero(truth != IGNORE_INDEX)
            if len(places) > most:
                places = np.sort(draw.choice(places, most, replace=False))
            logits.append(segmenter.any_size.logits(prepared(segmenter, sample), places, name=sample.name))
            labels.append(truth.ravel()[places])
            progress.update(task, advance=1)
    return np.concatenate(logits), np.concatenate(labels)


def _plain(temperature: float, measured: Reliability) -> dict[str, Any]:
    """Returns the measurement as lists and numbers for JSON; the values of an empty bin are None."""
    bins = {
        name: [None if value != value else value for value in values.tolist()]
        for name, values in asdict(measured).items()
        if name != "nll"
    }
    return {"temperature": temperature, "ece": measured.ece, "nll": measured.nll, **bins}


def _print(results: dict[str, Any], noun: str) -> None:
    table = Table("", "temperature", "calibration error", "−log p", box=None, header_style="bold")
    for name in ("stored", "fitted"):
        each = results[name]
        table.add_row(name, f"{each['temperature']:.4f}", f"{each['ece']:.4f}", f"{each['nll']:.4f}")
    print_table(table)
    stored, fitted = results["stored"], results["fitted"]
    state = "overconfident" if fitted["temperature"] > stored["temperature"] else "underconfident"
    console.print(
        f"The model is {state}: confidence and accuracy differ by {100 * stored['ece']:.1f} points on average, "
        f"and by {100 * fitted['ece']:.1f} at the fitted temperature ({counted(results['pixels'], 'pixel')} drawn from "
        f"{counted(results['images'], noun)}, {escape(results['split'])})."
    )
