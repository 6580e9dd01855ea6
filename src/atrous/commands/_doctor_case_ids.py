"""Findings of `atrous doctor` that do not name patients."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from atrous.data.dataset import Dataset, Item
from atrous.data.dataset_spec import DatasetSpec
from atrous.data.doctor.examine import Diagnosis, open_to_examine
from atrous.data.doctor.judge import Finding
from atrous.data.doctor.shared_between_splits import groups_of
from atrous.data.volumes.series_places import chosen_series
from atrous.data.volumes.slices import is_volume_place, volume_stem
from atrous.inference.dataset_case_ids import DatasetCaseIds, dataset_case_ids, without_reasons

#: Names of files and folders that layouts define, or that define a dataset.
_OF_LAYOUTS = re.compile(
    r"(images?|labels?|masks?)(Tr|Ts|Val)?|annotations?|splits?|train(ing)?|val(id(ation)?)?|test(ing)?|"
    r"(classes|inputs)\.yaml|groups\.csv|dataset\.json|splits_final\.json|(train|val|test)\.txt",
    re.IGNORECASE,
)


def case_ids_of_dataset(table: Path, reading: DatasetSpec) -> DatasetCaseIds:
    """Returns the ids of all volumes of a dataset, with replacements for the names of all other files in its folder.

    Args:
        table: the table of case ids, created if missing.
        reading: how the dataset is read.

    Raises:
        AtrousError: the dataset cannot be read or contains pictures, its path names a volume, or the table is not a
            table of case ids.
    """
    with without_reasons(reading.root):
        dataset = open_to_examine(reading.root, reading.layout, reading.groups, reading.inputs)[0]
    items = list({item.image: item for items in dataset.splits.values() for item in items}.values())
    groups = groups_of(dataset)[0]
    items = [replace(item, group=groups.get(item.image, item.group)) for item in items]
    known = [item for item in items if not item.listed or is_volume_place(item.image)]
    cases = dataset_case_ids(table, known, dataset.root)
    cases.check_path(dataset.root.resolve(), "the data set")
    return replace(cases, others={**other_names(dataset, items, cases), **cases.others})


def other_names(dataset: Dataset, items: list[Item], cases: DatasetCaseIds) -> dict[str, str]:
    """Returns replacements for all names in a dataset's folder that have no id, such as the name of a letter.

    Args:
        dataset: the dataset.
        items: its items.
        cases: ids of its volumes.
    """
    known = {*cases.volumes, *cases.masks}
    series = {chosen_series(volume)[0] for volume in cases.volumes}
    found = {}
    for item in items:
        if item.image not in known:
            found |= {str(item.image): "a missing volume", item.name: "a missing volume"}
    for path in sorted(dataset.root.rglob("*")):
        if path in known or _OF_LAYOUTS.fullmatch(path.name):
            continue
        new = "another folder" if path.is_dir() else "another file"
        found |= {path.name: new, volume_stem(path): new}
        if path.parent not in series:  # otherwise, the path begins with the path of a volume, which has an id
            found[str(path)] = new
    return {name: new for name, new in found.items() if name}


def named_diagnosis(diagnosis: Diagnosis, cases: DatasetCaseIds) -> Diagnosis:
    """Returns a diagnosis whose sentences and proposed split contain ids instead of names.

    Args:
        diagnosis: the diagnosis.
        cases: ids of the volumes.
    """
    named = cases.without_names

    def of(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
        return tuple(
            replace(one, message=named(one.message), examples=tuple(map(named, one.examples))) for one in findings
        )

    return replace(
        diagnosis,
        notes=tuple(map(named, diagnosis.notes)),
        errors=of(diagnosis.errors),
        warnings=of(diagnosis.warnings),
        proposed_split={
            split: tuple(replace(item, name=cases.volumes.get(item.image, named(item.name))) for item in part)
            for split, part in diagnosis.proposed_split.items()
        },
    )
