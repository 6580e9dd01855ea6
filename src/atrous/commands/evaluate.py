"""`atrous evaluate`: measure a model on a labelled split.

Examples:
    atrous evaluate runs/quickstart/best.safetensors data/ --split test
    atrous evaluate model.safetensors data/ --scales 0.75,1,1.25 --flip
    atrous evaluate model.safetensors data/ --crf-search --json scores.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from atrous import model_file
from atrous.checked_arguments import checked
from atrous.commands._recorded_options import recorded_run
from atrous.commands._report_intervals import interval_in_words, with_intervals
from atrous.console import console, note, print_table, progress_bar, told_if_interrupted, warn_if_fresh, write_json
from atrous.data.dataset import Dataset, Item
from atrous.data.dataset_spec import DatasetSpec
from atrous.data.file_headers import kinds_of
from atrous.data.file_of_picture import word_of_picture
from atrous.data.prefetch import in_background
from atrous.errors import AtrousError, counted
from atrous.inference.case_ids import CaseIdTable
from atrous.inference.dataset_case_ids import DatasetCaseIds, dataset_case_ids
from atrous.inference.model_spec import ModelSpec
from atrous.inference.picture_input import doubts_of_files
from atrous.inference.segment_volume import check_crf
from atrous.inference.segmenter import Segmenter
from atrous.inference.slice_views import for_picture
from atrous.inference.volume_parts import parts_to_keep
from atrous.learning.bootstrap import FEW
from atrous.learning.class_matching import matching_classes
from atrous.learning.confusion_matrix import ConfusionMatrix
from atrous.learning.crf_search import Trial, best_of, coarse_to_fine, evenly, trials_of
from atrous.learning.distributed import current_group, process_group
from atrous.learning.evaluation import (
    Measuring,
    measure,
    measures_whole_volumes,
    open_to_measure,
    prepared,
    reader_for,
    silent,
    spec_to_measure,
    summarise,
)
from atrous.learning.volume_evaluation import VolumeScores, check_tolerance, measure_volumes
from atrous.option_fields import given_to, taking
from atrous.overwrite_checks import check_outputs, json_output, model_inputs, model_output

if TYPE_CHECKING:
    from atrous.crf import DenseCRF

#: Printed scores of each class.
COLUMNS = ("iou", "dice", "accuracy", "boundary_f")
#: Remark on scores with --largest-part or --smallest-part.
PARTS_REMARK = (
    "the scores of volumes are those of the masks without their small parts; mIoU and all other scores of slices are "
    "those of the masks with them."
)
#: Scores that are compared with and without a CRF.
HEADLINES = (
    ("mIoU", "miou"),
    ("pixel accuracy", "pixel_accuracy"),
    ("Dice", "dice"),
    ("boundary F", "boundary_f"),
    ("boundary IoU", "boundary_iou"),
)


@process_group()
@told_if_interrupted(lambda: "evaluate writes its results at the end, so no scores are written.")
@checked
@taking(DatasetSpec)
@taking(ModelSpec)
@taking(Measuring)
@taking(CaseIdTable)
def evaluate(
    model: Path,
    data: Path,
    *,
    split: str = "val",
    json: Path | None = None,
    tolerance: float = 1.0,
    largest_part: tuple[str, ...] = (),
    smallest_part: tuple[str, ...] = (),
    crf_search: bool = False,
    crf_images: int = 100,
    save_crf: Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Measure a model on the labelled pictures of a split.

    One integer confusion matrix counts the whole split, so the scores do not depend on the batch size or the order of
    the pictures. The 95 % intervals come from a bootstrap over groups of pictures, such as patients or recordings. If
    no groups are known, the bootstrap is over single pictures.

    Args:
        model: model file or exported file to measure.
        data: folder of the dataset, in any layout.
        split: split to measure on.
        json: JSON file to write the results to.
        tolerance: largest distance at which the surface Dice of volumes counts two surfaces as equal, in mm, ≥ 0.
        largest_part: classes of which only the largest connected part of a volume's mask is kept, such as liver,spleen;
            all for every class but the first one. This changes the scores of volumes, and not mIoU or the other scores
            of slices.
        smallest_part: smallest volume of a connected part that is kept in a volume's mask, in ml, for each class, such
            as liver=5,tumour=0.1; all=1 for every other class but the first one. This changes the scores of volumes,
            and not mIoU or the other scores of slices.
        crf_search: search the best settings of the CRF on this split, from coarse to fine, then measure with them.
        crf_images: largest number of pictures of the split to search on, ≥ 1; the papers use 100.
        save_crf: model file to write: a copy of the model with the settings of the CRF.
        overwrite: also replace files that atrous did not write; inputs are never replaced.
        **options: fields of `DatasetSpec` (how the dataset is read), of `ModelSpec` (how the model is run) and of
            `CaseIdTable`.

    Returns:
        The results, as written by --json; scores are 0–1.

    Raises:
        AtrousError: the model, dataset or split does not exist, the classes do not match those of the model, the
            options of the CRF contradict each other, or an output would replace an input, or a file that atrous did
            not write.
    """
    spec = spec_to_measure(model, options)
    _check_crf(spec.crf, crf_search, crf_images, save_crf)
    check_tolerance(tolerance)
    check_outputs(
        "evaluate",
        [json_output("json", json), model_output("save_crf", save_crf)],
        [*model_inputs(model), ("the data set", data)],
        overwrite=overwrite,
    )
    reading = DatasetSpec(data, **given_to(DatasetSpec, options))
    parts = parts_to_keep(largest_part, smallest_part, spec.read_info()) if largest_part or smallest_part else None
    segmenter = spec.open(note)
    warn_if_fresh(segmenter.info.provenance)
    if crf_search or segmenter.crf is not None:
        check_crf(segmenter.info.preprocessing.image)
    preprocessing, given_table = segmenter.info.preprocessing, options.get("case_ids")
    # the full path is recorded, so that `report` finds the table from every working folder
    table = None if given_table is None else Path(given_table).absolute()
    dataset = open_to_measure(reading, segmenter.info.provenance, preprocessing.image, private=table is not None)
    items, first, cases = dataset.split(split), current_group().first, DatasetCaseIds()
    if table is None:
        kinds = kinds_of((item.image for item in items), preprocessing.image.pages)
        segmenter.preparation.warn_of(doubts_of_files(kinds, preprocessing))
    else:
        listed = items
        cases = current_group().on_rank_zero(lambda: dataset_case_ids(table, listed, dataset.root))
        cases.check_path(Path(data).resolve(), "the data set")
        cases.check_path(model, "the model")
        cases.check_path(table, "the table of case ids")
        items = tuple(map(cases.item, items))
    if crf_search:
        with cases.named():
            found = current_group().on_rank_zero(
                lambda: _settings_of(search_crf(segmenter, dataset, evenly(items, crf_images)))
            )
        segmenter = segmenter.with_crf(_crf_of(found, segmenter))
    with cases.named():
        volumes = VolumeScores(segmenter.info.classes, tolerance, parts)
        of_slices = measure(segmenter, dataset, items, volumes)
        measured = with_intervals(summarise(of_slices, segmenter.info), dataset.groups_from)
        if preprocessing.image.planes:
            if not measures_whole_volumes(segmenter, dataset):
                measure_volumes(segmenter, dataset, items, volumes)
            measured["volumes"] = volumes.as_json()
    results = {
        **recorded_run(model, data, split, reading, len(items), segmenter, spec),
        **({} if segmenter.crf is None else {"crf": _settings_of(segmenter.crf)}),
        **({} if table is None else {"case_ids": str(table)}),
        **cases.in_results(measured),
    }
    if "volumes" in results:
        given = {"largest_part": largest_part, "smallest_part": smallest_part}
        results["volumes"] |= {name: list(value) for name, value in given.items() if value}
        results["volumes"]["remarks"] = [PARTS_REMARK] if parts is not None else []
    _print(results)
    if "volumes" in results:
        _print_volumes(results["volumes"])
    if save_crf is not None and first:
        _save_crf(model, results["crf"], save_crf)
    if json is not None and first:
        write_json(results, json)
    return results


