"""Segments many pictures as jobs: `plan` lists them, any number of workers do them, `summarise` sums up the records.

jobs = plan([Path("photos")], Path("masks"), spec := ModelSpec("model.safetensors"))
worker = Worker(spec)  # in this process or another: specs, jobs and records are small and can be pickled
print(summarise([worker(job) for job in jobs]))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np
from PIL import Image

from atrous.checked_arguments import checked, checked_fields
from atrous.console import each_once, note
from atrous.data.file_headers import kinds_of
from atrous.data.file_of_picture import file_of_picture
from atrous.data.input_files import SceneFiles
from atrous.data.pictures import read_pixels
from atrous.data.rasters.open_raster import source_files
from atrous.data.remote.transfer import as_path, below, fetched, local_path, stored
from atrous.data.sources.geotiff import RASTER_SUFFIXES, GeoTiffSink, GeoTiffSource, has_place_tags, needs_windows
from atrous.data.sources.joined import JoinedSource
from atrous.data.sources.per_image_standardisation import StandardisedSource
from atrous.data.sources.scene_files import open_windows
from atrous.data.value_counts import value_counts
from atrous.data.volumes.contrast_files import check_contrasts_exist, stored_files
from atrous.data.volumes.dicom_seg_write import check_sources
from atrous.data.volumes.read_volume import read_volume
from atrous.data.volumes.slices import is_volume_place
from atrous.data.volumes.volume import Volume
from atrous.data.volumes.write_mask import MaskFormat, check_mask_format, write_volume_mask
from atrous.errors import AtrousError, counted, shown
from atrous.inference.case_ids import case_ids_of, named_by_ids, without_names
from atrous.inference.joined_contrasts import with_joined_contrasts
from atrous.inference.mask_paths import mask_places, overlay_of
from atrous.inference.memory_estimate import limit_bytes
from atrous.inference.model_spec import ModelSpec
from atrous.inference.picture_input import Found, check_volumes_are_here, doubts_of, doubts_of_file
from atrous.inference.picture_paths import find_places
from atrous.inference.predict_records import Record, class_shares
from atrous.inference.prediction import Prediction
from atrous.inference.remote_overwrite_checks import check_is_remote_folder, check_remote_outputs
from atrous.inference.segment_volume import segment_volume
from atrous.inference.slice_views import for_plane
from atrous.inference.tiled_inference import Counted
from atrous.inference.volume_parts import VolumeParts
from atrous.inference.whole_or_tiled import Progress
from atrous.input_spec import IMAGE
from atrous.models.info import Info
from atrous.overwrite_checks import Output, check_is_folder, check_outputs, model_inputs, picture_output, save_picture
from atrous.paths import Place, failure_in_words, shown_place

#: Sources that are read window by window.
Windows = GeoTiffSource | JoinedSource | StandardisedSource
#: Note on GeoTIFFs if rasterio is not installed; {} is their number.
NO_COORDINATES = "no coordinates in the masks of {} without rasterio: pip install 'atrous[geo]'"


@checked_fields
@dataclass(frozen=True)
class Job:
    """One picture to segment, and the options for writing its mask.

    Args:
        picture: path or URL of the picture.
        target: path or URL of the mask; its folder is created.
        windowed: True to read the picture and write a GeoTIFF window by window, as for pictures with coordinates; None
            for a TIFF or JPEG 2000 at a URL, for which the worker decides after fetching it.
        raw: True to write the values of the training masks instead of class indices with a palette.
        overlay: True to also write the picture with the mask's colours over it; not for windowed pictures.
        more: files of the scene's further inputs, such as its depth, in the order of the model's inputs.
        format: format of the mask of a volume: "nifti", or "dicom-seg", which needs a DICOM series.
        case_id: name of the volume in records and messages, as in `case_ids_of`; "" to use the path of the volume.
    """

    picture: Place
    target: Place
    windowed: bool | None = False
    raw: bool = False
    overlay: bool = False
    more: tuple[Place, ...] = ()
    format: MaskFormat = "nifti"
    case_id: str = ""

    @property
    def name(self) -> str:
        """Name of the picture in records and messages."""
        return self.case_id or shown_place(self.picture)

    @property
    def overlay_target(self) -> Place:
        """Path or URL of the overlay, in the same folder as the mask."""
        return overlay_of(self.target)


class Opened(NamedTuple):
    """A picture that is read window by window, and a stack that removes the fetched copies of its files."""

    source: Windows
    files: ExitStack


@checked
def plan(
    paths: Sequence[Place],
    out: Place,
    spec: ModelSpec,
    *,
    inputs: Mapping[str, str] | None = None,
    raw: bool = False,
    overlay: bool = False,
    format: MaskFormat = "nifti",
    case_ids: Path | None = None,
    overwrite: bool = False,
    also: Sequence[Output | None] = (),
) -> list[Job]:
    """Returns one job per picture; it writes nothing, creates no folder and loads no network.

    Args:
        paths: pictures, folders of pictures, or glob patterns; paths or URLs.
        out: folder for the masks, a path or a URL. A mask has the name of its picture, with .png, or .tif for rasters.
        spec: specification of the model.
        inputs: folders of further inputs by name, such as {"depth": "depth/"}; files have the stems of their pictures.
        raw: see `Job`.
        overlay: see `Job`.
        format: see `Job`.
        case_ids: table of case ids, which then name masks and records, see `case_ids_of`; None for names of volumes.
        overwrite: True to allow replacing files that atrous did not write; inputs are never replaced.
        also: other files that the caller will write; they must not be among the masks or the inputs.

    Returns:
        Jobs in the order of the pictures, each with its own mask.

    Raises:
        AtrousError: there is no model or no picture, a volume is at a URL, overlays are requested for volumes, or masks
            would replace files that atrous did not write.
    """
    if not isinstance(spec, ModelSpec):
        raise AtrousError(f"spec must be an atrous.ModelSpec, got {shown(spec)}.")
    folder = local_path(out)
    check_is_folder("out", folder) if folder is not None else check_is_remote_folder("out", str(out))
    info = spec.read_info()
    pictures = with_joined_contrasts(find_places(paths, quiet=case_ids is not None), info.preprocessing.image)
    ids = {} if case_ids is None else case_ids_of(case_ids, pictures)
    pictures = list(ids) or pictures
    windowed = {place: _needs_windows(place, spec) for place in pictures}
    here = [path for path in pictures if isinstance(path, Path)]
    if lost := sum(not windowed[path] and _holds(has_place_tags, path) for path in here):
        note(NO_COORDINATES.format(counted(lost, "GeoTIFF")))
    deep = raw and not _fits_png(info)
    suffixes = {place: ".tif" if deep or windowed[place] is not False else ".png" for place in pictures}
    with named_by_ids(ids):
        check_mask_format(format, pictures, info.table, raw=raw)
    check_volumes_are_here(pictures)
    volumes = [place for place in here if is_volume_place(place)]
    if overlay and volumes:
        raise AtrousError(
            "overlays are pictures, and a volume has none: leave --overlay out, and open the mask over the scan in a "
            "viewer of volumes."
        )
    suffixes |= dict.fromkeys(volumes, ".dcm" if format == "dicom-seg" else ".nii.gz")
    where = out if folder is None else folder
    targets = {place: below(where, f"{ids[place]}{suffixes[place]}") for place in ids} or mask_places(suffixes, where)
    scenes = SceneFiles([one.name for one in info.preprocessing.inputs], inputs or {})
    more = {place: scenes.further(as_path(place)) for place in pictures}
    if not any(all(file.exists() for file in files) for files in more.values()):
        scenes.of(as_path(pictures[0]))  # raises an error about the folder; a single missing file fails only its job
    jobs = [
        Job(place, targets[place], windowed[place], raw, overlay, more[place], format, ids.get(place, ""))
        for place in pictures
    ]
    masks = [mask for job in jobs for mask in (job.target, *([job.overlay_target] if overlay else []))]
    check_outputs(
        "predict",
        [*(picture_output("out", mask, folder) for mask in masks if isinstance(mask, Path)), *also],
        [
            *model_inputs(spec.path),
            *_files("a picture to segment", pictures),
            *_files("a further input", chain.from_iterable(more.values())),
        ],
        overwrite=overwrite,
    )
    if folder is None:
        check_remote_outputs("predict", [str(mask) for mask in masks], str(out), overwrite=overwrite)
    return jobs


class Worker:
    """Opens a model and does jobs: reads each picture, segments it and writes its mask.

    A call with a job does these three steps in order. They can also be called as stages, each in its own thread: then
    the next picture is read and the last mask is written while the network runs. Each stage takes the result of the
    stage before. A failure is a `Record`, which later stages pass on.

    Args:
        spec: specification of the model.
        say: called with one line when a picture is tiled, with the reason, and when memory ran out.
        parts: connected parts that the masks of volumes keep; None for all.

    Attributes:
        segmenter: segmenter that runs the model.

    Raises:
        AtrousError: see `Segmenter`.
    """

    @checked
    def __init__(
        self, spec: ModelSpec, say: Callable[[str], object] = lambda line: None, parts: VolumeParts | None = None
    ) -> None:
        if not isinstance(spec, ModelSpec):
            raise AtrousError(f"spec must be an atrous.ModelSpec, got {shown(spec)}.")
        self.segmenter = spec.open(say)
        self._spec, self._say, self._say_once, self._parts = spec, say, each_once(say), parts
        self._stopped = Event()

    def __call__(self, job: Job) -> Record:
        """Does a job; errors of its picture are stored in the record.

        Args:
            job: job from `plan`.
        """
        if not isinstance(job, Job):
            raise AtrousError(f"a worker takes a Job from plan, got {shown(job)}.")
        return self.write(job, self.segment(job, self.read(job)))

    def stop(self) -> None:
        """Stops the downloads of other threads, and starts no more of them."""
        self._stopped.set()

    def read(self, job: Job) -> Found | Opened | Volume | Record:
        """Reads the job's picture, or opens it if it is windowed; pictures at URLs are fetched.

        Args:
            job: job of the picture.

        Returns:
            The picture, read or opened; or the record of the failure.
        """
        names = [one.name for one in self.segmenter.info.preprocessing.inputs]
        try:
            if isinstance(job.picture, Path) and is_volume_place(job.picture):
                if job.format == "dicom-seg":
                    check_sources(job.picture, self.segmenter.info.table)
                image = self.segmenter.info.preprocessing.image
                check_contrasts_exist(job.picture, image.channels // image.slices)
                volume = read_volume(job.picture)
                for sentence in volume.notes:  # series of one folder share notes on the folder
                    self._say_once(_named(job, sentence))
                return volume
            if job.windowed is not False or isinstance(job.picture, str):
                return self._read_files(job)
            return self.segmenter.read(dict(zip(names, (job.picture, *job.more), strict=True)))
        except Exception as error:  # decoders raise any error; the other pictures must still be segmented
            return _failed(job, error)

    def _read_files(self, job: Job) -> Found | Opened:
        """Reads or opens a picture that is windowed or at a URL; for a raster at a URL, decides whether to open it."""
        preprocessing, name = self.segmenter.info.preprocessing, shown_place(job.picture)
        with ExitStack() as copies:
            places = (job.picture, *job.more)
            files = [copies.enter_context(fetched(place, self._stopped.is_set)) for place in places]
            windowed = job.windowed
            if windowed is None:
                windowed = _needs_windows(files[0], self._spec)
                if not windowed and _holds(has_place_tags, files[0]):
                    self._say(f"{name}: {NO_COORDINATES.format('a GeoTIFF')}")
            if windowed:
                for kind in kinds_of(files[:1], preprocessing.image.pages).values():
                    self.segmenter.preparation.warn_of(doubts_of_file(name, kind, preprocessing))
                return Opened(open_windows(files, preprocessing.inputs), copies.pop_all())
            inputs = zip(preprocessing.inputs, files, strict=True)
            pixels = {one.name: read_pixels(file, one.pages) for one, file in inputs}
            self.segmenter.preparation.warn_of(doubts_of(name, pixels[IMAGE], preprocessing))
            return replace(self.segmenter.found(pixels), name=name)

    def segment(
        self, job: Job, read: Found | Opened | Volume | Record, progress: Progress = None
    ) -> Prediction | np.ndarray | Record:
        """Segments a picture; for a windowed picture, also writes the mask.

        Args:
            job: job of the picture.
            read: result of `read`.
            progress: called after each tile with the number of finished tiles and the number of all tiles.

        Returns:
            The prediction; or the record of a windowed picture or of a failure.
        """
        try:
            if isinstance(read, Record):
                return read
            if isinstance(read, Opened):
                return self._segment_windows(job, read, progress)
            if isinstance(read, Volume):
                labels = segment_volume(self.segmenter, read, progress)
                if self._parts is not None:
                    self._parts.clean(labels, read.grid)
                return labels
            any_size, prepared = for_plane(self.segmenter.any_size, read.plane), self.segmenter.preparation.filled(read)
            mask = any_size(prepared, read.valid, name=shown_place(job.picture), progress=progress)
            return Prediction(mask, read.shown, self.segmenter.info)
        except Exception as error:  # too little memory, or an unsuitable picture; other pictures are still segmented
            return _failed(job, error)

    def write(self, job: Job, segmented: Prediction | np.ndarray | Record) -> Record:
        """Writes the job's files, each atomically.

        Args:
            job: job of the mask.
            segmented: result of `segment`.
        """
        if isinstance(segmented, Record):
            return segmented
        image, target, mask, shares = job.name, shown_place(job.target), None, {}
        try:
            if isinstance(segmented, np.ndarray):
                return self._write_volume(job, segmented)
            with stored(job.target) as file:
                if job.raw:
                    save_picture(Image.fromarray(segmented.raw_mask()), file)
                else:
                    segmented.save(file, overwrite=True)  # `plan` has checked the file
            mask = target
            shares = class_shares(value_counts(segmented.mask), segmented.info)
            if job.overlay:
                with stored(job.overlay_target) as file:
                    save_picture(segmented.overlay(legend=True), file)
        except Exception as error:  # a full disk, or values that the format cannot store; write the other masks
            return Record(
                image, mask, _named(job, f"{target} cannot be written: {error or type(error).__name__}"), **shares
            )
        return Record(image, mask, **shares)

    def _write_volume(self, job: Job, labels: np.ndarray) -> Record:
        """Writes the mask of a volume on the volume's own grid."""
        assert isinstance(job.picture, Path)
        info = self.segmenter.info
        with stored(job.target) as file:
            write_volume_mask(file, labels, job.picture, info.table, format=job.format, raw=job.raw)
        return Record(job.name, shown_place(job.target), **class_shares(value_counts(labels), info))

    def _segment_windows(self, job: Job, opened: Opened, progress: Progress) -> Record:
        info, name = self.segmenter.info, shown_place(job.picture)
        with (
            opened.files,
            stored(job.target) as target,
            closing(opened.source) as source,
            GeoTiffSink(target, source, info.table, job.raw) as file,
        ):
            sink = Counted(file)
            work = self.segmenter.windows(source, sink, name=name, progress=progress)
        return Record(name, shown_place(job.target), work=asdict(work), **class_shares(sink.counts, info))


