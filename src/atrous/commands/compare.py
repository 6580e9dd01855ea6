"""`atrous compare`: whether two models differ by more than chance.

Examples:
    atrous compare old.safetensors new.safetensors data/ --split test
    atrous compare old.json new.json data/ --groups '^(patient[0-9]+)'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from atrous import model_file
from atrous.arguments import checked
from atrous.commands._intervals import cautions, counts_by_group, over
from atrous.commands._recorded_options import options_in_words
from atrous.console import console, told_if_interrupted, warn_if_fresh, write_json
from atrous.data.dataset import Dataset, Item
from atrous.data.input_files import input_folders
from atrous.errors import AtrousError, counted
from atrous.inference import exported
from atrous.inference.segmenter import Segmenter
from atrous.json_yaml import read_json
from atrous.learning.distributed import the_processes, together
from atrous.learning.intervals import (
    DRAWS,
    ENUMERATED,
    LEVEL,
    SEED,
    Difference,
    groups_with_class,
    paired_differences,
    scores_of,
)
from atrous.learning.measurement import Tiling, any_size_of, measure, open_to_measure
from atrous.learning.metrics import number
from atrous.model_file import sha256_of
from atrous.outputs import JSON_KEY, MARK, check_outputs, json_output, model_inputs

#: A difference that chance gives less often is called one.
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class _Side:
    """One of the two models, or what `evaluate --json` wrote of it.

    Args:
        path: the file.
        classes: the names of its classes.
        provenance: the model's; empty of a file of results.
        results: a file of results, else None.
    """

    path: Path
    classes: tuple[str, ...]
    provenance: Mapping[str, Any]
    results: Mapping[str, Any] | None = None


@together()
@told_if_interrupted(lambda: "compare writes its results at the end, so none are written.")
@checked
def compare(
    a: Path,
    b: Path,
    data: Path,
    *,
    split: str = "val",
    layout: str | None = None,
    input: list[str] | None = None,
    groups: str | None = None,
    json: Path | None = None,
    crf: str | None = None,
    scales: list[float] | None = None,
    flip: bool = False,
    output_stride: int | None = None,
    range: list[float] | None = None,
    engine: str | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    memory: float | None = None,
    device: str = "auto",
    precision: str = "float32",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Compare two models on the same labelled pictures, and say whether their difference may be chance.

    Both are measured on the same groups of pictures, such as patients or recordings, or on single pictures where no
    groups are known. A paired bootstrap gives the 95 % interval of the difference, B minus A; a paired permutation test
    says how often swapping the two models at random in each group makes a difference as large. The smallest difference
    that these pictures could show is told, too.

    Args:
        a: a model file, or a file that evaluate --json wrote of this split.
        b: the model file, or file of results, to compare with it.
        data: the dataset's folder, in any layout.
        split: split to measure on.
        layout: layout of the dataset: folder, split_folders, side_by_side, camvid, voc, cityscapes, ade20k, coco_stuff
            or nnunet; guessed when not given.
        input: folders of further inputs, NAME=FOLDER,… such as depth=depth/, beside those of the dataset's inputs.yaml.
        groups: regular expression with one pair of brackets, searched in the names of pictures; what the brackets find,
            such as a patient or a recording, is drawn and swapped as a whole. A groups.csv in the dataset comes first.
        json: JSON file to write the results to.
        crf: refine the masks of both by a fully connected CRF with these settings: model (those that each model file
            stores), a preset (deeplabv1, deeplabv2, pydensecrf), or NAME=VALUE,… such as deeplabv2,iterations=5.
        scales: resize factors of the picture, such as 0.5,0.75,1,1.25,1.5,1.75; the probabilities at all of them are
            averaged.
        flip: average the probabilities of each picture and its mirror image.
        output_stride: output stride to run at, 8, 16 or 32; smaller is finer and slower; by default each model's own.
        range: values LOW,HIGH of the pictures that count as black and white, such as 0,4095 for 12 bits stored in 16;
            by default the limits of the pictures' type.
        engine: runtime of the networks: torch, openvino, or auto for the faster of the two; by default torch, and for
            an exported file its own.
        tile: side of a tile in pixels; larger pictures are cut into tiles; by default only those that memory does not
            hold.
        overlap: pixels that neighbouring tiles share; by default a quarter of the tile, at most 512.
        memory: memory to use, in GB; by default half of what is free.
        device: device to run on: auto, cpu, cuda, cuda:N or mps.
        precision: number format to compute in: float32, bfloat16, or auto for the faster of the two.
        overwrite: replace files that atrous did not write, too; inputs are never replaced.

    Returns:
        The results, as written by --json; scores are 0–1.

    Raises:
        AtrousError: no such model, data or split, models of other classes, results of other pictures or without counts,
            or an output that would overwrite an input or a file that atrous did not write.
    """
    check_outputs(
        "compare",
        [json_output("json", json)],
        [*model_inputs(a), *model_inputs(b), ("the data set", data)],
        overwrite=overwrite,
    )
    options = {
        "scales": scales or (1.0,),
        "flip": flip,
        "output_stride": output_stride,
        "crf": crf,
        "range": range,
        "device": device,
        "precision": precision,
    }
    sides = _side(a), _side(b)
    _check_classes(*sides)
    dataset = open_to_measure(
        data, layout, groups, sides[0].provenance or sides[1].provenance, input_folders(input or [])
    )
    _warn_of_other_splits(dataset, sides)
    items = dataset.split(split)
    measured = [
        _recorded(side, side.results, items)
        if side.results is not None
        else _measured(side, engine, options, dataset, items, Tiling(tile, overlap, memory))
        for side in sides
    ]
    _warn_of_other_options(sides)
    results = {
        JSON_KEY: MARK,
        "a": str(a),
        "a_sha256": sha256_of(a),
        "b": str(b),
        "b_sha256": sha256_of(b),
        "data": str(Path(data).resolve()),
        "split": split,
        "images": len(items),
        **compared(measured[0], measured[1], sides[0].classes),
        "groups_from": dataset.groups_from,
    }
    _print(results)
    if json is not None and the_processes().first:
        write_json(results, json)
    return results