def search_crf(segmenter: Segmenter, dataset: Dataset, items: Sequence[Item]) -> DenseCRF:
    """Searches the settings of a CRF as in the papers; see `learning.crf_search`.

    Args:
        segmenter: the model. Its network runs once for each picture; for a picture that is cut into tiles, it runs
            again in each trial.
        dataset: the dataset of the pictures.
        items: the labelled pictures to search on, at least one.

    Returns:
        The CRF with the highest mean IoU on these pictures.

    Raises:
        AtrousError: there are no pictures, or the classes do not match.
    """
    if not items:
        raise AtrousError("the split has no pictures: nothing to search on.")
    remap = matching_classes(dataset.classes, segmenter.info.classes)
    with progress_bar() as progress:
        scoring = progress.add_task("scoring", total=len(items), note="")
        searching = progress.add_task("searching", total=trials_of() * len(items), note="")
        scores = []
        # a segmenter with a CRF, because the memory of the CRF decides which pictures are cut into tiles
        scoring_with_crf = segmenter.with_crf(_crf_of({}, segmenter)).any_size
        for item, sample in zip(items, in_background(reader_for(segmenter, dataset), items), strict=True):
            run = for_picture(scoring_with_crf, item.image)
            scores.append(run.scores(prepared(segmenter, sample), name=sample.name))
            progress.update(scoring, advance=1)

        def miou(crf: DenseCRF | None) -> float:
            confusion = ConfusionMatrix(len(segmenter.info.classes))
            any_size = silent(segmenter.with_crf(crf))
            read = in_background(reader_for(segmenter, dataset), items)
            for item, sample, scored in zip(items, read, scores, strict=True):
                run = for_picture(any_size, item.image)
                mask = run(prepared(segmenter, sample), sample.valid, name=sample.name, scores=scored)
                confusion.update(remap[sample.label], mask)
                progress.update(searching, advance=crf is not None)
            return confusion.miou

        plain = miou(None)
        trials: list[Trial] = []
        for trial in coarse_to_fine(lambda settings: miou(_crf_of(settings, segmenter))):
            trials.append(trial)
            progress.update(searching, note=f"mIoU {plain:.4f}, best with CRF {best_of(trials).miou:.4f}")
    best = best_of(trials)
    console.print(
        f"searched {counted(len(trials), 'setting')} on {counted(len(items), word_of_picture(items[0].image))}: "
        f"mIoU {plain:.4f} without CRF, {best.miou:.4f} with "
        + "  ".join(f"{name} {value:g}" for name, value in best.settings.items())
    )
    if not best.miou > plain:
        console.print("[yellow]warning:[/] no settings of the CRF reach a higher mIoU than the network alone.")
    return _crf_of(best.settings, segmenter)


