"""Pictures of any size, window by window: overlapping tiles, each kept up to the middle of its overlaps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from atrous.data.label_map import IGNORE_INDEX
from atrous.data.prefetch import in_background
from atrous.data.sources.source import Pixels, Sink, Source, Window
from atrous.errors import AtrousError

#: Pixels between two positions that every network here sees alike, whatever its output stride: 8, 16 or 32.
GRID = 32


#: Cells of the grid by which a tile of a resized picture may begin earlier, where it then lies nearer to a whole pixel.
LOOK_BACK = 3
#: Pixels that neighbours share at most by default: how far most networks see, from both sides (docs/big-pictures.md).
OVERLAP = 512


class Tile(NamedTuple):
    """What the network sees of a picture at once, and the part of its answer that is kept."""

    read: Window
    kept: Window


class Counted:
    """A sink that counts what goes through it, so that no one has to read the mask again.

    Args:
        sink: takes the mask.

    Attributes:
        counts: 256 numbers of pixels, one per label.
    """

    def __init__(self, sink: Sink) -> None:
        self.counts = np.zeros(256, np.int64)
        self._sink = sink

    def write(self, window: Window, mask: np.ndarray) -> None:
        """Passes the window's mask on."""
        self._sink.write(window, mask)
        self.counts += np.bincount(mask.ravel(), minlength=256)


@dataclass(frozen=True)
class Work:
    """What a picture in tiles took.

    Args:
        tiles: how many the network saw; those without any data are not counted.
        seconds: from the first read to the last write.
        network_seconds: of these, those in which the network worked.
        pixels: that the network saw, those in overlaps more than once.
    """

    tiles: int
    seconds: float
    network_seconds: float
    pixels: int

    def __add__(self, other: Work) -> Work:
        """Of both, one after the other."""
        return Work(
            self.tiles + other.tiles,
            self.seconds + other.seconds,
            self.network_seconds + other.network_seconds,
            self.pixels + other.pixels,
        )


def plan(
    height: int, width: int, tile: int, overlap: int, grid: int = GRID, seen: tuple[int, int] | None = None
) -> list[Tile]:
    """The tiles of a picture, row by row.

    Tiles begin at multiples of `grid`, so that the network samples the same pixels as in the whole picture, and each
    reaches at least overlap / 2 beyond what is kept of it, but at the picture's own edge. The last of a row or column
    ends with the picture. To keep it on the grid too, all tiles are up to `grid` − 1 pixels larger than asked, equally.

    Where the network sees resized pictures, tiles begin where its grid does in the resized picture, to half a pixel or
    better where a start of up to three cells before is, and have the size that is resized by the same factor.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        tile: height and width of a tile in pixels; a picture that is smaller is read whole in that direction.
        overlap: pixels that neighbours share at least, 0 ≤ overlap < tile.
        grid: pixels, at least 1 and at most tile − overlap.
        seen: sides 32k + 1 to which the whole picture is resized before the network; None where it is not.

    Returns:
        Tiles of one size, whose kept windows are the picture, each pixel once.

    Raises:
        AtrousError: sizes out of range.
    """
    if min(height, width) < 1:
        raise AtrousError(f"a picture of {height}×{width} px has nothing to segment.")
    if grid < 1 or not 0 <= overlap <= tile - grid:
        raise AtrousError(
            f"tiles of {tile} px with {overlap} px of overlap: a tile must be at least {grid} px more than the "
            "overlap, which is at least 0. Give a larger tile, or less overlap."
        )
    return [
        Tile(Window(top, left, tall, wide), Window(first, start, last - first, end - start))
        for (top, tall, first, last), (left, wide, start, end) in product(
            *(
                _along(side, tile, overlap, grid) if seen is None else _along_resized(side, tile, overlap, seen[axis])
                for axis, side in enumerate((height, width))
            )
        )
    ]


