"""One way to run a picture of any size: whole where it fits, in tiles where it would not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from atrous.data.labels import IGNORE_INDEX
from atrous.data.pixels import fill_missing
from atrous.errors import AtrousError
from atrous.inference.memory import CRF_BYTES, CRF_LATTICE, limit_bytes, predict_bytes
from atrous.inference.tiles import (
    GRID,
    ArraySink,
    ArraySource,
    Sink,
    Source,
    Window,
    Work,
    mean_features,
    plan,
    segment_tiles,
)
from atrous.models.info import aligned_side

if TYPE_CHECKING:
    from atrous.inference.segmenter import Segmenter

#: Called with how many tiles are done, and how many there are.
Progress = Callable[[int, int], object] | None
#: Tiles that are tried, the largest first. Not larger where more would fit, so that a mask is the same on all machines.
TILES = (2048, 1536, 1024, 768, 512, 384, 256)
#: Pixels that neighbours share at most by default: how far most networks see, from both sides (docs/big-pictures.md).
OVERLAP = 512
#: Bytes per pixel of a network, roughly, to which a CRF's are compared before anything is counted.
NETWORK_BYTES = 512
#: Pictures of so few pixels that the network sees, more with a CRF, are not predicted: they fit everywhere.
SURELY_FITS = 2**21
#: Largest denominators of the scales as fractions for which a grid is looked for, the most exact first: 0.35 = 7/20.
DENOMINATORS = (20, 4, 1)
#: Bytes that reading and writing in windows keep besides: decoded blocks of the picture, rows of the mask.
WINDOWS_BYTES = 0.3e9
#: What errors say, in small letters, where memory ran out: torch, C++, CUDA's libraries, numpy and OpenVINO.
OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "failed to allocate",
    "unable to allocate",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error_host_allocation_failed",
)


class AnySize:
    """Runs a segmenter on pictures of any size.

    Args:
        segmenter: what segments a picture, or a tile of one.
        tile: pixels; every picture larger than that is tiled. None for tiles only where the whole would not fit.
        overlap: pixels that neighbouring tiles share; None for a quarter of the tile, at most 512.
        memory: GB that a picture may take; None for half of what is free on the segmenter's device.
        say: told in one line when a picture is tiled and why, and when memory ran out.

    Raises:
        AtrousError: a tile or an overlap out of range, or memory that is not positive.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        tile: int | None = None,
        overlap: int | None = None,
        memory: float | None = None,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.segmenter, self.tile, self.overlap, self.memory, self.say = segmenter, tile, overlap, memory, say
        self._ran_out_above: int | None = None
        # Tiles of an enlarged picture begin on the network's grid where the enlarged offsets do, at every scale.
        factors = [segmenter.info.preprocessing.enlarge * scale for scale in segmenter.scales]
        self._grids = [
            GRID * math.lcm(*(Fraction(factor).limit_denominator(most).denominator for factor in factors))
            for most in DENOMINATORS
        ]
        limit_bytes(memory)
        plan(1, 1, tile or max(TILES[0], (overlap or 0) + GRID), self._overlap_of(tile or TILES[0]))

    def __call__(
        self,
        image: np.ndarray,
        valid: np.ndarray | None = None,
        *,
        name: str = "the picture",
        progress: Progress = None,
    ) -> np.ndarray:
        """Segments a picture that is in memory.

        Args:
            image: H×W×C as `Segmenter.prepare` gives it.
            valid: H×W booleans, False where there is no data: the mask is 255 there. None for data everywhere.
            name: of the picture, in what is said.
            progress: called after each tile with how many are done, and how many there are.

        Returns:
            H×W uint8 class indices.
        """
        height, width = image.shape[:2]
        return self._segment(image, valid, self._tile_for(height, width, name), progress)

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
            source: the picture as it was read; its windows are prepared as the model takes them.
            sink: takes the mask.
            name: of the picture, in what is said.
            progress: called after each tile with how many are done, and how many there are.
        """
        height, width, _ = source.shape
        tile = self._tile_for(height, width, name, WINDOWS_BYTES) or 2 * max(height, width, GRID) + (self.overlap or 0)
        prepared, looked, seen = _Prepared(source, self.segmenter), tile, self._seen(*source.shape[:2])
        while True:
            try:
                pooled, before, progress = self._pooled(prepared, looked, progress)
                break
            except (MemoryError, RuntimeError) as error:
                looked = self._smaller(error, looked)
            self._free()
        work = before + segment_tiles(
            lambda image, valid: self._segment(image, valid, self._ran_out_above, pooled=pooled),
            prepared,
            sink,
            tile,
            self._overlap_of(tile),
            progress,
            self._grid_for(tile),
            seen,
        )
        if prepared.largest:
            self.segmenter.warn_of_values(*max(prepared.largest.items(), key=lambda entry: entry[1]))
        return work

    def _seen(self, height: int, width: int) -> tuple[int, int] | None:
        """The sides that the network sees of a whole picture, where it sees it resized and at one scale."""
        preprocessing = self.segmenter.info.preprocessing
        if self.segmenter.scales != (1.0,) or not (preprocessing.aligned or preprocessing.enlarge != 1.0):
            return None
        return aligned_side(height, preprocessing.enlarge), aligned_side(width, preprocessing.enlarge)

    def _overlap_of(self, tile: int) -> int:
        return overlap_of(tile, self.overlap)

    def _grid_for(self, tile: int) -> int:
        """Multiples at which tiles of this size begin: the most exact grid of the scales that leaves them a step."""
        room = tile - self._overlap_of(tile)
        return next((grid for grid in self._grids if grid <= room), GRID)

    def _say_off_grid(self, tile: int, name: str) -> None:
        if self._seen(1, 1) is None and self._grid_for(tile) != self._grids[0]:
            self.say(
                f"{name}: tiles of {tile} px do not lie on the network's grid at all these scales, which takes tiles "
                f"of {self._grids[0]} px more than their overlap: the mask differs a little from that of the whole."
            )

    def _tile_for(self, height: int, width: int, name: str, besides: float = 0) -> int | None:
        """The size of this picture's tiles, None for the whole picture at once; says why."""
        given = self.tile or self._ran_out_above
        if given is not None:
            if max(height, width) <= given:
                return None
            self._say_off_grid(given, name)
            return given
        info, crf = self.segmenter.info, self.segmenter.crf is not None
        weight = (info.preprocessing.enlarge * max(1.0, *self.segmenter.scales)) ** 2
        weight += (CRF_BYTES * len(info.classes) + CRF_LATTICE) / NETWORK_BYTES if crf else 0
        if self.memory is None and height * width * weight <= SURELY_FITS:
            return None
        limit = limit_bytes(self.memory, self.segmenter.engine.device)
        predict = partial(predict_bytes, info, crf=crf, scale=max(self.segmenter.scales))
        whole = besides + predict(height, width)
        if whole <= limit:
            return None
        needs = {tile: besides + predict(*[tile + self._grid_for(tile) - GRID] * 2) for tile in TILES}
        tile = next((tile for tile in TILES if needs[tile] <= limit), None)
        if tile is None and self.memory is not None:
            raise AtrousError(
                f"{name}: a tile of {TILES[-1]} px takes about {needs[TILES[-1]] / 1e9:.2f} GB with this model, and "
                f"{self.memory:g} GB are allowed: allow more with --memory, or force smaller tiles with --tile."
            )
        tile = tile or TILES[-1]
        overlap = self._overlap_of(tile)
        count = len(plan(height, width, tile, overlap, self._grid_for(tile), self._seen(height, width)))
        self.say(
            f"{name}: {width}×{height} px would take about {whole / 1e9:.1f} GB at once, and {limit / 1e9:.1f} GB may "
            f"be used: {count} tiles of {tile} px that overlap by {overlap} px, about {needs[tile] / 1e9:.1f} GB"
        )
        self._say_off_grid(tile, name)
        return tile

    def _segment(
        self,
        image: np.ndarray,
        valid: np.ndarray | None,
        tile: int | None,
        progress: Progress = None,
        pooled: tuple[np.ndarray, ...] | None = None,
    ) -> np.ndarray:
        """In tiles of this size or at once; in ever smaller tiles where memory runs out, and from then on."""
        height, width = image.shape[:2]
        while True:
            try:
                if tile is None or max(height, width) <= tile:
                    mask = self.segmenter.segment(image, valid, pooled)
                    return mask if valid is None else np.where(valid, mask, np.uint8(IGNORE_INDEX))
                sink = ArraySink(height, width)
                source, overlap = ArraySource(image, valid), self._overlap_of(tile)
                if pooled is None:
                    pooled, _, progress = self._pooled(source, tile, progress)
                segment = partial(self.segmenter.segment, pooled=pooled)
                grid, seen = self._grid_for(tile), self._seen(height, width)
                segment_tiles(segment, source, sink, tile, overlap, progress, grid, seen)
                return sink.mask
            except (MemoryError, RuntimeError) as error:
                smaller = self._smaller(error, min(tile or max(height, width), max(height, width)))
            # Outside of the handler: its traceback keeps the network's tensors alive.
            self._free()
            self.say(f"out of memory at {min(tile or width, width)} px: going on with tiles of {smaller} px")
            tile = self._ran_out_above = smaller

    def _smaller(self, error: Exception, size: int) -> int:
        """The size of tiles to go on with after memory ran out; raises all other errors, and where none is left."""
        smaller = size // 2 // GRID * GRID
        if not is_out_of_memory(error) or smaller < max(TILES[-1], self._overlap_of(smaller) + GRID):
            raise error
        return smaller

    def _pooled(
        self, source: Source, tile: int, progress: Progress
    ) -> tuple[tuple[np.ndarray, ...] | None, Work, Progress]:
        """What image pooling sees of the whole picture, in a first pass over its tiles; None where nothing pools."""
        height, width, _ = source.shape
        if not self.segmenter.pools or max(height, width) <= tile:
            return None, Work(0, 0, 0, 0), progress
        show = progress or (lambda done, total: None)
        seen = self._seen(height, width)
        grid, overlap = self._grid_for(tile), self._overlap_of(tile)
        first, second = (len(plan(height, width, tile, over, grid, seen)) for over in (0, overlap))
        means, work = mean_features(
            self.segmenter.features, source, tile, lambda done, _: show(done, first + second), grid, seen
        )
        return means or None, work, lambda done, _: show(first + done, first + second)

    def _free(self) -> None:
        if self.segmenter.engine.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()


def overlap_of(tile: int, overlap: int | None) -> int:
    """Pixels that neighbouring tiles share.

    Args:
        tile: its side.
        overlap: that was asked for; None for a quarter of the tile, at most `OVERLAP`.
    """
    return min(OVERLAP, tile // 4) if overlap is None else overlap


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, the processor's allocator's or a GPU's."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A source's windows as the model takes them; where there is no data, its mean, which is 0 to the network."""

    source: Source
    segmenter: Segmenter
    #: The largest value read so far, by dtype, where it is not the model's.
    largest: dict[str, float] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.shape

    def read(self, window: Window) -> np.ndarray:
        read, valid = self.source.read(window), self.source.valid(window)
        if read.size and read.dtype.name != self.segmenter.info.preprocessing.dtype:
            name = read.dtype.name
            self.largest[name] = max(self.largest.get(name, -math.inf), float(read.max()))
        return fill_missing(self.segmenter.prepare(read, whole=False), valid, self.segmenter.info.preprocessing.mean)

    def valid(self, window: Window) -> np.ndarray | None:
        return self.source.valid(window)
