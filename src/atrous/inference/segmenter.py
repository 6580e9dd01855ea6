"""`Segmenter`: runs a trained model on pictures of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from atrous.checked_arguments import checked, checked_names
from atrous.data.pictures import read_pixels
from atrous.data.pixels import StoredPixels, to_channels
from atrous.data.prefetch import in_background
from atrous.data.remote.transfer import fetched
from atrous.data.sources.source import Sink, Source
from atrous.data.volumes.slices import slice_place
from atrous.errors import AtrousError, counted, shown
from atrous.inference.choose_engine import Engine
from atrous.inference.out_of_memory import TileLimits
from atrous.inference.picture_input import (
    Found,
    PreparedSource,
    doubt_of_alpha,
    doubts_of,
    found_in,
    found_in_memory,
    found_in_slice,
    found_together,
    in_axes,
    parts_of,
    with_valid,
)
from atrous.inference.prediction import Prediction
from atrous.inference.preprocess import Preparation
from atrous.inference.runner import at_output_stride, info_of, runner_for
from atrous.inference.segmenter_arguments import check_say, check_source_and_sink, path_or_module
from atrous.inference.slice_views import for_plane
from atrous.inference.test_time_augmentation import views_of
from atrous.inference.tile_grid import check_tiling
from atrous.inference.tiled_inference import Work
from atrous.inference.value_range import scale_range
from atrous.inference.whole_or_tiled import AnySize, Progress
from atrous.inference.whole_picture import WholePicture
from atrous.input_spec import IMAGE, Input
from atrous.paths import place_of, shown_place

if TYPE_CHECKING:
    import torch

    from atrous.crf import DenseCRF
    from atrous.models import Info, SegmentationModel

Picture = str | Path | Image.Image | np.ndarray | Mapping[str, Any]


class Segmenter:
    """Runs a model on pictures of any size, on the fastest installed engine.

    Any number of threads may call one segmenter, each with its own picture. A forked process may use it, too, but
    computes with fewer threads; a spawned process must open its own segmenter.

    Args:
        model: path of a model file or of an exported .onnx or .xml file; or a module with `.info`, which is not
            changed.
        adapter: adapter file of a run that started from the file `model`; with it, the engine auto is torch.
        engine: runtime of the network: auto, openvino, torch, or onnxruntime for .onnx files. auto is torch on a GPU
            and for a module. For a model file on a CPU, auto is OpenVINO if it is installed. For an exported file, auto
            is the runtime of its format.
        device: device to run on: auto, cpu, cuda, cuda:N or mps.
        precision: number format to compute in: auto, float32 or bfloat16; auto is bfloat16 if the processor
            supports bfloat16, else float32.
        scales: resize factors of the picture for test-time augmentation; probabilities at all scales are averaged.
        flip: whether to average the probabilities of the picture and its mirror image.
        output_stride: output stride to run at, 8, 16 or 32; smaller is finer and slower (arXiv:1706.05587 §3.3); None
            for the model's own.
        crf: CRF that refines the probabilities at the picture's full size, or its settings as `crf.settings.make_crf`
            reads them, such as "model" or "deeplabv2"; None for no CRF.
        range: (lower, upper) values of the pictures, such as (0, 4095), that become 0 and the largest value of the
            model's data type; None for the whole range of the pictures' data type.
        tile: side of a tile, in pixels; larger pictures are tiled. None to tile only pictures that memory cannot hold.
        overlap: overlap of neighbouring tiles, in pixels; None for a quarter of the tile, at most 512.
        memory: memory that a picture may take, in GB; None for half of the device's free memory.
        say: function that gets a line of text when a picture is tiled and when memory ran out.

    Attributes:
        info: metadata of the model.
        preparation: converts pictures to the network's input, and warns of an unusual value range or alpha.
        any_size: runs prepared pictures, whole or in tiles; after memory ran out, it uses smaller tiles.

    Raises:
        AtrousError: the file is not a model, this machine does not have the engine or the device, the model does not
            support the output stride, the CRF has unknown settings, or a number is out of range.

    Examples:
        >>> import atrous, numpy
        >>> model = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_100", num_classes=3)
        >>> atrous.Segmenter(model)(numpy.zeros((40, 60, 3), "uint8")).mask.shape
        (40, 60)
    """

    @checked
    def __init__(
        self,
        model: str | Path | SegmentationModel,
        *,
        adapter: str | Path | None = None,
        engine: str = "auto",
        device: str | torch.device = "auto",
        precision: str = "auto",
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        output_stride: int | None = None,
        crf: DenseCRF | Mapping[str, Any] | str | None = None,
        range: Sequence[float] | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        memory: float | None = None,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        if not isinstance(device, str):
            from atrous.device import pick_device  # imports torch, which OpenVINO does not need

            device = pick_device(device)
        views_of(scales, flip)  # this check and the next two checks report mistakes before the model is loaded
        check_tiling(tile, overlap, memory)
        check_say(say)
        given = path_or_module(model, adapter)
        self.info: Info = given.info if not isinstance(given, Path) else info_of(given)
        if output_stride is not None:
            given, output_stride = at_output_stride(given, self.info, output_stride)
        if output_stride is not None:
            self.info = replace(self.info, arguments={**self.info.arguments, "output_stride": output_stride})
        self.preparation = Preparation(self.info.preprocessing, range)
        if crf is not None:
            from atrous.crf.settings import make_crf

            crf = make_crf(crf, self.info.crf)  # reports mistakes before the network is loaded
        runner = runner_for(given, self.info, engine, device, precision, output_stride)
        whole = WholePicture(runner, self.info, scales=scales, flip=flip, crf=crf)
        self.any_size = AnySize(whole, tile=tile, overlap=overlap, memory=memory, say=say)

    @property
    def whole(self) -> WholePicture:
        """Runs the network on a prepared picture as a whole."""
        return self.any_size.whole

    @property
    def engine(self) -> Engine:
        """The engine that runs the network, and the reason for its choice."""
        return self.whole.engine

    @property
    def scales(self) -> tuple[float, ...]:
        """The resize factors of the picture; see `scales` of `Segmenter`."""
        return self.whole.scales

    @property
    def crf(self) -> DenseCRF | None:
        """The CRF, or None; `with_crf` returns a segmenter with another CRF."""
        return self.whole.crf

    @property
    def limits(self) -> TileLimits:
        """The tile sizes to continue with after memory ran out, shared by all segmenters of this network."""
        return self.any_size.limits

    @property
    def pools(self) -> bool:
        """Whether a mean of `features` over a whole picture can be given to the model's image pooling."""
        return self.whole.pools

    @property
    def plain(self) -> bool:
        """Whether masks come directly from the engine, without test-time augmentation and CRF."""
        return self.whole.plain

    @property
    def stacks(self) -> bool:
        """Whether a batch of pictures of one size is faster than one picture at a time; see `WholePicture.stacks`."""
        return self.whole.stacks

    @overload
    def __call__(self, picture: Picture, valid: np.ndarray | None = None, *, axes: str | None = None) -> Prediction: ...
    @overload
    def __call__(
        self, picture: list[Picture] | tuple[Picture, ...], *, axes: str | None = None
    ) -> list[Prediction]: ...
    @overload
    def __call__(self, picture: Iterator[Picture], *, axes: str | None = None) -> Iterator[Prediction]: ...

    @checked
    def __call__(self, picture: Any, valid: np.ndarray | None = None, *, axes: str | None = None) -> Any:
        """Segments one or several pictures; while the network runs on a picture of a list, the next picture is read.

        A picture that would take more memory than allowed, by default half of the free memory, is cut into tiles.

        Args:
            picture: path, URL, PIL image, H×W or H×W×C array of uint8, uint16 or float32, or `xarray.DataArray`; for
                several inputs, a dict of pictures by input, {"image": …, "depth": …}; or a list or an iterator of such
                pictures. Files and PIL images may be transparent; the fourth channel of an array is dropped if the
                model takes three. Torch tensors need `axes`. A model of 8-bit or 16-bit pictures rescales uint8 and
                uint16 to its own type, and refuses floats unless `range` is given.
            valid: H×W booleans, False for pixels without data. NaN and nodata pixels of files need not be marked.
            axes: order of the axes of arrays and tensors, such as "CHW" for channels, height and width; None for H×W
                and H×W×C arrays.

        Returns:
            The prediction, with a mask of the picture's size; the mask is 255 at pixels without data. For a list of
            pictures, a list of predictions; for an iterator, an iterator.

        Raises:
            AtrousError: a picture is unreadable or has channels that this model does not take, or `valid` has another
                size.
        """
        picture = picture if axes is None else in_axes(picture, axes)
        if valid is not None and isinstance(picture, list | tuple | Iterator):
            raise AtrousError("valid is for one picture: call the segmenter for each picture with its own valid.")
        if valid is not None:
            return self._one(with_valid(self.read(picture), valid))
        if isinstance(picture, list | tuple):
            return list(self._all(picture))
        if isinstance(picture, Iterator):
            return self._all(picture)
        return self._one(self.read(picture))

    @checked
    def _one(self, found: Found) -> Prediction:
        mask = for_plane(self.any_size, found.plane)(self.preparation.filled(found), found.valid)
        return Prediction(mask, found.shown, self.info, found.array)

    def _all(self, pictures: Iterable[Picture]) -> Iterator[Prediction]:
        for found in in_background(self.read, pictures):
            yield self._one(found)

    @checked
    def read(self, picture: Picture) -> Found:
        """Reads a picture with the channels that the model takes, and finds the pixels that have data.

        Args:
            picture: path, URL, PIL image or array; or a dict with one of them for each input, as in a call.

        Raises:
            AtrousError: the picture is unreadable or has channels that this model does not take.
        """
        inputs = self.info.preprocessing.inputs
        parts = zip(parts_of(picture, inputs), inputs, strict=True)
        return self._together([self._read_input(part, one) for part, one in parts])

    @checked
    def found(self, stored: Mapping[str, StoredPixels]) -> Found:
        """Selects the channels of the model from decoded files.

        Args:
            stored: bands of each input's file, by the name of the input.

        Raises:
            AtrousError: an input is missing or has channels that this model does not take.
        """
        inputs = self.info.preprocessing.inputs
        given = parts_of(stored, inputs)
        if not all(isinstance(part, StoredPixels) for part in given):
            raise AtrousError(f"decoded files must be StoredPixels from decode_pixels, got {shown(stored)}.")
        return self._together([found_in(part, one) for part, one in zip(given, inputs, strict=True)])

    def _together(self, parts: list[Found]) -> Found:
        """Joins the inputs of a scene; if a value range is given, the values of the picture are scaled by it first."""
        inputs = self.info.preprocessing.inputs
        if len(parts) > 1 and (given := self.preparation.range) is not None:
            image = scale_range(to_channels(parts[0].image, inputs[0].channels), given, inputs[0].dtype)
            parts[0] = replace(parts[0], image=image)
        return found_together(parts, inputs)

    def _read_input(self, part: Any, one: Input) -> Found:
        """Reads the file or the values of one input, with the channels that the model takes."""
        if isinstance(part, str) and (not part or "\0" in part):
            raise AtrousError(f"a picture's path is empty or contains a zero character: {part[:80]!r}.")
        if isinstance(part, str | Path):
            if one.planes or slice_place(Path(part)) is not None:
                return found_in_slice(part, one)
            with fetched(place_of(part, "a picture")) as file:
                pixels = read_pixels(file, one.pages)
            if one.name == IMAGE:
                self.preparation.warn_of(doubts_of(shown_place(part), pixels, self.info.preprocessing))
            return found_in(pixels, one, shown_place(part))
        return found_in_memory(part, one)

    @checked
    def looking(
        self,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        crf: DenseCRF | Mapping[str, Any] | str | None = None,
        range: Sequence[float] | None = None,
        tile: int | None = None,
        overlap: int | None = None,
    ) -> Segmenter:
        """Returns a segmenter with other options for the same loaded network; threads may use both segmenters at once.

        Args:
            scales: as in `Segmenter`.
            flip: as in `Segmenter`.
            crf: as in `Segmenter`.
            range: as in `Segmenter`; None for the range of this segmenter.
            tile: as in `Segmenter`; None for the tile size of this segmenter.
            overlap: as in `Segmenter`; None for the overlap of this segmenter.

        Raises:
            AtrousError: a number is out of range, the CRF has unknown settings, or the exported file returns labels
                only.
        """
        whole = self.whole.looking(scales=scales, flip=flip, crf=crf)
        other = self._running(self.any_size.looking(whole, tile=tile, overlap=overlap))
        if range is not None:
            other.preparation = self.preparation.with_range(range)
        return other

    @checked
    def with_crf(self, crf: DenseCRF | None) -> Segmenter:
        """Returns a segmenter for the same loaded network with the same options, except for the CRF.

        Args:
            crf: CRF on the segmenter's device; None for no CRF.
        """
        return self._running(self.any_size.looking(self.whole.with_crf(crf)))

    def _running(self, any_size: AnySize) -> Segmenter:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, any_size=any_size)
        return other

    def __repr__(self) -> str:
        name = "/".join(str(part) for part in (self.info.architecture, self.info.arguments.get("backbone")) if part)
        classes, engine = counted(len(self.info.classes), "class", "classes"), self.engine
        return f"Segmenter({name}, {classes}, {engine.name} {engine.precision} on {engine.device})"

    def __reduce__(self) -> str:
        raise AtrousError(
            "a Segmenter contains a loaded network, which cannot be copied or sent to another process: send an "
            "atrous.ModelSpec with the model's path, and call its open() in the other process."
        )

    @checked
    def windows(self, source: Source, sink: Sink, *, name: str = "the picture", progress: Progress = None) -> Work:
        """Segments a picture window by window, so that it is never in memory as a whole.

        Args:
            source: picture as stored; its windows are converted to the model's input.
            sink: destination of the mask.
            name: name of the picture in messages.
            progress: function called after each tile with the number of finished tiles and the number of all tiles.

        Warns:
            PictureWarning: as `Preparation.prepare` does.
        """
        check_source_and_sink(source, sink)
        prepared = PreparedSource(source, partial(self.preparation.prepare, whole=False), self.info.preprocessing)
        work = self.any_size.windows(prepared, sink, name=name, progress=progress)
        if prepared.largest:
            self.preparation.warn_of_values(*max(prepared.largest.items(), key=lambda entry: entry[1]), name)
        self.preparation.warn_of_medians(prepared.medians, name)
        self.preparation.warn_of([doubt_of_alpha(name)] if prepared.doubtful_alpha else [])
        return work

    @checked_names
    def segment(
        self, image: np.ndarray, valid: np.ndarray | None = None, pooled: Sequence[np.ndarray] | None = None
    ) -> np.ndarray:
        """Returns the mask of a prepared picture that is run as a whole; see `WholePicture.segment`."""
        return self.whole.segment(image, valid, pooled)

    @checked_names
    def segment_together(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the masks of prepared pictures of one size, run as one batch; see `WholePicture.segment_together`."""
        return self.whole.segment_together(images)

    @checked_names
    def scores(self, image: np.ndarray, pooled: Sequence[np.ndarray] | None = None) -> tuple[np.ndarray, ...]:
        """Returns the h×w×K float32 logits of each view of a prepared picture; see `WholePicture.scores`."""
        return self.whole.scores(image, pooled)

    @checked_names
    def features(self, image: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns, for each view, the features that image pooling averages; see `WholePicture.features`."""
        return self.whole.features(image)

    @checked_names
    def decide(
        self,
        scores: Sequence[np.ndarray],
        image: np.ndarray,
        crf: DenseCRF | None = None,
        valid: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns the mask that results from scores; see `WholePicture.decide`."""
        return self.whole.decide(scores, image, crf, valid)
