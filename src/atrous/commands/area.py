"""`atrous area`: estimate the hectares of each class on a map.

Examples:
    atrous area model.safetensors scene.tif --data data/ --split test
    atrous area model.safetensors 'scenes/*.tif' --data data/ --json area.json
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from atrous.checked_arguments import checked
from atrous.commands._area_results import HECTARE, area_results, hectares, units_in_words
from atrous.commands._recorded_options import recorded_run
from atrous.commands._report_intervals import interval_in_words
from atrous.console import (
    console,
    note,
    print_table,
    progress_bar,
    say_tiles_of_training,
    told_if_interrupted,
    warn_if_fresh,
    write_json,
)
from atrous.data.dataset_spec import DatasetSpec
from atrous.data.file_headers import kinds_of
from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.data.rasters.ground_overlap import overlapping_outlines
from atrous.data.rasters.pixel_area import PixelAreas
from atrous.data.sources.geotiff import place_of
from atrous.errors import AtrousError, counted
from atrous.inference.mapped_area import mapped_area
from atrous.inference.model_spec import ModelSpec
from atrous.inference.picture_input import doubts_of_files
from atrous.inference.picture_paths import find_pictures
from atrous.inference.predict_jobs import Worker
from atrous.learning.bootstrap import FEW
from atrous.learning.confusion_by_group import confusion_by_group
from atrous.learning.evaluation import open_to_measure
from atrous.models.info import Info
from atrous.option_fields import given_to, taking
from atrous.overwrite_checks import check_outputs, json_output, model_inputs

#: Largest number of pairs of overlapping rasters that a message names.
PAIRS = 3


@told_if_interrupted(lambda: "area writes its results at the end, so no areas are written.")
@checked
@taking(DatasetSpec, "layout", "groups")
@taking(ModelSpec)
def area(
    model: Path,
    rasters: Sequence[Path],
    *,
    data: Path | None = None,
    split: str = "val",
    json: Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Estimate the area of each class on the map that a model makes of rasters, in hectares.

    The model maps the rasters and a labelled split. The areas on the map are corrected by the errors of the model in
    the split, with the stratified estimator of Olofsson et al. (2014). The 95 % intervals come from a bootstrap over
    the groups of the split, such as places, because pixels of one place have similar errors. The areas of pixels are
    their true areas on Earth in every coordinate reference system. No mask is written; use `atrous predict` for masks.

    Args:
        model: model file or exported file.
        rasters: GeoTIFFs or other rasters with coordinates, folders of rasters, or glob patterns.
        data: dataset whose split measures the errors of the model, in any layout; it is required.
        split: split to measure on.
        json: JSON file to write the results to.
        overwrite: also replace files that atrous did not write; inputs are never replaced.
        **options: layout and groups of `DatasetSpec`, and the fields of `ModelSpec` (how the model is run).

    Returns:
        The results, as written by --json: areas in hectares, accuracies 0–1. In "error_matrix", a row is a class on the
        map, and a column is a true class. The map's total area has the key "total_ha", the area without data
        "no_data_ha", and the part of the total that the estimates leave out "left_out_ha".

    Raises:
        AtrousError: no dataset is given; a raster has no place on Earth or overlaps with another one; the classes of
            the dataset do not match those of the model; or json would replace an input, or a file that atrous did not
            write.
    """
    if data is None:
        raise AtrousError("area needs a labelled split, which shows the errors of the model: give --data DATASET.")
    spec = ModelSpec(model, **given_to(ModelSpec, options))
    reading = DatasetSpec(data, **given_to(DatasetSpec, options))
    paths = find_pictures(rasters)
    check_outputs(
        "area",
        [json_output("json", json)],
        [*model_inputs(model), ("the data set", data), *(("a raster", path) for path in paths)],
        overwrite=overwrite,
    )
    info = spec.read_info()
    _check_model(info)
    _check_rasters(paths)
    worker = Worker(spec, note)
    segmenter = worker.segmenter
    warn_if_fresh(segmenter.info.provenance)
    say_tiles_of_training(segmenter.any_size.usual)
    image = segmenter.info.preprocessing.image
    dataset = open_to_measure(reading, segmenter.info.provenance, image)
    items = dataset.split(split)
    kinds = kinds_of((*paths, *(item.image for item in items)), image.pages)
    segmenter.preparation.warn_of(doubts_of_files(kinds, segmenter.info.preprocessing))
    groups = confusion_by_group(segmenter, dataset, items)
    areas = _map(worker, paths)
    names, total = info.classes, sum(areas.values())[: len(info.classes)]  # pyright: ignore[reportIndexIssue]
    if not total.any():
        raise AtrousError(f"{counted(len(paths), 'raster')}: no pixel has data, so there is no area to estimate.")
    results = {
        **recorded_run(model, data, split, reading, len(items), segmenter, spec),
        **({} if spec.crf is None else {"crf": spec.crf}),
        "rasters": [
            {
                "raster": str(path),
                "mapped_ha": dict(zip(names, (one[: len(names)] / HECTARE).tolist(), strict=True)),
                "no_data_ha": float(one[IGNORE_INDEX] / HECTARE),
            }
            for path, one in areas.items()
        ],
        "no_data_ha": float(sum(one[IGNORE_INDEX] for one in areas.values()) / HECTARE),
        **area_results(total, groups, names, items, split, dataset.groups_from),
    }
    _print(results, dataset.nouns[0])
    if json is not None:
        write_json(results, json)
    return results


