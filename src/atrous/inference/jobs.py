"""Many pictures as jobs: planned once, done by any number of workers, summed up from what each of them recorded.

spec = ModelSpec("model.safetensors")
jobs = plan([Path("photos")], Path("masks"), spec)
worker = Worker(spec)  # in this process or another: specs, jobs and records are small and can be pickled
print(summarise([worker(job) for job in jobs]))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from atrous.arguments import checked, checked_fields
from atrous.console import note
from atrous.data.input_files import SceneFiles
from atrous.data.labels import IGNORE_INDEX
from atrous.data.sources.geotiff import GeoTiffSink, GeoTiffSource, has_place_tags, needs_windows
from atrous.data.sources.joined import JoinedSource
from atrous.data.sources.scene import open_windows
from atrous.data.sources.standardised import StandardisedSource
from atrous.errors import AtrousError, counted, shown
from atrous.inference.any_size import Progress
from atrous.inference.memory import limit_bytes
from atrous.inference.model_spec import ModelSpec
from atrous.inference.picture_input import Found
from atrous.inference.picture_paths import find_pictures
from atrous.inference.prediction import Prediction
from atrous.inference.tiles import Counted
from atrous.models.info import Info
from atrous.outputs import Output, check_is_folder, check_outputs, model_inputs, picture_output, save_picture

#: What is read window by window.
Windows = GeoTiffSource | JoinedSource | StandardisedSource
#: Classes that a summary names.
MOST_SHOWN = 8


@checked_fields
@dataclass(frozen=True)
class Job:
    """One picture to segment, and how its mask is written.

    Args:
        picture: its file.
        target: the mask's file; its folder is made.
        windowed: read and write window by window, as a GeoTIFF with its place on Earth.
        raw: write the values that the training masks had, instead of class indices with a palette.
        overlay: write the picture with its mask's colours over it, too; not of what is windowed.
        more: the files of the scene's further inputs, such as its depth, in the order of the model's inputs.
    """

    picture: Path
    target: Path
    windowed: bool = False
    raw: bool = False
    overlay: bool = False
    more: tuple[Path, ...] = ()

    @property
    def overlay_target(self) -> Path:
        """The file of the overlay, beside the mask."""
        return _overlay_of(self.target)


@dataclass(frozen=True)
class Record:
    """What became of a job.

    Args:
        image: the picture's file.
        mask: the mask's file, once it is written whole; None where it is not.
        error: a sentence, where something failed.
        share: of the pixels with data, each class's share, by name.
        no_data: share of the picture without data, 0–1.
        work: of a picture in windows, how many tiles, seconds and pixels it took; see `tiles.Work`.
    """

    image: str
    mask: str | None = None
    error: str | None = None
    share: Mapping[str, float] | None = None
    no_data: float = 0.0
    work: Mapping[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON, without those that say nothing."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True)
class Summary:
    """What became of many jobs.

    Args:
        masks: how many were written without an error.
        failed: the records of the others.
        share: each class's mean share of the pictures that have data, by name.
        no_data: mean share of the pictures without data, 0–1.
    """

    masks: int
    failed: tuple[Record, ...]
    share: Mapping[str, float]
    no_data: float

    @property
    def classes(self) -> str:
        """The classes of all masks in words, the largest first, and how much has no data; "" where there is nothing."""
        largest = sorted((name for name in self.share if self.share[name]), key=lambda name: -self.share[name])
        more = f" and {len(largest) - MOST_SHOWN} more classes" if len(largest) > MOST_SHOWN else ""
        named = ", ".join(f"{name} {self.share[name]:.1%}" for name in largest[:MOST_SHOWN]) + more
        return "; ".join(part for part in (named, f"{self.no_data:.1%} without data" if self.no_data else "") if part)

    def __str__(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{counted(self.masks, 'mask')}{failed}{f': {self.classes}' if self.classes else ''}"


@checked
def plan(
    paths: list[Path],
    out: Path,
    spec: ModelSpec,
    *,
    inputs: Mapping[str, str] | None = None,
    raw: bool = False,
    overlay: bool = False,
    overwrite: bool = False,
    also: Sequence[Output | None] = (),
) -> list[Job]:
    """One job for each picture; nothing is written or made, and no network is loaded.

    Args:
        paths: pictures, folders of pictures, or glob patterns.
        out: folder for the masks, named like the pictures with .png; those of GeoTIFFs with .tif.
        spec: of the model.
        inputs: folders of further inputs by name, such as {"depth": "depth/"}; files have the stems of their pictures.
        raw: see `Job`.
        overlay: see `Job`.
        overwrite: replace files that atrous did not write, too; inputs are never replaced.
        also: other files that will be written, which must not be among the masks or the inputs.

    Returns:
        Jobs in the order of the pictures, each with a mask of its own.

    Raises:
        AtrousError: no model, no pictures, or files that atrous did not write and would overwrite.
    """
    if not isinstance(spec, ModelSpec):
        raise AtrousError(f"spec must be an atrous.ModelSpec, got {shown(spec)}.")
    check_is_folder("out", out)
    pictures = find_pictures(paths)
    info = spec.read_info()
    most = limit_bytes(spec.memory) / 4  # as read, and as the model takes it, must leave memory for the network
    windowed = {path for path in pictures if _holds(needs_windows, path, most)}
    if lost := sum(path not in windowed and _holds(has_place_tags, path) for path in pictures):
        note(f"no coordinates in the masks of {counted(lost, 'GeoTIFF')} without rasterio: pip install 'atrous[geo]'")
    deep = raw and not _fits_png(info)
    targets = _targets(pictures, out, {path: ".tif" if deep or path in windowed else ".png" for path in pictures})
    scenes = SceneFiles([one.name for one in info.preprocessing.inputs], inputs or {})
    more = {path: scenes.further(path) for path in pictures}
    if not any(all(file.exists() for file in files) for files in more.values()):
        scenes.of(pictures[0])  # which says how to name the folder; single files that are missing are their records'
    jobs = [Job(path, targets[path], path in windowed, raw, overlay, more[path]) for path in pictures]
    masks = [mask for job in jobs for mask in (job.target, *([job.overlay_target] if overlay else []))]
    check_outputs(
        "predict",
        [*(picture_output("out", mask, out) for mask in masks), *also],
        [*model_inputs(spec.path), *(("a picture to segment", path) for path in pictures), *_further(more.values())],
        overwrite=overwrite,
    )
    return jobs


class Worker:
    """Opens a model and does jobs: reads each picture, segments it and writes its mask.

    Called with a job it does these three in a row. They can also be called as stages, each on a thread of its own, so
    that the next picture is read and the last mask written while the network works. Each stage takes what the one
    before gave; a failure is a `Record`, which later stages pass on.

    Args:
        spec: of the model.
        say: told in one line when a picture is tiled and why, and when memory ran out.

    Attributes:
        segmenter: that runs the model.

    Raises:
        AtrousError: see `Segmenter`.
    """

    @checked
    def __init__(self, spec: ModelSpec, say: Callable[[str], object] = lambda line: None) -> None:
        if not isinstance(spec, ModelSpec):
            raise AtrousError(f"spec must be an atrous.ModelSpec, got {shown(spec)}.")
        self.segmenter = spec.open(say)

    def __call__(self, job: Job) -> Record:
        """Does a job; whatever goes wrong with its picture is the record's error.

        Args:
            job: as `plan` gives it.
        """
        if not isinstance(job, Job):
            raise AtrousError(f"a worker takes a Job, as plan gives it, got {shown(job)}.")
        return self.write(job, self.segment(job, self.read(job)))

    def read(self, job: Job) -> Found | Windows | Record:
        """The job's picture; opened where it is windowed."""
        preprocessing = self.segmenter.info.preprocessing
        names = [one.name for one in preprocessing.inputs]
        try:
            if job.windowed:
                return open_windows((job.picture, *job.more), preprocessing.inputs)
            return self.segmenter.read(dict(zip(names, (job.picture, *job.more), strict=True)))
        except Exception as error:  # a decoder's own: the other pictures are done
            return Record(str(job.picture), error=failure_in_words(job.picture, error))

    def segment(self, job: Job, read: Found | Windows | Record, progress: Progress = None) -> Prediction | Record:
        """The mask of what was read; of what is windowed it is written already.

        Args:
            job: whose picture it is.
            read: as `read` gave it.
            progress: called after each tile with how many are done, and how many there are.
        """
        try:
            if isinstance(read, Record):
                return read
            if isinstance(read, Windows):
                return self._segment_windows(job, read, progress)
            mask = self.segmenter.any_size(
                self.segmenter.preparation.filled(read), read.valid, name=str(job.picture), progress=progress
            )
            return Prediction(mask, read.shown, self.segmenter.info)
        except Exception as error:  # no memory, or a picture that the model cannot take: the others are done
            return Record(str(job.picture), error=failure_in_words(job.picture, error))

    def write(self, job: Job, segmented: Prediction | Record) -> Record:
        """Writes the job's files, each whole or not at all.

        Args:
            job: whose mask it is.
            segmented: as `segment` gave it.
        """
        if isinstance(segmented, Record):
            return segmented
        mask, shares = None, {}
        try:
            if job.raw:
                save_picture(Image.fromarray(segmented.raw_mask()), job.target)
            else:
                segmented.save(job.target, overwrite=True)  # was asked for before the work
            mask = str(job.target)
            shares = _shares(np.bincount(segmented.mask.ravel(), minlength=256), segmented.info)
            if job.overlay:
                save_picture(segmented.overlay(legend=True), job.overlay_target)
        except Exception as error:  # a full disk, or what no such file can hold: the other masks are written
            words = f"{job.target} cannot be written: {error or type(error).__name__}"
            return Record(str(job.picture), mask, words, **shares)
        return Record(str(job.picture), mask, **shares)

    def _segment_windows(self, job: Job, source: Windows, progress: Progress) -> Record:
        info = self.segmenter.info
        with closing(source), GeoTiffSink(job.target, source, info.table, job.raw) as file:
            sink = Counted(file)
            work = self.segmenter.windows(source, sink, name=str(job.picture), progress=progress)
        return Record(str(job.picture), str(job.target), work=asdict(work), **_shares(sink.counts, info))


