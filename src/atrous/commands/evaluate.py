"""`atrous evaluate`: measures a model on a labelled split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from atrous import model_file
from atrous.console import console, progress_bar, warn_if_fresh, write_json
from atrous.data.dataset import Dataset, Item, open_dataset
from atrous.data.labels import IGNORE_INDEX, ClassTable
from atrous.data.read_ahead import in_background
from atrous.errors import AtrousError
from atrous.inference.any_size import AnySize
from atrous.inference.exported import is_exported
from atrous.inference.segmenter import Segmenter
from atrous.learning.boundary import BoundaryScore
from atrous.learning.crf_search import Trial, best_of, coarse_to_fine, evenly, trials_of
from atrous.learning.metrics import ConfusionMatrix, number
from atrous.learning.processes import Processes, the_processes, together

if TYPE_CHECKING:
    from atrous.crf import DenseCRF

#: A class holding less than this share of the truth may go unpredicted without a warning.
NOTABLE_SHARE = 0.001
#: Scores of a class that are printed.
COLUMNS = ("iou", "dice", "accuracy", "boundary_f")
#: Scores that are compared with and without a CRF.
HEADLINES = (("mIoU", "miou"), ("pixel accuracy", "pixel_accuracy"), ("Dice", "dice"), ("boundary F", "boundary_f"))


@dataclass(frozen=True)
class Measurement:
    """What a model scored on a split.

    Args:
        confusion: of the whole split.
        boundary: of the whole split.
        per_image: scores and files of each picture.
        without_crf: what the network's own masks scored, where a CRF refined them.
    """

    confusion: ConfusionMatrix
    boundary: BoundaryScore
    per_image: list[dict[str, Any]] = field(default_factory=list)
    without_crf: Measurement | None = None


@together()
def evaluate(
    model: Path,
    data: Path,
    *,
    split: str = "val",
    layout: str | None = None,
    json: Path | None = None,
    crf: str | None = None,
    crf_search: bool = False,
    crf_images: int = 100,
    save_crf: Path | None = None,
    scales: list[float] | None = None,
    flip: bool = False,
    output_stride: int | None = None,
    engine: str | None = None,
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
        crf: refine the masks by a fully connected CRF with these settings: model (those that the model file stores), a
            preset (deeplabv1, deeplabv2, pydensecrf), or NAME=VALUE,… such as deeplabv2,iterations=5.
        crf_search: find the CRF's settings on this split, coarse to fine, then measure with them.
        crf_images: pictures of the split to search on, ≥ 1; the papers took 100.
        save_crf: model file to write, the same model with the CRF's settings in it.
        scales: of the pictures, at which the network looks at them, such as 0.5,0.75,1,1.25,1.5,1.75 (the papers'); its
            probabilities are averaged.
        flip: the network looks at the mirrored pictures too.
        output_stride: 8, 16 or 32, at which the same weights see, finer and slower the smaller; by default the model's.
        engine: torch, openvino, or auto for the faster of the two; by default torch, and for an exported file its own.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: float32, bfloat16, or auto for the faster of the two.

    Returns:
        The results, as written by --json; scores are 0–1.

    Raises:
        AtrousError: no such model, data or split, classes that do not match the model's, or a CRF that cannot be.
    """
    _check_crf(model, crf, crf_search, crf_images, save_crf)
    engine = engine or ("auto" if is_exported(model) else "torch")
    segmenter = Segmenter(
        model,
        engine=engine,
        device=device,
        precision=precision,
        scales=scales or (1.0,),
        flip=flip,
        output_stride=output_stride,
        crf=crf,
    )
    warn_if_fresh(segmenter.info.provenance)
    dataset = open_dataset(data, layout)
    for note in dataset.notes:
        console.print(escape(note))
    items = dataset.split(split)
    first = the_processes().first
    if crf_search:
        found = the_processes().by_first(
            lambda: _settings_of(search_crf(segmenter, dataset, evenly(items, crf_images)))
        )
        segmenter.crf = _crf_of(found, segmenter)
    results = {
        "model": str(model),
        "data": str(Path(data).resolve()),
        "split": split,
        "images": len(items),
        "engine": segmenter.engine.name,
        "precision": segmenter.engine.precision,
        **({"scales": scales} if scales else {}),
        **({"flip": True} if flip else {}),
        **({"output_stride": output_stride} if output_stride else {}),
        **({} if segmenter.crf is None else {"crf": _settings_of(segmenter.crf)}),
        **summarise(measure(segmenter, dataset, items), segmenter.info),
    }
    _print(results)
    if save_crf is not None and first:
        _save_crf(model, results["crf"], save_crf)
    if json is not None and first:
        write_json(results, json)
    return results


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
    without = None if segmenter.crf is None else Measurement(ConfusionMatrix(classes), BoundaryScore(classes))
    measured = Measurement(ConfusionMatrix(classes), BoundaryScore(classes), without_crf=without)
    any_size = AnySize(segmenter, say=lambda line: console.print(escape(line)))
    with progress_bar() as progress:
        processes = the_processes()
        own = processes.part(items)
        task = progress.add_task("evaluating", total=len(own), note="")
        for item, sample in zip(own, in_background(dataset.read, own), strict=True):
            truth, image = remap[sample.label], segmenter.prepare(sample.image)
            one = ConfusionMatrix(classes)
            scores = () if without is None else segmenter.scores(image)
            mask = segmenter.decide(scores, image, segmenter.crf) if scores else any_size(image, name=item.name)
            one.update(truth, mask)
            measured.boundary.update(truth, mask)
            if without is not None:
                plain = segmenter.decide(scores, image)
                without.confusion.update(truth, plain)
                without.boundary.update(truth, plain)
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
    return _of_all(measured, processes)


