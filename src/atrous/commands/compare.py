"""`atrous compare`: test whether two models differ by more than chance.

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

from atrous.checked_arguments import checked
from atrous.commands._recorded_options import options_in_words
from atrous.commands._report_paired_test import compared, p_in_words
from atrous.console import console, note, print_table, told_if_interrupted, warn_if_fresh, write_json
from atrous.data.dataset import Dataset, Item
from atrous.data.dataset_spec import DatasetSpec
from atrous.errors import AtrousError, counted
from atrous.inference.model_spec import ModelSpec
from atrous.input_spec import Input
from atrous.json_yaml import read_json
from atrous.learning.distributed import current_group, process_group
from atrous.learning.evaluation import Measuring, measure, open_to_measure, spec_to_measure
from atrous.model_file import sha256_of
from atrous.option_fields import given_to, taking
from atrous.overwrite_checks import JSON_KEY, MARK, check_outputs, json_output, model_inputs


@dataclass(frozen=True)
class _Side:
    """One of the two models to compare, or the results that `atrous evaluate --json` wrote for it.

    Args:
        path: the model file or the file of results.
        classes: names of the model's classes.
        provenance: provenance of the model; empty for a file of results.
        measured: content of the file of results, or the specification with which the model is opened.
    """

    path: Path
    classes: tuple[str, ...]
    provenance: Mapping[str, Any]
    measured: Mapping[str, Any] | ModelSpec

    @property
    def results(self) -> Mapping[str, Any] | None:
        """The content of the file of results; None for a model."""
        return None if isinstance(self.measured, ModelSpec) else self.measured


@process_group()
@told_if_interrupted(lambda: "compare writes its results at the end, so nothing is written.")
@checked
@taking(DatasetSpec)
@taking(ModelSpec)
@taking(Measuring)
def compare(
    a: Path,
    b: Path,
    data: Path,
    *,
    split: str = "val",
    json: Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Compare two models on the same labelled pictures, and test whether their difference may be chance.

    Both models are measured on the same pictures. The statistics use groups of pictures, such as patients or
    recordings; if no groups are known, each picture is its own group. A paired bootstrap gives the 95 % interval of the
    difference, B minus A. A paired permutation test swaps the results of the two models in some groups. It tries all
    possible swaps if the models differ in at most 12 groups, else random swaps. p is the share of swaps that give a
    difference at least as large as the observed difference. The results also contain the smallest difference that these
    pictures could show.

    Args:
        a: model file A, or a file of results that evaluate --json wrote for this split.
        b: model file B to compare with A, or a file of results as for A.
        data: folder of the dataset, in any layout.
        split: split to measure on.
        json: JSON file to write the results to.
        overwrite: also replace files that atrous did not write; inputs are never replaced.
        **options: fields of `DatasetSpec` (how the dataset is read), `ModelSpec` and `Measuring` (how both models are
            run).

    Returns:
        The results, as written by --json; scores are 0–1.

    Raises:
        AtrousError: a model, the dataset or the split does not exist; the models have different classes; a file of
            results contains other pictures or no pixel counts; or the JSON file may not be written.
    """
    check_outputs(
        "compare",
        [json_output("json", json)],
        [*model_inputs(a), *model_inputs(b), ("the data set", data)],
        overwrite=overwrite,
    )
    sides = _side(a, options), _side(b, options)
    _check_classes(*sides)
    reading = DatasetSpec(data, **given_to(DatasetSpec, options))
    dataset = open_to_measure(reading, sides[0].provenance or sides[1].provenance, _image_of(sides))
    _warn_of_other_splits(dataset, sides)
    items = dataset.split(split)
    measured = [_measured(side, dataset, items) for side in sides]
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
    _print(results, dataset.nouns[0])
    if json is not None and current_group().first:
        write_json(results, json)
    return results


def _side(path: Path, options: Mapping[str, Any]) -> _Side:
    """Reads a file of results, or the record of a model file."""
    spec = spec_to_measure(path, options)  # this checks the options, even for a file of results
    if path.suffix.lower() == ".json":
        results = read_json(path)
        if not isinstance(results, dict) or not isinstance(results.get("per_image"), list):
            raise AtrousError(
                f"{path} contains no results of `atrous evaluate --json`: give such a file, or a model file."
            )
        if any("counts" not in entry for entry in results["per_image"]):
            raise AtrousError(
                f"{path} was written by a version that stored no pixel counts per picture. Measure again with `atrous "
                "evaluate --json`, or give the model file."
            )
        return _Side(path, tuple(entry["name"] for entry in results["classes"]), {}, results)
    info = spec.read_info()
    return _Side(path, tuple(info.classes), info.provenance, spec)