def _check_crf(crf: object, search: bool, images: int, out: Path | None) -> None:
    """Checks before the work whether the options of the CRF can be combined."""
    if search and crf is not None:
        raise AtrousError(
            f"--crf-search finds settings of the CRF, but --crf {crf} sets them: leave one of the two out."
        )
    if images < 1:
        raise AtrousError(f"crf_images must be 1 or more, got {images}.")
    if out is None:
        return
    if not search and crf is None:
        raise AtrousError("--save-crf saves the settings from --crf or --crf-search: give one of them.")
    model_file.check_name(out, "save_crf")


def _crf_of(settings: Mapping[str, Any], segmenter: Segmenter) -> DenseCRF:
    from atrous.crf.settings import make_crf

    return make_crf(settings).to(segmenter.engine.device)


def _settings_of(crf: DenseCRF) -> dict[str, Any]:
    from atrous.crf.settings import settings_of

    return settings_of(crf)


def _save_crf(model: Path, settings: dict[str, Any], out: Path) -> None:
    """Writes the model with the settings of the CRF; its weights and other metadata do not change."""
    loaded = model_file.load(model)
    loaded.info = replace(loaded.info, crf=settings)
    model_file.save_built(loaded, out)
    console.print(f"written: {escape(str(out))} (use its CRF with --crf model)")


