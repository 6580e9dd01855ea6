"""From a picture to a mask: the way a trained model is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from atrous.arguments import checked
from atrous.data.file_kinds import Note
from atrous.data.pictures import read_pixels
from atrous.data.pillow import pixels_of_picture
from atrous.data.pixels import fill_missing, to_channels
from atrous.data.read_ahead import in_background
from atrous.errors import AtrousError
from atrous.inference import exported
from atrous.inference.any_size import AnySize
from atrous.inference.given import check_crf, check_found, check_notes, check_pooled, check_scores, check_together
from atrous.inference.out_of_memory import TileLimits
from atrous.inference.picture_input import Found, as_array, doubts_of, found_in, found_in_array, with_valid
from atrous.inference.prediction import Prediction
from atrous.inference.resize_argmax import resize_argmax
from atrous.inference.runner import at_output_stride, info_of, runner_for
from atrous.inference.value_range import GIVE_RANGE, PictureWarning, check_range, doubt, scale_range, to_depth
from atrous.inference.views import View, mean_labels, refined_labels, views_of
from atrous.logger import warn
from atrous.models.given import check_model
from atrous.models.given_picture import check_picture, check_read, check_valid

if TYPE_CHECKING:
    import torch

    from atrous.crf import DenseCRF
    from atrous.models import SegmentationModel
    from atrous.models.info import Info

Picture = str | Path | Image.Image | np.ndarray


class Segmenter:
    """Runs a model on pictures of any size, on the fastest engine present.

    Any number of threads may call one segmenter, each with its own picture. A forked child may use it too, with fewer
    threads; a spawned one opens its own.

    Args:
        model: the path of a model file or of an exported .onnx or .xml file; or a module with `.info`, which is left
            as it is.
        engine: auto, openvino or torch; auto takes torch on a GPU, and on a CPU OpenVINO where it is installed.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto takes bfloat16 where the processor computes in it; float32; bfloat16.
        scales: of the picture, at which the network looks at it; probabilities are averaged.
        flip: the network looks at the mirrored picture too.
        output_stride: 8, 16 or 32, at which the same weights see, finer and slower the smaller (arXiv:1706.05587 §3.3);
            None for the model's own.
        crf: refines the probabilities at the picture's full size before the mask is taken: a CRF, or its settings as
            `crf.settings.make_crf` reads them, such as "model" or "deeplabv2"; None for none.
        range: (lower, upper) values of the pictures that become 0 and the largest value of the model's type, such as
            (0, 4095) for 12 bits stored in 16; None for the whole range of the pictures' type.

    Attributes:
        info: of the model.
        engine: what runs it, and why.
        crf: the CRF, or None.
        scales: as given.
        limits: the sizes of tiles at which memory ran out, for all that runs this network.
        pools: whether the model's image pooling can be given the mean of a whole picture's `features`.

    Raises:
        AtrousError: no model file, no such engine or device here, an output stride that this model or file does not
            have, or unknown settings of the CRF.

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
        engine: str = "auto",
        device: str | torch.device = "auto",
        precision: str = "auto",
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        output_stride: int | None = None,
        crf: DenseCRF | Mapping[str, Any] | str | None = None,
        range: Sequence[float] | None = None,
    ) -> None:
        if not isinstance(device, str):
            from atrous.device import pick_device  # with torch, which a path on OpenVINO does without

            device = pick_device(device)
        views_of(scales, flip)  # a mistake there is named before the model is loaded
        given = Path(model) if isinstance(model, str | Path) else check_model(model, weights=True)
        self.info: Info = given.info if not isinstance(given, Path) else info_of(given)
        if output_stride is not None:
            given, output_stride = at_output_stride(given, self.info, output_stride)
        if output_stride is not None:
            self.info = replace(self.info, arguments={**self.info.arguments, "output_stride": output_stride})
        self._range = check_range(range, self.info.preprocessing)
        self._doubts: set[str] = set()
        self._align_corners = bool(self.info.arguments.get("align_corners", False))
        if crf is not None:
            from atrous.crf.settings import make_crf

            crf = make_crf(crf, self.info.crf)  # a mistake there, too, is named before the network is loaded
        self._runner = runner_for(given, self.info, engine, device, precision, output_stride)
        self.engine, self.pools, self.limits = self._runner.engine, self._runner.pools, TileLimits()
        self._look(scales, flip, crf)

    @overload
    def __call__(self, picture: Picture, valid: np.ndarray | None = None) -> Prediction: ...
    @overload
    def __call__(self, picture: list[Picture] | tuple[Picture, ...]) -> list[Prediction]: ...
    @overload
    def __call__(self, picture: Iterator[Picture]) -> Iterator[Prediction]: ...

    @checked
    def __call__(self, picture: Any, valid: np.ndarray | None = None) -> Any:
        """Segments one picture, or several; of a list, the next is read while the network works on one.

        A picture that would take more than half of the free memory is cut into tiles.

        Args:
            picture: a path, a PIL image, or an H×W or H×W×C array of uint8, uint16 or float32; a list of these, or an
                iterator over any number. Files and PIL images may be transparent; an array's fourth channel is dropped
                where the model takes three.
            valid: H×W booleans of an array, False where it holds no data; None for data everywhere but in NaN.

        Returns:
            The mask, in the picture's own size, 255 where there is no data; a list or an iterator of them likewise.

        Raises:
            AtrousError: unreadable, with channels this model does not take, or `valid` of another size.
        """
        if valid is not None and isinstance(picture, list | tuple | Iterator):
            raise AtrousError("valid belongs to one picture: call the segmenter for each picture with its own.")
        if valid is not None:
            return self._one(with_valid(self.read(picture), valid))
        if isinstance(picture, list | tuple):
            return list(self._all(picture))
        if isinstance(picture, Iterator):
            return self._all(picture)
        return self._one(self.read(picture))

    @checked
    def _one(self, found: Found) -> Prediction:
        return Prediction(AnySize(self, limits=self.limits)(self.filled(found), found.valid), found.shown, self.info)

    def _all(self, pictures: Iterable[Picture]) -> Iterator[Prediction]:
        for found in in_background(self.read, pictures):
            yield self._one(found)

    @checked
    def read(self, picture: Picture) -> Found:
        """Reads a picture with the channels that the model takes, and which of its pixels hold data.

        Args:
            picture: a path, a PIL image or an array, as in a call.

        Raises:
            AtrousError: unreadable, or with channels this model does not take.
        """
        if isinstance(picture, str) and (not picture or "\0" in picture):
            raise AtrousError(f"a picture's path is empty or holds a zero character: {picture[:80]!r}.")
        preprocessing = self.info.preprocessing
        if isinstance(picture, str | Path):
            pixels = read_pixels(picture, preprocessing.pages)
            self.warn_of(doubts_of(picture, pixels, preprocessing))
        elif isinstance(picture, Image.Image):
            pixels = pixels_of_picture(picture)
        else:
            return found_in_array(as_array(picture))
        name = str(picture) if isinstance(picture, str | Path) else ""
        return found_in(pixels, len(preprocessing.mean), name)

    @checked
    def filled(self, found: Found, give_range: str = GIVE_RANGE) -> np.ndarray:
        """H×W×C as `prepare` gives it, with the training mean where there is no data, which the network sees as 0.

        Args:
            found: the picture.
            give_range: as in `prepare`.
        """
        image = self.prepare(check_found(found).image, name=found.name, give_range=give_range)
        return fill_missing(image, found.valid, self.info.preprocessing.mean)

    @checked
    def looking(
        self,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        crf: DenseCRF | Mapping[str, Any] | str | None = None,
        range: Sequence[float] | None = None,
    ) -> Segmenter:
        """The same network, already loaded, with other scales, flip and CRF; different threads may use both at once.

        Args:
            scales: as at the making.
            flip: as at the making.
            crf: as at the making.
            range: as at the making; None for this segmenter's.

        Raises:
            AtrousError: scales or range out of range, unknown settings of the CRF, or a file that gives labels only.
        """
        other = self.with_crf(None)
        if range is not None:
            other._range = check_range(range, self.info.preprocessing)
        other._look(scales, flip, crf)
        return other

    @checked
    def with_crf(self, crf: DenseCRF | None) -> Segmenter:
        """The same look at the same network, with another CRF or with none.

        Args:
            crf: on the segmenter's device.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, crf=check_crf(crf))
        return other

    def __reduce__(self) -> str:
        raise AtrousError(
            "a Segmenter holds a loaded network, which cannot be copied or sent to another process: give the model's "
            "path, and open a Segmenter there."
        )

    def _look(self, scales: Sequence[float], flip: bool, crf: DenseCRF | Mapping[str, Any] | str | None) -> None:
        self._views, self.scales, self.crf = views_of(scales, flip), tuple(scales), None
        if isinstance(self._runner, exported.OnnxGraph | exported.OpenVinoGraph) and (crf or self._views != (View(),)):
            self._runner.check_scores()
        if crf is not None:
            from atrous.crf.settings import make_crf

            self.crf = make_crf(crf, self.info.crf).to(self.engine.device)

    @checked
    def prepare(
        self, image: np.ndarray, *, whole: bool = True, name: str = "", give_range: str = GIVE_RANGE
    ) -> np.ndarray:
        """H×W×C as read → H×W×C with the channels and the value range the model was trained on.

        Args:
            image: as read.
            whole: whether this is a whole picture, whose largest value tells whether its range is the model's.
            name: of the picture, for warnings; "" for none.
            give_range: how a range of values is given here, for warnings and errors; see `value_range`.

        Warns:
            PictureWarning: once for each doubt, where the values may not mean what the model takes them for.
        """
        preprocessing = self.info.preprocessing
        image = to_channels(check_read(image, len(preprocessing.mean)), len(preprocessing.mean))
        if self._range is not None:
            return scale_range(image, self._range, preprocessing.dtype)
        if whole:
            self._warn(self.doubt_of(image, give_range), name=name)
        return to_depth(image, preprocessing.dtype, give_range)

    @checked
    def doubt_of(self, image: np.ndarray, give_range: str = GIVE_RANGE) -> str | None:
        """Tells where a whole picture's values may mean something else; see `value_range.doubt`.

        Args:
            image: H×W×C as read.
            give_range: as in `prepare`.
        """
        if self._range is not None or check_picture(image).dtype.name == self.info.preprocessing.dtype:
            return None
        return doubt(image.dtype.name, float(image.max()), self.info.preprocessing, give_range)

    @checked
    def warn_of_values(self, dtype: str, largest: float, name: str = "") -> None:
        """Warns, once for each doubt, that a picture of this dtype and largest value may mean something else.

        Args:
            dtype: uint8, uint16 or float32.
            largest: its largest value.
            name: of the picture; "" for none.
        """
        self._warn(doubt(dtype, largest, self.info.preprocessing) if self._range is None else None, name=name)

    @checked
    def warn_of(self, notes: Iterable[Note]) -> None:
        """Warns of files, once for each kind of note; see `picture_input.doubts_of_files`."""
        for kind, message, _ in check_notes(notes):
            self._warn(message, kind)

    def _warn(self, sentence: str | None, kind: str | None = None, name: str = "") -> None:
        if sentence is not None and (kind := kind or sentence.partition(":")[0]) not in self._doubts:
            self._doubts.add(kind)
            warn(f"{name}: {sentence}" if name else sentence, PictureWarning, stacklevel=4)

    @checked
    def segment(
        self, image: np.ndarray, valid: np.ndarray | None = None, pooled: Sequence[np.ndarray] | None = None
    ) -> np.ndarray:
        """H×W×C with the model's channels and range → H×W uint8 class indices.

        Args:
            image: as `prepare` gives it.
            valid: H×W booleans; the CRF leaves the other pixels out.
            pooled: of each view the mean of the whole picture's `features`, where the image is a part of one.
        """
        image = check_picture(image, len(self.info.preprocessing.mean))
        check_valid(valid, image.shape[:2])
        if self.plain:
            return self._runner.labels(image, *(check_pooled(pooled, 1, self.pools) or ()))
        return self.decide(self.scores(image, pooled), image, self.crf, valid)

    @property
    def plain(self) -> bool:
        """Whether masks are the engine's own: of one view, without a CRF."""
        return self.crf is None and self._views == (View(),)

    @property
    def stacks(self) -> bool:
        """Whether several pictures of one size are faster together than one after another: plain masks on a GPU.

        On processors they are not: one picture keeps all cores busy, and several leave their caches (docs/serving.md).
        """
        return self.plain and self.engine.name == "torch" and not self.engine.device.startswith("cpu")

    @checked
    def segment_together(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Plain masks of pictures of one size, by one pass of the network.

        Args:
            images: each H×W×C as `prepare` gives it; for the engine torch.

        Returns:
            Of each H×W uint8 class indices.
        """
        runner: Any = self._runner
        possible = self.plain and self.engine.name == "torch"
        return list(runner.labels_of_all(check_together(images, len(self.info.preprocessing.mean), possible)))

    @checked
    def scores(self, image: np.ndarray, pooled: Sequence[np.ndarray] | None = None) -> tuple[np.ndarray, ...]:
        """H×W×C with the model's channels and range → of each view h×w×K float32 logits, at low resolution.

        Args:
            image: as `prepare` gives it.
            pooled: as in `segment`.
        """
        image = check_picture(image, len(self.info.preprocessing.mean))
        given = check_pooled(pooled, len(self._views), self.pools)
        means = [(mean,) for mean in given or ()] or [()] * len(self._views)
        return tuple(
            view.back(self._runner.scores(view.of(image), *mean)) for view, mean in zip(self._views, means, strict=True)
        )

    @checked
    def features(self, image: np.ndarray) -> tuple[np.ndarray, ...]:
        """H×W×C → of each view h×w×C' float32, what image pooling takes the mean of; for models with `pools`."""
        runner: Any = self._runner
        if not self.pools:
            raise AtrousError("features are of models with image pooling (segmenter.pools); this one has none.")
        image = check_picture(image, len(self.info.preprocessing.mean))
        return tuple(view.back(runner.features(view.of(image))) for view in self._views)

    @checked
    def decide(
        self,
        scores: Sequence[np.ndarray],
        image: np.ndarray,
        crf: DenseCRF | None = None,
        valid: np.ndarray | None = None,
    ) -> np.ndarray:
        """The mask that scores mean.

        Args:
            scores: of each view h×w×K logits.
            image: H×W×C, what they were made from.
            crf: refines their probabilities first.
            valid: H×W booleans; the CRF leaves the other pixels out.

        Returns:
            H×W uint8 class indices.
        """
        scores, size = check_scores(scores, len(self.info.classes)), check_picture(image).shape[:2]
        check_valid(valid, size)
        temperature = self.info.temperature
        if (crf := check_crf(crf)) is not None:
            return refined_labels(scores, image, crf, valid, self._align_corners, temperature, self.engine.device)
        if len(scores) == 1:
            return resize_argmax(scores[0], size, self._align_corners)
        return mean_labels(scores, size, self._align_corners, temperature)
