"""Finds positions of tiles at which a network samples the same pixels in a tile as in the whole picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from atrous.inference.tiled_inference import GRID, Tile, overlap_of, plan
from atrous.models.info import Preprocessing, aligned_side

#: Largest denominators of the scales as fractions, tried in this order: exact ones first, 0.35 = 7/20.
DENOMINATORS = (1000, 20, 4, 1)


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
        """Returns the step of tile positions, in pixels: the most exact step for the scales, up to tile − overlap."""
        most = tile - self.overlap_of(tile)
        return next((step for step in self._steps if step <= most), GRID)

    def seen(self, height: int, width: int) -> tuple[int, int] | None:
        """Returns (height, width) of the resized whole picture; None unless the model resizes it, at scale 1 only."""
        if not (self._one_scale and self._resized):
            return None
        return aligned_side(height, self._enlarge), aligned_side(width, self._enlarge)

    def plan(self, height: int, width: int, tile: int, overlap: int | None = None) -> list[Tile]:
        """Returns the tiles of a picture, row by row; see `tiled_inference.plan`.

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
