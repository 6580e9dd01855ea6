"""Segments pictures of any size in overlapping tiles; each tile's mask is kept up to the middle of the overlaps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.data.prefetch import in_background
from atrous.data.sources.source import Pixels, Sink, Source, Window
from atrous.data.value_counts import value_counts
from atrous.inference.tile_grid import GRID, Tile, plan


class Counted:
    """A sink that counts the labels written through it, so that the mask need not be read again.

    Args:
        sink: destination of the mask.

    Attributes:
        counts: number of pixels of each of the 256 labels.
    """

    def __init__(self, sink: Sink) -> None:
        self.counts = np.zeros(256, np.int64)
        self._sink = sink

    def write(self, window: Window, mask: np.ndarray) -> None:
        """Writes the mask of a window to the sink, and counts its labels."""
        self._sink.write(window, mask)
        self.counts += value_counts(mask)


@dataclass(frozen=True)
class Work:
    """The amount of work for a picture in tiles: numbers of tiles and pixels, and times.

    Args:
        tiles: number of tiles that the network ran on; tiles without any data are not counted.
        seconds: time from the first read to the last write, in seconds.
        network_seconds: time in which the network ran, in seconds.
        pixels: number of pixels that the network ran on; pixels in overlaps count more than once.
    """

    tiles: int
    seconds: float
    network_seconds: float
    pixels: int

    def __add__(self, other: Work) -> Work:
        """Returns the work of two passes together: the sum of each field."""
        return Work(
            self.tiles + other.tiles,
            self.seconds + other.seconds,
            self.network_seconds + other.network_seconds,
            self.pixels + other.pixels,
        )


def segment_tiles(
    segment: Callable[[np.ndarray, np.ndarray | None], np.ndarray],
    source: Source,
    sink: Sink,
    tile: int,
    overlap: int,
    progress: Callable[[int, int], object] | None = None,
    grid: int = GRID,
    seen: tuple[int, int] | None = None,
) -> Work:
    """Segments a picture tile by tile; while the network runs, the next tile is read and the last mask is written.

    At most three tiles of the picture and two of the mask are in memory at a time.

    Args:
        segment: function that maps an H×W×C tile, and H×W booleans of valid pixels or None, to H×W uint8 class indices.
        source: picture; the mask is 255 at pixels that are not valid, and tiles without valid pixels are not segmented.
        sink: destination of the mask.
        tile: side of a tile, in pixels; see `plan`.
        overlap: overlap of neighbouring tiles, in pixels; see `plan`.
        progress: function called after each tile with the number of finished tiles and the number of all tiles.
        grid: step of tile positions, in pixels; see `plan`.
        seen: size of the resized whole picture; see `plan`.

    Raises:
        AtrousError: a size is out of range.
    """
    begun = time.perf_counter()
    height, width, _ = source.shape
    tiles = plan(height, width, tile, overlap, grid, seen)
    seconds, pixels, count = 0.0, 0, 0
    last: Future[None] | None = None
    with ThreadPoolExecutor(1) as writer:
        for done, ((window, keep), (image, valid, _)) in enumerate(_read_ahead(source, tiles), 1):
            if valid is None or valid.any():
                start = time.perf_counter()
                mask = segment(image, valid)
                seconds += time.perf_counter() - start
                pixels, count = pixels + mask.size, count + 1
            else:
                mask = np.full(valid.shape, IGNORE_INDEX, np.uint8)
            if valid is not None:
                mask = np.where(valid, mask, np.uint8(IGNORE_INDEX))
            inner = keep.within(window)
            if last is not None:
                last.result()  # raises errors of the writer, and lets at most one tile wait for it
            last = writer.submit(sink.write, keep, mask[inner.rows, inner.columns])
            if progress is not None:
                progress(done, len(tiles))
        if last is not None:
            last.result()
    return Work(count, time.perf_counter() - begun, seconds, pixels)


def mean_features(
    features: Callable[[np.ndarray], Sequence[np.ndarray]],
    source: Source,
    tile: int,
    progress: Callable[[int, int], object] | None = None,
    grid: int = GRID,
    seen: tuple[int, int] | None = None,
) -> tuple[tuple[np.ndarray, ...], Work]:
    """Returns the mean of the image-pooling features over a whole picture, computed in tiles without overlap.

    Each feature counts once, although tiles overlap a little in two cases. First, tiles overlap if the sides of the
    picture are not multiples of `grid`. Second, if pictures are resized to 32k + 1, the last row and column of a tile
    are the first row and column of the next tile.

    Args:
        features: function that maps an H×W×C tile to h×w×C' features of each view.
        source: picture; windows without any data are left out.
        tile: side of a tile, in pixels; see `plan`.
        progress: function called after each tile with the number of finished tiles and the number of all tiles.
        grid: step of tile positions, in pixels; see `plan`.
        seen: size of the resized whole picture; see `plan`.

    Returns:
        The means, C' float32 values for each view, and the work. There are no means if the picture has no data at all.

    Raises:
        AtrousError: a size is out of range.
    """
    begun = time.perf_counter()
    height, width, _ = source.shape
    tiles = plan(height, width, tile, 0, grid, seen)
    factors = None if seen is None else (seen[0] / height, seen[1] / width)
    totals: list[np.ndarray] = []
    seconds, pixels, count = 0.0, 0, 0
    next_row = dict(pairwise(sorted({tile.read.top for tile in tiles})))
    next_column = dict(pairwise(sorted({tile.read.left for tile in tiles})))
    for done, ((window, _), (image, valid, *_)) in enumerate(_read_ahead(source, tiles), 1):
        if valid is None or valid.any():
            start = time.perf_counter()
            row, column = next_row.get(window.top), next_column.get(window.left)
            maps = [_upto(one, window, row, column, factors) for one in features(image)]
            seconds += time.perf_counter() - start
            # The last entry of each view's sums is the number of features.
            sums = [np.append(one.sum((0, 1), np.float64), one.shape[0] * one.shape[1]) for one in maps]
            totals = [total + more for total, more in zip(totals, sums, strict=True)] if totals else sums
            pixels, count = pixels + window.height * window.width, count + 1
        if progress is not None:
            progress(done, len(tiles))
    means = tuple((total[:-1] / total[-1]).astype(np.float32) for total in totals)
    return means, Work(count, time.perf_counter() - begun, seconds, pixels)


def _upto(
    features: np.ndarray, window: Window, row: int | None, column: int | None, factors: tuple[float, float] | None
) -> np.ndarray:
    """Returns the features of a window that lie above `row` and left of `column`, where the next tiles begin.

    None for a row or column keeps all features in that direction. Row and column lie on the network's grid, so a whole
    number of features remains. The number of features in one direction of the window is the window's size divided by
    the output stride, rounded up. If the window is resized by `factors` to 32k + 1, there is one more feature than
    there are cells of the output stride.
    """

    def before(count: int, end: int | None, begin: int, size: int, factor: float | None) -> int:
        if end is None:
            return count
        if factor is None:
            return (end - begin) * count // size
        return round((end - begin) * (count - 1) / (size - 1 / factor))

    tall, wide = factors or (None, None)
    rows = before(features.shape[0], row, window.top, window.height, tall)
    return features[:rows, : before(features.shape[1], column, window.left, window.width, wide)]


def _read_ahead(source: Source, tiles: list[Tile]) -> Iterator[tuple[Tile, Pixels]]:
    read = in_background(lambda tile: source.read(tile.read), tiles)
    return zip(tiles, read, strict=True)