def _print(results: dict[str, Any]) -> None:
    table = Table(
        *("class", "IoU", "95 % interval", "Dice", "accuracy", "boundary F", "share of labels"),
        box=None,
        header_style="bold",
    )
    total = max(sum(entry["pixels_true"] for entry in results["classes"]), 1)
    for entry in results["classes"]:
        scores = ["absent" if entry[key] is None else f"{entry[key]:.3f}" for key in COLUMNS]
        few = "*" if _is_in_few(entry, results) else ""
        scores.insert(1, interval_in_words(entry["iou_interval"]) + few)
        table.add_row(escape(entry["name"]), *scores, f"{entry['pixels_true'] / total:.1%}")
    print_table(table)
    console.print(
        f"[bold]mIoU {results['miou'] or 0:.4f}[/]  pixel accuracy {results['pixel_accuracy'] or 0:.4f}  "
        f"mean accuracy {results['mean_accuracy'] or 0:.4f}  frequency-weighted IoU "
        f"{results['frequency_weighted_iou']:.4f}  Dice {results['dice'] or 0:.4f}  "
        f"boundary F {results['boundary_f'] or 0:.4f}  boundary IoU {results['boundary_iou'] or 0:.4f}  "
        f"({counted(results['images'], _word(results))}, {escape(results['split'])}, {results['engine']} "
        f"{results['precision']})"
    )
    _print_intervals(results)
    sizes = [f"{size} {score:.3f}" for size, score in results["accuracy_by_size"].items() if score is not None]
    if len(sizes) > 1:  # if only one size occurs, this is the pixel accuracy, which is printed above
        console.print(
            f"accuracy on segments by size: {', '.join(sizes)} (below 32² pixels, below 96² pixels, and larger)"
        )
    if "without_crf" in results:
        _print_change(results)
    for warning in results["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(warning)}")


def _print_volumes(volumes: dict[str, Any]) -> None:
    """Prints the scores of whole volumes."""
    near = f"surface Dice\nat {volumes['tolerance_mm']:g} mm"
    heads = {"Dice": "dice", near: "surface_dice", "HD95\n(mm)": "hd95_mm", "distance\n(mm)": "mean_distance_mm"}
    heads["volume\n(ml)"] = "volume_difference_ml"
    table = Table("volumes", "cases", box=None, header_style="bold")
    for head in heads:
        table.add_column(head)
    for entry in volumes["classes"]:
        cells = []
        for name in heads.values():
            score = entry["scores"][name]
            sign = "+" if name == "volume_difference_ml" else ""
            mean = "–" if score["mean"] is None else f"{score['mean']:{sign}.3f}"
            cells.append(f"{mean}\n{interval_in_words(score['interval'])}".strip())
        table.add_row(escape(entry["name"]), str(entry["cases"]), *cells)
    print_table(table)
    for remark in volumes["remarks"]:
        console.print(f"[yellow]note:[/] {escape(remark)}", highlight=False)


def _word(results: dict[str, Any]) -> str:
    """Returns the word for the pictures of the results."""
    first = next(iter(results.get("per_image", ())), {})
    return word_of_picture(str(first.get("image") or ""))


def _print_intervals(results: dict[str, Any]) -> None:
    """Prints the interval of the mean IoU and the remarks on all intervals."""
    intervals = results["intervals"]
    if intervals["miou"]:
        units = counted(intervals["units"], intervals["over"][:-1])
        console.print(f"95 % interval of mIoU {interval_in_words(intervals['miou'], 4)}, over {units}")
    if any(_is_in_few(entry, results) for entry in results["classes"]):
        console.print(f"* in fewer than {FEW} {intervals['over']}: too narrow to trust", highlight=False)
    for remark in intervals["remarks"]:
        console.print(f"[yellow]note:[/] {escape(remark)}", highlight=False)


def _is_in_few(entry: dict[str, Any], results: dict[str, Any]) -> bool:
    """Returns whether the interval of a class is less reliable, because only few groups contain the class."""
    return bool(entry["iou_interval"]) and entry["interval_units"] < FEW <= results["intervals"]["units"]


def _print_change(results: dict[str, Any]) -> None:
    """Prints the scores without and with the CRF."""
    table = Table("", "without CRF", "with CRF", "change", box=None, header_style="bold")
    for name, key in HEADLINES:
        before, after = results["without_crf"][key] or 0, results[key] or 0
        table.add_row(name, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    print_table(table)