def compared(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> dict[str, Any]:
    """How two measurements of the same pictures differ, as plain JSON values.

    Args:
        first: the measured pictures of A, as `per_image` in evaluation.json.
        second: those of B, in the same order, with the same groups and classes.
        classes: names of the classes.
    """
    counts = [counts_by_group(each, len(classes)) for each in (first, second)]
    found = paired_differences(*counts)
    scores = [scores_of(each.sum(0)).columns for each in counts]
    rows = [_row(*each) for each in zip(found, *scores, strict=True)]
    there = groups_with_class(counts[0] + counts[1])
    units, differing = len(counts[0]), int((counts[0] != counts[1]).any((1, 2)).sum())
    return {
        "level": LEVEL,
        "over": over(first),
        "units": units,
        "draws": DRAWS,
        "seed": SEED,
        "test": "every way to swap" if differing <= ENUMERATED else "drawn ways to swap",
        "miou": rows[0],
        "pixel_accuracy": rows[1],
        "classes": [
            {"name": name, **row, "units": int(number)}
            for name, row, number in zip(classes, rows[2:], there, strict=True)
        ],
        "verdict": _verdict(found[0], units, differing, over(first)[:-1]),
        "remarks": cautions(first, units),
    }


def _row(difference: Difference, first: float, second: float) -> dict[str, Any]:
    return {
        "a": number(first),
        "b": number(second),
        "difference": number(difference.change),
        "interval": difference.interval and list(difference.interval),
        "standard_error": difference.error,
        "detectable": difference.detectable,
        "p": difference.p,
    }


def _verdict(difference: Difference, units: int, differing: int, kind: str) -> list[str]:
    """What the numbers say of the mean IoU, in sentences."""
    if not differing:
        return ["A and B count the same on every picture: there is no difference."]
    if difference.p is None or difference.detectable is None:
        return [f"Whether the difference is chance cannot be told from {counted(units, kind)}."]
    change = f"mIoU {difference.change:+.4f}, p {_p_in_words(difference.p)}"
    if difference.p < SIGNIFICANT:
        better = "B is better than A" if difference.change > 0 else "A is better than B"
        said = [f"{better} ({change}): chance alone rarely gives so large a difference."]
    else:
        said = [f"The difference may be chance ({change})."]
        if (least := 2.0 ** (1 - differing)) >= SIGNIFICANT:
            said.append(
                f"The models differ in {counted(differing, kind)}, of which no difference can be told from chance: the "
                f"least p is {least:g}."
            )
    return [
        *said,
        f"The smallest difference in mIoU that these pictures could show is {difference.detectable:.4f} (found in 80 % "
        "of such sets, at p < 0.05).",
    ]


def _side(path: Path) -> _Side:
    if path.suffix.lower() == ".json":
        results = read_json(path)
        if not isinstance(results, dict) or not isinstance(results.get("per_image"), list):
            raise AtrousError(
                f"{path} holds no results of `atrous evaluate --json`: give such a file, or a model file."
            )
        if any("counts" not in entry for entry in results["per_image"]):
            raise AtrousError(
                f"{path} was written by a version that kept no counts of each picture. Measure again with `atrous "
                "evaluate --json`, or give the model file."
            )
        return _Side(path, tuple(entry["name"] for entry in results["classes"]), {}, results)
    info = exported.read_info(path) if exported.is_exported(path) else model_file.read_info(path)
    return _Side(path, tuple(info.classes), info.provenance)


def _check_classes(first: _Side, second: _Side) -> None:
    if first.classes == second.classes:
        return
    pairs = ((first, second), (second, first))
    only = [(one.path, [name for name in one.classes if name not in other.classes]) for one, other in pairs]
    told = [f"only {path} has {', '.join(names)}" for path, names in only if names]
    if not told:
        place = next(index for index, name in enumerate(first.classes) if name != second.classes[index])
        told = [
            f"class {place} is '{first.classes[place]}' in {first.path} and '{second.classes[place]}' in {second.path}"
        ]
    raise AtrousError(
        f"the two models have different class tables, so their scores mean different things: {'; '.join(told)}. "
        "Compare models that were trained with one class table."
    )


def _measured(
    side: _Side, engine: str | None, options: Mapping[str, Any], dataset: Dataset, items: Sequence[Item], tiling: Tiling
) -> list[dict[str, Any]]:
    engine = engine or ("auto" if exported.is_exported(side.path) else "torch")
    segmenter = Segmenter(side.path, engine=engine, **options)
    any_size_of(segmenter, tiling)  # a mistake there is named before the data is read
    warn_if_fresh(segmenter.info.provenance)
    console.print(f"measuring {escape(str(side.path))}")
    return measure(segmenter, dataset, items, tiling).per_image


def _recorded(side: _Side, results: Mapping[str, Any], items: Sequence[Item]) -> list[dict[str, Any]]:
    """The recorded pictures in the order of the split, with the groups that the dataset tells now."""
    by_path = {entry["image"]: entry for entry in results["per_image"]}
    found = [by_path.get(str(item.image.resolve())) for item in items]
    if None in found or len(by_path) != len(items):
        missing = next((item.image for item, entry in zip(items, found, strict=True) if entry is None), None)
        what = (
            f"it has no scores of {missing}"
            if missing
            else f"it has scores of {len(by_path)} pictures, not {len(items)}"
        )
        raise AtrousError(
            f"{side.path} was not measured on the pictures of this split: {what}. Give the data set and --split that "
            "`atrous evaluate` measured."
        )
    return [{**entry, "group": item.group} for item, entry in zip(items, found, strict=True) if entry is not None]


def _warn_of_other_splits(dataset: Dataset, sides: Sequence[_Side]) -> None:
    patterns = [side.provenance.get("groups") for side in sides if side.results is None]
    if dataset.unlisted and dataset.groups_from != "file" and len(set(patterns)) > 1:
        console.print(
            "[yellow]warning:[/] the models were trained with different groups, and the split is made by a seed: one "
            "of them may have learned from pictures that are measured here. Split lists settle it: atrous doctor DATA "
            "--write-split"
        )


def _warn_of_other_options(sides: Sequence[_Side]) -> None:
    told = [options_in_words(dict(side.results)) for side in sides if side.results is not None]
    if len(set(told)) > 1:
        console.print(
            f"[yellow]warning:[/] A and B were measured in different ways: {escape(told[0])}, and {escape(told[1])}."
        )


def _p_in_words(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _print(results: Mapping[str, Any]) -> None:
    table = Table("IoU", "A", "B", "B − A", "95 % interval", "p", box=None, header_style="bold")
    for entry in results["classes"]:
        table.add_row(escape(entry["name"]), *_cells(entry))
    table.add_row("mean", *_cells(results["miou"]), style="bold")
    console.print(table)
    for sentence in results["verdict"]:
        console.print(escape(sentence), highlight=False)
    units = counted(results["units"], results["over"][:-1])
    console.print(f"({counted(results['images'], 'picture')}, {units}, {escape(results['split'])})", highlight=False)
    for remark in results["remarks"]:
        console.print(f"[yellow]note:[/] {escape(remark)}", highlight=False)


def _cells(entry: Mapping[str, Any]) -> list[str]:
    shown = ["absent" if entry[side] is None else f"{entry[side]:.3f}" for side in ("a", "b")]
    change = "–" if entry["difference"] is None else f"{entry['difference']:+.3f}"
    interval = entry["interval"]
    between = "–" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"
    p = "–" if entry["p"] is None else _p_in_words(entry["p"]).removeprefix("= ")
    return [*shown, change, between, p]