def _check_model(info: Info) -> None:
    inputs = info.preprocessing.inputs
    if inputs[0].planes:
        raise AtrousError("the model segments volumes, which have no area on Earth: give a model of pictures.")
    if len(inputs) > 1:
        named = ", ".join(one.name for one in inputs)
        raise AtrousError(f"area runs models of one input, and this model has {len(inputs)}: {named}.")


def _check_rasters(paths: Sequence[Path]) -> None:
    """Checks before the work that each raster has a place on Earth, and that no ground is counted twice."""
    outlines = {path: PixelAreas(*place_of(path), str(path)).outline() for path in paths}
    pairs = [f"{one} and {other} ({shared:.0%})" for one, other, shared in overlapping_outlines(outlines)]
    if pairs:
        more = f", and {len(pairs) - PAIRS} more" if len(pairs) > PAIRS else ""
        raise AtrousError(
            f"rasters show the same ground, which would be counted twice: {', '.join(pairs[:PAIRS])}{more}. Give only "
            "one of them, cut off the shared part (gdal_translate -projwin), or merge them (gdal_merge.py, gdalwarp)."
        )


def _map(worker: Worker, paths: Sequence[Path]) -> dict[Path, np.ndarray]:
    """Returns the area of each of the 256 labels in each raster, in m²."""
    found = {}
    with progress_bar() as progress:
        task = progress.add_task("mapping", total=len(paths), note="")
        for path in paths:
            tiles = progress.add_task(path.name, total=None, note="", visible=False)

            def show(done: int, total: int, task: Any) -> None:
                progress.update(task, completed=done, total=total, visible=total > 1)

            found[path] = mapped_area(worker, path, partial(show, task=tiles))
            progress.remove_task(tiles)
            progress.update(task, advance=1)
    return found


def _print(results: dict[str, Any], noun: str) -> None:
    heads = ("class", "mapped (ha)", "estimated (ha)", "95 % interval (ha)", "user's accuracy", "producer's accuracy")
    table = Table(*heads, box=None, header_style="bold")
    units = results["intervals"]["units"]
    for entry in results["classes"]:
        low, high = entry["interval_ha"] or (None, None)
        few = "*" if low is not None and entry["groups"] < FEW <= units else ""
        table.add_row(
            escape(entry["name"]),
            hectares(entry["mapped_ha"]),
            hectares(entry["estimated_ha"]),
            "–" if low is None else f"{hectares(low)}–{hectares(high)}{few}",
            *(
                "–" if (value := entry[key]) is None else f"{value:.3f}"
                for key in ("users_accuracy", "producers_accuracy")
            ),
        )
    print_table(table)
    apart = f", {hectares(results['no_data_ha'])} ha without data apart" if results["no_data_ha"] else ""
    console.print(
        f"[bold]total {hectares(results['total_ha'])} ha[/] in {counted(len(results['rasters']), 'raster')}{apart}"
    )
    if results["overall_accuracy"] is not None:
        interval = results["overall_accuracy_interval"]
        console.print(
            f"overall accuracy {results['overall_accuracy']:.3f}"
            + (f", 95 % interval {interval_in_words(interval)}" if interval else "")
            + f" ({counted(results['images'], noun)}, {escape(results['split'])}); intervals over "
            + units_in_words(results)
        )
    if any(entry["interval_ha"] and entry["groups"] < FEW <= units for entry in results["classes"]):
        console.print(f"* in fewer than {FEW} {results['intervals']['over']}: too narrow to trust")
    for remark in results["remarks"]:
        console.print(f"[yellow]note:[/] {escape(remark)}")