def summarise(records: Sequence[Record]) -> Summary:
    """Sums up what workers recorded, in whatever order.

    Args:
        records: of any number of jobs.
    """
    done = [record for record in records if record.error is None]
    shares = [record.share for record in done if record.share and record.no_data < 1]
    names = dict.fromkeys(name for share in shares for name in share)
    means = {name: sum(share.get(name, 0.0) for share in shares) / len(shares) for name in names}
    failed = tuple(record for record in records if record.error is not None)
    return Summary(len(done), failed, means, sum(record.no_data for record in done) / max(len(done), 1))


def failure_in_words(path: Path, error: Exception) -> str:
    """A sentence that names the picture, and for an error that is not ours its type.

    Args:
        path: the picture.
        error: what was raised while it was read or worked on.
    """
    words = str(error) if isinstance(error, AtrousError | RuntimeError) else f"{type(error).__name__}: {error}"
    return words if str(path) in words else f"{path}: {words}"


def _further(files: Iterable[tuple[Path, ...]]) -> Iterator[tuple[str, Path]]:
    """The files of further inputs, which are not to be overwritten."""
    return (("a further input", path) for more in files for path in more)


def _holds(question: Callable[..., bool], path: Path, *more: float) -> bool:
    """The answer about a file; False for one so damaged that there is none, which reading it will tell."""
    try:
        return question(path, *more)
    except Exception:
        return False