def _of_all(measured: Measurement, processes: Processes) -> Measurement:
    """The sum of what the processes measured, each on its part of the pictures; exact, because counts are whole."""
    for one in (measured, measured.without_crf):
        if one is not None:
            one.confusion.counts = processes.sum(one.confusion.counts)
            one.boundary.counts = processes.sum(one.boundary.counts)
    dealt = zip_longest(*processes.gather(measured.per_image))
    return replace(measured, per_image=[entry for turn in dealt for entry in turn if entry is not None])


def search_crf(segmenter: Segmenter, dataset: Dataset, items: Sequence[Item]) -> DenseCRF:
    """Finds a CRF's settings as the papers did; see `learning.crf_search`.

    Args:
        segmenter: the network, which sees each picture once.
        dataset: where to read.
        items: the labelled pictures to search on, at least one.

    Returns:
        The CRF that scored best on them.

    Raises:
        AtrousError: nothing to search on, or classes that do not match.
    """
    if not items:
        raise AtrousError("the split has no pictures: nothing to search on.")
    remap = matching_classes(dataset.classes, segmenter.info.classes)
    with progress_bar() as progress:
        scoring = progress.add_task("scoring", total=len(items), note="")
        searching = progress.add_task("searching", total=trials_of() * len(items), note="")
        scores = []
        for sample in in_background(dataset.read, items):
            scores.append(segmenter.scores(segmenter.prepare(sample.image)))
            progress.update(scoring, advance=1)

        def miou(crf: DenseCRF | None) -> float:
            confusion = ConfusionMatrix(len(segmenter.info.classes))
            for sample, scored in zip(in_background(dataset.read, items), scores, strict=True):
                image = segmenter.prepare(sample.image)
                confusion.update(remap[sample.label], segmenter.decide(scored, image, crf))
                progress.update(searching, advance=crf is not None)
            return confusion.miou

        plain = miou(None)
        trials: list[Trial] = []
        for trial in coarse_to_fine(lambda settings: miou(_crf_of(settings, segmenter))):
            trials.append(trial)
            progress.update(searching, note=f"mIoU {plain:.4f}, best with CRF {best_of(trials).miou:.4f}")
    best = best_of(trials)
    console.print(
        f"searched {len(trials)} settings on {len(items)} pictures: mIoU {plain:.4f} without CRF, {best.miou:.4f} with "
        + "  ".join(f"{name} {value:g}" for name, value in best.settings.items())
    )
    if not best.miou > plain:
        console.print("[yellow]warning:[/] no settings of the CRF score better than the network alone.")
    return _crf_of(best.settings, segmenter)


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
            "boundary_f": number(measured.boundary.f_score[index]),
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
        "warnings": warnings(confusion, info.classes),
        "per_image": measured.per_image,
    }


