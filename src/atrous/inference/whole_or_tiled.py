"""Segments a picture of any size: as a whole if it fits into memory, else in tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from atrous.checked_arguments import attribute_of, checked
from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.data.sources.array import ArraySink, ArraySource
from atrous.data.sources.source import Sink, Source, Window
from atrous.errors import AtrousError, shown
from atrous.inference.memory_estimate import limit_bytes, predict_bytes, surely_fits
from atrous.inference.out_of_memory import TileLimits, free_cached_memory
from atrous.inference.segmenter_arguments import (
    check_places,
    check_progress,
    check_say,
    check_scores,
    check_source_and_sink,
)
from atrous.inference.test_time_augmentation import logits_at
from atrous.inference.tile_grid import GRID, TILES, Tile, TileGrid, check_tiling, tile_of_training
from atrous.inference.tiled_inference import Work, mean_features, segment_tiles
from atrous.memory_errors import is_out_of_memory
from atrous.models.info import Info
from atrous.models.picture_checks import check_picture, check_valid

if TYPE_CHECKING:
    from atrous.inference.whole_picture import WholePicture

#: Function called with the number of finished tiles and the number of all tiles.
Progress = Callable[[int, int], object] | None
#: Memory for reading and writing in windows, in bytes: decoded blocks of the picture and rows of the mask.
WINDOWS_BYTES = 0.3e9

Result = TypeVar("Result")


class AnySize:
    """Runs a network on prepared pictures of any size.

    Any number of threads may use one object, each with its own picture. After memory ran out, all threads
    continue with the smaller tile size that was found.

    Args:
        whole: object that runs the network on a picture or on one tile of a picture.
        tile: side of a tile, in pixels; every larger picture is tiled. None for `usual`, or if this is None, to tile
            only pictures that would not fit into memory as a whole.
        overlap: overlap of neighbouring tiles, in pixels; None for a quarter of the tile, at most 512.
        memory: memory that a picture may take, in GB; None for half of the free memory of the engine's device.
        say: function that gets a line of text when a picture is tiled, with the reason, and when memory ran out.
        limits: tile sizes to continue with after memory ran out, shared by all objects that run one network; None for
            a new object without limits.

    Attributes:
        whole, tile, overlap, memory: as given.
        limits: as given; a new object for None.
        usual: tile of a model that was trained on windows of scenes, if `tile` is None; else None. Image pooling then
            averages over each tile, as in training, and not over the picture.

    Raises:
        AtrousError: a tile or an overlap is out of range, or memory is too small.
    """

    @checked
    def __init__(
        self,
        whole: WholePicture,
        *,
        tile: int | None = None,
        overlap: int | None = None,
        memory: float | None = None,
        say: Callable[[str], object] = lambda line: None,
        limits: TileLimits | None = None,
    ) -> None:
        if not isinstance(attribute_of(whole, "info"), Info) or not callable(attribute_of(whole, "segment")):
            raise AtrousError(f"whole must be a WholePicture, such as segmenter.whole, got {shown(whole)}.")
        check_say(say)
        if limits is not None and not isinstance(limits, TileLimits):
            raise AtrousError(f"limits must be a TileLimits, such as segmenter.limits, got {shown(limits)}.")
        check_tiling(tile, overlap, memory)
        self.whole, self.tile, self.overlap, self.memory, self.say = whole, tile, overlap, memory, say
        self.limits = TileLimits() if limits is None else limits
        self.usual = tile_of_training(whole.info.provenance, overlap) if tile is None else None
        self._grid = TileGrid(whole.info.preprocessing, whole.scales, overlap)

    @checked
    def looking(
        self,
        whole: WholePicture | None = None,
        *,
        tile: int | None = None,
        overlap: int | None = None,
        say: Callable[[str], object] | None = None,
    ) -> AnySize:
        """Returns an object for the same network with other scales, flip, CRF or tiles.

        Both objects share the tile sizes that were found after memory ran out.

        Args:
            whole: as in `AnySize`; None to keep the value of this object.
            tile: as in `AnySize`; None to keep the value of this object.
            overlap: as in `AnySize`; None to keep the value of this object.
            say: as in `AnySize`; None to keep the value of this object.

        Raises:
            AtrousError: as in `AnySize`.
        """
        return AnySize(
            self.whole if whole is None else whole,
            tile=self.tile if tile is None else tile,
            overlap=self.overlap if overlap is None else overlap,
            memory=self.memory,
            say=self.say if say is None else say,
            limits=self.limits,
        )

    @checked
    def __call__(
        self,
        image: np.ndarray,
        valid: np.ndarray | None = None,
        *,
        name: str = "the picture",
        progress: Progress = None,
        scores: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """Segments a picture that is in memory.

        Args:
            image: H×W×C picture, as `Preparation.prepare` returns it.
            valid: H×W booleans, False for pixels without data, which become 255; None if all pixels have data.
            name: name of the picture in messages.
            progress: function called after each tile with the number of finished tiles and the number of all tiles.
            scores: result of `scores` for a picture that is not tiled, so that the network does not run again.

        Returns:
            H×W uint8 class indices.
        """
        image = check_picture(image, self.whole.info.preprocessing.channels)
        height, width = image.shape[:2]
        check_valid(valid, (height, width))
        check_progress(progress)
        if scores is not None:
            check_scores(scores, len(self.whole.info.classes))
        return self._segment(image, valid, self._tile_for(height, width, name), progress, name=name, scores=scores)

    @checked
    def scores(self, image: np.ndarray, *, name: str = "the picture") -> tuple[np.ndarray, ...] | None:
        """Returns the network's scores, from which several masks can be computed; None for a picture that is tiled.

        Args:
            image: H×W×C picture, as `Preparation.prepare` returns it.
            name: name of the picture in messages.
        """
        image = check_picture(image, self.whole.info.preprocessing.channels)
        height, width = image.shape[:2]

        def whole(tile: int | None) -> tuple[np.ndarray, ...] | None:
            return self.whole.scores(image) if tile is None or max(height, width) <= tile else None

        return self._until_it_fits(whole, self._tile_for(height, width, name, quiet=True), height, width, name)

    @checked
    def logits(self, image: np.ndarray, places: np.ndarray, *, name: str = "the picture") -> np.ndarray:
        """Returns the full-size logits of some pixels, for a segmenter without scales, flip and CRF.

        Args:
            image: H×W×C picture, as `Preparation.prepare` returns it.
            places: n indices of pixels, counted row by row from the top, ascending.
            name: name of the picture in messages.

        Returns:
            n×K float32 logits; for one-logit models two columns, the first of them 0.
        """
        height, width = check_picture(image, self.whole.info.preprocessing.channels).shape[:2]
        rows, columns = np.divmod(check_places(places, height * width), width)
        aligned = bool(self.whole.info.arguments.get("align_corners", False))

        def at_places(tile: int | None) -> np.ndarray:
            pooled, tiles = self._tiles(image, tile)
            found = np.zeros((len(places), max(2, len(self.whole.info.classes))), np.float32)
            for read, kept in tiles:
                below, right = rows - kept.top, columns - kept.left
                own = np.flatnonzero((below >= 0) & (below < kept.height) & (right >= 0) & (right < kept.width))
                if len(own):
                    (scores,) = self.whole.scores(image[read.rows, read.columns], pooled)
                    size = read.height, read.width
                    found[own] = logits_at(scores, size, rows[own] - read.top, columns[own] - read.left, aligned)
            return found

        return self._until_it_fits(at_places, self._tile_for(height, width, name), height, width, name)

    @checked
    def probabilities(self, image: np.ndarray, *, name: str = "the picture") -> np.ndarray:
        """Returns the probabilities of all classes, the mean over scales and flip; a CRF is not used.

        Args:
            image: H×W×C picture, as `Preparation.prepare` returns it.
            name: name of the picture in messages.

        Returns:
            H×W×K float32; K = 2 for one-logit models.
        """
        height, width = check_picture(image, self.whole.info.preprocessing.channels).shape[:2]

        def of_all(tile: int | None) -> np.ndarray:
            pooled, tiles = self._tiles(image, tile)
            found = np.empty((height, width, max(2, len(self.whole.info.classes))), np.float32)
            for read, kept in tiles:
                inner = kept.within(read)
                part = self.whole.probabilities(image[read.rows, read.columns], pooled)
                found[kept.rows, kept.columns] = part[inner.rows, inner.columns]
            return found

        return self._until_it_fits(of_all, self._tile_for(height, width, name), height, width, name)

    def _tiles(self, image: np.ndarray, tile: int | None) -> tuple[tuple[np.ndarray, ...] | None, list[Tile]]:
        """Returns the mean features for image pooling, None if not needed, and the tiles of a picture."""
        height, width = image.shape[:2]
        if tile is None or max(height, width) <= tile:
            whole = Window(0, 0, height, width)
            return None, [Tile(whole, whole)]
        return self._pooled(ArraySource(image), tile, None)[0], self._grid.plan(height, width, tile)

    @checked
    def windows(
        self,
        source: Source,
        sink: Sink,
        *,
        name: str = "the picture",
        progress: Progress = None,
    ) -> Work:
        """Segments a picture window by window, so that it is never in memory as a whole.

        Args:
            source: picture whose windows are already prepared, as by `Preparation.filled`.
            sink: destination of the mask.
            name: name of the picture in messages.
            progress: function called after each tile with the number of finished tiles and the number of all tiles.
        """
        check_source_and_sink(source, sink)
        check_progress(progress)
        height, width, _ = source.shape
        tile = self._tile_for(height, width, name, WINDOWS_BYTES) or 2 * max(height, width, GRID) + (self.overlap or 0)
        seen = self._grid.seen(height, width)
        pooled, before, progress = self._until_it_fits(
            lambda size: self._pooled(source, size or tile, progress), tile, height, width, name
        )

        def segment(image: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
            # A window may be a little larger than `tile`, so None runs it as a whole, unless memory ran out.
            smaller = self._after_memory_ran_out() or tile
            return self._segment(image, valid, smaller if smaller < tile else None, pooled=pooled, name=name)

        overlap, grid = self._grid.overlap_of(tile), self._grid.step_for(tile)
        return before + segment_tiles(segment, source, sink, tile, overlap, progress, grid, seen)

    def _say_off_grid(self, tile: int, name: str) -> None:
        if (warning := self._grid.warning(tile, name)) is not None:
            self.say(warning)

    @property
    def _load(self) -> tuple[float, bool]:
        """The options that memory depends on: the largest scale, and whether there is a CRF."""
        return max(self.whole.scales), self.whole.crf is not None

    def _after_memory_ran_out(self) -> int | None:
        """Returns the largest tile size that may be used after memory ran out; None if memory never ran out."""
        tile = self.limits.tile(*self._load)
        return tile if tile is None or self.overlap is None else max(tile, self.overlap + GRID)

    def _tile_for(self, height: int, width: int, name: str, besides: float = 0, quiet: bool = False) -> int | None:
        """Returns the picture's tile size, or None to run it whole; reports the reason unless `quiet`.

        Besides the network's memory, `besides` bytes are needed.
        """
        say = (lambda line: None) if quiet else self.say
        chosen = (self.tile or self.usual, self._after_memory_ran_out())
        given = min((tile for tile in chosen if tile), default=None)
        if given is not None and max(height, width) > given:
            if not quiet and given != self.usual:
                self._say_off_grid(given, name)
            return given
        info, crf = self.whole.info, self.whole.crf is not None
        if chosen[0] is not None or (self.memory is None and surely_fits(self.whole, height, width)):
            return None
        limit = limit_bytes(self.memory, self.whole.engine.device)
        predict = partial(predict_bytes, info, crf=crf, scale=max(self.whole.scales))
        whole = besides + predict(height, width)
        if whole <= limit:
            return None
        needs = {tile: besides + predict(*[tile + self._grid.step_for(tile) - GRID] * 2) for tile in TILES}
        tile = next((tile for tile in TILES if needs[tile] <= limit), None)
        if tile is None and self.memory is not None:
            raise AtrousError(
                f"{name}: a tile of {TILES[-1]} px takes about {needs[TILES[-1]] / 1e9:.2f} GB with this model, and "
                f"{limit / 1e9:g} GB are allowed: allow more with --memory, or force smaller tiles with --tile."
            )
        tile = tile or TILES[-1]
        overlap = self._grid.overlap_of(tile)
        count = len(self._grid.plan(height, width, tile))
        say(
            f"{name}: {width}×{height} px would take about {whole / 1e9:.1f} GB at once, and {limit / 1e9:.1f} GB may "
            f"be used: {count} tiles of {tile} px that overlap by {overlap} px take about {needs[tile] / 1e9:.1f} GB"
        )
        if not quiet:
            self._say_off_grid(tile, name)
        return tile

    def _segment(
        self,
        image: np.ndarray,
        valid: np.ndarray | None,
        tile: int | None,
        progress: Progress = None,
        pooled: tuple[np.ndarray, ...] | None = None,
        *,
        name: str,
        scores: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """Segments in tiles of this size or, for None, as a whole; halves the tiles each time memory runs out."""
        height, width = image.shape[:2]

        def segment(tile: int | None) -> np.ndarray:
            if tile is None or max(height, width) <= tile:
                mask = self._at_once(image, valid, pooled, scores)
                return mask if valid is None else np.where(valid, mask, np.uint8(IGNORE_INDEX))
            sink = ArraySink(height, width)
            source, overlap = ArraySource(image, valid), self._grid.overlap_of(tile)
            means, show = pooled, progress
            if means is None:
                means, _, show = self._pooled(source, tile, progress)
            grid, seen = self._grid.step_for(tile), self._grid.seen(height, width)
            work = partial(self.whole.segment, pooled=means)
            segment_tiles(work, source, sink, tile, overlap, show, grid, seen)
            return sink.mask

        return self._until_it_fits(segment, tile, height, width, name)

    def _at_once(
        self,
        image: np.ndarray,
        valid: np.ndarray | None,
        pooled: tuple[np.ndarray, ...] | None,
        scores: Sequence[np.ndarray] | None,
    ) -> np.ndarray:
        if scores is None or self.whole.plain:  # masks from scores may differ from masks of the engine if classes tie
            return self.whole.segment(image, valid, pooled)
        return self.whole.decide(scores, image, self.whole.crf, valid)

    def _until_it_fits(
        self, work: Callable[[int | None], Result], tile: int | None, height: int, width: int, name: str
    ) -> Result:
        """Calls `work` with the tile size (None for the whole picture), and with smaller sizes while memory runs out.

        The smaller size is remembered for later pictures.
        """
        while True:
            try:
                return work(tile)
            except (MemoryError, RuntimeError) as error:
                smaller = self._smaller(error, min(tile or max(height, width), max(height, width)))
            # This is outside the except block, because inside it the traceback keeps the network's tensors in memory.
            free_cached_memory(self.whole.engine.device)
            self.say(f"out of memory at {min(tile or width, width)} px: continuing with tiles of {smaller} px")
            self._say_off_grid(smaller, name)
            self.limits.lower(smaller, *self._load)
            tile = smaller

    def _smaller(self, error: Exception, size: int) -> int:
        """Returns the next smaller tile size; raises `error` if memory did not run out or no smaller size is left."""
        smaller = size // 2 // GRID * GRID
        if not is_out_of_memory(error) or smaller < max(TILES[-1], self._grid.overlap_of(smaller) + GRID):
            raise error
        return smaller

    def _pooled(
        self, source: Source, tile: int, progress: Progress
    ) -> tuple[tuple[np.ndarray, ...] | None, Work, Progress]:
        """Computes the mean features for image pooling in a first pass over the picture's tiles.

        Returns the means (None if not needed), the work of this pass, and the progress function for the next pass.
        """
        height, width, _ = source.shape
        if not self.whole.pools or max(height, width) <= tile or self.usual is not None:
            return None, Work(0, 0, 0, 0), progress
        show = progress or (lambda done, total: None)
        seen, grid = self._grid.seen(height, width), self._grid.step_for(tile)
        first, second = (len(self._grid.plan(height, width, tile, over)) for over in (0, None))
        means, work = mean_features(
            self.whole.features, source, tile, lambda done, _: show(done, first + second), grid, seen
        )
        return means or None, work, lambda done, _: show(first + done, first + second)
