"""`atrous predict`: segment new pictures and write their masks.

Examples:
    atrous predict runs/quickstart/best.safetensors photos/ --overlay
    atrous predict model.safetensors 'photos/*.jpg' --out masks/ --flip
    atrous predict model.safetensors s3://bucket/photos/ --out s3://bucket/masks
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.markup import escape

from atrous.checked_arguments import checked
from atrous.cluster.finished_jobs import FinishedJobs, masks_depend_on
from atrous.console import (
    console,
    note,
    progress_bar,
    say_tiles_of_training,
    told_if_interrupted,
    warn_if_fresh,
    write_json,
)
from atrous.data.dataset_spec import DatasetSpec
from atrous.data.file_headers import kinds_of
from atrous.data.input_files import input_folders
from atrous.data.remote.transfer import as_path, local_path
from atrous.data.volumes.slices import slice_place
from atrous.data.volumes.write_mask import MaskFormat
from atrous.errors import AtrousError, SomeInputsFailed, counted
from atrous.inference.case_ids import CaseIdTable, write_case_ids
from atrous.inference.model_spec import ModelSpec
from atrous.inference.picture_input import doubts_of_files
from atrous.inference.polygon_files import polygons_output
from atrous.inference.predict_jobs import Job, Worker, plan
from atrous.inference.predict_polygons import check_options, check_rasters, write_mask_polygons
from atrous.inference.predict_records import Record, summarise
from atrous.inference.predict_stages import do_in_stages
from atrous.inference.volume_parts import VolumeParts, check_volumes, parts_to_keep
from atrous.option_fields import given_to, taking
from atrous.overwrite_checks import json_output, no_empty_folder
from atrous.paths import Place, shown_place

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from atrous.learning.distributed import ProcessGroup

T = TypeVar("T")


@checked
@taking(DatasetSpec, "input")
@taking(ModelSpec)
@taking(CaseIdTable)
def predict(
    model: Path,
    paths: Sequence[Place],
    *,
    out: Place = Path("predictions"),
    on: str | None = None,
    overlay: bool = False,
    raw: bool = False,
    format: MaskFormat = "nifti",
    largest_part: tuple[str, ...] = (),
    smallest_part: tuple[str, ...] = (),
    polygons: Path | None = None,
    smallest_polygon: float = 0.0,
    json: Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> list[Place]:
    """Segment pictures and write their masks, by default into the folder predictions.

    Args:
        model: model file or exported file.
        paths: pictures, folders of pictures, or glob patterns, as paths or URLs (https://, s3://, gs://, file:// …);
            also NIfTI, NRRD and MetaImage files, and DICOM series: a folder of slices or a zip file of such a
            folder.
        out: folder for the masks, a path or a URL. A mask has the name of its picture and the suffix .png; .tif for a
            GeoTIFF, a large or many-band TIFF, a TIFF at a URL, or raw values that a PNG cannot hold; .nii.gz or .dcm
            for a volume.
        on: cluster to run on: ray for the Ray cluster of RAY_ADDRESS, or else of this machine. All nodes must reach the
            inputs and outputs under the same paths or URLs.
        overlay: also write each picture with the colours of its mask over it and a legend below, as NAME.overlay.png.
        raw: write masks with the pixel values of the training masks; by default, masks contain class indices and a
            palette.
        format: format of the masks of volumes: nifti, or dicom-seg for DICOM series.
        largest_part: classes of which a volume's mask keeps only the largest connected part, such as liver,spleen; all
            means every class except the first, the background.
        smallest_part: smallest connected part that a volume's mask keeps, in ml for each class, such as
            liver=5,tumour=0.1; all=1 sets 1 ml for every class that is not named, except the first.
        polygons: GeoPackage (.gpkg) or GeoJSON (.geojson) file for the polygons of all classes in the masks of all
            rasters of the call, in their coordinate system. All pictures must be rasters with coordinates in one
            system.
        smallest_polygon: smallest area of a polygon in the file of --polygons, in m².
        json: JSON file to write the results to. It contains for each picture the path of the mask, the share of each
            class in the pixels with data, and the share of pixels without data if there are any. For a picture that
            failed, it contains the error.
        overwrite: also replace files that atrous did not write; inputs are never replaced.
        **options: input of `DatasetSpec`, the fields of `ModelSpec` (how the model is run) and that of `CaseIdTable`.

    Returns:
        The paths of the masks, in the order of the pictures; a mask at a URL has its URL, as text.

    Raises:
        AtrousError: the model or a picture does not exist, the settings of the CRF are unknown, predict would replace
            files that it did not write, or polygons are requested for pictures without coordinates.
        SomeInputsFailed: some pictures could not be segmented; the masks of all others are written.
    """
    if on is not None and os.environ.get("WORLD_SIZE", "1") != "1":
        raise AtrousError("--on uses all nodes of a cluster by itself: start atrous predict --on without torchrun.")
    spec = ModelSpec(model, **given_to(ModelSpec, options))
    also, parts = [json_output("json", json), polygons_output(polygons)], None
    check_options(polygons, smallest_polygon, out)
    case_ids: Path | None = options.get("case_ids")
    if largest_part or smallest_part:
        parts = parts_to_keep(largest_part, smallest_part, spec.read_info())
    out = out if (folder := local_path(out)) is None else folder
    with _processes() as processes, no_empty_folder(out) if isinstance(out, Path) else nullcontext():
        jobs = processes.on_rank_zero(
            lambda: plan(
                paths,
                out,
                spec,
                inputs=input_folders(options.get("input") or ()),
                raw=raw,
                overlay=overlay,
                format=format,
                case_ids=case_ids,
                overwrite=overwrite,
                also=also,
            )
        )
        if polygons is not None:
            processes.on_rank_zero(lambda: check_rasters(jobs))
        if case_ids is not None:
            table = case_ids
            processes.on_rank_zero(lambda: write_case_ids(table, {job.picture: job.case_id for job in jobs}))
        if parts is not None:
            check_volumes([job.picture for job in jobs])
        info = spec.read_info()
        warn_if_fresh(info.provenance)
        finished: FinishedJobs | None = None
        if on is not None:
            call = {"raw": raw, "overlay": overlay, "format": format, "parts": (largest_part, smallest_part)}
            finished = FinishedJobs(out, {**call, **masks_depend_on(spec)})
            done = [_work_on_cluster(on, spec, jobs, parts, finished, shown_place(out))]
        else:
            worker, own = Worker(spec, note, parts), processes.part(jobs)
            _note_doubts(worker, own)
            done = processes.gather(_work(worker, own, len(jobs), out, json))
        records = [record for turn in zip_longest(*done) for record in turn if record is not None]
        if overlay and (windowed := sum(record.work is not None for record in records)):
            note(f"no overlay for {counted(windowed, 'GeoTIFF')}: open the picture and its mask in a geographic viewer")
        summary = summarise(records)
        for record in summary.failed:
            console.print(f"[red]skipped[/] {escape(str(record.error))}")
        if json is not None and processes.first:
            write_json({"model": str(model), "pictures": [record.to_dict() for record in records]}, json)
        found = f": {summary.classes}" if summary.classes else ""
        console.print(f"{counted(summary.masks, 'mask')} in {escape(shown_place(out))}{escape(found)}")
        if polygons is not None and processes.first and summary.masks:
            count = write_mask_polygons(polygons, jobs, records, info.table, smallest=smallest_polygon)
            console.print(f"{counted(count, 'polygon')} in {escape(str(polygons))}")
        if finished is not None:
            finished.remove()
    if summary.failed:
        done = "; the others are done" if summary.masks else ""
        raise SomeInputsFailed(f"{len(summary.failed)} of {counted(len(jobs), 'picture')} could not be used{done}.")
    return [job.target for job in jobs]


class _Alone:
    """A single process with the methods of `ProcessGroup`; it needs no torch."""

    first = True

    def part(self, items: Sequence[T]) -> Sequence[T]:
        return items

    def gather(self, value: T) -> list[T]:
        return [value]

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        return work()


@contextmanager
def _processes() -> Iterator[ProcessGroup | _Alone]:
    """Joins the group of processes that torchrun started, each of which works on a part of the jobs."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield _Alone()
        return
    from atrous.learning.distributed import process_group  # imports torch, which OpenVINO does not need

    with process_group() as processes:
        yield processes


def _work(worker: Worker, jobs: Sequence[Job], total: int, out: Place, json: Path | None) -> list[Record]:
    """Processes jobs; while the network runs, the next picture is read and earlier masks are written."""
    records: list[Future[Record]] = []
    message = told_if_interrupted(lambda: _done_before(records, total, out, json))
    with message, progress_bar() as progress:
        task = progress.add_task("predicting", total=len(jobs), note="")

        @contextmanager
        def segmenting(job: Job) -> Iterator[Callable[[int, int], object]]:
            tiles = progress.add_task(job.case_id or as_path(job.picture).name, total=None, note="", visible=False)
            try:
                yield partial(_show, progress, tiles)
            finally:
                progress.remove_task(tiles)
                progress.update(task, advance=1)

        do_in_stages(worker, jobs, records, segmenting)
    return [record.result() for record in records]


def _note_doubts(worker: Worker, jobs: Sequence[Job]) -> None:
    """Says what is doubtful about the pictures, before the first one is segmented."""
    say_tiles_of_training(worker.segmenter.any_size.usual)
    preprocessing = worker.segmenter.info.preprocessing
    pictures = [job.picture for job in jobs if not job.case_id]
    here = [one for one in pictures if isinstance(one, Path) and slice_place(one) is None]
    kinds = kinds_of(here, preprocessing.image.pages)
    worker.segmenter.preparation.warn_of(doubts_of_files(kinds, preprocessing))
    takes_rgb = preprocessing.image.channels == 3 and not preprocessing.image.planes
    if takes_rgb and (grey := sum(kind.channels == 1 for kind in kinds.values())):
        note(f"{counted(grey, 'picture')} in grey: the model takes 3 channels, so the grey values are repeated")


def _work_on_cluster(
    on: str, spec: ModelSpec, jobs: Sequence[Job], parts: VolumeParts | None, finished: FinishedJobs, where: str
) -> list[Record]:
    """Processes jobs on a cluster, except those that an earlier, stopped call has finished."""
    from atrous.cluster.predict_on_ray import predict_on_ray  # Ray is an extra

    before = finished.of(jobs)
    if before:
        note(f"{counted(len(before), 'mask')} of an earlier call, which was stopped, are kept")
    left, written = [job for number, job in enumerate(jobs) if number not in before], [*before]

    def words() -> str:
        count = f"{len(written):,} of {counted(len(jobs), 'mask')}"
        return f"{count} are written in {where}, complete. The same command continues with the others."

    with told_if_interrupted(words), progress_bar() as progress:
        task = progress.add_task("predicting", total=len(jobs), completed=len(before), note="")

        def keep(done: Sequence[tuple[Job, Record]]) -> None:
            finished.add(done)
            written.extend(0 for _, record in done if record.mask is not None)
            progress.update(task, advance=len(done))

        try:
            records = iter(predict_on_ray(on, spec, left, keep, parts) if left else [])
        finally:
            finished.flush()
    return [before[number] if number in before else next(records) for number in range(len(jobs))]


def _done_before(records: Sequence[Future[Record]], total: int, out: Place, json: Path | None) -> str:
    """Returns a sentence about the masks that were written before an interruption."""
    done, where = sum(record.result().mask is not None for record in records), shown_place(out)
    more = "" if json is None else f" {json} is not written."
    return f"{done:,} of {counted(total, 'mask')} {'is' if done == 1 else 'are'} written in {where}, complete.{more}"


def _show(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total, visible=total > 1)
