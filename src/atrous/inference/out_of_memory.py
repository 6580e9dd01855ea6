"""Stores the tile sizes to use after memory ran out, and frees memory for smaller tiles."""

from __future__ import annotations

import threading


class TileLimits:
    """The largest tile sizes to use with one loaded network after memory ran out; several threads may share them."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._tiles: dict[tuple[float, bool], int] = {}

    def lower(self, tile: int, scale: float, crf: bool) -> None:
        """Stores the tile size to continue with after memory ran out.

        Args:
            tile: side of a tile, in pixels.
            scale: largest resize factor of the picture.
            crf: whether a CRF refined the mask.
        """
        with self._changing:
            self._tiles[scale, crf] = min(tile, self._tiles.get((scale, crf), tile))

    def tile(self, scale: float, crf: bool) -> int | None:
        """Returns the largest tile size to use, in pixels; None if memory never ran out.

        A limit that was found at one scale also holds at larger scales. A limit that was found without a CRF also holds
        with a CRF.

        Args:
            scale: largest resize factor of the picture.
            crf: whether a CRF refines the mask.
        """
        with self._changing:
            known = [tile for (at, with_crf), tile in self._tiles.items() if at <= scale and with_crf <= crf]
        return min(known, default=None)


def free_cached_memory(device: str) -> None:
    """Frees the memory that torch caches on a GPU, so that smaller tiles can use it; does nothing for a CPU.

    Args:
        device: device of the engine, such as "cuda:0".
    """
    if device.startswith(("cuda", "mps")):
        import torch

        (torch.cuda if device.startswith("cuda") else torch.mps).empty_cache()