def _failed(job: Job, error: Exception) -> Record:
    """Returns the record of a failure; with a case id, the texts of other programs are left out."""
    if job.case_id and not isinstance(error, AtrousError):
        return Record(job.name, error=f"{job.name}: it cannot be segmented ({type(error).__name__}).")
    return Record(job.name, error=_named(job, failure_in_words(job.picture, error)))


def _named(job: Job, text: str) -> str:
    """Returns a message in which the case id, if there is one, stands for the names of the volume."""
    return without_names(text, {job.picture: job.case_id}) if job.case_id else text


def _needs_windows(place: Place, spec: ModelSpec) -> bool | None:
    """Returns whether a picture is read window by window; None for a raster at a URL, which must be fetched first."""
    if isinstance(place, str):
        return None if as_path(place).suffix.lower() in RASTER_SUFFIXES else False
    most = limit_bytes(spec.memory) / 4  # the picture, as it was read and as input, must leave memory for the network
    return _holds(needs_windows, place, most)


def _files(words: str, places: Iterable[Place]) -> Iterator[tuple[str, Path]]:
    """Yields (description, file) for files on this machine that must not be overwritten."""
    here = (place for place in places if isinstance(place, Path))
    return ((words, file) for place in here for file in (*stored_files(file_of_picture(place)), *source_files(place)))


def _holds(question: Callable[..., bool], path: Path, *more: float) -> bool:
    """Returns the result of a check of a file; False for a damaged file, because reading it later raises an error."""
    try:
        return question(path, *more)
    except Exception:
        return False


def _fits_png(info: Info) -> bool:
    """Returns whether a PNG can store the raw values of all classes; negative and large values need a TIFF."""
    return info.table.decode(np.zeros((1, 1), np.uint8)).dtype in (np.uint8, np.uint16)
