"""Plans the tiles of a picture; if possible, a network then samples the same pixels as in the whole picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise, product
from typing import Any, NamedTuple

from atrous.data.sources.source import Window
from atrous.errors import AtrousError
from atrous.inference.memory_estimate import limit_bytes
from atrous.models.info import Preprocessing, aligned_side

#: Step of tile positions in pixels: a multiple of every output stride (8, 16 and 32).
GRID = 32
#: Tile sizes to try, in pixels, the largest first. Larger tiles are not tried, so that masks depend little on the
#: memory of a machine.
TILES = (2048, 1536, 1024, 768, 512, 384, 256)
#: Largest number of grid cells by which a tile of a resized picture may begin earlier, so that its position is nearer
#: to a whole pixel.
LOOK_BACK = 3
#: Largest default overlap in pixels. It is twice the distance up to which most networks use context
#: (docs/big-pictures.md).
OVERLAP = 512
#: Limits for the denominators of scales as fractions; for example, 0.35 = 7/20 has the denominator 20. The limits are
#: tried in this order, the most exact first.
DENOMINATORS = (1000, 20, 4, 1)


class Tile(NamedTuple):
    """The window that the network runs on, and the window of its mask that is kept."""

    read: Window
    kept: Window


class TileGrid:
    """The positions and overlaps of tiles, for one model and its scales.

    Args:
        preprocessing: preprocessing of the model.
        scales: resize factors of the picture.
        overlap: overlap of neighbouring tiles, in pixels; None for a quarter of the tile, at most 512.
    """

    def __init__(self, preprocessing: Preprocessing, scales: Sequence[float], overlap: int | None) -> None:
        self._enlarge, self._overlap = preprocessing.enlarge, overlap
        self._resized = preprocessing.aligned or preprocessing.enlarge != 1.0
        self._one_scale = tuple(scales) == (1.0,)
        # Tiles of an enlarged picture begin on the network's grid if their enlarged offsets are on it at every scale.
        factors = [preprocessing.enlarge * scale for scale in scales]
        self._steps = [
            GRID * math.lcm(*(Fraction(factor).limit_denominator(most).denominator for factor in factors))
            for most in DENOMINATORS
        ]

    def overlap_of(self, tile: int) -> int:
        """Returns the overlap of neighbouring tiles of this size, in pixels."""
        return overlap_of(tile, self._overlap)

    def step_for(self, tile: int) -> int:
        """Returns the step of tile positions, in pixels: the most exact step that is at most tile − overlap."""
        most = tile - self.overlap_of(tile)
        return next((step for step in self._steps if step <= most), GRID)

    def seen(self, height: int, width: int) -> tuple[int, int] | None:
        """Returns (height, width) of the resized whole picture; None without resizing, or with other scales than 1."""
        if not (self._one_scale and self._resized):
            return None
        return aligned_side(height, self._enlarge), aligned_side(width, self._enlarge)

    def plan(self, height: int, width: int, tile: int, overlap: int | None = None) -> list[Tile]:
        """Returns the tiles of a picture, row by row; see `tile_grid.plan`.

        Args:
            height: height of the picture, in pixels.
            width: width of the picture, in pixels.
            tile: side of a tile, in pixels.
            overlap: overlap of neighbouring tiles, in pixels; None for the default of this tile size.
        """
        overlap = self.overlap_of(tile) if overlap is None else overlap
        return plan(height, width, tile, overlap, self.step_for(tile), self.seen(height, width))

    def warning(self, tile: int, name: str) -> str | None:
        """Returns a warning if tiles of this size are not on the network's grid, so that the mask differs; else None.

        Args:
            tile: side of a tile, in pixels.
            name: name of the picture in the warning.
        """
        if self.seen(1, 1) is not None:
            return None
        if self.step_for(tile) != self._steps[0]:
            why = f"at these scales; tiles of {self._least_on_grid()} px or more do"
        elif self._resized:
            why = "at these scales, because this model gets pictures resized to 32k + 1 px"
        else:
            return None
        return (
            f"{name}: tiles of {tile} px do not lie on the network's grid {why}. The mask differs from that of the "
            "whole picture; it differed in 2.9 % of the pixels of one test picture."
        )

    def _least_on_grid(self) -> int:
        """Returns the smallest tile, a multiple of 32 px, whose size minus overlap is at least the most exact step."""
        tile = self._steps[0]
        while tile - self.overlap_of(tile) < self._steps[0]:
            tile += GRID
        return tile


def plan(
    height: int, width: int, tile: int, overlap: int, grid: int = GRID, seen: tuple[int, int] | None = None
) -> list[Tile]:
    """Returns the tiles of a picture, row by row.

    Tiles begin at multiples of `grid`, so that the network samples the same pixels as in the whole picture. Each tile
    reaches at least overlap / 2 beyond its kept window, except at the edge of the picture. The last tile of a row or
    column ends at the edge. So that the last tile also begins at a multiple of `grid`, all tiles are enlarged by the
    same number of pixels, 0 to `grid` − 1.

    If the network runs on resized pictures, tiles begin at positions of the network's grid in the resized picture.
    Rounding to whole pixels causes an error of up to half a pixel. A tile begins up to three cells earlier if this
    reduces the error. The tile size is set so that tiles are resized by the same factor as the picture.

    Args:
        height: height of the picture, in pixels.
        width: width of the picture, in pixels.
        tile: height and width of a tile, in pixels; a smaller picture is read whole in that direction.
        overlap: least overlap of neighbouring tiles, in pixels, 0 ≤ overlap < tile.
        grid: step of tile positions, in pixels, 1 to tile − overlap.
        seen: height and width, 32k + 1 each, to which the whole picture is resized before the network; None for no
            resizing.

    Returns:
        Tiles of one size; their kept windows cover each pixel of the picture once.

    Raises:
        AtrousError: a size is out of range.
    """
    if min(height, width) < 1:
        raise AtrousError(f"a picture of {height}×{width} px has no pixels to segment.")
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


def tile_of_training(provenance: Mapping[str, Any], overlap: int | None = None) -> int | None:
    """Returns the tile for scenes larger than the windows on which a model was trained and measured.

    Tiles of about this size make the scores of the model those of a map. In a larger picture, atrous convolutions read
    positions that lay outside the windows, and image pooling averages over other ground.

    Args:
        provenance: the provenance in the model's info.
        overlap: as for `check_tiling`.

    Returns:
        A multiple of `GRID`, at least the smallest of `TILES`; None if the model was not trained on windows of scenes.
    """
    side = provenance.get("window")
    if not isinstance(side, int) or side < 1:
        return None
    return max(TILES[-1], -(-side // GRID) * GRID, (-(-(overlap or 0) // GRID) + 1) * GRID)


def check_tiling(tile: int | None, overlap: int | None, memory: float | None) -> None:
    """Checks the options of tiled inference before the work starts.

    Args:
        tile: side of a tile, in pixels; None if no size is given.
        overlap: overlap of neighbouring tiles, in pixels; None for the default.
        memory: memory that a picture may take, in GB; None for the default.

    Raises:
        AtrousError: a tile or an overlap is out of range, or memory is too small.
    """
    if memory is not None:
        limit_bytes(memory)
    plan(1, 1, tile or max(TILES[0], (overlap or 0) + GRID), overlap_of(tile or TILES[0], overlap))


def _along(size: int, tile: int, overlap: int, grid: int) -> list[tuple[int, int, int, int]]:
    """Returns (start, size, start of the kept part, end of the kept part) of each tile in one direction."""
    tile += (size - tile) % grid
    if size <= tile:
        return [(0, size, 0, size)]
    return _cut([*range(0, size - tile, (tile - overlap) // grid * grid), size - tile], tile, size)


def _along_resized(size: int, tile: int, overlap: int, seen: int) -> list[tuple[int, int, int, int]]:
    """Returns what `_along` returns, for a picture that is resized to `seen` = 32k + 1 pixels in that direction."""
    cells, factor = seen // GRID, seen / size
    of_tile = math.ceil(tile * factor / GRID)
    if of_tile >= cells:
        return [(0, size, 0, size)]

    def best_below(cell: int, least: int) -> int:
        """Returns the cell whose position is nearest to a whole pixel: `cell` or one of the three cells before it."""
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
    """Returns the tiles with these starts; the kept part of each tile ends in the middle of its overlaps."""
    cuts = [(before + tile + after) // 2 for before, after in pairwise(starts)]
    return list(zip(starts, [tile] * len(starts), [0, *cuts], [*cuts, size], strict=True))


def overlap_of(tile: int, overlap: int | None) -> int:
    """Returns the overlap of neighbouring tiles, in pixels.

    Args:
        tile: side of a tile, in pixels.
        overlap: overlap to use, in pixels; None for a quarter of the tile, at most `OVERLAP`.
    """
    return min(OVERLAP, tile // 4) if overlap is None else overlap
