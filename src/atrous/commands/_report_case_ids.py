"""Reports that do not name patients: names in evaluation.json become case ids; warnings on the data are left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from atrous.commands._recorded_options import measured_data, measured_spec
from atrous.data.dataset import Item
from atrous.data.volume_items import labelled_volumes
from atrous.errors import AtrousError
from atrous.inference.case_ids import read_case_ids, write_case_ids
from atrous.inference.dataset_case_ids import DatasetCaseIds, dataset_case_ids
from atrous.json_yaml import parse_yaml
from atrous.learning.evaluation import open_to_measure
from atrous.run_folder import Record, Run


def with_case_ids(run: Run, table: Path | None) -> tuple[Run, DatasetCaseIds]:
    """Returns a run in which case ids name the measured volumes, and these ids.

    The results keep the paths of the volumes, from which the pictures of the page are drawn. If evaluation.json
    contains ids instead of paths, the paths are those of the dataset.

    Args:
        run: the run of the page.
        table: the table of case ids, created if missing; None for the table that evaluation.json names.

    Returns:
        The run without warnings on the data, which may name patients, and the ids. If evaluation.json contains ids, and
        the table, the model or a measured volume is missing, its records are unchanged, and there are no ids. If
        no table is given or recorded, the run is unchanged.

    Raises:
        AtrousError: pictures were measured, the volumes that evaluation.json names are not on this machine, the table
            is not a table of the measured volumes, or a path or setting on the page contains a name.
    """
    recorded: str = run.evaluation.get("case_ids") or ""
    if table is None and not recorded:
        return run, DatasetCaseIds()
    table = Path(recorded if table is None else table).absolute()
    run, pictures = replace(run, doctor={}), run.evaluation.get("per_image", [])
    if not pictures:
        return run, DatasetCaseIds()
    if recorded:
        run = replace(run, evaluation={**run.evaluation, "case_ids": str(table)})
        if not table.is_file():
            return run, DatasetCaseIds()
        check_table(pictures, table)
        try:
            items = items_of(run)
            cases = dataset_case_ids(table, items, Path(run.data).resolve(), write=False)
        except (AtrousError, OSError):  # a note on the page states that nothing can be drawn again
            return run, DatasetCaseIds()
    else:
        items = [item_of(record) for record in pictures]
        cases = dataset_case_ids(table, items, Path(run.data).resolve(), write=False)
    check_names(run, table, cases)
    named = [cases.item(item) for item in items]
    if recorded:
        by_name = {item.name: item for item in named}
        if any(record["name"] not in by_name for record in pictures):  # volumes were removed: nothing can be drawn
            return run, DatasetCaseIds()
        of_records = [by_name[record["name"]] for record in pictures]
    else:
        write_case_ids(table, {**cases.volumes})
        of_records = named
    found = [with_names(record, item) for record, item in zip(pictures, of_records, strict=True)]
    evaluation = {**run.evaluation, "case_ids": str(table), "per_image": found}
    if volumes := run.evaluation.get("volumes"):
        evaluation["volumes"] = {**volumes, "cases": cases_of(volumes["cases"], named, cases)}
    return replace(run, evaluation=evaluation), cases


def check_table(pictures: Sequence[Record], table: Path) -> None:
    """Checks that a table contains the ids of all measured volumes.

    Args:
        pictures: "per_image" of an evaluation.json with ids.
        table: the table of case ids.

    Raises:
        AtrousError: the table does not contain these ids, or it is not a table of case ids.
    """
    known = set(read_case_ids(table).values())
    if any("_".join(record["name"].split("_")[:2]) not in known for record in pictures):
        raise AtrousError(
            "evaluation.json contains case ids that are not those of the table: give the table of `atrous evaluate`."
        )


def check_names(run: Run, table: Path, cases: DatasetCaseIds) -> None:
    """Checks that no path and no setting on the page contains the name of a volume or of a group.

    Args:
        run: the run of the page.
        table: the table of case ids.
        cases: the ids.

    Raises:
        AtrousError: the page would contain such a name.
    """
    for words, path in (
        ("the data set", Path(run.data)),
        ("the run", run.folder),
        ("the run", Path(run.folder.resolve().name)),
        ("the model", Path(run.evaluation.get("model") or run.model_file)),
        ("the table of case ids", table),
    ):
        cases.check_path(path, words)
    try:
        config = parse_yaml(run.config, "config.yaml")
    except AtrousError:
        config = None
    settings = [run.config, config]  # the whole text is searched, too, because comments may contain names
    for words, found in (("config.yaml", settings), ("the metadata of the model", run.model_info.get("provenance"))):
        if any(map(cases.in_path, texts_in(found))):
            raise AtrousError(
                f"{words} contains the name of a volume or of a group, and the page shows it: rename it there, or "
                "leave --case-ids out."
            )


def texts_in(value: Any) -> Iterator[str]:
    """Yields all texts in a value of JSON or YAML, without the keys of dicts.

    Args:
        value: a text, a number, or lists and dicts of them.
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from texts_in(one)


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
    info = measured_spec(run).read_info()
    dataset = open_to_measure(measured_data(run), info.provenance, info.preprocessing.image, private=True)
    return dataset.split(run.evaluation["split"])


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
