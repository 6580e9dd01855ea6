"""Runs a network on a whole picture, with test-time augmentation and a CRF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atrous.checked_arguments import checked
from atrous.errors import AtrousError
from atrous.inference.resize_argmax import resize_argmax
from atrous.inference.runner import Runner
from atrous.inference.segmenter_arguments import check_crf, check_pooled, check_scores, check_together
from atrous.inference.test_time_augmentation import View, mean_labels, mean_probabilities, refined_labels, views_of
from atrous.models.crf_colors import check_crf_fits, compared_by_crf
from atrous.models.picture_checks import check_picture, check_valid

if TYPE_CHECKING:
    from atrous.crf import DenseCRF
    from atrous.models.info import Info


class WholePicture:
    """Runs a network on a prepared picture or tile in memory.

    Any number of threads may use one object, each with its own picture, because the object never changes.

    Args:
        runner: runner of the network.
        info: metadata of the model.
        scales: resize factors of the picture, each above 0 and up to 8; the probabilities at all scales are averaged.
        flip: whether to average the probabilities of the picture and its mirror image.
        crf: CRF that refines the probabilities at the picture's full size, or its settings as `crf.settings.make_crf`
            reads them; None for no CRF.

    Attributes:
        info: metadata of the model.
        runner: runner of the network.
        engine: engine that runs the network, and the reason for its choice.
        pools: whether `pooled` can be given: for a tile, image pooling then uses the mean of the whole picture. False
            without image pooling, and for exported files.
        scales: resize factors, as given.
        flip: whether mirrored views are averaged, as given.
        crf: CRF on the engine's device, or None.

    Raises:
        AtrousError: a scale is out of range, the CRF has unknown settings, or the exported file returns labels only.
    """

    def __init__(
        self,
        runner: Runner,
        info: Info,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        crf: DenseCRF | Mapping[str, Any] | str | None = None,
    ) -> None:
        self._views, self.scales, self.flip = views_of(scales, flip), tuple(scales), flip
        if crf is not None or self._views != (View(),):
            runner.check_scores()
        self.runner, self.info, self.engine, self.pools = runner, info, runner.engine, runner.pools
        self._align_corners = bool(info.arguments.get("align_corners", False))
        self.crf: DenseCRF | None = None
        if crf is not None:
            from atrous.crf.settings import make_crf

            check_crf_fits(info.preprocessing)
            self.crf = make_crf(crf, info.crf).to(self.engine.device)

    def looking(
        self,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        crf: DenseCRF | Mapping[str, Any] | str | None = None,
    ) -> WholePicture:
        """Returns an object for the same network with other scales, flip and CRF.

        Args:
            scales: as in `WholePicture`.
            flip: as in `WholePicture`.
            crf: as in `WholePicture`.

        Raises:
            AtrousError: as in `WholePicture`.
        """
        return WholePicture(self.runner, self.info, scales=scales, flip=flip, crf=crf)

    def without_flip(self) -> WholePicture:
        """Returns an object for the same network, scales and CRF without mirrored views."""
        other = object.__new__(WholePicture)
        other.__dict__.update(self.__dict__, _views=views_of(self.scales, False), flip=False)
        return other

    def with_crf(self, crf: DenseCRF | None) -> WholePicture:
        """Returns an object for the same network, scales and flip with another CRF.

        Args:
            crf: CRF on the engine's device; None for no CRF.
        """
        other = object.__new__(WholePicture)
        other.__dict__.update(self.__dict__, crf=check_crf(crf))
        return other

    @property
    def plain(self) -> bool:
        """Whether masks come directly from the engine, without test-time augmentation and CRF."""
        return self.crf is None and self._views == (View(),)

    @property
    def stacks(self) -> bool:
        """Whether a batch of pictures of one size is faster than one picture at a time: plain masks on a GPU.

        On a CPU, batches are slower: one picture uses all cores, and several pictures do not fit into the caches
        (docs/serving.md).
        """
        return self.plain and self.runner.stacks

    @checked
    def segment(
        self, image: np.ndarray, valid: np.ndarray | None = None, pooled: Sequence[np.ndarray] | None = None
    ) -> np.ndarray:
        """Maps a prepared picture to H×W uint8 class indices.

        Args:
            image: H×W×C picture, as `Preparation.prepare` returns it.
            valid: H×W booleans, False for pixels that the CRF leaves out; None for all pixels.
            pooled: for a tile, the mean of `features` over the whole picture for each view; None for the mean over
                `image`.
        """
        image = check_picture(image, self.info.preprocessing.channels)
        check_valid(valid, image.shape[:2])
        if self.plain:
            return self.runner.labels(image, *(check_pooled(pooled, 1, self.pools) or ()))
        return self.decide(self.scores(image, pooled), image, self.crf, valid)

    @checked
    def segment_together(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the masks of pictures of one size; engines that support batches use one forward pass.

        Args:
            images: H×W×C pictures, as `Preparation.prepare` returns them.

        Returns:
            H×W uint8 class indices of each picture.
        """
        return list(self.runner.labels_of_all(check_together(images, self.info.preprocessing.channels, self.plain)))

    @checked
    def scores(self, image: np.ndarray, pooled: Sequence[np.ndarray] | None = None) -> tuple[np.ndarray, ...]:
        """Returns, for each view, the h×w×K float32 logits at the low resolution of the network's output.

        Args:
            image: H×W×C picture, as `Preparation.prepare` returns it.
            pooled: as in `segment`.
        """
        image = check_picture(image, self.info.preprocessing.channels)
        given = check_pooled(pooled, len(self._views), self.pools)
        means = [(mean,) for mean in given or ()] or [()] * len(self._views)
        return tuple(
            view.back(self.runner.scores(view.of(image), *mean)) for view, mean in zip(self._views, means, strict=True)
        )

    @checked
    def probabilities(self, image: np.ndarray, pooled: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """Returns the probabilities of all classes at full size, the mean of all views; the CRF is not used.

        Args:
            image: H×W×C picture, as `Preparation.prepare` returns it.
            pooled: as in `segment`.

        Returns:
            H×W×K float32, whose sum over K is 1; K = 2 for one-logit models.
        """
        scores, size = self.scores(image, pooled), image.shape[:2]
        return mean_probabilities(scores, size, self._align_corners, self.info.temperature).numpy().transpose(1, 2, 0)

    @checked
    def features(self, image: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns, for each view, the h×w×C' float32 features that image pooling averages; for models with `pools`.

        Args:
            image: H×W×C picture, as `Preparation.prepare` returns it.

        Raises:
            AtrousError: the model has no image pooling, or is an exported file.
        """
        if not self.pools:
            raise AtrousError(
                "features are for models with image pooling (segmenter.pools); this model has none, or it is an "
                "exported file."
            )
        image = check_picture(image, self.info.preprocessing.channels)
        return tuple(view.back(self.runner.features(view.of(image))) for view in self._views)

    @checked
    def decide(
        self,
        scores: Sequence[np.ndarray],
        image: np.ndarray,
        crf: DenseCRF | None = None,
        valid: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns the mask that results from scores.

        Args:
            scores: h×w×K logits of each view, as `scores` returns them.
            image: H×W×C picture to which the scores belong.
            crf: CRF that refines the probabilities first; None for no CRF.
            valid: H×W booleans, False for pixels that the CRF leaves out; None for all pixels.

        Returns:
            H×W uint8 class indices.
        """
        scores, size = check_scores(scores, len(self.info.classes)), check_picture(image).shape[:2]
        check_valid(valid, size)
        temperature = self.info.temperature
        if (crf := check_crf(crf)) is not None:
            colors = compared_by_crf(image, self.info.preprocessing)
            return refined_labels(scores, colors, crf, valid, self._align_corners, temperature, self.engine.device)
        if len(scores) == 1:
            return resize_argmax(scores[0], size, self._align_corners)
        return mean_labels(scores, size, self._align_corners, temperature)