def _headline(measured: Measurement) -> dict[str, Any]:
    return {**measured.confusion.summary(), "boundary_f": number(measured.boundary.mean)}


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


def _check_crf(model: Path, crf: str | None, search: bool, images: int, out: Path | None) -> None:
    """Before the work: whether what was asked of the CRF goes together, and may be saved there."""
    if search and crf is not None:
        raise AtrousError(f"--crf-search finds the settings that --crf {crf} gives: leave one of them out.")
    if images < 1:
        raise AtrousError(f"crf_images must be 1 or more, got {images}.")
    if out is None:
        return
    if not search and crf is None:
        raise AtrousError("--save-crf saves what --crf or --crf-search gives: give one of them.")
    if out.exists() and Path(model).exists() and out.samefile(model):
        raise AtrousError(f"save_crf is {out}, the model itself; give another name. Inputs are never overwritten.")
    model_file.check_target(out, "save_crf")


def _crf_of(settings: Mapping[str, Any], segmenter: Segmenter) -> DenseCRF:
    from atrous.crf.settings import make_crf

    return make_crf(settings).to(segmenter.engine.device)


def _settings_of(crf: DenseCRF) -> dict[str, Any]:
    from atrous.crf.settings import settings_of

    return settings_of(crf)


def _save_crf(model: Path, settings: dict[str, Any], out: Path) -> None:
    """Writes the model with the CRF's settings; its weights and all else stay."""
    loaded = model_file.load(model)
    loaded.info = replace(loaded.info, crf=settings)
    model_file.save(loaded, out)
    console.print(f"written: {escape(str(out))} (use its CRF with --crf model)")


def _print(results: dict[str, Any]) -> None:
    table = Table("class", "IoU", "Dice", "accuracy", "boundary F", "share of truth", box=None, header_style="bold")
    total = max(sum(entry["pixels_true"] for entry in results["classes"]), 1)
    for entry in results["classes"]:
        scores = ["absent" if entry[key] is None else f"{entry[key]:.3f}" for key in COLUMNS]
        table.add_row(escape(entry["name"]), *scores, f"{entry['pixels_true'] / total:.1%}")
    console.print(table)
    console.print(
        f"[bold]mIoU {results['miou'] or 0:.4f}[/]  pixel accuracy {results['pixel_accuracy'] or 0:.4f}  "
        f"mean accuracy {results['mean_accuracy'] or 0:.4f}  frequency-weighted IoU "
        f"{results['frequency_weighted_iou']:.4f}  Dice {results['dice'] or 0:.4f}  "
        f"boundary F {results['boundary_f'] or 0:.4f}  "
        f"({results['images']} pictures, {escape(results['split'])}, {results['engine']} {results['precision']})"
    )
    if "without_crf" in results:
        _print_change(results)
    for warning in results["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(warning)}")


def _print_change(results: dict[str, Any]) -> None:
    """What the CRF changed."""
    table = Table("", "without CRF", "with CRF", "change", box=None, header_style="bold")
    for name, key in HEADLINES:
        before, after = results["without_crf"][key] or 0, results[key] or 0
        table.add_row(name, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    console.print(table)