def _targets(pictures: Sequence[Path], out: Path, suffixes: Mapping[Path, str]) -> dict[Path, Path]:
    """Where each mask goes; pictures of the same name from different folders keep their folder's name.

    Raises:
        AtrousError: a mask would overwrite a picture.
    """
    stems = Counter(path.stem for path in pictures)
    targets, taken = {}, {path.resolve() for path in pictures}
    for path, suffix in suffixes.items():
        name = path.stem if stems[path.stem] == 1 else f"{path.parent.name}_{path.name}"
        if (out / f"{name}{suffix}").resolve() == path.resolve():
            raise AtrousError(f"the mask of {path} would overwrite it: give another folder with --out.")
        while (out / f"{name}{suffix}").resolve() in taken or _overlay_of(out / f"{name}{suffix}").resolve() in taken:
            name += "_"
        targets[path] = out / f"{name}{suffix}"
        taken |= {targets[path].resolve(), _overlay_of(targets[path]).resolve()}
    return targets


def _overlay_of(target: Path) -> Path:
    return target.with_suffix(".overlay.png")


def _fits_png(info: Info) -> bool:
    """Whether every raw value of the model's classes fits a PNG; negative and large ones need a TIFF."""
    return info.table.decode(np.zeros((1, 1), np.uint8)).dtype in (np.uint8, np.uint16)


def _shares(counts: np.ndarray, info: Info) -> dict[str, Any]:
    """Each class's share of the pixels that have data, from how many pixels hold each of 256 labels."""
    of_classes = counts[: len(info.classes)]
    total = max(int(of_classes.sum()), 1)
    share = {name: count / total for name, count in zip(info.classes, of_classes.tolist(), strict=True)}
    return {"share": share, "no_data": int(counts[IGNORE_INDEX]) / max(int(counts.sum()), 1)}