def _image_of(sides: Sequence[_Side]) -> Input | None:
    """Returns the first input of the first side that is a model; None if both sides are files of results."""
    spec = next((side.measured for side in sides if isinstance(side.measured, ModelSpec)), None)
    return None if spec is None else spec.read_info().preprocessing.image


def _check_classes(first: _Side, second: _Side) -> None:
    if first.classes == second.classes:
        return
    pairs = ((first, second), (second, first))
    only = [(one.path, [name for name in one.classes if name not in other.classes]) for one, other in pairs]
    reasons = [f"only {path} has {', '.join(names)}" for path, names in only if names]
    if not reasons:
        place = next(index for index, name in enumerate(first.classes) if name != second.classes[index])
        reasons = [
            f"class {place} is '{first.classes[place]}' in {first.path} and '{second.classes[place]}' in {second.path}"
        ]
    raise AtrousError(
        f"the two models have different class tables, so their scores cannot be compared: {'; '.join(reasons)}. "
        "Compare models that were trained with the same class table."
    )


def _measured(side: _Side, dataset: Dataset, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Measures a model on the split, or takes its recorded results; returns one record for each picture."""
    if not isinstance(side.measured, ModelSpec):
        return _recorded(side, side.measured, items)
    segmenter = side.measured.open(note)
    warn_if_fresh(segmenter.info.provenance)
    console.print(f"measuring {escape(str(side.path))}")
    return measure(segmenter, dataset, items).per_image


def _recorded(side: _Side, results: Mapping[str, Any], items: Sequence[Item]) -> list[dict[str, Any]]:
    """Returns the recorded pictures in the order of the split, with the groups that the dataset defines now."""
    if results.get("case_ids"):
        raise AtrousError(
            f"{side.path} was written with --case-ids and names no files, so its pictures cannot be found in the data "
            "set: give the model file, or evaluate again without --case-ids."
        )
    by_path = {entry["image"]: entry for entry in results["per_image"]}
    found = [by_path.get(str(item.image.resolve())) for item in items]
    if None in found or len(by_path) != len(items):
        missing = next((item.image for item, entry in zip(items, found, strict=True) if entry is None), None)
        difference = (
            f"it has no scores of {missing}"
            if missing
            else f"it has scores of {len(by_path)} pictures, not {len(items)}"
        )
        raise AtrousError(
            f"{side.path} was not measured on the pictures of this split: {difference}. Give the data set and --split "
            "that `atrous evaluate` measured."
        )
    return [{**entry, "group": item.group} for item, entry in zip(items, found, strict=True) if entry is not None]


def _warn_of_other_splits(dataset: Dataset, sides: Sequence[_Side]) -> None:
    patterns = [side.provenance.get("groups") for side in sides if side.results is None]
    if dataset.unlisted and dataset.groups_from != "file" and len(set(patterns)) > 1:
        console.print(
            "[yellow]warning:[/] the models were trained with different groups, and a random split depends on the "
            "groups: one of the models may have been trained on pictures that are measured here. To avoid this, store "
            "the split as lists: atrous doctor DATA --write-split"
        )


def _warn_of_other_options(sides: Sequence[_Side]) -> None:
    used = [options_in_words(dict(side.results)) for side in sides if side.results is not None]
    if len(set(used)) > 1:
        console.print(
            f"[yellow]warning:[/] A and B were measured in different ways: {escape(used[0])}, and {escape(used[1])}."
        )


def _print(results: Mapping[str, Any], noun: str) -> None:
    table = Table("IoU", "A", "B", "B − A", "95 % interval", "p", box=None, header_style="bold")
    for entry in results["classes"]:
        table.add_row(escape(entry["name"]), *_cells(entry))
    table.add_row("mean", *_cells(results["miou"]), style="bold")
    print_table(table)
    for sentence in results["verdict"]:
        console.print(escape(sentence), highlight=False)
    units = counted(results["units"], results["over"][:-1])
    console.print(f"({counted(results['images'], noun)}, {units}, {escape(results['split'])})", highlight=False)
    for remark in results["remarks"]:
        console.print(f"[yellow]note:[/] {escape(remark)}", highlight=False)


def _cells(entry: Mapping[str, Any]) -> list[str]:
    shown = ["absent" if entry[side] is None else f"{entry[side]:.3f}" for side in ("a", "b")]
    change = "–" if entry["difference"] is None else f"{entry['difference']:+.3f}"
    interval = entry["interval"]
    between = "–" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"
    p = "–" if entry["p"] is None else p_in_words(entry["p"]).removeprefix("= ")
    return [*shown, change, between, p]
