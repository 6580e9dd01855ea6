"""`atrous evaluate`: measures a model on a labelled split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from atrous.console import console, progress_bar, write_json
from atrous.data.dataset import Dataset, Item, open_dataset
from atrous.data.labels import IGNORE_INDEX, ClassTable
from atrous.data.read_ahead import in_background
from atrous.errors import AtrousError
from atrous.inference.segmenter import Segmenter
from atrous.learning.metrics import ConfusionMatrix, number

#: A class holding less than this share of the truth may go unpredicted without a warning.
NOTABLE_SHARE = 0.001


@dataclass(frozen=True)
class Measurement:
    """What a model scored on a split.

    Args:
        confusion: of the whole split.
        per_image: scores and files of each picture.
    """

    confusion: ConfusionMatrix
    per_image: list[dict[str, Any]] = field(default_factory=list)


def evaluate(
    model: Path,
    data: Path,
    *,
    split: str = "val",
    layout: str | None = None,
    json: Path | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> dict[str, Any]:
    """Measure a model on the labelled pictures of a split.

    One integer confusion matrix counts the whole split, so the result depends neither on batch size nor on order.

    Args:
        model: a model file.
        data: the dataset's folder, in any layout.
        split: which of its splits.
        layout: folder, camvid, voc, cityscapes, ade20k or coco_stuff; guessed when not given.
        json: file to write the results to.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: float32, bfloat16, or auto for the faster of the two.

    Returns:
        The results, as written by --json; scores are 0–1.

    Raises:
        AtrousError: no such model, data or split, or classes that do not match the model's.
    """
    segmenter = Segmenter(model, device=device, precision=precision)
    dataset = open_dataset(data, layout)
    for note in dataset.notes:
        console.print(escape(note))
    items = dataset.split(split)
    results = {
        "model": str(model),
        "data": str(Path(data).resolve()),
        "split": split,
        "images": len(items),
        "engine": segmenter.engine.name,
        "precision": segmenter.engine.precision,
        **summarise(measure(segmenter, dataset, items), segmenter.info),
    }
    _print(results)
    if json is not None:
        write_json(results, json)
    return results


def measure(segmenter: Segmenter, dataset: Dataset, items: Sequence[Item]) -> Measurement:
    """Segments every picture and counts it against its mask.

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
    measured = Measurement(ConfusionMatrix(len(segmenter.info.classes)))
    with progress_bar() as progress:
        task = progress.add_task("evaluating", total=len(items), note="")
        for item, sample in zip(items, in_background(dataset.read, items), strict=True):
            truth = remap[sample.label]
            one = ConfusionMatrix(len(segmenter.info.classes))
            one.update(truth, segmenter.segment(segmenter.prepare(sample.image)))
            measured.confusion.counts += one.counts
            measured.per_image.append(
                {
                    "name": item.name,
                    "image": str(item.image.resolve()),
                    "mask": str(item.mask.resolve()) if item.mask else None,
                    "miou": number(one.miou),
                    "pixel_accuracy": number(one.pixel_accuracy),
                }
            )
            progress.update(task, advance=1, note=f"mIoU {measured.confusion.miou:.3f}")
    return measured


def summarise(measured: Measurement, info: Any) -> dict[str, Any]:
    """A measurement as plain JSON values; see docs/architecture.md for the fields."""
    confusion = measured.confusion
    true, predicted = confusion.counts.sum(1), confusion.counts.sum(0)
    classes = [
        {
            "name": name,
            "color": list(info.colors[index]),
            "iou": number(confusion.iou[index]),
            "dice": number(confusion.dice[index]),
            "accuracy": number(confusion.accuracy[index]),
            "pixels_true": int(true[index]),
            "pixels_predicted": int(predicted[index]),
        }
        for index, name in enumerate(info.classes)
    ]
    return {
        **confusion.summary(),
        "classes": classes,
        "absent": [entry["name"] for entry in classes if entry["iou"] is None],
        "confusion": confusion.counts.tolist(),
        "warnings": warnings(confusion, info.classes),
        "per_image": measured.per_image,
    }


def warnings(confusion: ConfusionMatrix, names: Sequence[str]) -> list[str]:
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


def _print(results: dict[str, Any]) -> None:
    table = Table("class", "IoU", "Dice", "accuracy", "share of truth", box=None, header_style="bold")
    total = max(sum(entry["pixels_true"] for entry in results["classes"]), 1)
    for entry in results["classes"]:
        scores = ["absent" if entry[key] is None else f"{entry[key]:.3f}" for key in ("iou", "dice", "accuracy")]
        table.add_row(escape(entry["name"]), *scores, f"{entry['pixels_true'] / total:.1%}")
    console.print(table)
    console.print(
        f"[bold]mIoU {results['miou'] or 0:.4f}[/]  pixel accuracy {results['pixel_accuracy'] or 0:.4f}  "
        f"mean accuracy {results['mean_accuracy'] or 0:.4f}  frequency-weighted IoU "
        f"{results['frequency_weighted_iou']:.4f}  Dice {results['dice'] or 0:.4f}  "
        f"({results['images']} pictures, {escape(results['split'])}, {results['engine']} {results['precision']})"
    )
    for warning in results["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(warning)}")
