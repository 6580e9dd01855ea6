"""Reports that name no patient: names in evaluation.json become case ids, and warnings on the data are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from atrous.commands._recorded_options import measured_data, measured_spec
from atrous.data.dataset import Item
from atrous.data.volume_items import labelled_volumes
from atrous.errors import AtrousError
from atrous.inference.dataset_case_ids import DatasetCaseIds, dataset_case_ids
from atrous.run_folder import Record, Run


def with_case_ids(run: Run, table: Path | None) -> tuple[Run, DatasetCaseIds]:
    """Returns a run in which case ids name the measured volumes, and these ids.

    The results keep the paths of the volumes, from which the pictures of the page are drawn. If evaluation.json
    contains ids instead of paths, the paths are those of the dataset.

    Args:
        run: the run of the page.
        table: the table of case ids, created if missing; None for the table that evaluation.json names. If there is no
            such table on this machine, the run is returned unchanged.

    Raises:
        AtrousError: pictures were measured, the measured volumes are not on this machine, or the table is not a table
            of case ids.
    """
    if table is None:
        recorded = run.evaluation.get("case_ids")
        if not recorded or not Path(recorded).is_file():
            return run, DatasetCaseIds()
        table = Path(recorded)
    run, pictures = replace(run, doctor={}), run.evaluation.get("per_image", [])
    if not pictures:
        return run, DatasetCaseIds()
    with_paths = not run.evaluation.get("case_ids")
    items = [item_of(record) for record in pictures] if with_paths else items_of(run)
    cases = dataset_case_ids(table, items, Path(run.data).resolve())
    cases.check_path(Path(run.data), "the data set")
    named = [cases.item(item) for item in items]
    by_name = {item.name: item for item in named}
    if not with_paths and any(record["name"] not in by_name for record in pictures):
        raise AtrousError(
            "evaluation.json contains case ids that are not those of the table: give the table of `atrous evaluate`."
        )
    of_records = named if with_paths else [by_name[record["name"]] for record in pictures]
    found = [with_names(record, item) for record, item in zip(pictures, of_records, strict=True)]
    evaluation = {**run.evaluation, "case_ids": str(table), "per_image": found}
    if volumes := run.evaluation.get("volumes"):
        evaluation["volumes"] = {**volumes, "cases": cases_of(volumes["cases"], named, cases)}
    return replace(run, evaluation=evaluation), cases


def item_of(record: Record) -> Item:
    """Returns the item of a measured slice whose files evaluation.json names.

    Args:
        record: an entry of "per_image".
    """
    return Item(record["name"], Path(record["image"]), Path(record["mask"]), group=record.get("group"))


def items_of(run: Run) -> Sequence[Item]:
    """Returns the items of the measured split, for an evaluation.json that names no files.

    Args:
        run: the run of the page.

    Raises:
        AtrousError: the model or the dataset cannot be read.
    """
    image = measured_spec(run).read_info().preprocessing.image
    try:
        return measured_data(run).open(image).split(run.evaluation["split"])
    except (AtrousError, OSError):
        raise AtrousError(
            f"{run.data}: the data set cannot be read, and evaluation.json contains case ids instead of paths. The "
            f"reason may name patients, so it is not shown here: `atrous doctor {run.data}` shows it."
        ) from None


def with_names(record: Record, item: Item) -> Record:
    """Returns the entry of a measured slice with the names and the files of an item.

    Args:
        record: an entry of "per_image".
        item: the item, whose names are ids.
    """
    files = {"image": str(item.image), "mask": str(item.mask)}
    return {**record, **files, "name": item.name, "group": item.group}


def cases_of(records: Sequence[Record], items: Sequence[Item], cases: DatasetCaseIds) -> list[Record]:
    """Returns the entries of measured volumes with their ids as names.

    Args:
        records: "cases" of "volumes" in evaluation.json.
        items: slices of all measured volumes, with ids as names.
        cases: the ids.
    """
    volumes = {
        key: (file, mask, item.group)
        for file, (item, mask) in labelled_volumes(items).items()
        for key in (cases.volumes[file], str(file), str(file.resolve()))
    }
    found = []
    for record in records:
        given = record["volume"]
        file, mask, group = volumes[given if given in volumes else str(Path(given).resolve())]
        new = {"name": cases.volumes[file], "volume": str(file), "mask": str(mask), "patient": group}
        found.append({**record, **new})
    return found
