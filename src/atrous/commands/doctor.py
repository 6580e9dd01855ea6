r"""`atrous doctor`: check a dataset before training and list its problems.

Examples:
    atrous doctor data/
    atrous doctor data/ --write-classes
    atrous doctor data/ --groups '^(patient\d+)' --write-split
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from atrous.atomic_write import write_text
from atrous.checked_arguments import checked
from atrous.commands._doctor_case_ids import case_ids_of_dataset, named_diagnosis
from atrous.commands._doctor_pictures import draw_pictures, planned_pictures
from atrous.console import console, write_json
from atrous.data.dataset import Dataset
from atrous.data.dataset_spec import DatasetSpec
from atrous.data.doctor.examine import Diagnosis, open_to_examine
from atrous.data.layouts.pairing import CLASSES_FILE
from atrous.data.layouts.rasters import RASTERS
from atrous.data.volume_items import with_slices, without_unfit_volumes
from atrous.errors import AtrousError, counted
from atrous.inference.case_ids import CaseIdTable
from atrous.inference.dataset_case_ids import DatasetCaseIds, without_reasons
from atrous.learning.dataset_check import examine_with_progress, show_finding
from atrous.option_fields import given_to, taking
from atrous.overwrite_checks import check_is_folder, check_outputs, json_output, no_empty_folder, table_output


@checked
@taking(DatasetSpec)
@taking(CaseIdTable)
def doctor(
    data: Path,
    *,
    train: str = "train",
    val: str = "val",
    pages: Literal["first", "channels"] = "first",
    in_channels: int | None = None,
    planes: tuple[str, ...] = (),
    slices: int | None = None,
    window: int | None = None,
    write_classes: bool = False,
    write_split: bool = False,
    json: Path | None = None,
    pictures: Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> int:
    """Read every picture or volume and every mask of a dataset, and list the problems that would harm training.

    Args:
        data: folder of the dataset.
        train: name of the split to train on.
        val: name of the split on which the best weights are chosen.
        pages: pages to read from multi-page TIFFs: first is the first page, channels is the bands of all pages.
        in_channels: number of channels that the model takes, ≥ 1; by default the number of the training pictures.
        planes: planes whose slices are the training pictures of a dataset of volumes, such as axial,sagittal; by
            default those of its inputs.yaml, else axial.
        slices: number of adjacent slices of a volume that are the channels of one picture, odd; by default that of the
            inputs.yaml, else 1.
        window: largest height and width in pixels of the windows in which scenes are read, ≥ 1; by default 512.
            Give data.window of the recipe, so that the pictures are those of the training.
        write_classes: write the proposed classes.yaml into the dataset, then examine the dataset again.
        write_split: write split lists into a dataset that has none, then examine it again; near copies, and pictures
            or volumes of one group or place, stay in one split, but places are ignored if most pictures are of one
            place.
        json: JSON file to write the findings to.
        pictures: folder for PNG files that show up to 12 masks of each split over their pictures; another PNG file
            shows pictures that an EXIF tag turns, if their masks may not fit.
        overwrite: also replace files at `json` and in `pictures` that atrous did not write; a classes.yaml and split
            lists are never replaced.
        **options: fields of `DatasetSpec` (how the dataset is read) and of `CaseIdTable`. Split lists of `write_split`
            contain the names of files also with case ids.

    Returns:
        The exit code: 0 if there are no problems or only warnings, 2 if there are errors.

    Raises:
        AtrousError: the folder is not a dataset, or the classes.yaml or the split to write already exists.
    """
    reading, ids = DatasetSpec(data, **given_to(DatasetSpec, options)), options.get("case_ids")
    if ids is not None and pictures is not None:
        raise AtrousError("pictures show the names of files: leave --pictures or --case-ids out.")
    table = Path(data) / CLASSES_FILE
    if write_classes:
        _check_no_table(table)
    if pictures is not None:
        check_is_folder("pictures", pictures)
    asked_for = pictures is not None or write_split

    def opened() -> Dataset:
        return open_to_examine(data, reading.layout, reading.groups, reading.inputs, window)[0]

    with without_reasons(reading.root, private=ids is not None):
        dataset = opened() if asked_for else None
    if dataset is not None and write_split:
        _check_no_split(dataset)
    planned = planned_pictures(dataset, Path(pictures)) if dataset and pictures is not None else []
    check_outputs(
        "doctor",
        [json_output("json", json), table_output("write_classes", table if write_classes else None), *planned],
        [("the data set", data)],
        overwrite=overwrite,
    )
    examine = partial(
        examine_with_progress,
        data,
        reading.layout,
        train=train,
        val=val,
        pages=pages,
        in_channels=in_channels,
        inputs=reading.inputs,
        groups=reading.groups,
        planes=planes,
        slices=slices,
        window=window,
    )
    cases = DatasetCaseIds() if ids is None else case_ids_of_dataset(ids, reading)
    with cases.named():
        diagnosis = examine()
        if write_classes:
            path = _write_proposal(diagnosis)
            console.print(f"Wrote {escape(str(path))}; examining again.")
            diagnosis = examine()
        if write_split:
            folder = _write_split(diagnosis)
            console.print(f"Wrote split lists to {escape(str(folder))}; examining again.")
            diagnosis, dataset = examine(), opened()
    diagnosis = named_diagnosis(diagnosis, cases)
    show(diagnosis)
    drawn = []
    if dataset is not None and pictures is not None:
        dataset = with_slices(without_unfit_volumes(dataset), tuple(planes), slices)
        with no_empty_folder(Path(pictures)):
            drawn = draw_pictures(dataset, diagnosis, Path(pictures), pages, in_channels)
        for picture in drawn:
            console.print(
                f"Wrote {escape(str(picture.path))}: {escape(picture.words)}.", highlight=False, soft_wrap=True
            )
    if json is not None:
        write_json({**diagnosis.as_json(), "pictures": [str(picture.path) for picture in drawn]}, json)
    return 2 if diagnosis.errors else 0


def show(diagnosis: Diagnosis) -> None:
    """Prints a diagnosis: the dataset, its classes, its problems, and the proposed class table and split."""
    splits = ", ".join(f"{name} {count}" for name, count in diagnosis.images.items())
    what = "volumes" if diagnosis.slices else "windows of scenes" if diagnosis.layout == RASTERS else "pictures"
    console.print(f"[bold]{escape(str(diagnosis.root))}[/]: layout {diagnosis.layout}, {what}: {splits}")
    if diagnosis.slices:
        slices = ", ".join(f"{name} {count}" for name, count in diagnosis.slices.items())
        console.print(f"  Slices, which are the pictures of training: {slices}.", highlight=False)
    for note in diagnosis.notes:
        console.print(f"  {escape(note)}", highlight=False)
    if diagnosis.classes is not None:
        console.print(_class_table(diagnosis))
    for finding in diagnosis.errors:
        show_finding(finding, "[bold red]error[/]")
    for finding in diagnosis.warnings:
        show_finding(finding, "[yellow]warning[/]")
    if diagnosis.proposed_classes is not None:
        console.print(f"\nProposed {CLASSES_FILE} (`--write-classes` writes it):")
        # without line breaks, so that a long line stays one line when it is copied
        console.print(diagnosis.proposed_classes.yaml_text(), markup=False, highlight=False, soft_wrap=True)
    if diagnosis.proposes_split:
        sizes = ", ".join(f"{name} {len(items)}" for name, items in diagnosis.proposed_split.items())
        console.print(f"\nProposed split (`--write-split` writes it): {sizes}", highlight=False)
    errors, warnings = len(diagnosis.errors), len(diagnosis.warnings)
    if errors:
        console.print(f"[bold red]{counted(errors, 'error')}[/], {counted(warnings, 'warning')}.")
    else:
        console.print(f"[bold green]Ready to train[/]: no errors, {counted(warnings, 'warning')}.")


def _class_table(diagnosis: Diagnosis) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("class")
    table.add_column("raw")
    for split in diagnosis.pixels:
        table.add_column(split, justify="right")
    if diagnosis.classes is None:
        return table
    totals = {split: max(1, sum(counts)) for split, counts in diagnosis.pixels.items()}
    for index, (name, raw) in enumerate(zip(diagnosis.classes.names, diagnosis.classes.raw, strict=True)):
        values = ", ".join(map(str, raw[:3])) + ("…" if len(raw) > 3 else "")
        counts = {split: part[index] for split, part in diagnosis.pixels.items()}
        shares = [f"{count / totals[split]:.2%}" if count else "–" for split, count in counts.items()]
        table.add_row(escape(name), values, *shares)
    return table


def _write_proposal(diagnosis: Diagnosis) -> Path:
    path = diagnosis.root / CLASSES_FILE
    proposed = diagnosis.proposed_classes or diagnosis.classes
    if proposed is None:
        reasons = " ".join(finding.message for finding in diagnosis.errors)
        raise AtrousError(f"{diagnosis.root}: no class table fits these masks, so none was written. {reasons}")
    # this is checked again, because reading the data set may take hours, and the file may have appeared meanwhile
    _check_no_table(path)
    proposed.to_yaml(path)
    return path


def _check_no_table(path: Path) -> None:
    if path.exists():
        raise AtrousError(
            f"{path} exists and is never overwritten. Move it away, or copy the proposed table into it: run "
            f"`atrous doctor {path.parent}` without --write-classes to see it."
        )


def _write_split(diagnosis: Diagnosis) -> Path:
    """Writes the proposed split lists and returns their folder."""
    folder = diagnosis.root / "splits"
    for name in diagnosis.proposed_split:
        # this is checked again, because the file may have appeared while the data set was read
        if (folder / f"{name}.txt").exists():
            raise AtrousError(f"{folder / f'{name}.txt'} exists and is never overwritten. Move it away.")
    for name, items in diagnosis.proposed_split.items():
        write_text(folder / f"{name}.txt", "".join(f"{item.name}\n" for item in items))
    return folder


def _check_no_split(dataset: Dataset) -> None:
    if not dataset.unlisted:
        raise AtrousError(
            f"{dataset.root}: lists or folders define its split (layout '{dataset.layout}'), and they are never "
            "overwritten. --write-split is for datasets whose split is random. Move the lists away, or move all "
            f"{dataset.nouns[0]}s into one folder images/ and their masks into masks/."
        )
