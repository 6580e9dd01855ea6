"""Remembers the size of tiles that fitted after memory ran out."""

from __future__ import annotations

import threading


class TileLimits:
    """The largest tiles to take of one loaded network, known once memory ran out; for any number of threads."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._tiles: dict[tuple[float, bool], int] = {}

    def lower(self, tile: int, scale: float, crf: bool) -> None:
        """Remembers the size to go on with after memory ran out.

        Args:
            tile: in pixels.
            scale: the largest at which the network looked at the picture.
            crf: whether a CRF refined the mask.
        """
        with self._changing:
            self._tiles[scale, crf] = min(tile, self._tiles.get((scale, crf), tile))

    def tile(self, scale: float, crf: bool) -> int | None:
        """The largest tile to take; None where memory never ran out.

        What ran out at a scale runs out at larger ones, and what ran out without a CRF runs out with one.

        Args:
            scale: the largest at which the network looks at the picture.
            crf: whether a CRF refines the mask.
        """
        with self._changing:
            known = [tile for (at, with_crf), tile in self._tiles.items() if at <= scale and with_crf <= crf]
        return min(known, default=None)