def _along(size: int, tile: int, overlap: int, grid: int) -> list[tuple[int, int, int, int]]:
    """In one direction: where each tile begins, its size, and from where to where it is kept."""
    tile += (size - tile) % grid
    if size <= tile:
        return [(0, size, 0, size)]
    return _cut([*range(0, size - tile, (tile - overlap) // grid * grid), size - tile], tile, size)


def _along_resized(size: int, tile: int, overlap: int, seen: int) -> list[tuple[int, int, int, int]]:
    """As `_along`, for a picture of which the network sees `seen` = 32k + 1 pixels in that direction."""
    cells, factor = seen // GRID, seen / size
    of_tile = math.ceil(tile * factor / GRID)
    if of_tile >= cells:
        return [(0, size, 0, size)]

    def best_below(cell: int, least: int) -> int:
        """Of the cells up to this one that which lies nearest to a whole pixel."""
        places = {one: GRID * one / factor for one in range(max(least, cell - LOOK_BACK), cell + 1)}
        return min(places, key=lambda one: abs(places[one] - round(places[one])))

    last = best_below(cells - of_tile, 1)
    tile = size - round(GRID * last / factor)
    step = max(1, int((tile - overlap - 1) * factor / GRID))
    starts = [0]
    while starts[-1] + step < last:
        starts.append(best_below(starts[-1] + step, starts[-1] + 1))
    return _cut([round(GRID * cell / factor) for cell in (*starts, last)], tile, size)


def _cut(starts: list[int], tile: int, size: int) -> list[tuple[int, int, int, int]]:
    """Tiles with these starts, each kept up to the middle of its overlaps."""
    cuts = [(before + tile + after) // 2 for before, after in pairwise(starts)]
    return list(zip(starts, [tile] * len(starts), [0, *cuts], [*cuts, size], strict=True))


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
    """Segments a picture window by window; the next is read and the last written while the network works.

    At any time three tiles of the picture and two of the mask are in memory.

    Args:
        segment: H×W×C and, where data are missing, H×W booleans → H×W uint8 class indices.
        source: the picture. Where it is not valid, the mask becomes 255; a tile with no valid pixel is not segmented.
        sink: takes the mask.
        tile: in pixels, see `plan`.
        overlap: in pixels, see `plan`.
        progress: called after each tile with how many are done, and how many there are.
        grid: in pixels, see `plan`.
        seen: see `plan`.

    Raises:
        AtrousError: sizes out of range.
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
                last.result()  # raises what went wrong, and bounds what waits
            last = writer.submit(sink.write, keep, mask[inner.rows, inner.columns])
            if progress is not None:
                progress(done, len(tiles))
        if last is not None:
            last.result()
    return Work(count, time.perf_counter() - begun, seconds, pixels)


def overlap_of(tile: int, overlap: int | None) -> int:
    """Pixels that neighbouring tiles share.

    Args:
        tile: its side.
        overlap: that was asked for; None for a quarter of the tile, at most `OVERLAP`.
    """
    return min(OVERLAP, tile // 4) if overlap is None else overlap


def mean_features(
    features: Callable[[np.ndarray], Sequence[np.ndarray]],
    source: Source,
    tile: int,
    progress: Callable[[int, int], object] | None = None,
    grid: int = GRID,
    seen: tuple[int, int] | None = None,
) -> tuple[tuple[np.ndarray, ...], Work]:
    """The mean over a whole picture of what image pooling takes the mean of, window by window without overlap.

    Tiles of a picture whose sides are no multiples of `grid` overlap a little; each feature counts once, also where
    pictures are resized to 32k + 1, and a tile's last row and column of features are the next tile's first.

    Args:
        features: H×W×C → of each view h×w×C'.
        source: the picture; windows without any data are left out.
        tile: in pixels, see `plan`.
        progress: called after each tile with how many are done, and how many there are.
        grid: in pixels, see `plan`.
        seen: see `plan`.

    Returns:
        Of each view C' float32 values, and what it took.

    Raises:
        AtrousError: sizes out of range.
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
            # In each view's last place, how many features were summed.
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
    """A window's features above a row and left of a column of the picture, where the next tiles begin; None: all.

    Both lie on the network's grid, so that they leave whole numbers of features. Those of the whole window are rounded
    up, by less than one; where the network sees it resized by `factors` to 32k + 1, they are one more than its cells.
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
