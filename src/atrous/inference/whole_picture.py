"""Runs a network on a picture at once: at every scale and mirrored, and a CRF over the mean of what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atrous.checked_arguments import checked
from atrous.errors import AtrousError
from atrous.inference.resize_argmax import resize_argmax
from atrous.inference.runner import Runner
from atrous.inference.segmenter_arguments import check_crf, check_pooled, check_scores, check_together
from atrous.inference.test_time_augmentation import View, mean_labels, refined_labels, views_of
from atrous.models.crf_colors import check_crf_fits, compared_by_crf
from atrous.models.picture_checks import check_picture, check_valid

if TYPE_CHECKING:
    from atrous.crf import DenseCRF
    from atrous.models.info import Info


class WholePicture:
    """Runs a network on a picture, or on a part of one, that is prepared and in memory.

    Any number of threads may use one, each with its own picture; nothing in it changes.

    Args:
        runner: of the network.
        info: of the model.
        scales: of the picture, at which the network looks at it; each within 0–8; probabilities are averaged.
        flip: the network looks at the mirrored picture too.
        crf: refines the probabilities at the picture's full size: a CRF, or its settings as `crf.settings.make_crf`
            reads them; None for none.

    Attributes:
        info: of the model.
        runner: of the network.
        engine: what runs the network, and why.
        pools: whether the model's image pooling can be given the mean of a whole picture's `features`.
        scales: as given.
        crf: the CRF on the engine's device, or None.

    Raises:
        AtrousError: scales out of range, unknown settings of the CRF, or a file that gives labels only.
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
        self._views, self.scales = views_of(scales, flip), tuple(scales)
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
        """The same network with other scales, flip and CRF.

        Args:
            scales: as at the making.
            flip: as at the making.
            crf: as at the making.

        Raises:
            AtrousError: as at the making.
        """
        return WholePicture(self.runner, self.info, scales=scales, flip=flip, crf=crf)

    def with_crf(self, crf: DenseCRF | None) -> WholePicture:
        """The same scales and flip with another CRF or with none.

        Args:
            crf: on the engine's device.
        """
        other = object.__new__(WholePicture)
        other.__dict__.update(self.__dict__, crf=check_crf(crf))
        return other

    @property
    def plain(self) -> bool:
        """Whether masks are the engine's own: of one view, without a CRF."""
        return self.crf is None and self._views == (View(),)

    @property
    def stacks(self) -> bool:
        """Whether several pictures of one size are faster together than one after another: plain masks on a GPU.

        On processors they are not: one picture keeps all cores busy, and several leave their caches (docs/serving.md).
        """
        return self.plain and self.runner.stacks

    @checked
    def segment(
        self, image: np.ndarray, valid: np.ndarray | None = None, pooled: Sequence[np.ndarray] | None = None
    ) -> np.ndarray:
        """H×W×C with the model's channels and range → H×W uint8 class indices.

        Args:
            image: as `Preparation.prepare` gives it.
            valid: H×W booleans; the CRF leaves the other pixels out.
            pooled: of each view the mean of the whole picture's `features`, where the image is a part of one.
        """
        image = check_picture(image, self.info.preprocessing.channels)
        check_valid(valid, image.shape[:2])
        if self.plain:
            return self.runner.labels(image, *(check_pooled(pooled, 1, self.pools) or ()))
        return self.decide(self.scores(image, pooled), image, self.crf, valid)

    @checked
    def segment_together(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Plain masks of pictures of one size, by one pass of the network where the engine can do that.

        Args:
            images: each H×W×C as `Preparation.prepare` gives it.

        Returns:
            Of each H×W uint8 class indices.
        """
        return list(self.runner.labels_of_all(check_together(images, self.info.preprocessing.channels, self.plain)))

    @checked
    def scores(self, image: np.ndarray, pooled: Sequence[np.ndarray] | None = None) -> tuple[np.ndarray, ...]:
        """H×W×C with the model's channels and range → of each view h×w×K float32 logits, at low resolution.

        Args:
            image: as `Preparation.prepare` gives it.
            pooled: as in `segment`.
        """
        image = check_picture(image, self.info.preprocessing.channels)
        given = check_pooled(pooled, len(self._views), self.pools)
        means = [(mean,) for mean in given or ()] or [()] * len(self._views)
        return tuple(
            view.back(self.runner.scores(view.of(image), *mean)) for view, mean in zip(self._views, means, strict=True)
        )

    @checked
    def features(self, image: np.ndarray) -> tuple[np.ndarray, ...]:
        """H×W×C → of each view h×w×C' float32, what image pooling takes the mean of; for models with `pools`.

        Args:
            image: as `Preparation.prepare` gives it.
        """
        if not self.pools:
            raise AtrousError("features are of models with image pooling (segmenter.pools); this one has none.")
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
            colors = compared_by_crf(image, self.info.preprocessing)
            return refined_labels(scores, colors, crf, valid, self._align_corners, temperature, self.engine.device)
        if len(scores) == 1:
            return resize_argmax(scores[0], size, self._align_corners)
        return mean_labels(scores, size, self._align_corners, temperature)
